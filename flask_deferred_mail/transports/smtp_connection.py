"""One connection to a mail server: lines out, replies in, everything under a deadline.

This is what ``smtplib`` does, done again, because there it cannot be seen how far a conversation
got when it broke, a timeout is per read, a reply has no bound, and the first error is hidden by
the clean-up after it. Here each failure is one :class:`Broken` that keeps its cause, and the
caller knows what it was doing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress

from ..cleaning import MAX_TEXT, clean
from ..deadline import Deadline
from .smtp_envelope import Ahead
from .smtp_replies import Reply
from .smtp_waiting import NOT_READY, needs_room, wait_for

#: Bounds of one reply. RFC 5321 4.5.3.1.5 speaks of 512 octets a line; real ones pass that.
MAX_LINE = 4096
MAX_REPLY = 64 * 1024
MAX_LINES = 100
#: A secret of so many characters is hidden also in the middle of a word.
_UNMISTAKABLE = 6
#: Bytes given to the socket in one call; the deadline is looked at between calls.
_CHUNK = 128 * 1024

# A reply as nearly all are: one line of visible ASCII with single blanks.
_PLAIN_REPLY = re.compile(rb"([2-5]\d\d) ([!-~]+(?: [!-~]+)*)\r\n")
_REPLY_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\Z", re.DOTALL)


class Broken(Exception):
    """The conversation ended, or can no longer be understood. The text says how, for people."""


class CertificateProblem(Broken):
    """The server's certificate could not be verified; the text says why."""


