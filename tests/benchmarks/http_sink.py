"""The least of a provider's HTTP API: takes every request and answers that it is accepted.

    python -m tests.benchmarks.http_sink PORT [SECONDS]

The answers are those of the recorded fixtures, with a number of their own each; it counts as the
mail server does (:mod:`tests.benchmarks.arrivals`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path

_FIXTURES = Path(__file__).parents[1] / "fixtures"
#: The beginning of a path -> the provider, and where the mail's number stands in its answer.
PATHS = {
    b"/emails": ("resend", ("id",)),
    b"/email": ("postmark", ("MessageID",)),
    b"/apiv2/mail/send": ("sendcloud", ("info", "emailIdList")),
    b"/v3/smtp/email": ("brevo", ("messageId",)),
}
_numbers = itertools.count(1)


class Sink(asyncio.Protocol):
    """One connection."""

    delay = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        path = head.split(b" ", 2)[1]
        asyncio.get_running_loop().call_later(self.delay, self._answer, path)

    def _answer(self, path: bytes) -> None:
        number = next(_numbers)
        status, body = _answer(path, number)
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        sys.stdout.write(f"mesg={number}\r")
        sys.stdout.flush()


def _answer(path: bytes, number: int) -> tuple[int, bytes]:
    for start, (status, template) in _TEMPLATES.items():
        if path.startswith(start):
            return status, template.replace(_MARK, b"%032x" % number)
    return 404, b"{}"


_MARK = b"NUMBER"


def _template(provider: str, place: tuple[str, ...]) -> tuple[int, bytes]:
    answer = json.loads((_FIXTURES / provider / "response_ok.json").read_text())
    inner = answer["json"]
    for key in place[:-1]:
        inner = inner[key]
    mark = _MARK.decode()
    inner[place[-1]] = [f"{mark}0$ann@example.com"] if len(place) > 1 else mark
    return int(answer["status"]), json.dumps(answer["json"]).encode()


_TEMPLATES = {start: _template(*what) for start, what in PATHS.items()}


async def main(port: str, delay: str = "0") -> None:
    Sink.delay = float(delay)
    server = await asyncio.get_running_loop().create_server(
        Sink, "127.0.0.1", int(port), backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
