"""A provider's HTTP API on loopback that does as it is told, also the wrong thing.

Sockets and bytes, no HTTP library: only so can it stop in the middle of a header, promise more
than it sends, or reset a connection at a chosen moment. Each request takes the next
:class:`Reply` of the script; when the script is used up, :attr:`HttpProvider.default`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from urllib.parse import parse_qsl

Moment = Literal["before_body", "after_body"]


@dataclass
class Reply:
    """What the provider does about one request."""

    #: A ``dict`` is sent as JSON.
    body: bytes | str | dict[str, Any] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    #: Say nothing for ever (until the provider is closed).
    hang: Moment | None = None
    #: Break the connection with RST instead of an answer.
    reset: Moment | None = None
    #: Close it in good order, but without an answer.
    drop: Moment | None = None
    #: Seconds before the answer.
    delay: float = 0.0
    #: One byte at a time, with :attr:`pause` seconds between them.
    trickle: Literal["headers", "body"] | None = None
    pause: float = 0.2
    #: Lie about the length of the body.
    content_length: int | None = None
    #: Close the connection after the answer: in good order, or with RST; not announced.
    close: Literal["fin", "rst"] | None = None
    #: Answer only after :meth:`HttpProvider.release`.
    hold: bool = False

    def parts(self) -> tuple[bytes, bytes]:
        """The answer as head and body."""
        body = self.body
        headers = dict(self.headers)
        if isinstance(body, dict):
            body = json.dumps(body, ensure_ascii=False)
            headers.setdefault("Content-Type", "application/json;charset=UTF-8")
        if isinstance(body, str):
            body = body.encode()
        length = len(body) if self.content_length is None else self.content_length
        headers.setdefault("Content-Length", str(length))
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"), body


@dataclass(frozen=True)
class File:
    """One file of a multipart request."""

    field: str
    filename: str
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived. ``body`` is what had been read when the reply was chosen."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    #: Number of the connection on which it came, from 1.
    connection: int
    #: ``time.monotonic()`` when it had arrived.
    at: float

    @property
    def body_kind(self) -> str:
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        names = {"application/x-www-form-urlencoded": "form", "multipart/form-data": "multipart"}
        return names.get(kind, kind)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Form fields in the order in which they were sent."""
        if self.body_kind == "multipart":
            return [(p.field, p.data.decode()) for p in self._parts() if not p.filename]
        return parse_qsl(
            self.body.decode(), keep_blank_values=True, strict_parsing=True, encoding="utf-8"
        )

    @property
    def form(self) -> dict[str, str]:
        """The fields by name; for forms that name no field twice."""
        fields = self.fields
        assert len(dict(fields)) == len(fields), f"a field stands twice in {fields}"
        return dict(fields)

    @property
    def files(self) -> list[File]:
        return [p for p in self._parts() if p.filename] if self.body_kind == "multipart" else []

    def _parts(self) -> list[File]:
        boundary = self.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        pieces = (b"\r\n" + self.body).split(b"\r\n--" + boundary)
        assert pieces[0] == b"", "text before the first boundary"
        assert pieces[-1].strip() == b"--", "no closing boundary"
        return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> File:
    head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    disposition = dict(
        item.split("=", 1) for item in headers["Content-Disposition"].split("; ") if "=" in item
    )
    return File(
        disposition["name"].strip('"'),
        disposition.get("filename", "").strip('"'),
        headers.get("Content-Type", ""),
        data,
    )


class HttpProvider:
    """The server; use it as a context manager.

    ``requests`` holds what arrived, ``incomplete`` what broke off before its announced end, and
    ``connections`` counts connections.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.default = Reply()
        #: Asked before the script and the default, if set; may answer ``None``.
        self.decide: Callable[[Recorded], Reply | None] | None = None
        self.requests: list[Recorded] = []
        self.incomplete: list[Recorded] = []
        self.connections = 0
        self._script: deque[Reply] = deque()
        self._released = threading.Event()
        self._stopping = threading.Event()
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        # What is not read must not go out all the same, into a buffer that grows to megabytes.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def open_connections(self) -> int:
        """How many connections are open at the moment."""
        return len(self._open)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def script(self, *replies: Reply) -> None:
        """What to do about the next requests, in this order."""
        self._script.extend(replies)

    def release(self) -> None:
        """Let answers go that are held back, and all later ones."""
        self._released.set()

    def close(self) -> None:
        self._stopping.set()
        self._released.set()
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(sock)
        try:
            if self._tls:
                self._open.discard(sock)
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.add(sock)
            while not self._stopping.is_set() and self._one(sock, number):
                pass
        except OSError:
            pass
        finally:
            self._open.discard(sock)
            sock.close()

    def _one(self, sock: socket.socket, number: int) -> bool:
        """Serve one request; whether the connection may stay open."""
        head, rest = _read_head(sock)
        if not head:
            return False
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {
            k.strip().lower(): v.strip() for k, _, v in (i.partition(":") for i in lines[1:])
        }
        request = Recorded(method, path, headers, rest, number, time.monotonic())
        with self._lock:
            reply = self._script.popleft() if self._script else self.default
        if self._interrupted(reply, "before_body", request, sock):
            return False
        length = int(headers.get("content-length", "0"))
        body = _read_exactly(sock, rest, length)
        request = Recorded(method, path, headers, body, number, time.monotonic())
        if len(body) < length:
            self.incomplete.append(request)
            return False
        if self.decide is not None:
            reply = self.decide(request) or reply
        if self._interrupted(reply, "after_body", request, sock):
            return False
        self.requests.append(request)
        return self._answer(sock, reply)

    def _interrupted(
        self, reply: Reply, moment: Moment, request: Recorded, sock: socket.socket
    ) -> bool:
        """Do what the script wants at this moment instead of an answer, if anything."""
        if moment not in (reply.hang, reply.reset, reply.drop):
            return False
        self.requests.append(request)
        if reply.hang == moment:
            self._stopping.wait(60)
        elif reply.reset == moment:
            reset(sock)
        return True

    def _answer(self, sock: socket.socket, reply: Reply) -> bool:
        if reply.hold:
            self._released.wait(60)
        if reply.delay:
            self._stopping.wait(reply.delay)
        head, body = reply.parts()
        self._write(sock, head, reply.pause if reply.trickle == "headers" else 0)
        self._write(sock, body, reply.pause if reply.trickle == "body" else 0)
        if reply.close == "rst":
            reset(sock)
        return reply.close is None and reply.content_length is None

    def _write(self, sock: socket.socket, data: bytes, pause: float) -> None:
        if not pause:
            sock.sendall(data)
            return
        for i in range(len(data)):
            sock.sendall(data[i : i + 1])
            if self._stopping.wait(pause):
                return


def reset(sock: socket.socket) -> None:
    """Close with RST: what is under way in either direction is lost."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return b"", b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _read_exactly(sock: socket.socket, data: bytes, length: int) -> bytes:
    pieces, got = [data], len(data)
    while got < length:
        piece = sock.recv(65536)
        if not piece:
            break
        pieces.append(piece)
        got += len(piece)
    return b"".join(pieces)


def accepted_by_sendcloud(addresses: Iterable[str]) -> Reply:
    """SendCloud's answer when it took a mail to these addresses."""
    stem = "1795262400123_4576_32113_9310.sc-10_10_127_105-inbound"
    ids = [f"{stem}{i}${address}" for i, address in enumerate(addresses)]
    return Reply(
        {"result": True, "statusCode": 200, "message": "请求成功", "info": {"emailIdList": ids}}
    )
