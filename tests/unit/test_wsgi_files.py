"""AfterResponse and files: the server's own wrapper is kept, so that sendfile is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_deferred_mail.wsgi import KEY, AfterResponse
from tests.support.wsgi_calls import (
    FILE_WRAPPER,
    Closing,
    Log,
    ServerFileWrapper,
    serve,
    start_response,
)


@pytest.fixture
def log() -> Log:
    return Log()


def file_app(log: Log, use: Callable[[Any], Any]) -> AfterResponse:
    """An application that wraps a file by the server's wrapper and returns ``use(wrapped)``."""

    class File(io.BytesIO):
        def close(self) -> None:
            log.append("file closed")
            super().close()

    def app(environ: dict[str, Any], start: Any) -> Any:
        environ[KEY].append(log.note("mail"))
        return use(environ[FILE_WRAPPER](File(b"file content"), 4))

    return AfterResponse(app)


def test_a_wrapped_file_is_returned_untouched(log: Log) -> None:
    """The server gets the object of its own wrapper, and its own wrapper is back in its place."""
    environ: dict[str, Any] = {FILE_WRAPPER: ServerFileWrapper}
    result = file_app(log, lambda wrapped: wrapped)(environ, start_response)
    assert isinstance(result, environ[FILE_WRAPPER])
    assert result.block_size == 4
    assert b"".join(result) == b"file content"
    assert log == []
    result.close()
    result.close()
    assert log[:2] == ["file closed", "mail"]
    assert log.count("mail") == 1
    assert KEY not in environ


def test_the_file_shows_all_its_sides(tmp_path: Any) -> None:
    """Servers ask a file for its number, its place and its lines; the proxy answers as it would."""
    path = tmp_path / "f"
    path.write_bytes(b"one\ntwo\n")
    seen: list[Any] = []

    def app(environ: dict[str, Any], start: Any) -> Any:
        return environ[FILE_WRAPPER](path.open("rb"))

    def server_wrapper(file: Any, size: int = 1) -> Any:
        seen.append(file)
        return ServerFileWrapper(file, size)

    result = AfterResponse(app)({FILE_WRAPPER: server_wrapper}, start_response)
    (file,) = seen
    assert file.fileno() > 0
    assert file.seekable()
    assert next(file) == b"one\n"
    assert list(file) == [b"two\n"]
    assert file.seek(4) == 4
    assert file.read() == b"two\n"
    assert not hasattr(file, "nonsense")
    result.close()
    assert file.closed


def test_a_file_without_close(log: Log) -> None:
    """A file-like object may lack close(); the end of the response is noticed all the same."""

    class Reader:
        def read(self, size: int) -> bytes:
            return b""

    def app(environ: dict[str, Any], start: Any) -> Any:
        environ[KEY].append(log.note("mail"))
        return environ[FILE_WRAPPER](Reader())

    serve(AfterResponse(app), {FILE_WRAPPER: ServerFileWrapper})
    assert log == ["mail"]


def test_a_file_whose_close_raises(log: Log) -> None:
    """The error of the file's close() goes on, after ours ran."""

    def app(environ: dict[str, Any], start: Any) -> Any:
        environ[KEY].append(log.note("mail"))
        return environ[FILE_WRAPPER](Closing(log, OSError("disk")))

    result = AfterResponse(app)({FILE_WRAPPER: ServerFileWrapper}, start_response)
    with pytest.raises(OSError, match="disk"):
        result.close()
    assert log == ["inner close", "mail"]


def test_a_wrapped_file_that_is_not_returned(log: Log) -> None:
    """Closing a file that is not the response ends nothing."""

    def read_it(wrapped: Any) -> list[bytes]:
        content = b"".join(wrapped)
        wrapped.close()
        log.append("returning")
        return [content]

    assert serve(file_app(log, read_it), {FILE_WRAPPER: ServerFileWrapper}) == b"file content"
    assert log == ["file closed", "returning", "mail"]


def test_a_wrapped_file_inside_another_iterable(log: Log) -> None:
    """As for a range of a file: ours waits for the outer close(), not for the file's."""

    class Part:
        def __init__(self, wrapped: Any) -> None:
            self.wrapped = wrapped

        def __iter__(self) -> Iterator[bytes]:
            return iter([next(iter(self.wrapped))])

        def close(self) -> None:
            self.wrapped.close()
            log.append("part closed")

    assert serve(file_app(log, Part), {FILE_WRAPPER: ServerFileWrapper}) == b"file"
    assert log == ["file closed", "part closed", "mail"]


def test_a_server_without_a_file_wrapper() -> None:
    """Where the server offers none, none is made up."""
    seen: list[bool] = []

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        seen.append(FILE_WRAPPER in environ)
        return []

    serve(AfterResponse(app))
    assert seen == [False]


def test_a_file_wrapper_that_the_application_changed() -> None:
    """A middleware that takes the wrapper away for good is not overruled."""

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        del environ[FILE_WRAPPER]
        return []

    environ: dict[str, Any] = {FILE_WRAPPER: ServerFileWrapper}
    serve(AfterResponse(app), environ)
    assert environ == {}