class SmtpConnection:
    """A conversation with one server. Used by one thread at a time.

    Every method that waits takes a :class:`~flask_deferred_mail.deadline.Deadline` and raises
    :class:`Broken` when it passes, when the line is cut, or when what comes is not SMTP. After
    that the connection is good for nothing but :meth:`hang_up`.
    """

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.host = host
        # It never waits by itself: see ``smtp_waiting``.
        sock.setblocking(False)
        self._socket = sock
        peer = sock.getpeername()
        self.address = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        self.is_loopback = is_loopback(peer[0])
        #: For example ``TLSv1.3``.
        self.tls: str | None = None
        #: The certificate was checked, also against the host's name.
        self.verified = False
        #: EHLO keyword in capitals -> its parameters.
        self.extensions: dict[str, str] = {}
        #: Texts that must not come back in a reply of the server.
        self.secrets: tuple[str, ...] = ()
        #: Seconds that opening took, by phase.
        self.phases: dict[str, float] = {}
        #: Mails handed over so far.
        self.mails = 0
        #: A transaction was left half-way: RSET comes before the next one.
        self.needs_reset = False
        #: When it last fell idle, by the monotonic clock, and the thread that then let go of it.
        self.idle_since = 0.0
        self.owner: weakref.ref[threading.Thread] | None = None
        #: The next mail, if its envelope is out already.
        self.ahead: Ahead | None = None
        #: Bytes of the last write that the system took.
        self.written = 0
        self._input = bytearray()

    # -- talking ---------------------------------------------------------------------------------

    def command(self, line: str, deadline: Deadline) -> Reply:
        """Send one command line and read the answer to it."""
        self.send_lines([line], deadline)
        return self.read_reply(deadline)

    def send_lines(self, lines: Iterable[str], deadline: Deadline) -> None:
        """Send command lines in one write; their answers come in the same order."""
        if self._input:
            raise Broken(f"the server spoke out of turn: {clean(bytes(self._input), 200)}")
        self.write(command_lines(lines), deadline)

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Send all of ``data``; a server that stops reading is met by the deadline, too.

        How many bytes of it the system took is in ``written``, also after an error.
        """
        view = memoryview(data)
        self.written = 0
        while self.written < len(view):
            try:
                left = deadline.remaining()
                try:
                    taken = self._socket.send(view[self.written : self.written + _CHUNK])
                    self.written += taken
                    if not taken:  # gevent's TLS does not raise when there is no room
                        wait_for(self._socket, left, room=True)
                except NOT_READY as error:
                    wait_for(self._socket, left, room=needs_room(error, writing=True))
            except OSError as error:
                raise Broken(_describe(error, "the server stopped reading")) from error

    def take_ahead(self) -> Ahead | None:
        """The mail whose envelope is out already, if there is one; it is no longer ahead then."""
        ahead, self.ahead = self.ahead, None
        return ahead

    def read_reply(self, deadline: Deadline) -> Reply:
        """Read one complete reply, of bounded size.

        :raises Broken: silence, end of the line, too much of it, or something that is not SMTP.
        """
        if not self._input:
            self._input += self._receive(deadline)
        if (plain := self._plain_reply()) is not None:
            return plain
        code, lines = self._read_lines(deadline)
        return Reply(code, self._text(lines))

    def _plain_reply(self) -> Reply | None:
        """A reply of one ordinary line that is there already: nothing of it must be cleaned."""
        match = _PLAIN_REPLY.match(self._input)
        if match is None:
            return None
        text = match[2].decode("ascii")
        if len(text) > MAX_TEXT:
            return None
        if self.secrets and any(secret in text for secret in self.secrets):
            return None
        reply = Reply(int(match[1]), text)
        del self._input[: match.end()]
        return reply

    def _read_lines(self, deadline: Deadline) -> tuple[int, list[bytes]]:
        """The code of the next reply, and its lines without it."""
        lines: list[bytes] = []
        code = b""
        size = 0
        while len(lines) < MAX_LINES:
            line, length = self._read_line(deadline, MAX_REPLY - size)
            size += length
            match = _REPLY_LINE.match(line)
            if match is None or (lines and match[1] != code):
                raise Broken(f"the server's answer is not SMTP: {self._words(line, 200)}")
            code = match[1]
            lines.append(match[3] or b"")
            if match[2] != b"-":
                return int(code), lines
        raise Broken(f"the server's answer has more than {MAX_LINES} lines")

    def _read_line(self, deadline: Deadline, room: int) -> tuple[bytes, int]:
        """The next line without its end, cut to ``MAX_LINE``, and how long it really was."""
        kept = b""
        length = 0
        while (end := self._input.find(b"\n")) < 0:
            kept = (kept + self._input)[:MAX_LINE]
            length += len(self._input)
            self._input.clear()
            if length > room:
                raise Broken(f"the server's answer is longer than {MAX_REPLY} bytes")
            self._input += self._receive(deadline)
        line = (kept + self._input[:end])[:MAX_LINE]
        del self._input[: end + 1]
        return line.rstrip(b"\r"), length + end + 1

    def _receive(self, deadline: Deadline) -> bytes:
        # An answer is seldom there at once. But what TLS has decrypted, waiting does not see.
        wait, room = self.tls is None, False
        while True:
            try:
                left = deadline.remaining()
                if wait:
                    wait_for(self._socket, left, room=room)
                data = self._socket.recv(MAX_LINE)
                break
            except NOT_READY as error:
                wait, room = True, needs_room(error, writing=False)
            except OSError as error:
                raise Broken(_describe(error, "no answer")) from error
        if not data:
            raise Broken("the server closed the connection")
        return data

    def _text(self, lines: list[bytes]) -> str:
        """The reply's words: an enhanced code that opens every line is kept once."""
        head = lines[0].split(b" ", 1)[0]
        rest = lines[1:]
        if re.fullmatch(rb"[245]\.\d{1,3}\.\d{1,3}", head):
            rest = [line.removeprefix(head + b" ") for line in rest]
        return self._words(b" ".join([lines[0], *rest]))

    def _words(self, data: bytes, limit: int = MAX_TEXT) -> str:
        """What the server said, cleaned; whatever of it is secret is hidden before it is cut."""
        text = data.decode("utf-8", "replace")
        for secret in self.secrets:
            pattern = re.escape(secret)
            if len(secret) < _UNMISTAKABLE:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            text = re.sub(pattern, "***", text)
        return clean(text, limit)

    @property
    def has_input(self) -> bool:
        """Whether something was read that is no part of the answers so far."""
        return bool(self._input)

    def unsolicited(self) -> Reply | None:
        """What the server says although it was not asked, if anything. Does not wait for it.

        :raises Broken: it has gone, or what it says is not SMTP.
        """
        try:
            data = self._socket.recv(MAX_LINE)
        except NOT_READY:
            return self.read_reply(Deadline.after(0.2)) if self._input else None
        except OSError as error:
            raise Broken(_describe(error, "no answer")) from error
        if not data:
            raise Broken("the server closed the connection")
        self._input += data
        return self.read_reply(Deadline.after(0.2))

    # -- the conversation's frame ----------------------------------------------------------------

    def ehlo(self, name: str | None, deadline: Deadline) -> Reply:
        """Greet, and learn the server's extensions. ``name=None``: our address as a literal."""
        self.send_lines([f"EHLO {name or self._literal()}"], deadline)
        code, lines = self._read_lines(deadline)
        reply = Reply(code, self._text(lines))
        self.extensions = dict(map(_extension, lines[1:])) if reply.ok else {}
        return reply

    def _literal(self) -> str:
        """Our end of the connection as an address literal (RFC 5321 4.1.3)."""
        here = self._socket.getsockname()[0].partition("%")[0]
        return f"[IPv6:{here}]" if ":" in here else f"[{here}]"

    def start_tls(self, context: ssl.SSLContext, deadline: Deadline) -> None:
        """Shake hands for TLS. What the server said in clear text before it is not believed.

        :raises CertificateProblem: the certificate does not hold.
        :raises Broken: anything else went wrong, or bytes were sent ahead of the handshake.
        """
        if self._input:
            raise Broken("the server sent bytes ahead of the TLS handshake")
        try:
            self._socket.settimeout(deadline.remaining())
            secured = context.wrap_socket(self._socket, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            problem = clean(error.verify_message or str(error))
            raise CertificateProblem(f"its certificate was not accepted: {problem}") from error
        except (OSError, ValueError) as error:
            raise Broken(_describe(error, "no TLS handshake")) from error
        secured.setblocking(False)
        self._socket = secured
        self.extensions = {}
        self.tls = secured.version()
        self.verified = context.verify_mode == ssl.CERT_REQUIRED

    def quit(self, deadline: Deadline) -> None:
        """Say goodbye and leave; how the server takes it changes nothing."""
        # One that waits for a body would take the word for one.
        if self.ahead is None:
            with suppress(Broken):
                self.command("QUIT", deadline)
        self.hang_up()

    def leave(self) -> None:
        """Say goodbye without waiting for an answer."""
        if self.ahead is None:
            with suppress(OSError):
                self._socket.send(b"QUIT\r\n")
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket, and say nothing: also right in a child that inherited it."""
        with suppress(OSError):
            self._socket.close()

    def __repr__(self) -> str:
        return f"<SmtpConnection to {self.host} ({self.address}), {self.tls or 'clear text'}>"


def command_lines(lines: Iterable[str]) -> bytes:
    """Commands as they go over the wire."""
    commands = [line.encode("utf-8") for line in lines]
    for command in commands:
        if b"\r" in command or b"\n" in command or b"\0" in command:
            raise ValueError("a line break or NUL in an SMTP command")
    return b"\r\n".join([*commands, b""])


def _extension(line: bytes) -> tuple[str, str]:
    keyword, _, parameters = line.decode("ascii", "replace").strip().partition(" ")
    return keyword.upper(), parameters


def dial(host: str, port: int, deadline: Deadline, per_address: float) -> SmtpConnection:
    """Connect to the first address of ``host`` that answers.

    A look-up of the name cannot be interrupted; the deadline is looked at once it is over.

    :param per_address: most seconds to spend on one address, so that a dead one does not use up
        what the next one needs.
    :raises Broken: no such name, or no address of it answers in time.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Broken(f"its name was not found: {clean(str(error))}") from error
    for family, kind, protocol, _, address in found:
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(deadline.sooner(per_address).remaining())
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return SmtpConnection(sock, host)
        except OSError as error:
            problem: OSError = error
            if sock is not None:
                sock.close()
    tried = f" (tried {len(found)} addresses)" if len(found) > 1 else ""
    raise Broken(_describe(problem, "no connection") + tried) from problem


def is_loopback(address: str) -> bool:
    """Whether an IP address never leaves this machine."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _describe(error: Exception, waiting: str) -> str:
    """An error of the socket in words; ``waiting`` is what we were waiting for in vain."""
    if isinstance(error, TimeoutError):
        return f"{waiting} within the time allowed"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "the connection was reset"
    if isinstance(error, ssl.SSLEOFError):
        return "the server closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {clean(error.reason or str(error))}"
    return clean(getattr(error, "strerror", None) or str(error))
