"""AfterResponse around Flask: every kind of response that a view can give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, request, send_file, stream_with_context
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flask_deferred_mail.wsgi import KEY, AfterResponse
from tests.support.wsgi_calls import FILE_WRAPPER, Log, ServerFileWrapper


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def flask_app(log: Log, tmp_path: Any) -> Flask:
    """A Flask application whose views schedule a note and answer in different ways."""
    app = Flask(__name__)
    path = tmp_path / "report.txt"
    path.write_bytes(b"0123456789")

    def schedule() -> None:
        request.environ[KEY].append(log.note("mail"))

    @app.get("/plain")
    def plain() -> str:
        schedule()
        return "plain"

    @app.get("/stream")
    def stream() -> Response:
        @stream_with_context
        def body() -> Iterator[str]:
            yield "a"
            schedule()
            yield "b"

        return Response(body())

    @app.get("/empty")
    def empty() -> tuple[str, int]:
        schedule()
        return "", 204

    @app.get("/file")
    def file() -> Response:
        schedule()
        return send_file(path)

    @app.get("/fails")
    def fails() -> str:
        schedule()
        raise ValueError("view")

    @app.get("/async")
    async def asynchronous() -> str:
        schedule()
        return "async"

    app.wsgi_app = AfterResponse(app.wsgi_app)
    return app


@pytest.mark.parametrize("server_wraps_files", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "body"),
    [
        ("GET", "/plain", {}, 200, b"plain"),
        ("HEAD", "/plain", {}, 200, b""),
        ("GET", "/stream", {}, 200, b"ab"),
        ("GET", "/empty", {}, 204, b""),
        ("GET", "/file", {}, 200, b"0123456789"),
        ("HEAD", "/file", {}, 200, b""),
        ("GET", "/file", {"Range": "bytes=2-4"}, 206, b"234"),
        ("GET", "/file", {"If-Modified-Since": "Fri, 31 Dec 2100 00:00:00 GMT"}, 304, b""),
        ("GET", "/fails", {}, 500, None),
        ("GET", "/async", {}, 200, b"async"),
    ],
)
def test_every_kind_of_flask_response(
    flask_app: Flask,
    log: Log,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    body: bytes | None,
    server_wraps_files: bool,
) -> None:
    """Whatever Flask answers, ours runs once, when the server closes and not before."""
    environ = EnvironBuilder(path, method=method, headers=headers).get_environ()
    if server_wraps_files:
        environ[FILE_WRAPPER] = ServerFileWrapper
    parts, code, _ = run_wsgi_app(flask_app, environ)
    content = b"".join(parts)
    assert code.startswith(str(status))
    assert body is None or content == body
    assert log == []
    parts.close()
    assert log == ["mail"]


def test_an_exception_that_flask_lets_through(flask_app: Flask, log: Log) -> None:
    """With PROPAGATE_EXCEPTIONS there is no response at all: ours runs, the error goes on."""
    flask_app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ValueError, match="view"):
        run_wsgi_app(flask_app, EnvironBuilder("/fails").get_environ())
    assert log == ["mail"]


def test_the_test_client_of_flask(flask_app: Flask, log: Log) -> None:
    """With the test client the response ends when the test closes it."""
    response = flask_app.test_client().get("/plain")
    response.close()
    assert log == ["mail"]
