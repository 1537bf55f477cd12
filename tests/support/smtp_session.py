"""One connection of the scripted mail server: the conversation, command by command."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from tests.support.smtp_script import ConnectionOver, Turn
from tests.support.smtp_strict import body_faults, command_faults

if TYPE_CHECKING:
    from tests.support.smtp_server import SmtpServer


@dataclass(frozen=True)
class Received:
    """A mail that the server took."""

    envelope_from: str
    recipients: list[str]
    #: The mail as it was before dot-stuffing.
    data: bytes = field(repr=False)
    #: Parameters of MAIL, e.g. ``["SIZE=900", "SMTPUTF8"]``.
    options: list[str]
    #: ``time.monotonic()`` when it was taken.
    at: float
    connection: int
    tls: str | None
    user: str | None

    @property
    def parsed(self) -> EmailMessage:
        """The mail's headers and parts."""
        return message_from_bytes(self.data, policy=policy.default)  # type: ignore[return-value]


@dataclass(frozen=True)
class Command:
    """One command line of a client. ``verb`` is in capitals."""

    connection: int
    verb: str
    line: str
    at: float


class Session:
    """One connection of a client, on a thread of its own."""

    def __init__(self, server: SmtpServer, connection: socket.socket, number: int) -> None:
        self.server = server
        self.socket = connection
        self.number = number
        self.thread = threading.Thread(target=self._run, name=f"smtp-{number}", daemon=True)
        self._buffer = bytearray()
        self._counts: dict[str, int] = {}
        self._mails = 0
        self._tls: str | None = None
        self._user: str | None = None
        self._forget_envelope()

    def _forget_envelope(self) -> None:
        self._sender: str | None = None
        self._options: list[str] = []
        self._recipients: list[str] = []

    # -- the wire --------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def wait(self, seconds: float | None) -> None:
        if self.server.stopping.wait(seconds):
            raise ConnectionOver

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _until(self, end: bytes) -> bytes:
        """What comes before ``end``."""
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end))
            self._more()
        data = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return data

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionOver
        self._buffer += data

    # -- the conversation ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self.server.tls == "implicit":
                self._handshake()
            if self._answer("banner", "", self._banner())[:1] == "2":
                while self._command():
                    pass
        except (ConnectionOver, OSError):
            pass
        finally:
            self.hang_up()
            self.socket.close()
            self.server.forget(self)

    def _banner(self) -> str:
        if self.server.too_many():
            return "421 4.3.2 too many connections"
        return "220 mail.test ESMTP ready"

    def _handshake(self) -> None:
        assert self.server.ssl_context is not None
        wrapped = self.server.ssl_context.wrap_socket(self.socket, server_side=True)
        self.socket = wrapped
        self._tls = wrapped.version()

    def _command(self) -> bool:
        """Read one command and answer it; false when the conversation is over."""
        raw = self._until(b"\n")
        line = raw.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        self.server.note(Command(self.number, verb, line, time.monotonic()))
        if self.server.strict:
            for fault in command_faults(raw, smtputf8="SMTPUTF8" in line):
                self.server.blame(fault)
        method = getattr(self, "_on_" + verb.lower(), None)
        code = method(argument) if method else self._say("500 5.5.2 what?")
        return code not in ("421", "221")

    def _answer(self, stage: str, argument: str | bytes, usual: str, take: Any = None) -> str:
        """Do what the script says for this stage; the code that went out."""
        self.server.pass_gate(stage)
        here = self._counts.get(stage, 0)
        self._counts[stage] = here + 1
        turn = Turn(
            stage,
            argument,
            usual,
            self.server.turns.tick(stage),
            self.number,
            here,
            self._recipients,
            self,
        )
        if take:
            turn.on_accept = take
        self.server.turns.action(turn).play(turn)
        return turn.code

    def _say(self, text: str) -> str:
        self.send(text.encode() + b"\r\n")
        return text[:3]

    def _on_ehlo(self, name: str) -> str:
        self._forget_envelope()
        lines = ["mail.test at your service", *self.server.extensions]
        if self.server.size is not None:
            lines.append(f"SIZE {self.server.size}")
        if self.server.tls == "starttls" and self._tls is None:
            lines.append("STARTTLS")
        if self.server.credentials:
            lines.append("AUTH " + " ".join(self.server.auth_mechanisms))
        text = "\n".join(f"250-{line}" for line in lines[:-1]) + f"\n250 {lines[-1]}"
        return self._answer("ehlo", name, text.strip())

    def _on_helo(self, name: str) -> str:
        return self._answer("ehlo", name, "250 mail.test")

    def _on_starttls(self, argument: str) -> str:
        offered = self.server.tls == "starttls" and self._tls is None
        usual = "220 2.0.0 go ahead" if offered else "502 5.5.1 not here"
        if self.server.strict and self._buffer:
            self.server.blame("bytes were sent ahead of the TLS handshake")
        self._buffer.clear()
        code = self._answer("starttls", argument, usual)
        if code == "220":
            self._handshake()
            self._forget_envelope()
        return code

    def _on_auth(self, argument: str) -> str:
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() == "PLAIN":
            answer = initial or self._ask("334 ")
            _, user, password = base64.b64decode(answer).decode().split("\0")
        elif mechanism.upper() == "LOGIN":
            user = base64.b64decode(initial or self._ask("334 VXNlcm5hbWU6")).decode()
            password = base64.b64decode(self._ask("334 UGFzc3dvcmQ6")).decode()
        elif mechanism.upper() == "XOAUTH2":
            user, password = self._bearer(initial)
        else:
            return self._say("504 5.5.4 unknown mechanism")
        right = self.server.credentials.get(user) == password
        usual = "235 2.7.0 welcome" if right else "535 5.7.8 authentication failed"
        code = self._answer("auth", argument, usual)
        if code == "235":
            self._user = user
        return code

    def _bearer(self, initial: str) -> tuple[str, str]:
        """User and token. A wrong one is answered with a challenge, which wants an empty line."""
        form = r"user=([^\x01]*)\x01auth=Bearer ([^\x01]*)\x01\x01"
        match = re.fullmatch(form, base64.b64decode(initial).decode())
        user, token = match.groups() if match else ("", "")
        if self.server.credentials.get(user) != token:
            challenge = base64.b64encode(b'{"status":"400","schemes":"Bearer"}').decode()
            if self._ask(f"334 {challenge}") != "":
                self.server.blame("the challenge was not answered with an empty line")
        return user, token

    def _ask(self, text: str) -> str:
        self._say(text)
        return self._until(b"\r\n").decode()

    def _on_mail(self, argument: str) -> str:
        path, *options = argument.removeprefix("FROM:").split(" ")
        usual = "250 2.1.0 ok"
        size = next((int(o[5:]) for o in options if o.upper().startswith("SIZE=")), 0)
        if self.server.auth_required and self._user is None:
            usual = "530 5.7.0 authentication required"
        elif self.server.max_messages is not None and self._mails >= self.server.max_messages:
            usual = "421 4.7.0 enough mails on this connection"
        elif self._sender is not None:
            usual = "503 5.5.1 nested MAIL command"
        elif self.server.size is not None and size > self.server.size:
            usual = "552 5.3.4 message too big"
        code = self._answer("mail", argument, usual)
        if code == "250":
            self._sender, self._options = path[1:-1], options
        return code

    def _on_rcpt(self, argument: str) -> str:
        recipient = argument.removeprefix("TO:").split(" ")[0][1:-1]
        usual = "250 2.1.5 ok"
        if self._sender is None:
            usual = "503 5.5.1 MAIL first"
        elif self.server.greylisted(self._sender, recipient):
            usual = "451 4.7.1 greylisted, come back later"
        code = self._answer("rcpt", argument, usual)
        if code[:1] == "2":
            self._recipients.append(recipient)
        return code

    def _on_data(self, argument: str) -> str:
        usual = "354 go ahead" if self._recipients else "503 5.5.1 RCPT first"
        code = self._answer("data", argument, usual)
        if code != "354":
            return code
        self._buffer or self._more()
        self._answer("body", bytes(self._buffer), "")
        # The end is looked for from the line break before the first line: an empty mail has none.
        self._buffer[:0] = b"\r\n"
        return self._dot(self._until(b"\r\n.\r\n")[2:] + b"\r\n")

    def _dot(self, raw: bytes) -> str:
        self._mails += 1
        usual = f"250 2.0.0 Ok: queued as Q{self.number:03}{self._mails:03}"
        faults = body_faults(raw, self._options) if self.server.strict else []
        for fault in faults:
            self.server.blame(fault)
            usual = f"554 5.6.0 {fault}"
        if self.server.size is not None and len(raw) > self.server.size:
            usual = "552 5.3.4 message too big"
        data = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n")[2:]
        code = self._answer("dot", data, usual, lambda: self._take(data))
        self._forget_envelope()
        return code

    def _take(self, data: bytes) -> None:
        self.server.take(
            Received(
                self._sender or "",
                list(self._recipients),
                data,
                self._options,
                time.monotonic(),
                self.number,
                self._tls,
                self._user,
            )
        )

    def _on_rset(self, argument: str) -> str:
        self._forget_envelope()
        return self._answer("rset", argument, "250 2.0.0 forgotten")

    def _on_noop(self, argument: str) -> str:
        return self._answer("noop", argument, "250 2.0.0 still here")

    def _on_quit(self, argument: str) -> str:
        return self._answer("quit", argument, "221 2.0.0 bye")
