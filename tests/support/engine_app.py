"""An application with an engine, for processes of its own: the workers of Celery, RQ and Huey.

Configured by variables: ``ENGINE_FOLDER`` is the instance path, ``ENGINE_BROKER`` the URL of
Celery's broker and ``ENGINE_QUEUE`` a name that nobody else on the machine uses; Flask's own
``FLASK_*`` prefix sets everything else.
"""

from __future__ import annotations

import os

from celery import Celery
from flask import Flask

from flask_deferred_mail import DeferredMail, send_after_response

from .waiting import wait_until

FOLDER, BROKER, QUEUE = "ENGINE_FOLDER", "ENGINE_BROKER", "ENGINE_QUEUE"


def celery_for(name: str, broker: str, queue: str) -> Celery:
    """A Celery application whose messages no other one gets."""
    celery = Celery(name, broker=broker, set_as_current=False)
    celery.conf.task_default_queue = queue
    celery.conf.broker_connection_retry_on_startup = True
    if broker.startswith("redis"):
        celery.conf.broker_transport_options = {"global_keyprefix": f"{queue}:"}
    return celery


def create_app() -> Flask:
    """The site, as the worker makes it."""
    app = Flask(__name__, instance_path=os.environ[FOLDER])
    app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
    app.config.from_prefixed_env()
    if BROKER in os.environ:
        app.extensions["celery"] = celery_for("worker", os.environ[BROKER], os.environ[QUEUE])
    DeferredMail(app)
    return app


def create_site() -> Flask:
    """The same in a web server, which has handed a mail over before it forks."""
    app = create_app()

    @app.get("/send")
    def send() -> str:
        job = send_after_response(subject="Hi", recipients=["ann@example.com"], body="x")
        return str(job.id)

    app.test_client().get("/send").close()
    runtime = app.extensions["deferred_mail"].for_app(app).runtime
    assert runtime.handover is not None
    wait_until(lambda: runtime.handover.pending == 0)
    return app
