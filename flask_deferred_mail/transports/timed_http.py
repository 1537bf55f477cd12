"""HTTP connections that keep a wall-clock deadline, and that know how far a request got.

Requests are written, and answers understood, by ``http.client``. Its timeouts are *per read*: a
peer that sends a byte a second, in the headers or in the body, is never late. And its exceptions
say the same for "never connected" and for "taken whole, then silent". So the socket beneath is
ours: every read and write of it is given what is left of the deadline, and a :class:`Progress`
notes what went out.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, parse_headers
from typing import Any, cast

from ..deadline import Deadline
from .authorities import Authorities
from .http_request import Outgoing, Site
from .smtp_waiting import NOT_READY, needs_room, wait_for

#: What a network can do to us. OSError has the timeouts and TLS failures in it.
NETWORK = (OSError, HTTPException)
#: Seconds. A connection unused for longer is not used again: the other side may be closing it.
MAX_IDLE = 20.0

# Small enough that a peer which reads slowly meets the deadline between two writes.
_WRITE_SIZE = 65536
# Most bytes of one answer, with its header fields and however it is cut into chunks. Who asks reads
# less; this is for what http.client reads by itself, such as a chunk of -1 bytes: all there is.
_MOST_INPUT = 16_000_000
#: The other side reads no more. TLS has words of its own for it.
_HUNG_UP = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


@dataclass(slots=True)
class Progress:
    """How far one request got, and until when its present phase may last."""

    deadline: Deadline
    #: Most seconds for connecting to one address, TLS included.
    connect_timeout: float
    #: A connection was tried for this request: none was kept from the one before.
    fresh: bool = False
    #: Bytes of the request that the operating system took.
    bytes_out: int = 0
    #: Leave to hand over was given, in this try or in one before it.
    granted: bool = False
    #: The last bytes of the request are going out or are out.
    ending: bool = False
    #: Seconds per phase: connect, request, answer.
    phases: dict[str, float] = field(default_factory=dict)
    #: The other side's address and port, and its version of TLS.
    peer: str | None = None
    tls: str | None = None
    _since: float = field(default_factory=time.monotonic)

    @property
    def in_doubt(self) -> bool:
        """The mail may be sent. Not if the system has refused the first byte already."""
        return self.ending and self.bytes_out > 0

    def finish(self, phase: str) -> None:
        """Note how long a phase took, from the end of the one before."""
        now = time.monotonic()
        self.phases[phase] = now - self._since
        self._since = now

    def connect_time(self) -> float:
        """Seconds that the next connect may take.

        :raises DeadlinePassed: when none are left.
        """
        return min(self.connect_timeout, self.deadline.remaining())


class _Response(HTTPResponse):
    def _read_status(self) -> tuple[str, int, str]:
        """Skips what is said before the answer (RFC 9110 section 15.2). ``http.client`` takes all
        but 100 for the answer, and then the answer for that to the next request."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # the stubs do not have it
            if not 100 <= found[1] < 200:
                return found
            parse_headers(self.fp)


class Connection(HTTPConnection):
    """A connection to one site, for one request at a time. It connects when it is first needed."""

    response_class = _Response
    sock: TimedSocket | None

    def __init__(self, site: Site, authorities: Authorities) -> None:
        super().__init__(site.host, site.port)
        self.site = site
        # Where the port need not be named in the field Host.
        self.default_port = 443 if site.tls else 80
        self._authorities = authorities
        self._head = b""
        self._progress: Progress | None = None

    def post(self, request: Outgoing, pieces: Iterable[bytes], progress: Progress) -> HTTPResponse:
        """Send a request, whose body comes in pieces, and read the answer's status and headers.

        A piece is asked for when the one before it is with the system. After an error, the
        connection must be closed.

        :raises OSError: it cannot be reached, is cut, or too slow.
        :raises HTTPException: the answer is not HTTP.
        """
        self._progress = progress
        if self.sock is not None and not self.is_connected:
            self.close()
        if self.sock is None:
            self.connect()
        line = cast(TimedSocket, self.sock)
        line.progress, progress.peer, progress.tls = progress, line.peer, line.tls
        named = any(name.lower() == "host" for name, _ in request.fields)
        self.putrequest(request.method, request.target, named, skip_accept_encoding=True)
        for name, value in request.fields:
            self.putheader(name, value)
        self.endheaders()
        for piece in pieces:
            try:
                line.write(self._head + piece if self._head else piece)
            except _HUNG_UP:
                # Whoever refuses a request may close before he has read all of it. But what comes
                # over a kept connection that took none of it is no answer to it.
                if not (progress.fresh or progress.bytes_out):
                    raise
                break
            self._head = b""
        return self.getresponse()

    def send(self, data: Any) -> None:
        """Where ``http.client`` puts the head of a request, which waits for the first piece of the
        body: so they are one packet, and one call of the system."""
        self._head = data

    @property
    def is_connected(self) -> bool:
        """Whether the other side is still there, and silent as it should be between two answers."""
        return self.sock is not None and not self.sock.has_input()

    def connect(self) -> None:
        """Connect and shake hands, all within the deadline.

        :raises OSError: nobody is there, he is too slow, or his certificate does not hold.
        """
        progress = cast(Progress, self._progress)
        progress.fresh = True
        sock = _dialled(self.site, progress)
        try:
            if self.site.tls:
                # CPython counts this timeout over the whole of the handshake.
                sock.settimeout(progress.connect_time())
                host = self.site.host.rstrip(".")
                sock = self._authorities.context().wrap_socket(sock, server_hostname=host)
            self.sock = TimedSocket(sock, progress)
        except BaseException:
            sock.close()
            raise
        progress.finish("connect")


