"""Connections between mails: kept, checked, replaced, and never shared (row D11)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.outcome import FaultKind
from flask_deferred_mail.transports import smtp_pool
from flask_deferred_mail.transports.smtp import SmtpTransport
from flask_deferred_mail.transports.smtp_connection import dial
from flask_deferred_mail.transports.smtp_pool import IdleConnections
from tests.support.smtp_clients import client
from tests.support.smtp_script import Drop, Hang, Reset, SayAndDrop, Turn
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import a_letter, fates, send
from tests.support.waiting import wait_until

ANN, BOB = "ann@example.net", "bob@example.net"


def test_one_connection_for_many_mails() -> None:
    """A clean transaction leaves the connection for the next one; close() says QUIT."""
    with SmtpServer(tls="starttls") as server:
        with client(server) as smtp:
            for _ in range(5):
                assert fates(send(smtp)) == {ANN: "accepted"}
            assert server.connections == 1
            assert server.count("RSET") == 0
        assert server.count("QUIT") == 1


def test_after_close_it_can_be_used_again() -> None:
    """close() lets go of connections; the next mail opens a new one."""
    with SmtpServer() as server, client(server) as smtp:
        send(smtp)
        smtp.close()
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.connections == 2


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("words", [None, "421 4.4.2 idle for too long"])
def test_dropped_while_idle(tls: str, words: str | None) -> None:
    """A server that left, with or without a word: one new connection, no error counted."""
    with SmtpServer(tls=tls) as server, client(server) as smtp:
        send(smtp)
        server.drop_connections(words)
        outcome = send(smtp)
        assert fates(outcome) == {ANN: "accepted"}
        assert outcome.fault is None
        assert len(server.messages) == 2
        assert server.connections == 2


def test_421_after_some_mails() -> None:
    """A server that counts mails ends the connection at MAIL: one reconnect, nothing lost."""
    with SmtpServer(max_messages=2) as server, client(server) as smtp:
        for _ in range(5):
            outcome = send(smtp)
            assert fates(outcome) == {ANN: "accepted"}
            assert outcome.fault is None
        assert [mail.connection for mail in server.messages] == [1, 1, 2, 2, 3]


def on_the_second_mail(action: Any) -> Callable[[Turn], Any]:
    """Do this when a connection is used for the second time."""
    return lambda turn: action if turn.count_here == 1 else None


@pytest.mark.parametrize(
    "action",
    [
        Drop(),
        Reset(),
        "421 closing",
        "451 4.3.2 no more on this connection",
        "530 5.7.0 your login has lapsed",
        SayAndDrop("334 what"),
        SayAndDrop("421 bye"),
    ],
)
def test_stale_at_mail(action: Any) -> None:
    """A used connection that fails before MAIL is accepted costs exactly one new one."""
    with SmtpServer(mail=on_the_second_mail(action)) as server, client(server) as smtp:
        send(smtp)
        outcome = send(smtp)
        assert server.connections == 2
        assert len(server.messages) == 2
    assert fates(outcome) == {ANN: "accepted"}
    assert outcome.fault is None


def test_a_silent_old_connection_leaves_time_for_a_new_one() -> None:
    """A line that a firewall forgot is given half of the time, no more."""
    with SmtpServer(mail=on_the_second_mail(Hang())) as server, client(server) as smtp:
        send(smtp)
        assert fates(send(smtp, seconds=2)) == {ANN: "accepted"}
        assert server.connections == 2


def test_the_new_connection_has_the_last_word() -> None:
    """When the fresh one fails as well, that is the outcome: there is no third."""
    script = [None, "421 closing", "421 closing", None]
    with SmtpServer(mail=script) as server, client(server) as smtp:
        send(smtp)
        outcome = send(smtp)
        assert outcome.fault
        assert outcome.fault.kind is FaultKind.UNREACHABLE
        assert server.connections == 2


def test_a_limit_at_mail_is_no_reason_to_reconnect() -> None:
    """A quota is one on a new connection, too."""
    with SmtpServer(mail=[None, "550 5.4.5 daily limit"]) as server, client(server) as smtp:
        send(smtp)
        outcome = send(smtp)
        assert server.connections == 1
    assert outcome.fault
    assert outcome.fault.kind is FaultKind.QUOTA


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
def test_a_used_connection_that_breaks_after_mail(stage: str) -> None:
    """From the answer to MAIL on it is this mail's: no second try within the call."""
    broken = on_the_second_mail(Drop())
    with SmtpServer(**{stage: broken}) as server, client(server) as smtp:
        send(smtp)
        outcome = send(smtp)
        assert server.connections == 1
        assert len(server.messages) == 1
        assert outcome.fault is None
        assert fates(outcome)[ANN] == ("unknown" if stage == "dot" else "deferred")
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.connections == 2


