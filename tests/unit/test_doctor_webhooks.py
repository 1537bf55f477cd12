"""What ``doctor`` says of webhooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.support.mail_app import MailApp
from tests.support.webhook_fixtures import setting


def found(make_app: Callable[..., MailApp], **config: Any) -> list[dict[str, str]]:
    app = make_app("sendcloud://user:key@default?endpoint=http://127.0.0.1:9", **config)
    text = app.app.test_cli_runner().invoke(args=["mail", "doctor", "--json"]).output
    return [f for f in json.loads(text) if f["topic"].startswith("webhook")]


def test_a_webhook_is_named_with_its_provider_and_no_secret(
    make_app: Callable[..., MailApp],
) -> None:
    """Which field proves a report, and not what it holds."""
    key = setting("sendcloud")["key"]
    (finding,) = found(make_app, DEFERRED_MAIL_WEBHOOKS={"default": {"key": key}})
    assert finding["text"] == "sendcloud, proven by key"
    assert key not in str(finding)


def test_a_provider_whose_reports_nobody_hears_is_named(make_app: Callable[..., MailApp]) -> None:
    """With what to do about it."""
    (finding,) = found(make_app)
    assert "not heard of" in finding["text"]
    assert "DEFERRED_MAIL_WEBHOOKS" in finding["advice"]
