"""HTTP connections that keep a wall-clock deadline, and that know how far a request got.

The timeouts of requests and urllib3 are *per read*: a peer that sends a byte a second, in the
headers or in the body, is never late. And their exceptions say the same for "never connected" and
for "taken whole, then silent". Here every read and write of the socket is given what is left of
the deadline, and a :class:`Progress` notes what went out. Nothing else of requests is changed.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from ..deadline import Deadline

#: Seconds. A connection unused for longer is not used again: the other side may be closing it.
MAX_IDLE = 20.0

# Small enough that a peer which reads slowly meets the deadline between two writes.
_WRITE_SIZE = 65536


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
    #: The last bytes of the request are going out or are out: the mail may be sent.
    in_doubt: bool = False
    #: Seconds per phase: connect, request, answer.
    phases: dict[str, float] = field(default_factory=dict)
    #: The other side's address and port, and its version of TLS.
    peer: str | None = None
    tls: str | None = None
    _since: float = field(default_factory=time.monotonic)

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


#: The request that this thread (or greenlet) has in hand.
current: ContextVar[Progress] = ContextVar("current")


class TimedAdapter(HTTPAdapter):
    """An adapter for one host and one thread at a time; :data:`current` must be set."""

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


class KeptAdapters:
    """Connections between two requests, each for one user at a time. Belongs to one process.

    As many as were in use at once: with a smaller number, every second mail of 64 senders had to
    connect anew, which with TLS takes longer than the mail.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        # append and pop of a deque need no lock, so a fork cannot copy a locked one.
        self._idle: deque[tuple[float, TimedAdapter]] = deque()

    def take(self) -> TimedAdapter:
        """The one that was used last, or a new one."""
        try:
            since, adapter = self._idle.pop()
        except IndexError:
            return TimedAdapter(pool_connections=1, pool_maxsize=1)
        if time.monotonic() - since > MAX_IDLE:
            adapter.close()
        return adapter

    def give(self, adapter: TimedAdapter) -> None:
        """Keep it, and close the one that nobody has used for the longest, if that was long."""
        now = time.monotonic()
        self._idle.append((now, adapter))
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


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _open(self)

    def connect(self) -> None:
        _connect(self, super().connect)


class _TLSConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _open(self)

    def connect(self) -> None:
        _connect(self, super().connect)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _open(connection: HTTPConnection) -> socket.socket:
    """A TCP connection to the first address that answers, all within the deadline."""
    progress = current.get()
    host, port = connection.host, connection.port
    failure: OSError = OSError("the name has no address")
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, proto)
            try:
                sock.settimeout(progress.connect_time())
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                # The last piece of a request is small and must not wait for an ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # For the TLS handshake, whose timeout CPython counts over the whole of it.
                sock.settimeout(progress.connect_time())
                return sock
    except OSError as error:
        failure = error
    raise NewConnectionError(connection, f"{host}:{port}: {failure}") from failure


def _connect(connection: HTTPConnection, really: Callable[[], None]) -> None:
    """Connect as urllib3 does, then put our socket in the place of its own."""
    progress = current.get()
    progress.fresh = True
    really()
    progress.finish("connect")
    connection.sock = cast(socket.socket, TimedSocket(cast(socket.socket, connection.sock)))


class TimedSocket:
    """A connected socket whose every read and write ends with the deadline in :data:`current`.

    It goes by the request that is in hand *now*, not by the one that opened the connection. What
    is not overridden here is the wrapped socket's own.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._peer = _name_of_peer(sock)
        self._tls = sock.version() if isinstance(sock, ssl.SSLSocket) else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, value: float | None) -> None:
        """Does nothing: a timeout set by a library would be one per read."""

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """Write everything, noting how much the operating system took."""
        progress = current.get()
        progress.peer, progress.tls = self._peer, self._tls
        view = memoryview(data).cast("B")
        while view:
            self._sock.settimeout(progress.deadline.remaining())
            taken = self._sock.send(view[:_WRITE_SIZE], flags)
            progress.bytes_out += taken
            view = view[taken:]

    def makefile(self, mode: str = "rb", buffering: int | None = None) -> io.BufferedReader:
        """What http.client reads an answer from; it asks for bytes, and so does nobody else."""
        if mode != "rb" or buffering not in (None, -1):
            raise ValueError(f"no file of mode {mode!r} and buffering {buffering!r} here")
        return io.BufferedReader(_TimedReader(self._sock))


class _TimedReader(io.RawIOBase):
    """Reads from a socket; each read is allowed what is left of the deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # The socket counts such files, and stays open until the last of them is closed.
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(current.get().deadline.remaining())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _name_of_peer(sock: socket.socket) -> str | None:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
