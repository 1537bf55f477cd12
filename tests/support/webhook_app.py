"""A site for a real server that takes in the reports of every provider, at the fixtures' time.

What it would fetch from SNS is given to it: nothing here leaves the machine.
"""

from __future__ import annotations

import os

from flask import Flask

from flask_deferred_mail import DeferredMail
from flask_deferred_mail.webhooks import aws_fetch
from tests.support.webhook_fixtures import NOW, PROVIDERS, certificate, setting, webhook_fixtures

FOLDER_VARIABLE = "WEBHOOK_APP_FOLDER"


def create_app() -> Flask:
    """One webhook per fixture, since the fixtures of a provider share their tokens."""
    app = Flask(__name__, instance_path=os.environ[FOLDER_VARIABLE])
    app.config["DEFERRED_MAIL_TRANSPORT"] = "memory:"
    app.config["DEFERRED_MAIL_WEBHOOKS"] = {
        name_of(one.provider, one.name): {"provider": one.provider, **setting(one.provider)}
        for provider in PROVIDERS
        for one in webhook_fixtures(provider)
    }
    mail = DeferredMail(app)
    app.register_blueprint(mail.webhooks, url_prefix="/mail/events")
    mail.for_app(app).webhooks.clock = lambda: NOW
    aws_fetch.fetch = lambda _url: certificate()
    return app


def name_of(provider: str, name: str) -> str:
    """The webhook that a fixture is posted to."""
    return f"{provider}-{name}"
