"""The least of a mail server, in a process of its own: takes every mail, forgets it, and counts.

Not for tests (:mod:`tests.support.smtp_server` is): it looks at nothing but the first four
letters of a command and the end of a body, so that the sender is what a benchmark measures.
Postfix's ``smtp-sink`` cannot wait for less than a second: this one can, so that every reply (to a
pipelined group: all of them together) comes as late as over a long way.

    python -m tests.benchmarks.smtp_sink PORT [SECONDS]
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections import deque
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
        self.mails = 0
        self._buffer = b""
        self._in_body = False

    def read(self) -> bytes | None:
        """The answers to what has come. ``None``: nobody is there any more."""
        received = self.connection.recv(262_144)
        if not received:
            return None
        self._buffer += received
        answers = b""
        while (answer := self._next()) is not None:
            answers += answer
        return answers

    def _next(self) -> bytes | None:
        """The answer to the next command or body in the buffer; ``None``: more is needed."""
        end = self._buffer.find(_END if self._in_body else b"\r\n")
        if end < 0:
            return None
        if self._in_body:
            self._in_body, self._buffer = False, self._buffer[end + len(_END) :]
            self.mails += 1
            return _OK
        verb, self._buffer = self._buffer[:4].upper(), self._buffer[end + 2 :]
        self._in_body = verb == b"DATA"
        return _REPLIES.get(verb, _OK)


class _Server:
    """All connections, and the answers that are on their way."""

    def __init__(self, listener: socket.socket, delay: float, counting: bool) -> None:
        self._listener, self._delay, self._counting = listener, delay, counting
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        # The same delay for all: first in, first out.
        self._late: deque[tuple[float, _Conversation, bytes]] = deque()
        self._mails = 0

    def serve(self) -> None:
        """Answer everybody, for ever."""
        while True:
            pause = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for key, _ in self._selector.select(pause):
                if key.data is None:
                    self._welcome()
                else:
                    self._listen(key.data)
            while self._late and self._late[0][0] <= time.monotonic():
                _, conversation, answers = self._late.popleft()
                self._say(conversation, answers)

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(connection)
        self._selector.register(connection, selectors.EVENT_READ, conversation)
        self._answer(conversation, b"220 sink ESMTP\r\n")

    def _listen(self, conversation: _Conversation) -> None:
        before, answers = conversation.mails, None
        with suppress(ConnectionError):
            answers = conversation.read()
        if answers is None:
            self._selector.unregister(conversation.connection)
            conversation.connection.close()
        elif answers:
            self._answer(conversation, answers)
        if self._counting and conversation.mails != before:
            self._mails += conversation.mails - before
            sys.stdout.write(f"mesg={self._mails}\r")
            sys.stdout.flush()

    def _answer(self, conversation: _Conversation, answers: bytes) -> None:
        if self._delay:
            self._late.append((time.monotonic() + self._delay, conversation, answers))
        else:
            self._say(conversation, answers)

    def _say(self, conversation: _Conversation, answers: bytes) -> None:
        # Who has hung up meanwhile is found gone by the next look.
        with suppress(OSError):
            conversation.connection.sendall(answers)
            if b"221 " in answers:
                conversation.connection.shutdown(socket.SHUT_WR)


def main(port: int = 0, delay: float = 0.0) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        if not port:
            print(listener.getsockname()[1], flush=True)
        with suppress(KeyboardInterrupt):
            _Server(listener, delay, counting=bool(port)).serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3]))
