"""A site whose requests record mail and then meet every kind of trouble; for real servers.

Configured by variables: ``FAULT_APP_FOLDER`` is the instance path, and Flask's own ``FLASK_*``
prefix sets everything else (``FLASK_DEFERRED_MAIL_LEASE=2``). Each request names its mail's
subject by ``?id=``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request

from flask_deferred_mail import Attachment, DeferredMail
from flask_deferred_mail.wsgi import KEY, AfterResponse

from . import poison
from .waiting import wait_until

FOLDER = "FAULT_APP_FOLDER"
#: Set: a request is served while the application is made (under ``--preload``: before the fork).
AT_START = "FAULT_APP_SENDS_AT_START"

#: File in the folder that ``/marked`` makes once its response is closed.
MARK = "marked"

REPORT = Attachment("report.bin", "application/octet-stream", b"x" * 999)

mail = DeferredMail()


def create_app() -> Flask:
    """The site under the hook, as anybody would make it."""
    poison.register()
    app = Flask(__name__, instance_path=os.environ[FOLDER])
    app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
    app.config.from_prefixed_env()
    mail.init_app(app)
    for view in (ping, send, marked, many, attach, fails, stream, breaks, slow, thread, quiet):
        app.add_url_rule(f"/{view.__name__}", view_func=view)
    if os.environ.get(AT_START):
        _use(app)
    return app


def _use(app: Flask) -> None:
    """Let everything come to life that a process has: threads, connections, locks."""
    app.test_client().get("/send?id=at-start").close()
    with app.app_context():
        wait_until(lambda: mail.get(1).status == "sent")


def create_app_in_bad_company() -> Flask:
    """The same below a middleware that never closes what it wraps."""
    app = create_app()
    app.wsgi_app = _Swallow(app.wsgi_app)  # type: ignore[method-assign]  # as Flask documents
    return app


class _Swallow:
    """Passes the chunks on and forgets the rest of PEP 3333."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]]) -> None:
        self.wsgi_app = wsgi_app
        #: The results stay alive, as in a server that keeps them: no garbage collector helps.
        self.kept: list[Iterable[bytes]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        result = self.wsgi_app(environ, start_response)
        self.kept.append(result)
        return list(result)


def fields_of(subject: str) -> dict[str, Any]:
    return {"subject": subject, "recipients": ["ann@example.com"], "body": "Hi\n"}


def _record(**fields: Any) -> int:
    if "unknown" in request.args:
        fields["on_unknown"] = request.args["unknown"]
    return mail.send_after_response(**fields_of(request.args["id"]), **fields).id


def ping() -> str:
    return "here"


def send() -> Response:
    return jsonify(id=_record())


def marked() -> Response:
    """Records, and schedules something of the application's own after it."""
    recorded = send()
    request.environ[KEY].append(Path(os.environ[FOLDER], MARK).touch)
    return recorded


def many() -> Response:
    """Two mails in one transaction: their rows are not leased at once."""
    names = [f"{request.args['id']}-{number}" for number in (1, 2)]
    return jsonify(ids=[job.id for job in mail.send_many([fields_of(name) for name in names])])


def attach() -> Response:
    return jsonify(id=_record(attachments=[REPORT]))


def fails() -> str:
    _record()
    raise ValueError("the view fails after it has recorded a mail")


def stream() -> Response:
    _record()
    return Response(iter(["first ", "second"]))


def breaks() -> Response:
    _record()

    def body() -> Iterator[str]:
        yield "first"
        raise ValueError("the stream breaks")

    return Response(body())


def slow() -> str:
    """Records, and then does not come back for a long time."""
    _record()
    time.sleep(60)
    return "late"


def thread() -> str:
    """Records in a thread of its own, which knows of no request."""
    fields = fields_of(request.args["id"])

    def work() -> None:
        with mail.for_app(app).app.app_context():
            mail.send_after_response(**fields)

    from flask import current_app

    app = current_app._get_current_object()  # type: ignore[attr-defined]  # the proxy's own
    helper = threading.Thread(target=work)
    helper.start()
    helper.join()
    return "recorded elsewhere"


def quiet() -> tuple[str, int]:
    _record()
    return "", 204


def create_app_wrapped_twice() -> Flask:
    """The same below another hook, as where a site wraps all its applications."""
    app = create_app()
    app.wsgi_app = AfterResponse(app.wsgi_app)  # type: ignore[method-assign]  # as above
    return app
