"""What the row says after each refusal of a mail server (fault table, D4 to D6).

As in ``test_rows_after_smtp_faults``: one trouble, one sweep, the whole row, and what becomes of
the mail once the server is well again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.mail_app import MailApp
from tests.support.row_facts import (
    ACCOUNT,
    MAIL_PAYS,
    MISCONFIGURED,
    QUOTA,
    RATE_LIMITED,
    REJECTED,
    UNREACHABLE,
    Row,
    assert_repaired,
    assert_row,
)
from tests.support.smtp_script import Accept, Drop
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]


# -- D4, D5: refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "reply", "expected"),
    [
        ("banner", "421 4.3.2 too busy", UNREACHABLE),
        ("banner", "450 later", UNREACHABLE),
        ("ehlo", "421 4.3.0 closing", UNREACHABLE),
        ("ehlo", "451 4.3.0 not now", UNREACHABLE),
        ("starttls", "454 4.7.0 TLS not available", UNREACHABLE),
        ("auth", "454 4.7.0 temporary authentication failure", UNREACHABLE),
        ("auth", "421 4.7.0 closing", UNREACHABLE),
        ("mail", "421 4.3.2 closing", UNREACHABLE),
        ("mail", "451 4.3.0 queue is full", UNREACHABLE),
        ("mail", "451 4.7.1 later", MAIL_PAYS),
        ("mail", "450 4.7.0 later", MAIL_PAYS),
        ("rcpt", "450 4.2.0 mailbox busy", MAIL_PAYS),
        ("rcpt", "421 4.7.0 closing", MAIL_PAYS),
        ("rcpt", "452 4.2.2 mailbox full", MAIL_PAYS),
        ("data", "451 4.7.1 later", MAIL_PAYS),
        ("data", "421 4.3.0 closing", MAIL_PAYS),
        ("dot", "451 4.7.1 later", MAIL_PAYS),
        ("dot", "421 4.3.0 closing", MAIL_PAYS),
        ("dot", "452 4.3.1 no space", MAIL_PAYS),
        ("rcpt", "432 4.3.2 too many connections", RATE_LIMITED),
        # D5
        ("banner", "554 5.7.1 you are blocked", ACCOUNT),
        ("ehlo", "550 5.7.1 no", ACCOUNT),
        ("auth", "535 5.7.8 wrong", ACCOUNT),
        ("auth", "534 5.7.9 mechanism too weak", ACCOUNT),
        ("mail", "530 5.7.0 authentication required", ACCOUNT),
        ("mail", "538 5.7.11 encryption required", ACCOUNT),
        ("rcpt", "530 5.7.0 authentication required", ACCOUNT),
        ("rcpt", "550 5.7.57 not authenticated", ACCOUNT),
        ("dot", "535 5.7.8 log in first", ACCOUNT),
        ("dot", "550 5.4.5 daily limit exceeded", QUOTA),
        ("mail", "550 5.7.1 not your address", MISCONFIGURED),
        ("mail", "552 5.3.4 message too big", REJECTED),
        ("mail", "501 5.1.7 bad sender", REJECTED),
        ("rcpt", "550 5.1.1 no such user", REJECTED),
        ("rcpt", "553 5.1.3 bad address", REJECTED),
        ("data", "554 5.7.1 no", REJECTED),
        ("dot", "554 5.7.1 spam", REJECTED),
        ("dot", "552 5.3.4 message too big", REJECTED),
        ("dot", "550 no", REJECTED),
    ],
)
def test_d4_d5_a_refusal_at_each_stage(
    make_paced: Make, stage: str, reply: str, expected: Row
) -> None:
    """Who pays, how long it takes, and the server's words in the row."""
    with SmtpServer(tls="starttls", credentials={"me": "pw"}) as server:
        server.script(stage, reply)
        app = make_paced(server.url("me", "pw"))
        job = app.send()
        after = assert_row(app, job, expected)
        assert reply in (after.last_error or "")
        assert reply in app.log(job)[0].detail
        assert not server.messages
        server.script(stage, None)
        assert_repaired(app, job, expected, server)
        assert len(server.messages) == (expected.status == "pending")


