"""Call a WSGI application the way a server does, and note what happens in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flask_deferred_mail.wsgi import KEY, AfterResponse

FILE_WRAPPER = "wsgi.file_wrapper"


def start_response(
    status: str, headers: list[tuple[str, str]], exc_info: Any = None
) -> Callable[[bytes], object]:
    """A server's start_response that throws everything away."""
    return lambda data: None


class Log(list[str]):
    """What happened, in order; ``log.note("x")`` is a callable to schedule."""

    def note(self, event: str) -> Callable[[], None]:
        return lambda: self.append(event)


class Closing:
    """An iterable whose close() is noted, or raises."""

    def __init__(self, log: Log, error: BaseException | None = None) -> None:
        self.log, self.error = log, error

    def __iter__(self) -> Iterator[bytes]:
        self.log.append("body")
        yield b"x"

    def close(self) -> None:
        self.log.append("inner close")
        if self.error:
            raise self.error


class ServerFileWrapper:
    """A server's file wrapper in the manner of wsgiref's and gunicorn's."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file, self.block_size = file, block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> ServerFileWrapper:
        return self

    def __next__(self) -> bytes:
        if chunk := self.file.read(self.block_size):
            return chunk
        raise StopIteration


def scheduling(result: Any, *calls: Callable[[], object]) -> AfterResponse:
    """An application that schedules ``calls`` and returns ``result``, with the hook around it."""

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        environ[KEY].extend(calls)
        start("200 OK", [])
        return result

    return AfterResponse(app)


def serve(app: Any, environ: dict[str, Any] | None = None) -> bytes:
    """What a server does with an application: call, iterate, close whatever happened."""
    result = app({} if environ is None else environ, start_response)
    try:
        return b"".join(result)
    finally:
        if hasattr(result, "close"):
            result.close()
