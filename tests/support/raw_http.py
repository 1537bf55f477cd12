"""An HTTP client over a bare socket: it sees when which byte came, and who closed what.

A library would hide what matters here: whether a response was complete by its own framing before
the connection was closed, and whether the next request on that connection had to wait.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

_NO_BODY = frozenset({204, 304})


@dataclass
class Answer:
    """One response; times are seconds since the request was sent."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    #: How the end was told: "none" (HEAD, 204, 304), "length", "chunked" or "eof".
    framing: str = "none"
    head_after: float = 0.0
    complete_after: float = 0.0
    #: False if the connection ended before the framing said so.
    whole: bool = True
    #: For each piece of the body: when it came, and what.
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def keeps_connection(self) -> bool:
        """Whether another request may follow on this connection."""
        return self.framing != "eof" and self.headers.get("connection", "").lower() != "close"


class RawClient:
    """One connection. Every wait ends after ``timeout`` seconds with :class:`TimeoutError`."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 10.0) -> None:
        self.host, self.port = host, port
        self._socket = socket.create_connection((host, port), timeout)
        self._buffer = b""
        self._sent_at = 0.0
        self._method = "GET"

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(
        self,
        path: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        version: str = "1.1",
    ) -> Answer:
        """Send a request and read the whole response."""
        self.send(path, method, headers=headers, body=body, version=version)
        return self.read()

    def send(
        self,
        path: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        version: str = "1.1",
    ) -> None:
        """Send a request, and read nothing yet."""
        fields = {"Host": f"{self.host}:{self.port}", **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/{version}", *(f"{k}: {v}" for k, v in fields.items())]
        self._method = method
        self._sent_at = time.monotonic()
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)

    def read(self) -> Answer:
        """Read one response to its end, as its own framing tells it."""
        answer = self.read_head()
        while (piece := self.read_piece(answer)) is not None:
            answer.pieces.append((self._elapsed(), piece))
        answer.body = b"".join(piece for _, piece in answer.pieces)
        answer.complete_after = self._elapsed()
        return answer

    def read_head(self) -> Answer:
        """Read the status line and the headers; their names become lower case."""
        status_line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        status = int(status_line.split()[1])
        answer = Answer(status, headers, head_after=self._elapsed())
        if self._method == "HEAD" or status in _NO_BODY:
            answer.framing = "none"
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            answer.framing = "chunked"
        else:
            answer.framing = "length" if "content-length" in headers else "eof"
        self._left = int(headers.get("content-length", 0))
        return answer

    def read_piece(self, answer: Answer) -> bytes | None:
        """The next piece of the body; ``None`` at its end."""
        if answer.framing == "chunked":
            return self._chunk()
        if answer.framing == "none" or (answer.framing == "length" and self._left == 0):
            return None
        piece = self._some()
        if answer.framing == "length":
            if not piece:
                answer.whole = False
                return None
            piece, self._buffer = piece[: self._left], piece[self._left :] + self._buffer
            self._left -= len(piece)
        return piece or None

    def _chunk(self) -> bytes | None:
        size = int(self._until(b"\r\n").split(b";")[0], 16)
        while len(self._buffer) < size + 2:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
        return data or None

    def closed_by_server(self) -> bool:
        """Wait for the server to close the connection; False if it sends something instead."""
        try:
            return not self._some()
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close in an orderly way."""
        self._socket.close()

    def reset(self) -> None:
        """Leave abruptly: the server gets a RST, as from a client that crashed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _elapsed(self) -> float:
        return time.monotonic() - self._sent_at

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed after {self._buffer[:200]!r}")
        self._buffer += data

    def _some(self) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self._socket.recv(65536)


def get(port: int, path: str, method: str = "GET", **options: object) -> Answer:
    """One request on a connection of its own."""
    with RawClient(port) as client:
        return client.request(path, method, **options)  # type: ignore[arg-type]  # as request()
