"""Every key as text: ``app.config.from_prefixed_env()``, as a container or a shell sets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_deferred_mail import DeferredMail
from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.letter import Address
from flask_deferred_mail.settings import KEYS, SERVER_KEYS
from flask_deferred_mail.webhook_spec import WebhookSpec
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits

#: Key -> its text in the environment, the name of its setting, and what it becomes.
EXAMPLES: dict[str, tuple[str, str, Any]] = {
    "DEFERRED_MAIL_DATABASE_URI": (
        "sqlite:////var/lib/shop/mail.sqlite3",
        "database_uri",
        "sqlite:////var/lib/shop/mail.sqlite3",
    ),
    "DEFERRED_MAIL_TRANSPORT": ("null:", "", "null:"),
    "DEFERRED_MAIL_TRANSPORTS": ('{"bulk": "null:"}', "", "null:"),
    "DEFERRED_MAIL_DISPATCH": ("inline", "dispatch", "inline"),
    "DEFERRED_MAIL_SENDER_THREADS": ("4", "sender_threads", 4),
    "DEFERRED_MAIL_LEASE": ("90.5", "lease", 90.5),
    "DEFERRED_MAIL_ATTEMPT_DEADLINE": ("30", "attempt_seconds", 30.0),
    "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": ("600", "final_reply_deadline", 600.0),
    "DEFERRED_MAIL_BACKOFF": ("60,300,900", "backoff", (60.0, 300.0, 900.0)),
    "DEFERRED_MAIL_MAX_ATTEMPTS": ("7", "max_attempts", 7),
    "DEFERRED_MAIL_GIVE_UP_AFTER": ("86400", "give_up_after", 86400.0),
    "DEFERRED_MAIL_MAX_SENDER_DEATHS": ("3", "max_sender_deaths", 3),
    "DEFERRED_MAIL_ON_UNKNOWN": ("hold", "on_unknown", "hold"),
    "DEFERRED_MAIL_ENVELOPE_SENDER": (
        "bounces@example.com",
        "envelope_sender",
        "bounces@example.com",
    ),
    "DEFERRED_MAIL_DEFAULT_HEADERS": ('{"X-App": "shop"}', "default_headers", {"X-App": "shop"}),
    "DEFERRED_MAIL_MESSAGE_ID_DOMAIN": ("ids.example.com", "message_id_domain", "ids.example.com"),
    "DEFERRED_MAIL_OVERRIDE_RECIPIENTS": (
        "qa@example.com",
        "override_recipients",
        (Address("qa@example.com"),),
    ),
    "DEFERRED_MAIL_ALLOWED_RECIPIENTS": (
        '["example.com"]',
        "allowed_recipients",
        ("*@example.com",),
    ),
    "DEFERRED_MAIL_ON_UNSUPPORTED": ("drop", "on_unsupported", "drop"),
    "DEFERRED_MAIL_RQ": ("redis://127.0.0.1:6379/0", "rq", "redis://127.0.0.1:6379/0"),
    "DEFERRED_MAIL_ENCRYPTION_KEYS": (
        "A" * 43 + "=," + "_" * 42 + "8=",
        "encryption_keys",
        (bytes(32), b"\xff" * 32),
    ),
    "DEFERRED_MAIL_WEBHOOKS": (
        '{"bulk": {"provider": "mailgun", "key": "k"}}',
        "webhooks",
        {"bulk": WebhookSpec("mailgun", key=("k",))},
    ),
    "MAIL_DEFAULT_SENDER": (
        "Shop <shop@example.com>",
        "default_sender",
        Address("shop@example.com", "Shop"),
    ),
    "MAIL_ASCII_ATTACHMENTS": ("true", "ascii_attachments", True),
}


class Environment:
    """Sets variables, and makes an app that reads them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch, self.folder = monkeypatch, folder

    def set(self, **texts: str) -> None:
        for key, text in texts.items():
            self.monkeypatch.setenv(f"FLASK_{key}", text)

    def app(self) -> Flask:
        app = Flask("shop", instance_path=str(self.folder))
        app.config.from_prefixed_env()
        DeferredMail(app)
        return app


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Environment]:
    """An environment of the test's own."""
    return Environment(monkeypatch, tmp_path)


