"""A mail server for one machine: it speaks real SMTP, and lets everybody wait for each reply.

It takes any mail for anybody and delivers none: each one becomes a file (see ``maildrop``). A mail
counts as taken when its last byte is in; the answer to that comes one delay later. Whoever dies in
between has mailed something without learning so, as happens with any mail server in the world.
"""

from __future__ import annotations

import re
import select
import socket
import socketserver
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from . import maildrop

LONGEST_LINE = 4096
LARGEST_MAIL = 30_000_000
_PATH = re.compile(r"(?:FROM|TO):\s*<([^<>\s]*)>", re.IGNORECASE)


class Phase(StrEnum):
    """How far a conversation is."""

    IDLE = "with no mail begun"
    OPEN = "before the final dot"
    TAKEN = "after the final dot, not yet answered"


@dataclass(frozen=True)
class Cut:
    """A conversation that the client ended without QUIT, and where it stood then."""

    client_port: int
    phase: Phase


class SlowSmtpServer(socketserver.ThreadingTCPServer):
    """The server; a context manager that runs it in threads of this process.

    ``delay`` is in seconds and may be changed while it runs.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 100

    def __init__(self, folder: Path, delay: float = 0.3, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Conversation)
        self.folder = folder
        self.delay = delay
        self.cuts: list[Cut] = []
        self._phases: dict[int, Phase] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> SlowSmtpServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.server_address[1])

    def in_flight(self) -> int:
        """How many mails are being handed over at this moment."""
        with self._lock:
            return sum(phase is not Phase.IDLE for phase in self._phases.values())

    def deliveries(self) -> list[maildrop.Delivery]:
        """All mails taken so far, in order."""
        return maildrop.deliveries(self.folder)

    def note(self, client_port: int, phase: Phase) -> None:
        """Remember how far a conversation is."""
        with self._lock:
            self._phases[client_port] = phase

    def ended(self, client_port: int, *, politely: bool) -> None:
        """A conversation is over."""
        with self._lock:
            phase = self._phases.pop(client_port, Phase.IDLE)
            if not politely:
                self.cuts.append(Cut(client_port, phase))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that is killed in mid-sentence is what this server is for."""


class _ClientGone(Exception):
    """The other side closed the connection."""


class _Conversation(socketserver.BaseRequestHandler):
    """One connection, from the banner to QUIT."""

    server: SlowSmtpServer
    request: socket.socket

    def setup(self) -> None:
        self._client_port = self.client_address[1]
        self._input = self.request.makefile("rb")
        self._forget()

    def handle(self) -> None:
        politely = False
        try:
            self._reply("220 slow.example ESMTP, and in no hurry")
            politely = self._talk()
        except (_ClientGone, OSError):
            pass
        finally:
            self.server.ended(self._client_port, politely=politely)

    def finish(self) -> None:
        with suppress(OSError):
            self._input.close()

    def _talk(self) -> bool:
        """Answer one command after the other; true once the client has said QUIT."""
        while True:
            verb, _, rest = self._read_line().partition(" ")
            verb = verb.upper()
            if verb == "QUIT":
                self._reply("221 2.0.0 Goodbye")
                return True
            answer = getattr(self, f"_on_{verb.lower()}", None) if verb.isalpha() else None
            self._reply(answer(rest) if answer else "502 5.5.2 Not known here")

    # One method per command, named after it; each returns the reply.

    def _on_ehlo(self, _name: str) -> str:
        self._forget()
        lines = ["slow.example", f"SIZE {LARGEST_MAIL}", "8BITMIME", "SMTPUTF8"]
        return "\r\n".join([f"250-{line}" for line in lines] + ["250 ENHANCEDSTATUSCODES"])

    def _on_helo(self, _name: str) -> str:
        self._forget()
        return "250 slow.example"

    def _on_mail(self, rest: str) -> str:
        found = _PATH.match(rest)
        if not found:
            return "501 5.1.7 MAIL FROM:<address>, please"
        self._forget()
        self._sender = found[1]
        self._be(Phase.OPEN)
        return "250 2.1.0 Sender ok"

    def _on_rcpt(self, rest: str) -> str:
        found = _PATH.match(rest)
        if self._sender is None:
            return "503 5.5.1 MAIL first"
        if not found or not found[1]:
            return "501 5.1.3 RCPT TO:<address>, please"
        self._recipients.append(found[1])
        return "250 2.1.5 Recipient ok"

    def _on_data(self, _rest: str) -> str:
        if not self._recipients:
            return "503 5.5.1 RCPT first"
        self._reply("354 Go ahead")
        data = self._read_mail()
        if data is None:
            self._forget()
            return "552 5.3.4 Too large"
        taken = maildrop.keep(self.server.folder, self._sender or "", self._recipients, data)
        self._be(Phase.TAKEN)
        self._sender, self._recipients = None, []
        return f"250 2.0.0 Taken as {taken.name}"

    def _on_rset(self, _rest: str) -> str:
        self._forget()
        return "250 2.0.0 Forgotten"

    def _on_noop(self, _rest: str) -> str:
        return "250 2.0.0 Still here"

    # Reading, waiting, writing.

    def _read_line(self) -> str:
        line = self._input.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise _ClientGone
        return line.decode("utf-8", "replace").strip()

    def _read_mail(self) -> bytes | None:
        """Everything up to the lone dot, dots unstuffed; ``None`` if that was too much."""
        lines, size = [], 0
        while (line := self._input.readline(LARGEST_MAIL)) != b".\r\n":
            if not line.endswith(b"\n"):
                raise _ClientGone
            size += len(line)
            if size <= LARGEST_MAIL:
                lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines) if size <= LARGEST_MAIL else None

    def _reply(self, text: str) -> None:
        self._dawdle()
        self.request.sendall(text.encode() + b"\r\n")
        if self.server._phases.get(self._client_port) is Phase.TAKEN:
            self._be(Phase.IDLE)

    def _dawdle(self) -> None:
        """Wait out the delay, but notice at once if the client goes away meanwhile."""
        end = time.monotonic() + self.server.delay
        readable, _, _ = select.select([self.request], [], [], self.server.delay)
        if readable and not self.request.recv(1, socket.MSG_PEEK):
            raise _ClientGone
        time.sleep(max(0.0, end - time.monotonic()))

    def _forget(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._be(Phase.IDLE)

    def _be(self, phase: Phase) -> None:
        self.server.note(self._client_port, phase)
