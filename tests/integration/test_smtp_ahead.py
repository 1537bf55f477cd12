"""The envelope of the next mail goes out with the end of this one; its body does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.errors import StoreError
from flask_deferred_mail.letter import Letter
from flask_deferred_mail.transports.smtp import SmtpTransport
from flask_deferred_mail.transports.smtp_connection import Broken, SmtpConnection
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import a_call, a_letter, fates

MakeApp = Callable[..., MailApp]
ANN, BOB = "ann@example.net", "bob@example.net"


def client(server: SmtpServer) -> SmtpTransport:
    return SmtpTransport("default", server.host, server.port, tls="none")


def announcing(letter: Letter, following: Letter | None) -> Any:
    """A call that knows what comes next."""
    told = None if following is None else (following, following.recipients)
    return replace(a_call(letter), upcoming=lambda: told)


def test_the_next_envelope_goes_along_and_its_body_waits() -> None:
    """While nothing more is asked of the connection, the server has the envelope and no mail."""
    first, second = a_letter(ANN, subject="first"), a_letter(BOB, subject="second")
    with SmtpServer() as server:
        smtp = client(server)
        assert fates(smtp.send(announcing(first, second))) == {ANN: "accepted"}
        # The server answers in order, so a third connection's reply is not needed to know.
        server.wait_for(1)
        assert fates(smtp.send(announcing(second, None))) == {BOB: "accepted"}
        assert [str(m.parsed["Subject"]) for m in server.messages] == ["first", "second"]
        assert server.count("MAIL") == server.count("DATA") == 2
        assert server.connections == 1
        smtp.close()


def test_another_mail_than_announced_takes_another_connection() -> None:
    """The announced one is not sent, nor is a word of it: its connection is cut without a dot."""
    first, second, third = (a_letter(ANN, subject=s) for s in ("first", "second", "third"))
    with SmtpServer() as server:
        smtp = client(server)
        smtp.send(announcing(first, second))
        assert fates(smtp.send(a_call(third))) == {ANN: "accepted"}
        assert [str(m.parsed["Subject"]) for m in server.messages] == ["first", "third"]
        assert server.connections == 2
        smtp.close()


def test_connections_that_wait_for_mails_of_ended_threads_get_no_other_mail() -> None:
    """However many of them there are, none is used: else an announced mail would go out again, and
    the one that was to be sent would count as sent."""
    mail = a_letter(ANN, subject="mail")
    both_sent = threading.Barrier(2)
    with SmtpServer() as server:
        smtp = client(server)

        def send(number: int) -> None:
            first, next_one = (a_letter(BOB, subject=f"{s} {number}") for s in ("first", "next"))
            call = announcing(first, next_one)

            def hand_over() -> None:
                both_sent.wait(10)  # each has a connection of its own by now
                call.hand_over()

            smtp.send(replace(call, hand_over=hand_over))

        threads = [threading.Thread(target=send, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert fates(smtp.send(a_call(mail))) == {ANN: "accepted"}
        subjects = [str(m.parsed["Subject"]) for m in server.messages]
        assert sorted(subjects) == ["first 1", "first 2", "mail"]
        smtp.close()


def test_the_same_mail_to_fewer_is_another_mail() -> None:
    """Somebody who was announced has been suppressed since: he is not mailed."""
    first, both = a_letter(ANN), a_letter(ANN, BOB, subject="both")
    with SmtpServer() as server:
        smtp = client(server)
        smtp.send(announcing(first, both))
        call = a_call(both, recipients=both.recipients[:1])
        assert fates(smtp.send(call)) == {ANN: "accepted"}
        assert server.messages[-1].recipients == [ANN]
        smtp.close()


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_a_refusal_of_the_announced_envelope_is_that_mails(stage: str) -> None:
    """It is judged when its turn comes, as if it had been asked then."""
    first, second = a_letter(ANN, subject="first"), a_letter(BOB, subject="second")
    with SmtpServer() as server:
        server.script(stage, [None, "554 5.6.0 not that one"])
        smtp = client(server)
        assert fates(smtp.send(announcing(first, second))) == {ANN: "accepted"}
        outcome = smtp.send(a_call(second))
        assert fates(outcome) == {BOB: "refused"}
        assert outcome.results[0].detail == "554 5.6.0 not that one"
        assert len(server.messages) == 1
        smtp.close()


def test_a_server_that_leaves_between_the_two_costs_the_second_nothing() -> None:
    """421 in answer to the announced MAIL: a new connection is tried, in the same attempt."""
    first, second = a_letter(ANN, subject="first"), a_letter(BOB, subject="second")
    with SmtpServer(max_messages=1) as server:
        smtp = client(server)
        smtp.send(announcing(first, second))
        assert fates(smtp.send(a_call(second))) == {BOB: "accepted"}
        assert server.connections == 2
        smtp.close()


def test_without_pipelining_nothing_is_announced() -> None:
    """The next MAIL comes when the answer to the dot is there."""
    first, second = a_letter(ANN, subject="first"), a_letter(BOB, subject="second")
    with SmtpServer(extensions=("8BITMIME",)) as server:
        smtp = client(server)
        smtp.send(announcing(first, second))
        assert server.count("MAIL") == 1
        smtp.send(a_call(second))
        assert len(server.messages) == 2
        smtp.close()


def test_leaving_says_nothing_into_a_body() -> None:
    """QUIT on a connection that waits for a body would become part of a mail."""
    first, second = a_letter(ANN, subject="first"), a_letter(BOB, subject="second")
    with SmtpServer() as server:
        smtp = client(server)
        smtp.send(announcing(first, second))
        smtp.close()
        assert server.count("QUIT") == 0
        assert len(server.messages) == 1


def test_a_sweep_sends_each_mail_once_and_on_one_connection(
    make_app: MakeApp, smtp: SmtpServer
) -> None:
    """Thirty mails, one sender: every envelope but the first goes along with the mail before."""
    app = make_app(smtp.url())
    for number in range(30):
        app.send(subject=f"mail {number}")
    assert app.sweep(concurrency=1).sent == 30
    assert sorted(str(m.parsed["Subject"]) for m in smtp.messages) == sorted(
        f"mail {number}" for number in range(30)
    )
    assert smtp.connections == 1


def test_an_outcome_that_cannot_be_written_cuts_the_connection(
    make_app: MakeApp, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first mail is in doubt, so the body of the second, which was announced, stays here."""
    app = make_app(smtp.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=30)
    jobs = [app.send(subject=name) for name in ("first", "second")]
    monkeypatch.setattr("flask_deferred_mail.delivery.attempt.OUTCOME_PATIENCE", 0.0)

    def fails(*_args: object) -> bool:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(app.runtime.jobs, "record", fails)
        with pytest.raises(StoreError):
            app.sweep(concurrency=1)
    assert [str(m.parsed["Subject"]) for m in smtp.messages] == ["first"]
    assert {str(app.job(job).status) for job in jobs} == {"sending", "pending"}