def settings_of(app: Flask) -> Any:
    return app.extensions["deferred_mail"].for_app(app).settings


def test_there_is_an_example_for_every_key() -> None:
    """A key that is new must be readable as text too."""
    ours = {key.name for key in KEYS}
    assert ours == {name for name in EXAMPLES if name.startswith("DEFERRED_MAIL_")}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("way", ["environment", "text"])
def test_a_key_may_be_text(environment: Environment, tmp_path: Path, name: str, way: str) -> None:
    """Whether Flask has read it as JSON or not, it means the same."""
    text, attribute, expected = EXAMPLES[name]
    if way == "environment":
        environment.set(**{name: text})
        settings = settings_of(environment.app())
    else:
        app = Flask("shop", instance_path=str(tmp_path))
        app.config[name] = text
        DeferredMail(app)
        settings = settings_of(app)
    if attribute:
        assert getattr(settings, attribute) == expected
    else:
        name = "bulk" if name.endswith("S") else "default"
        assert settings.transports[name].url == expected


def test_a_table_may_be_one_variable_for_each_of_its_keys(environment: Environment) -> None:
    """With ``__`` between, as Flask has it."""
    environment.set(
        DEFERRED_MAIL_TRANSPORTS__bulk="null:",
        DEFERRED_MAIL_TRANSPORTS__reports='{"url": "console:"}',
    )
    settings = settings_of(environment.app())
    assert {n: spec.url for n, spec in settings.transports.items()} == {
        "bulk": "null:",
        "reports": "console:",
    }


def test_flask_mails_keys_may_come_from_there_too(
    environment: Environment, smtp: SmtpServer
) -> None:
    """The whole way: read from the environment, sent to that server."""
    environment.set(
        MAIL_SERVER=smtp.host,
        MAIL_PORT=str(smtp.port),
        MAIL_USE_TLS="false",
        MAIL_USE_SSL="0",
        MAIL_TIMEOUT="5",
        MAIL_USERNAME="",
        MAIL_PASSWORD="",
        MAIL_DEFAULT_SENDER="Shop <shop@example.com>",
        MAIL_SUPPRESS_SEND="no",
        TESTING="true",
    )
    app = environment.app()
    mail = app.extensions["deferred_mail"]
    with closing(mail.for_app(app).runtime):
        Visits(app)(lambda: mail.send_message("Hello", ["ann@example.com"], "Hi"))
        assert smtp.wait_for(1)[0].parsed["From"] == "Shop <shop@example.com>"
    assert {key.name for key in SERVER_KEYS} >= {"MAIL_SERVER", "MAIL_PORT", "MAIL_TIMEOUT"}


@pytest.mark.parametrize(
    ("text", "kept"), [("yes", True), ("1", True), ("off", False), ("false", False), ("", False)]
)
def test_suppression_may_be_text(environment: Environment, text: str, kept: bool) -> None:
    """Also when Flask leaves it as it is; blank text counts as not set."""
    environment.set(MAIL_SUPPRESS_SEND=text, DEFERRED_MAIL_TRANSPORT="null:")
    app = environment.app()
    assert app.extensions["deferred_mail"].for_app(app).suppressed is kept


def test_all_that_is_wrong_is_told_at_once(environment: Environment) -> None:
    """And no secret with it."""
    environment.set(
        DEFERRED_MAIL_SENDER_THREADS="many",
        DEFERRED_MAIL_LEASE="1 minute",
        DEFERRED_MAIL_TRANSPORT="smtp://me:hush@mail.example.com?tls=never",
        DEFERRED_MAIL_NOTHING="1",
        MAIL_SUPPRESS_SEND="perhaps",
    )
    with pytest.raises(ConfigurationError) as caught:
        environment.app()
    assert len(caught.value.faults) == 5
    assert "hush" not in str(caught.value)
