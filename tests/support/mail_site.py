"""A Flask application that sends mail from every kind of view, for real servers.

Configured by ``FLASK_DEFERRED_MAIL_*`` and the like (``app.config.from_prefixed_env()``); each
request names its mail's subject by ``?id=``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, abort, request, send_file, stream_with_context

from flask_deferred_mail import DeferredMail, send_after_response

#: Names the file that ``/file`` sends.
FILE_VARIABLE = "MAIL_SITE_FILE"

mail = DeferredMail()


def create_app() -> Flask:
    """The application; its database is where ``FLASK_DEFERRED_MAIL_DATABASE_URI`` says."""
    app = Flask(__name__)
    app.config["MAIL_DEFAULT_SENDER"] = "site@example.com"
    app.config.from_prefixed_env()
    mail.init_app(app)
    for view in (
        nothing,
        plain,
        head,
        stream,
        late,
        empty,
        unchanged,
        file,
        handled,
        crashes,
        breaks,
        big,
        asynchronous,
        several,
    ):
        app.add_url_rule(f"/{view.__name__}", view_func=view)
    app.register_error_handler(500, lambda error: ("sorry", 500))
    return app


def _send() -> None:
    send_after_response(
        subject=request.args["id"], recipients=["ann@example.com"], body="Hi\n", html="<p>Hi</p>"
    )


def nothing() -> str:
    return "nothing"


def plain() -> str:
    _send()
    return "plain"


def head() -> str:
    _send()
    return "head"


def stream() -> Response:
    _send()
    return Response(iter(["first ", "second"]))


def late() -> Response:
    """Sends its mail only when the stream is half out."""

    @stream_with_context
    def body() -> Iterator[str]:
        yield "first "
        _send()
        yield "second"

    return Response(body())


def empty() -> tuple[str, int]:
    _send()
    return "", 204


def unchanged() -> tuple[str, int]:
    _send()
    return "", 304


def file() -> Response:
    _send()
    return send_file(Path(os.environ[FILE_VARIABLE]))


def handled() -> str:
    _send()
    abort(500)


def crashes() -> str:
    _send()
    raise ValueError("the view fails")


def breaks() -> Response:
    _send()

    def body() -> Iterator[str]:
        yield "first"
        raise ValueError("the stream breaks")

    return Response(body())


def big() -> Response:
    """More than the buffers between server and client take in."""
    _send()
    return Response(b"x" * 65536 for _ in range(1000))


async def asynchronous() -> str:
    _send()
    return "async"


def several() -> str:
    for _ in range(5):
        _send()
    return "several"
