"""What an attempt does to the row: outcomes per recipient, who pays, when a mail ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from flask_deferred_mail.errors import IllegalTransition
from tests.support.mail_app import MailApp
from tests.support.smtp_script import Drop, Hang, Turn
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]


def test_a_swept_mail_arrives_and_its_row_says_how(make_app: Make, smtp: SmtpServer) -> None:
    """The mail is delivered once; server, queue id and phases are kept with the attempt."""
    app = make_app(smtp.url())
    job = app.send("ann@example.com", cc=["bob@example.com"], bcc=["eve@example.com"])
    counts = app.sweep()
    assert counts.as_dict() | {"claimed": 1, "sent": 1} == counts.as_dict()
    received = smtp.wait_for(1)[0]
    assert received.recipients == ["ann@example.com", "bob@example.com", "eve@example.com"]
    assert b"eve@" not in received.data
    after = app.job(job)
    assert after.status == "sent"
    assert after.attempts == 1
    assert after.sent_at is not None
    assert after.next_attempt_at is None
    assert set(app.statuses(job).values()) == {"sent"}
    line = app.log(job)[0]
    assert (line.number, line.outcome, line.host) == (1, "sent", "127.0.0.1")
    assert line.queue_id
    assert {"connect", "mail", "rcpt", "data", "dot"} <= set(line.phases)


def test_three_fates_in_one_mail(make_app: Make, smtp: SmtpServer) -> None:
    """250, 550 and 451: the first is never mailed again, the second never, only the third is."""
    replies = {"a@": None, "b@": "550 5.1.1 no such user", "c@": "451 4.7.1 later"}
    smtp.script("rcpt", lambda turn: next(r for k, r in replies.items() if k in turn.argument))
    app = make_app(smtp.url())
    job = app.send("a@example.com", "b@example.com", "c@example.com")
    assert app.sweep().retry == 1
    assert app.statuses(job) == {
        "a@example.com": "sent",
        "b@example.com": "rejected",
        "c@example.com": "pending",
    }
    # It waits for the third one: the words about the others are theirs.
    assert app.job(job).last_error == app.log(job)[0].detail == "451 4.7.1 later"
    smtp.script("rcpt", None)
    app.make_due()
    assert app.sweep().partial == 1
    assert [m.recipients for m in smtp.messages] == [["a@example.com"], ["c@example.com"]]
    assert smtp.messages[0].data == smtp.messages[1].data
    assert app.job(job).status == "partial"
    assert app.job(job).attempts == 2
    with pytest.raises(AssertionError):
        smtp.wait_for(3, timeout=0.2)


def test_a_permanent_refusal_takes_one_attempt(make_app: Make, smtp: SmtpServer) -> None:
    """550 at RCPT ends the mail at once, with the server's words."""
    smtp.script("rcpt", "550 5.1.1 no such user here")
    app = make_app(smtp.url())
    job = app.send()
    assert app.sweep().failed == 1
    after = app.job(job)
    assert (after.status, after.attempts) == ("failed", 1)
    assert "no such user here" in (after.last_error or "")
    assert app.sweep().claimed == 0


def test_a_transport_that_is_down_costs_no_mail_an_attempt(make_app: Make) -> None:
    """Nobody listens: mails are returned, the transport rests, nothing is claimed meanwhile."""
    app = make_app("smtp://127.0.0.1:9?tls=none", DEFERRED_MAIL_BACKOFF=[60])
    jobs = [app.send() for _ in range(20)]
    counts = app.sweep(concurrency=2)
    assert counts.returned == counts.claimed >= 1
    assert {app.job(job).attempts for job in jobs} == {0}
    assert {app.job(job).status for job in jobs} == {"pending"}
    assert app.sweep().claimed == 0
    state = app.runtime.states.all()["default"]
    assert state.kind == "unreachable"
    assert state.failures == 1


def test_a_transport_that_is_back_is_found_by_one_mail_at_a_time(
    make_app: Make, smtp: SmtpServer
) -> None:
    """After the rest one mail probes; once it is through, all others follow in the same pass."""
    smtp.script("banner", "421 4.3.2 closing")
    app = make_app(smtp.url())
    for _ in range(8):
        app.send()
    app.sweep(concurrency=1)
    smtp.script("banner", None)
    app.make_due()
    before = smtp.connections
    counts = app.sweep(concurrency=1)
    assert counts.sent == 8
    assert smtp.connections - before <= 2
    assert app.runtime.states.all()["default"].failures == 0


def test_a_wrong_password_burns_nothing(make_app: Make) -> None:
    """535: an account fault; the mail waits, nothing is counted, the reason is in the row."""
    with SmtpServer(credentials={"me": "right"}, tls="none") as server:
        app = make_app(server.url("me", "wrong"), DEFERRED_MAIL_BACKOFF=[60])
        job = app.send()
        assert app.sweep().returned == 1
        after = app.job(job)
        assert (after.status, after.attempts) == ("pending", 0)
        assert app.runtime.states.all()["default"].kind == "account"
        assert "wrong" not in repr(app.log(job)) + str(after)


