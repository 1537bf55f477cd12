"""The least of a mail server, in a process of its own: takes every mail and forgets it.

Not for tests (:mod:`tests.support.smtp_server` is): it looks at nothing but the first four
letters of a command and the end of a body, so that the sender is what a benchmark measures.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
from contextlib import suppress
from types import TracebackType

from tests.support.web_server import ROOT

_REPLIES = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n",
    b"HELO": b"250 sink\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}
_OK = b"250 2.0.0 Ok\r\n"
_END = b"\r\n.\r\n"


class SmtpSink:
    """The sink's process, from entering ``with`` to leaving it."""

    def __enter__(self) -> SmtpSink:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def url(self) -> str:
        """The transport that leads here."""
        return f"smtp://127.0.0.1:{self.port}?tls=none"


class _Conversation:
    """One connection: commands until DATA, then a body until its final dot."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""
        self._in_body = False

    def read(self) -> bool:
        """Take in what is there and answer it. False: it is over."""
        received = self.connection.recv(262_144)
        if not received:
            return False
        self._buffer += received
        answers = b""
        while (answer := self._next()) is not None:
            answers += answer
        if answers:
            self.connection.sendall(answers)
        return not answers.startswith(b"221")

    def _next(self) -> bytes | None:
        """The answer to the next command or body in the buffer; ``None``: more is needed."""
        end = self._buffer.find(_END if self._in_body else b"\r\n")
        if end < 0:
            return None
        if self._in_body:
            self._in_body, self._buffer = False, self._buffer[end + len(_END) :]
            return _OK
        verb, self._buffer = self._buffer[:4].upper(), self._buffer[end + 2 :]
        self._in_body = verb == b"DATA"
        return _REPLIES.get(verb, _OK)


def serve(listener: socket.socket) -> None:
    """Answer everybody, for ever."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(b"220 sink ESMTP\r\n")
                selector.register(connection, selectors.EVENT_READ, _Conversation(connection))
                continue
            goes_on = False
            with suppress(ConnectionError):
                goes_on = key.data.read()
            if not goes_on:
                selector.unregister(key.fileobj)
                key.data.connection.close()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        print(server.getsockname()[1], flush=True)
        with suppress(KeyboardInterrupt):
            serve(server)