def test_rset_comes_before_the_next_mail_and_keeps_nobody_waiting() -> None:
    """After a refusal RSET opens the next transaction; a hanging one costs a new connection."""
    with SmtpServer(dot=["554 5.7.1 spam"], rset=Hang()) as server, client(server) as smtp:
        assert fates(send(smtp)) == {ANN: "refused"}
        assert server.count("RSET") == 0
        assert fates(send(smtp, seconds=1)) == {ANN: "accepted"}
        assert server.count("RSET") == 1
        assert server.connections == 2


def test_not_after_a_timeout() -> None:
    """A late answer must not be taken for the answer to something else."""
    with SmtpServer(rcpt=[Hang()]) as server, client(server) as smtp:
        assert fates(send(smtp, seconds=0.3)) == {ANN: "deferred"}
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.connections == 2


def test_a_hundred_mails_then_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is given up after so many mails, politely and without waiting."""
    monkeypatch.setattr(SmtpTransport, "_pool", _pool_of(IdleConnections(mails=3)))
    with SmtpServer(quit=Hang()) as server, client(server) as smtp:
        for _ in range(7):
            send(smtp)
        assert [mail.connection for mail in server.messages] == [1, 1, 1, 2, 2, 2, 3]
        wait_until(lambda: server.count("QUIT") >= 2)


def test_idle_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that waited longer than the limit is replaced before anybody notices."""
    monkeypatch.setattr(SmtpTransport, "_pool", _pool_of(IdleConnections(idle_seconds=0)))
    with SmtpServer() as server, client(server) as smtp:
        for _ in range(3):
            assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.connections == 3


def _pool_of(pool: IdleConnections) -> Callable[[SmtpTransport], IdleConnections]:
    return lambda _transport: pool


# -- threads and processes -------------------------------------------------------------------------


def in_thread(work: Callable[[], None]) -> None:
    """Do something in another thread and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_a_living_threads_connection_is_its_own() -> None:
    """Its last mail may not be in its row yet: another thread opens its own connection."""
    sent, may_end = threading.Event(), threading.Event()

    def work() -> None:
        send(smtp)
        sent.set()
        may_end.wait(20)

    with SmtpServer() as server, client(server) as smtp:
        thread = threading.Thread(target=work)
        thread.start()
        assert sent.wait(20)
        send(smtp)
        may_end.set()
        thread.join(20)
        assert [mail.connection for mail in server.messages] == [1, 2]


def test_an_ended_threads_connection_is_inherited() -> None:
    """Once a thread has ended, its connection serves others."""
    with SmtpServer() as server, client(server) as smtp:
        in_thread(lambda: send(smtp))
        send(smtp)
        assert [mail.connection for mail in server.messages] == [1, 1]


def test_many_threads_at_once() -> None:
    """Eight threads, each with its own connection: every mail arrives once and whole."""
    with SmtpServer(strict=True) as server, client(server) as smtp:

        def work(number: int) -> None:
            for count in range(10):
                letter = a_letter(ANN, subject=f"{number}-{count}")
                assert fates(send(smtp, letter)) == {ANN: "accepted"}

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        subjects = sorted(str(mail.parsed["Subject"]) for mail in server.messages)
        assert subjects == sorted(f"{n}-{c}" for n in range(8) for c in range(10))
        assert server.connections <= 8
        assert server.violations == []


def test_idle_connections_are_not_hoarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More idle connections than the cap: the oldest goes."""
    monkeypatch.setattr(smtp_pool, "MAX_IDLE", 2)
    pool = IdleConnections()
    with SmtpServer() as server:
        together = threading.Barrier(4)

        def use_one() -> None:
            connection = dial(server.host, server.port, Deadline.after(5), 5)
            connection.read_reply(Deadline.after(5))
            pool.give_back(connection)
            together.wait(10)

        threads = [threading.Thread(target=use_one) for _ in range(3)]
        for thread in threads:
            thread.start()
        together.wait(10)
        for thread in threads:
            thread.join(10)
        wait_until(lambda: server.count("QUIT") == 1)
        assert server.connections == 3
        pool.close(5)
        assert server.count("QUIT") == 3


def test_a_child_never_speaks_on_its_parents_connection() -> None:
    """After a fork the child opens its own, ends in silence, and the parent's still works."""
    with SmtpServer(tls="starttls") as server, client(server) as smtp:
        send(smtp)
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            ok = fates(send(smtp, a_letter(BOB))) == {BOB: "accepted"}
            smtp.close()
            os._exit(0 if ok else 1)
        status = _end_of(child)
        assert os.waitstatus_to_exitcode(status) == 0
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert [mail.connection for mail in server.messages] == [1, 2, 1]
        assert [c.connection for c in server.commands if c.verb == "QUIT"] == [2]


def _end_of(child: int) -> int:
    """Wait for a child, not for ever."""
    ended: list[int] = []

    def look() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended.append(status)
        return bool(ended)

    try:
        wait_until(look, 20)
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    return ended[0]