def test_a_wrong_sender_fails_its_own_mail_only(make_app: Make, smtp: SmtpServer) -> None:
    """550 at MAIL: that mail fails, the others go."""
    smtp.script(
        "mail", lambda turn: "550 5.7.1 not your address" if "evil@" in turn.argument else None
    )
    app = make_app(smtp.url())
    bad = app.send(sender="evil@example.com")
    good = app.send()
    counts = app.sweep(concurrency=1)
    assert (counts.failed, counts.sent) == (1, 1)
    assert (app.job(bad).status, app.job(good).status) == ("failed", "sent")


def test_five_wrong_senders_in_a_row_are_the_account_after_all(
    make_app: Make, smtp: SmtpServer
) -> None:
    """Five different mails refused so in a row: all are put back, and the transport rests."""
    smtp.script("mail", "550 5.7.1 sender not allowed")
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[60])
    jobs = [app.send() for _ in range(6)]
    app.sweep(concurrency=1)
    assert {str(app.job(job).status) for job in jobs} == {"pending"}
    assert app.runtime.states.all()["default"].kind == "account"


def test_silence_after_the_dot_is_retried_once_and_then_held(
    make_app: Make, smtp: SmtpServer
) -> None:
    """An unknown outcome is tried once more; a second one waits for a person."""
    smtp.script("dot", Drop())
    app = make_app(smtp.url())
    job = app.send()
    assert app.sweep().retry == 1
    assert app.statuses(job) == {"ann@example.com": "unknown"}
    app.make_due()
    assert app.sweep().held == 1
    after = app.job(job)
    assert (after.status, after.attempts) == ("held", 2)
    assert app.outcomes(job) == ["unknown", "unknown"]
    assert app.sweep().claimed == 0
    assert smtp.count("DATA") == 2


def test_a_mail_that_must_not_go_twice_is_held_at_the_first_doubt(
    make_app: Make, smtp: SmtpServer
) -> None:
    """``on_unknown="hold"``: one try, then a person decides; as sent, or once more."""
    smtp.script("dot", Drop())
    app = make_app(smtp.url())
    job = app.send(on_unknown="hold")
    assert app.sweep().held == 1
    with app.app.app_context():
        with pytest.raises(IllegalTransition, match="may have been sent"):
            app.mail.cancel(job.id)
        assert app.mail.release(job.id, as_sent=True).status == "sent"


def test_a_released_mail_goes_out_again(make_app: Make, smtp: SmtpServer) -> None:
    """``release`` opens the unknown recipient again."""
    smtp.script("dot", [Drop(), None])
    app = make_app(smtp.url(), DEFERRED_MAIL_ON_UNKNOWN="hold")
    job = app.send()
    assert app.sweep().held == 1
    with app.app.app_context():
        assert app.mail.release(job.id).status == "pending"
    assert app.sweep().sent == 1


def test_a_mail_that_is_refused_for_now_for_ever_ends_after_its_attempts(
    make_app: Make, smtp: SmtpServer
) -> None:
    """451 again and again: ``max_attempts`` ends it as failed, and ``retry`` opens it again."""
    smtp.script("rcpt", "451 4.2.0 mailbox busy")
    app = make_app(smtp.url())
    job = app.send(max_attempts=3)
    for _ in range(3):
        app.sweep()
        app.make_due()
    after = app.job(job)
    assert (after.status, after.attempts) == ("failed", 3)
    assert app.outcomes(job) == ["retry", "retry", "failed"]
    smtp.script("rcpt", None)
    with app.app.app_context():
        app.mail.retry(job.id)
    assert app.sweep().sent == 1
    assert app.job(job).attempts == 4


def test_expired_and_given_up_mails_end_without_an_attempt(
    make_app: Make, smtp: SmtpServer
) -> None:
    """``expires_at`` ends a mail as expired, ``GIVE_UP_AFTER`` as failed; nobody is mailed."""
    app = make_app(smtp.url(), DEFERRED_MAIL_GIVE_UP_AFTER=3600)
    late = app.send(expires_at=time.time() + 3000)
    old = app.send()
    app.sql("UPDATE deferred_mail_job SET expires_at = 1 WHERE id = ?", late.id)
    app.sql("UPDATE deferred_mail_job SET first_due_at = 1 WHERE id = ?", old.id)
    counts = app.sweep()
    assert (counts.expired, counts.failed, counts.claimed) == (1, 1, 2)
    assert (app.job(late).status, app.job(old).status) == ("expired", "failed")
    assert not smtp.messages


def test_time_runs_out_while_the_transport_rests(make_app: Make) -> None:
    """A resting transport does not keep a mail alive for ever."""
    app = make_app("smtp://127.0.0.1:9?tls=none", DEFERRED_MAIL_BACKOFF=[600])
    job = app.send()
    app.sweep()
    app.sql("UPDATE deferred_mail_job SET first_due_at = 1, due_at = 1 WHERE id = ?", job.id)
    counts = app.sweep()
    assert (counts.failed, counts.claimed) == (1, 1)
    assert app.job(job).status == "failed"
    assert "given up" in (app.job(job).last_error or "")


