"""Waiting for a socket that does not wait by itself."""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections.abc import Iterator

import pytest

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.transports import smtp_connection
from flask_deferred_mail.transports.smtp_connection import Broken, SmtpConnection
from flask_deferred_mail.transports.smtp_waiting import NOT_READY, needs_room, wait_for


@pytest.fixture(params=["poll", "select"])
def ends(request, monkeypatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a line, on a system that has ``poll`` and on one that has not."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


def test_waiting_ends_when_something_comes(ends) -> None:
    """What has come can be read at once."""
    near, far = ends
    far.send(b"220 ready\r\n")
    wait_for(near, 60, room=False)
    assert near.recv(100) == b"220 ready\r\n"


def test_waiting_ends_when_there_is_room(ends) -> None:
    """A line that nobody has filled can be written to."""
    near, _ = ends
    wait_for(near, 60, room=True)
    assert near.send(b"QUIT\r\n") == 6


def test_waiting_ends_when_the_other_end_has_gone(ends) -> None:
    """The end of the line is something to read, too."""
    near, far = ends
    far.close()
    wait_for(near, 60, room=False)
    assert near.recv(100) == b""


@pytest.mark.parametrize("seconds", [0.01, 0, -1])
def test_waiting_in_vain_ends_in_time(ends, seconds: float) -> None:
    """Time that is used up ends it, and what could not be done before still cannot."""
    near, _ = ends
    wait_for(near, seconds, room=False)
    with pytest.raises(NOT_READY):
        near.recv(100)


@pytest.mark.parametrize("writing", [True, False])
def test_tls_says_itself_what_it_waits_for(writing: bool) -> None:
    """A clear line waits for what it was asked to do, TLS for what its protocol needs first."""
    assert needs_room(BlockingIOError(), writing=writing) is writing
    assert needs_room(ssl.SSLWantWriteError(), writing=writing) is True
    assert needs_room(ssl.SSLWantReadError(), writing=writing) is False


def test_a_wait_that_the_system_refuses_breaks_the_conversation(monkeypatch) -> None:
    """Reading and writing alike end as on a bad line, so the caller knows how far they came."""

    def refuse(*_how, **_named) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(smtp_connection, "wait_for", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = SmtpConnection(socket.create_connection(server.getsockname()), "localhost")
        with pytest.raises(Broken, match="allocate"):
            connection.write(b"x" * 50_000_000, Deadline.after(10))
        with pytest.raises(Broken, match="allocate"):
            connection.read_reply(Deadline.after(10))
        connection.hang_up()
