"""A connection that never waits by itself, over TLS: whole bodies, and time that ends."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.transports.smtp_connection import Broken, SmtpConnection
from tests.support.certificates import certificates

BODY = b"x" * 6_000_000


@contextmanager
def secured(serve: Callable[[ssl.SSLSocket], None]) -> Iterator[SmtpConnection]:
    """A connection whose other end is ``serve``, after the handshake."""

    papers = certificates()

    def answer() -> None:
        near, _ = listener.accept()
        with papers.server_context().wrap_socket(near, server_side=True) as tls:
            serve(tls)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer)
        server.start()
        connection = SmtpConnection(socket.create_connection(listener.getsockname()), "127.0.0.1")
        try:
            context = ssl.create_default_context(cafile=papers.cafile)
            connection.start_tls(context, Deadline.after(60))
            yield connection
        finally:
            connection.hang_up()
            server.join(60)


def test_a_large_body_arrives_whole() -> None:
    """More than the line holds goes out piece by piece, and the answer to it comes back."""
    received = bytearray()

    def serve(tls: ssl.SSLSocket) -> None:
        while len(received) < len(BODY):
            received.extend(tls.recv(100_000))
        tls.sendall(b"250 2.0.0 Ok\r\n250 2.1.0 Ok\r\n")

    with secured(serve) as connection:
        connection.write(BODY, Deadline.after(60))
        answers = [str(connection.read_reply(Deadline.after(60))) for _ in range(2)]
    assert received == BODY
    assert connection.written == len(BODY)
    assert answers == ["250 2.0.0 Ok", "250 2.1.0 Ok"]


def test_a_server_that_stops_reading_or_answering_is_met_by_the_deadline() -> None:
    """Neither a write that finds no room nor a read that finds nothing waits for longer."""
    over = threading.Event()
    with secured(lambda _: over.wait(60)) as connection:
        with pytest.raises(Broken, match="no answer within the time allowed"):
            connection.read_reply(Deadline.after(0.1))
        with pytest.raises(Broken, match="the server stopped reading within the time allowed"):
            connection.write(BODY, Deadline.after(0.1))
        assert connection.written < len(BODY)
        over.set()