def test_a_server_that_hangs_before_the_dot_costs_the_deadline(
    make_app: Make, smtp: SmtpServer
) -> None:
    """No answer to RCPT: the attempt ends at its wall clock, the mail is tried again."""
    smtp.script("rcpt", [Hang(), None])
    app = make_app(smtp.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=1)
    job = app.send()
    started = time.monotonic()
    assert app.sweep().retry == 1
    assert time.monotonic() - started < 20
    app.make_due()
    assert app.sweep().sent == 1
    assert app.job(job).attempts == 2


def test_private_copies_are_settled_one_by_one(make_app: Make, smtp: SmtpServer) -> None:
    """Each copy shows only its reader; a copy that was accepted is not sent again."""
    everybody = ["anna@example.com", "bert@example.com", "carl@example.com"]
    smtp.script("rcpt", lambda turn: "451 later" if "bert@" in turn.argument else None)
    app = make_app(smtp.url())
    job = app.send(*everybody, private_copies=True)
    app.sweep()
    # The copy that was accepted after him is no reason to wait.
    assert app.job(job).last_error == "451 later"
    smtp.script("rcpt", None)
    app.make_due()
    app.sweep()
    assert sorted(message.recipients[0] for message in smtp.messages) == everybody
    for message in smtp.messages:
        assert message.parsed["To"] == message.recipients[0]
        assert sum(reader.encode() in message.data for reader in everybody) == 1
    assert app.job(job).status == "sent"


def test_too_many_recipients_for_one_envelope_follow_in_another(
    make_app: Make, smtp: SmtpServer
) -> None:
    """452 after two recipients: the rest goes in a second envelope, in the same attempt."""

    def rcpt(turn: Turn) -> str | None:
        return "452 4.5.3 too many recipients" if len(turn.recipients) >= 2 else None

    smtp.script("rcpt", rcpt)
    app = make_app(smtp.url())
    job = app.send(*(f"r{i}@example.com" for i in range(4)))
    assert app.sweep().sent == 1
    assert [len(m.recipients) for m in smtp.messages] == [2, 2]
    assert app.job(job).attempts == 1


def test_a_dead_senders_mail_is_taken_over_after_its_lease(
    make_app: Make, smtp: SmtpServer
) -> None:
    """The row of a process that is gone is not touched before its lease ends, and sent then."""
    app = make_app(smtp.url())
    job = app.send()
    claims = app.runtime.claims.take("default", 10)
    assert [claim.job_id for claim in claims] == [job.id]
    assert app.sweep().claimed == 0
    app.end_leases()
    assert app.sweep().sent == 1
    assert app.outcomes(job) == ["unknown", "sent"]
    assert app.job(job).attempts == 2


def test_a_mail_that_kills_its_senders_ends(make_app: Make, smtp: SmtpServer) -> None:
    """Five attempts without an outcome: failed, with that text; nobody else suffers."""
    app = make_app(smtp.url(), DEFERRED_MAIL_MAX_SENDER_DEATHS=3)
    poison, innocent = app.send(), app.send()
    for _ in range(3):
        for suspects in (False, True):
            app.runtime.claims.take("default", 10, suspects=suspects)
        app.end_leases()
        app.sql(
            "UPDATE deferred_mail_job SET status='pending', lease_token=NULL, deaths=0 WHERE id=?",
            innocent.id,
        )
    counts = app.sweep()
    assert (counts.failed, counts.sent) == (1, 1)
    assert "sender died 3 times" in (app.job(poison).last_error or "")


def test_a_late_writer_changes_nothing(make_app: Make, smtp: SmtpServer) -> None:
    """Whoever lost the lease cannot overwrite what the new owner wrote."""
    app = make_app(smtp.url())
    job = app.send()
    late = app.runtime.claims.take("default", 1)[0]
    app.end_leases()
    assert app.sweep().sent == 1
    assert app.runtime.jobs.progress(late, late.recipients, 1) is False
    assert app.runtime.jobs.give_back([late]) == 0
    assert app.runtime.jobs.renew([(late.job_id, late.token)], 60) == set()
    assert app.job(job).status == "sent"


def test_the_same_key_gives_the_first_mail(make_app: Make, smtp: SmtpServer) -> None:
    """A key is taken until its row is purged, per tenant."""
    app = make_app(smtp.url())
    first = app.send(key="order-1")
    assert app.send(key="order-1").id == first.id
    assert app.send(key="order-1", tenant="b").id != first.id
    assert app.sweep().sent == 2


def test_urgent_mail_goes_first(make_app: Make, smtp: SmtpServer) -> None:
    """Priority first, then due time."""
    app = make_app(smtp.url())
    for priority in ("low", "medium", "now", "high"):
        app.send(subject=priority, priority=priority)
    app.sweep(concurrency=1)
    subjects = [m.parsed["Subject"] for m in smtp.messages]
    assert subjects == ["now", "high", "medium", "low"]


def test_scheduled_mail_waits(make_app: Make, smtp: SmtpServer) -> None:
    """``delay`` keeps a mail from being claimed."""
    app = make_app(smtp.url())
    job = app.send(delay=3600)
    assert app.sweep().claimed == 0
    assert app.job(job).status == "pending"
