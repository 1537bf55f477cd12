"""The Flask application that ``bench_request`` puts behind gunicorn.

``/plain`` sends nothing. What ``/`` does is chosen by ``BENCH_VIEW``, a key of :data:`VIEWS`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from flask import Flask

from flask_deferred_mail import DeferredMail, send_after_response
from tests.benchmarks.measuring import MAIL
from tests.benchmarks.task import SENDER, deliver

View = Callable[[], str]


def create_app() -> Flask:
    """The application, with its two views."""
    app = Flask(__name__)
    app.config["MAIL_DEFAULT_SENDER"] = SENDER
    app.add_url_rule("/plain", "plain", _nothing)
    app.add_url_rule("/", "view", VIEWS[os.environ["BENCH_VIEW"]](app))
    return app


def _nothing() -> str:
    return "done"


def _ours(app: Flask) -> View:
    app.config.from_prefixed_env()
    DeferredMail(app)

    def view() -> str:
        send_after_response(**MAIL)
        return "done"

    return view


def _inserting(_app: Flask) -> View:
    """The reference: json.dumps and one INSERT, on a kept connection for each thread."""
    from tests.benchmarks.bare_rows import Bare

    kept = threading.local()

    def view() -> str:
        if not hasattr(kept, "bare"):
            kept.bare = Bare("sqlite", f"sqlite:///{os.environ['BENCH_FOLDER']}/bare.sqlite3")
        kept.bare.add()
        return "done"

    return view


def _flask_mail(app: Flask) -> View:
    from flask_mail import Mail, Message

    app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=int(os.environ["BENCH_SINK"]))
    mail = Mail(app)

    def view() -> str:
        mail.send(Message(**MAIL))
        return "done"

    return view


def _thread(_app: Flask) -> View:
    def view() -> str:
        threading.Thread(target=deliver, args=(MAIL,)).start()
        return "done"

    return view


def _celery(_app: Flask) -> View:
    from tests.benchmarks.queue_celery import send

    return _queued(send.delay)


def _dramatiq(_app: Flask) -> View:
    from tests.benchmarks.queue_dramatiq import send

    return _queued(send.send)


def _huey(_app: Flask) -> View:
    from tests.benchmarks.queue_huey import send

    return _queued(send)


def _rq(_app: Flask) -> View:
    from tests.benchmarks.queue_rq import send

    return _queued(send)


def _queued(put: Callable[[object], object]) -> View:
    def view() -> str:
        put(MAIL)
        return "done"

    return view


VIEWS: dict[str, Callable[[Flask], View]] = {
    "nothing": lambda _app: _nothing,
    "insert": _inserting,
    "ours": _ours,
    "flask-mail": _flask_mail,
    "thread": _thread,
    "celery": _celery,
    "dramatiq": _dramatiq,
    "huey": _huey,
    "rq": _rq,
}
