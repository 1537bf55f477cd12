"""Writing to a socket that never waits by itself, and to gevent's, which says so differently."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from flask_deferred_mail.deadline import Deadline, DeadlinePassed
from flask_deferred_mail.transports.smtp_connection import Broken, SmtpConnection
from flask_deferred_mail.transports.timed_http import Progress, TimedSocket


class GeventTLS(socket.socket):
    """Does as gevent's TLS socket does that never waits: it takes nothing, and says so."""

    asked = 0

    def send(self, *args: Any) -> int:
        self.asked += 1
        try:
            return super().send(*args)
        except BlockingIOError:
            return 0


@pytest.fixture
def sock() -> Iterator[GeventTLS]:
    """Connected to somebody who does not read."""
    with socket.create_server(("127.0.0.1", 0)) as listener, GeventTLS() as sock:
        sock.connect(listener.getsockname())
        yield sock


# To ask such a socket again and again would hold up all greenlets, also the one that should read.
# It is asked once for each piece that finds room, and a few times that do not: not for 0.3 s.


def test_a_socket_that_takes_nothing_is_waited_for(sock: GeventTLS) -> None:
    """The deadline comes, and until then others have the processor."""
    progress = Progress(Deadline.after(0.3), 5)
    with pytest.raises(DeadlinePassed):
        TimedSocket(sock, progress).write(bytes(5_000_000))
    assert progress.bytes_out > 0
    assert sock.asked < 500


def test_smtp_waits_for_it_as_well(sock: GeventTLS) -> None:
    """Its connections wait in the same way."""
    connection = SmtpConnection(sock, "mail.test")
    with pytest.raises(Broken):
        connection.write(bytes(5_000_000), Deadline.after(0.3))
    assert connection.written > 0
    assert sock.asked < 500