def test_d4_421_in_the_middle_of_rcpt_means_that_nobody_was_mailed(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """250 for the first, 421 for the second: all three are open, and all are mailed later."""
    three = ["a@example.com", "b@example.com", "c@example.com"]
    smtp.script("rcpt", [None, "421 4.7.0 closing"])
    app = make_paced(smtp.url())
    job = app.send(*three)
    assert app.sweep().retry == 1
    assert app.statuses(job) == dict.fromkeys(three, "pending")
    assert not smtp.messages
    app.make_due()
    assert app.sweep().sent == 1
    assert [message.recipients for message in smtp.messages] == [three]
    assert smtp.connections == 2, "a connection was used after its 421"


def test_d4_one_mail_that_makes_the_server_hang_up_does_not_stop_the_others(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """The same words to the same mail, again and again: the breaker stays closed."""
    smtp.script("rcpt", lambda turn: "421 4.3.0 closing" if "poison@" in turn.argument else None)
    app = make_paced(smtp.url(), DEFERRED_MAIL_BACKOFF=[0])
    poison = app.send("poison@example.com")
    for _ in range(3):
        app.sweep()
    others = [app.send() for _ in range(5)]
    assert app.sweep().sent == 5
    assert app.job(poison).attempts == 4
    assert {app.job(job).attempts for job in others} == {1}
    assert not any(state.failures for state in app.runtime.states.all().values())


def test_d4_the_same_words_to_different_mails_rest_the_transport(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """Two mails meet the same 421 after MAIL: it is the server, and the rest of them wait."""
    smtp.script("rcpt", "421 4.3.2 shutting down")
    app = make_paced(smtp.url())
    jobs = [app.send() for _ in range(10)]
    app.sweep(concurrency=1)
    assert app.runtime.states.all()["default"].kind == "unreachable"
    assert sum(app.job(job).attempts for job in jobs) == 2
    smtp.script("rcpt", None)
    app.make_due()
    assert app.sweep().sent == 10


def test_d5_a_wrong_sender_is_its_own_mails_fault(make_paced: Make, smtp: SmtpServer) -> None:
    """550 at MAIL fails that mail at once; the transport stays well, the others go."""
    smtp.script("mail", lambda turn: "550 5.7.1 no" if "evil@" in turn.argument else None)
    app = make_paced(smtp.url())
    bad, good = app.send(sender="evil@example.com"), app.send()
    counts = app.sweep(concurrency=1)
    assert (counts.failed, counts.sent) == (1, 1)
    assert app.statuses(bad) == {"ann@example.com": "failed"}
    assert app.job(good).status == "sent"
    assert not any(state.failures for state in app.runtime.states.all().values())


def test_d5_a_wrong_password_burns_nothing_however_often_it_is_tried(make_paced: Make) -> None:
    """The rest grows, the attempts stay at 0, the reason says what to look at."""
    with SmtpServer(tls="starttls", credentials={"me": "right"}) as server:
        app = make_paced(server.url("me", "wrong"))
        job = app.send()
        rests = []
        for _ in range(3):
            app.make_due()
            assert app.sweep().returned == 1
            rests.append(app.runtime.states.all()["default"].rests_for)
        after = app.job(job)
        assert (after.status, after.attempts) == ("pending", 0)
        assert "MAIL_PASSWORD" in (after.last_error or "")
        assert app.runtime.states.all()["default"].failures == 3
        assert rests[0] >= 55
        assert rests[1] >= 115
        assert server.count("MAIL") == 0


# -- D6: one mail, several answers ----------------------------------------------------------------


def test_d6_nobody_accepted_and_not_all_for_good(make_paced: Make, smtp: SmtpServer) -> None:
    """450 and 550: no mail went out, only the 450 is tried again, and what remains is partial."""
    smtp.script("rcpt", ["450 4.2.0 busy", "550 5.1.1 no such user"])
    app = make_paced(smtp.url())
    job = app.send("busy@example.com", "gone@example.com")
    assert app.sweep().retry == 1
    assert app.statuses(job) == {"busy@example.com": "pending", "gone@example.com": "rejected"}
    assert smtp.messages == []
    app.make_due()
    assert app.sweep().partial == 1
    assert [message.recipients for message in smtp.messages] == [["busy@example.com"]]
    assert app.job(job).attempts == 2


def test_d6_accepted_and_refused_is_partial_and_over(make_paced: Make, smtp: SmtpServer) -> None:
    """250 and 550: one attempt, one mail, and the refusal's words at the one who was refused."""
    smtp.script("rcpt", [None, "550 5.1.1 no such user"])
    app = make_paced(smtp.url())
    job = app.send("ann@example.com", "gone@example.com")
    assert app.sweep().partial == 1
    after = app.job(job)
    assert (after.attempts, after.next_attempt_at) == (1, None)
    assert [entry.status for entry in after.recipients] == ["sent", "rejected"]
    assert "no such user" in after.recipients[1].detail
    assert "no such user" in (after.last_error or "")
    app.make_due()
    assert app.sweep().claimed == 0


def test_d6_silence_after_the_dot_concerns_only_those_who_were_accepted(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """250, 550, 451, then no answer to the dot: unknown, rejected, pending."""
    smtp.script("rcpt", [None, "550 5.1.1 no", "451 4.7.1 later"])
    smtp.script("dot", [Accept(Drop())])
    app = make_paced(smtp.url())
    job = app.send("a@example.com", "b@example.com", "c@example.com")
    app.sweep()
    assert list(app.statuses(job).values()) == ["unknown", "rejected", "pending"]
    app.make_due()
    assert app.sweep().partial == 1
    assert list(app.statuses(job).values()) == ["sent", "rejected", "sent"]
    assert all("b@example.com" not in message.recipients for message in smtp.messages)
