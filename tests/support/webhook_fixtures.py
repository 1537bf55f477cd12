"""The webhook fixtures of all providers, each with the setting and the clock that fit it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures"
PROVIDERS = ("sendcloud", "mailgun", "ses", "postmark", "sendgrid", "resend", "brevo")

#: Seconds since the epoch of all fixtures: 2026-11-21, a quarter of a minute after noon.
NOW = 1795262415.0

TOPIC = "arn:aws:sns:us-east-1:123456789012:ses-events"
CERTIFICATE_URL = (
    "https://sns.us-east-1.amazonaws.com/"
    "SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
)

#: A transport URL of each provider.
URLS = {
    "sendcloud": "sendcloud://user:key@default",
    "mailgun": "mailgun://key@mg.example.com",
    "ses": "ses://AKIDEXAMPLE:secret@us-east-1",
    "postmark": "postmark://token@default",
    "sendgrid": "sendgrid://key@default",
    "resend": "resend://key@default",
    "brevo": "brevo://key@default",
}


@dataclass(frozen=True)
class WebhookFixture:
    """One recorded request, and what it says."""

    provider: str
    name: str
    content: dict[str, Any]

    @property
    def body(self) -> bytes:
        return str(self.content["body"]).encode()

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.content["headers"])

    @property
    def expect(self) -> list[dict[str, Any]]:
        return list(self.content["expect"])


def webhook_fixtures(provider: str | None = None) -> list[WebhookFixture]:
    """Those of one provider, or of all."""
    found = []
    for one in [provider] if provider else PROVIDERS:
        for path in sorted((FIXTURES / one).glob("webhook_*.json")):
            content = json.loads(path.read_text("utf-8"))
            if content["kind"] == "webhook":
                found.append(WebhookFixture(one, path.stem, content))
    return found


def fixture(provider: str, name: str) -> WebhookFixture:
    """One of them by its name, without ``webhook_``."""
    content = json.loads((FIXTURES / provider / f"webhook_{name}.json").read_text("utf-8"))
    return WebhookFixture(provider, f"webhook_{name}", content)


def setting(provider: str) -> dict[str, Any]:
    """The entry of DEFERRED_MAIL_WEBHOOKS that the fixtures of a provider fit."""
    verify = fixture(provider, "delivered" if provider != "sendgrid" else "mixed").content["verify"]
    if provider == "ses":
        return {"topics": [TOPIC]}
    if provider == "sendgrid":
        return {"key": verify["public_key_base64_der"]}
    if provider == "postmark":
        user, _, password = verify["key"].partition(":")
        return {"user": user, "password": password}
    return {"token" if provider == "brevo" else "key": verify["key"]}


def certificate() -> bytes:
    """The certificate that signs the fixtures of SES."""
    return str(fixture("ses", "delivered").content["verify"]["certificate_pem"]).encode()