def test_a_silent_server_does_not_keep_the_next_mail(make_app: MakeApp, smtp: SmtpServer) -> None:
    """One thread waits for the answer to its dot; the mail that it announced goes by another."""
    held = threading.Event()

    def dot(turn: Any) -> None:
        if b"Subject: first" in turn.argument:
            assert held.wait(20)

    smtp.script("dot", dot)
    app = make_app(smtp.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=30)
    for name in ("first", "second", "third"):
        app.send(subject=name)
    sweep = threading.Thread(target=app.sweep, kwargs={"concurrency": 2})
    sweep.start()
    smtp.wait_for(2)
    assert {str(m.parsed["Subject"]) for m in smtp.messages} == {"second", "third"}
    held.set()
    sweep.join(30)
    assert not sweep.is_alive()
    assert len(smtp.messages) == 3


def test_nobody_on_the_suppression_list_is_named_beforehand(
    make_app: MakeApp, smtp: SmtpServer
) -> None:
    """With a list in use the next envelope still goes along, unless somebody of it is listed."""
    app = make_app(smtp.url())
    with app.app.app_context():
        app.mail.suppressions.add("listed@example.com", reason="complaint")
    for name in ("a", "b", "listed", "c", "d"):
        app.send(f"{name}@example.com")
    counts = app.sweep(concurrency=1)
    assert (counts.sent, counts.failed) == (4, 1)
    assert not any("listed" in command.line for command in smtp.commands)
    assert smtp.connections == 1


@pytest.mark.parametrize(
    ("tls", "body", "fate"),
    [
        (None, 15_000, "deferred"),
        ("TLSv1.3", 1_000, "deferred"),
        # The first of two records may have left before the second failed.
        ("TLSv1.3", 15_000, "unknown"),
    ],
)
def test_a_write_that_fails_is_not_sent_unless_a_tls_record_may_have_left(
    monkeypatch: pytest.MonkeyPatch, tls: str | None, body: int, fate: str
) -> None:
    """The end of the mail and the next envelope go out together, and the system took nothing."""
    first = a_letter(ANN, text=("x" * 70 + "\n") * (body // 71))
    second = a_letter(*(f"{'r' * 40}{n}@example.net" for n in range(50)), subject="second")
    write = SmtpConnection.write

    def fails_at_the_end(connection: SmtpConnection, data: bytes, deadline: Deadline) -> None:
        if b"\r\n.\r\nMAIL FROM" in data:
            connection.written, connection.tls = 0, tls
            raise Broken("the connection was reset")
        write(connection, data, deadline)

    monkeypatch.setattr(SmtpConnection, "write", fails_at_the_end)
    with SmtpServer() as server:
        smtp = client(server)
        assert fates(smtp.send(announcing(first, second))) == {ANN: fate}
        smtp.close()