class KeptConnections:
    """Connections between two requests, each for one user at a time. Belongs to one process.

    As many as were in use at once: with a smaller number, every second mail of 64 senders had to
    connect anew, which with TLS takes longer than the mail.
    """

    def __init__(self, authorities: Authorities) -> None:
        self.pid = os.getpid()
        self._authorities = authorities
        # append and pop of a deque need no lock, so a fork cannot copy a locked one.
        self._idle: deque[tuple[float, Connection]] = deque()

    def take(self, site: Site) -> Connection:
        """The one that was used last, or a new one."""
        try:
            since, connection = self._idle.pop()
        except IndexError:
            return Connection(site, self._authorities)
        if time.monotonic() - since > MAX_IDLE:
            connection.close()
        if connection.site != site:
            connection.close()
            return Connection(site, self._authorities)
        return connection

    def give(self, connection: Connection) -> None:
        """Keep it, and close the one that nobody has used for the longest, if that was long."""
        now = time.monotonic()
        self._idle.append((now, connection))
        try:
            since, longest = self._idle.popleft()
        except IndexError:  # others have taken all of them
            return
        if now - since > MAX_IDLE:
            longest.close()
        else:
            self._idle.appendleft((since, longest))

    def close(self) -> None:
        """Close all that are not in use."""
        while self._idle:
            self._idle.pop()[1].close()


def _dialled(site: Site, progress: Progress) -> socket.socket:
    """A TCP connection to the first address that answers."""
    failure: OSError = OSError("the name has no address")
    try:
        found = socket.getaddrinfo(site.host, site.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError("it is not the name of a host") from error
    for family, kind, proto, _, address in found:
        try:
            sock = socket.socket(family, kind, proto)
        except OSError as error:  # the system may know IPv6 addresses, and have no IPv6
            failure = error
            continue
        try:
            sock.settimeout(progress.connect_time())
            sock.connect(address)
            # The last piece of a request is small and must not wait for an ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


class TimedSocket:
    """A connected socket whose every read and write ends with the deadline of the request in hand.

    It never waits by itself (see :mod:`.smtp_waiting`).
    """

    def __init__(self, sock: socket.socket, progress: Progress) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.progress = progress
        self.peer = _name_of_peer(sock)
        self.tls = sock.version() if isinstance(sock, ssl.SSLSocket) else None
        self._decrypted = sock.pending if isinstance(sock, ssl.SSLSocket) else None
        self._readers = 0
        self._left = False
        #: More came than the answer that was read.
        self.excess = False
        # Also for a transport that nobody has closed, or a parent's connection in a forked child.
        self._end = weakref.finalize(self, sock.close)
        self._end.atexit = False

    def write(self, data: bytes) -> None:
        """Write everything, noting how much the operating system took."""
        progress, view = self.progress, memoryview(data)
        while view:
            left = progress.deadline.remaining()
            try:
                taken = self._sock.send(view[:_WRITE_SIZE])
            except NOT_READY as error:
                wait_for(self._sock, left, room=needs_room(error, writing=True))
            else:
                progress.bytes_out += taken
                view = view[taken:]
                if not taken:  # gevent's TLS does not raise when there is no room
                    wait_for(self._sock, left, room=True)

    def read_into(self, buffer: Any) -> int:
        """Wait for bytes; 0 is the end."""
        # An answer is seldom there at once. But what TLS has decrypted, waiting does not see.
        wait, room = self.tls is None, False
        while True:
            left = self.progress.deadline.remaining()
            if wait:
                wait_for(self._sock, left, room=room)
            try:
                return self._sock.recv_into(buffer)
            except NOT_READY as error:
                wait, room = True, needs_room(error, writing=False)

    def has_input(self) -> bool:
        """Whether there is something to read: bytes, or the end."""
        if self.excess or (self._decrypted is not None and self._decrypted()):
            return True
        return wait_for(self._sock, 0, room=False)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What ``http.client`` reads an answer from."""
        if mode != "rb":
            raise ValueError(f"no file of mode {mode!r} here")
        self._readers += 1
        return _AnswerFile(_TimedReader(self))

    def close(self) -> None:
        """Close it as soon as no answer is read from it any more, as sockets do."""
        self._left = True
        if not self._readers:
            self._end()

    def reader_closed(self) -> None:
        """An answer was read, or given up."""
        self._readers -= 1
        if self._left:
            self.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, line: TimedSocket) -> None:
        self.line = line
        self.ended = False
        self._left = _MOST_INPUT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.ended:
            return 0
        got = self.line.read_into(buffer)
        self._left -= got
        if self._left < 0:
            raise OSError("the answer does not end")
        return got

    def close(self) -> None:
        if not self.closed:
            self.line.reader_closed()
        super().close()


class _AnswerFile(io.BufferedReader):
    """Tells, at its end, whether more was read than was asked for."""

    raw: _TimedReader

    def close(self) -> None:
        if not self.closed:
            self.raw.ended = True  # only what is here already
            self.raw.line.excess |= bool(self.peek(1))
        super().close()


def _name_of_peer(sock: socket.socket) -> str | None:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
