"""A Flask application whose requests schedule work by the plain hook, without any mail.

Each request names its work by ``?id=``. The scheduled callable starts a thread, which waits for the
test (:mod:`tests.support.held_work`); ``/inline`` waits inside the callable instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, request, send_file
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flask_deferred_mail.wsgi import KEY, AfterResponse

from .held_work import wait_for_release

#: Names the file that ``/file`` sends, and one too large for the buffers on the way.
FILE_VARIABLE = "HOOK_APP_FILE"
LARGE_FILE_VARIABLE = "HOOK_APP_LARGE_FILE"


def create_app() -> Flask:
    """The application under the hook; below ``/raw``, Flask lets exceptions through."""
    app = _views()
    raw = _views()
    raw.config["PROPAGATE_EXCEPTIONS"] = True
    both = DispatcherMiddleware(app.wsgi_app, {"/raw": raw.wsgi_app})
    app.wsgi_app = AfterResponse(both)  # type: ignore[method-assign]  # as Flask documents
    return app


def _schedule() -> None:
    name = request.args["id"]
    thread = threading.Thread(target=wait_for_release, args=(name,), daemon=True)
    request.environ[KEY].append(thread.start)


def _views() -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/nothing", view_func=_nothing)
    for view in (
        _plain,
        _stream,
        _late,
        _empty,
        _unchanged,
        _file,
        _large_file,
        _fails,
        _breaks,
        _big,
    ):
        app.add_url_rule(f"/{view.__name__[1:]}", view_func=view)
    return app


def _nothing() -> str:
    return "nothing scheduled"


def _plain() -> str:
    _schedule()
    return "plain"


def _stream() -> Response:
    """Two chunks; the second one waits for the test."""
    _schedule()
    gate = f"{request.args['id']}-gate"

    def body() -> Iterator[str]:
        yield "first "
        wait_for_release(gate)
        yield "second"

    return Response(body())


def _late() -> Response:
    """Schedules only when the stream is half out."""
    environ, name = request.environ, request.args["id"]

    def body() -> Iterator[str]:
        yield "first "
        thread = threading.Thread(target=wait_for_release, args=(name,), daemon=True)
        environ[KEY].append(thread.start)
        yield "second"

    return Response(body())


def _empty() -> tuple[str, int]:
    _schedule()
    return "", 204


def _unchanged() -> tuple[str, int]:
    _schedule()
    return "", 304


def _file() -> Response:
    _schedule()
    return send_file(Path(os.environ[FILE_VARIABLE]))


def _large_file() -> Response:
    _schedule()
    return send_file(Path(os.environ[LARGE_FILE_VARIABLE]))


def _fails() -> str:
    _schedule()
    raise ValueError("the view fails")


def _breaks() -> Response:
    """A stream that raises midway."""
    _schedule()

    def body() -> Iterator[str]:
        yield "first"
        raise ValueError("the stream breaks")

    return Response(body())


def _big() -> Response:
    """More than the buffers between server and client take in."""
    _schedule()
    return Response(b"x" * 65536 for _ in range(1000))
