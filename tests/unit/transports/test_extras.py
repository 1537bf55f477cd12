"""What ``esp_extra`` must not say, by whatever spelling; and words of providers that are shown."""

from __future__ import annotations

import base64
import json

import pytest

from flask_deferred_mail.errors import UnsupportedFeature
from flask_deferred_mail.outcome import ServerNote
from flask_deferred_mail.transports.http_api import Answer
from tests.support.http_provider import HttpProvider, Reply
from tests.support.json_providers import built
from tests.support.transport_calls import a_call, a_letter
from tests.support.webhook_fixtures import URLS

#: A field of each provider's that says who gets the mail.
WHO = {
    "sendcloud": "xsmtpapi",
    "mailgun": "recipient-variables",
    "ses": "Destination",
    "postmark": "Messages",
    "sendgrid": "personalizations",
    "resend": "reply_to",
    "brevo": "messageVersions",
}
EVIL = "\x1b[2Jgone\x00" + "y" * 2000


@pytest.mark.parametrize("provider", WHO)
@pytest.mark.parametrize("spelt", [str, str.upper, str.lower, "{}[]".format, "{}[0]".format])
def test_no_spelling_gets_at_a_field_of_ours(provider, spelt):
    """Some servers look at neither case nor brackets."""
    for name in ("to", "cc", "bcc", WHO[provider]):
        with pytest.raises(UnsupportedFeature, match="cannot be set this way"):
            built(URLS[provider]).check(a_letter(esp_extra={spelt(name): "eve@example.net"}))


@pytest.mark.parametrize("provider", WHO)
def test_what_a_probe_shows_is_clean(provider):
    """``doctor`` prints it on a terminal."""
    body = json.dumps({"message": EVIL, "Message": EVIL, "name": EVIL, "code": EVIL})
    with HttpProvider() as server:
        server.script(Reply(body, 403))
        transport = built(f"{URLS[provider]}?endpoint={server.url}")
        steps = list(transport.probe())
        transport.close()
    assert len(steps) == 2
    assert all(step.detail.isprintable() and len(step.detail) <= 400 for step in steps)


def test_what_is_kept_of_a_repeated_call_is_clean():
    """Resend's words about a key that it knows go into the row like all others."""
    body = json.dumps({"name": "invalid_idempotent_request", "message": EVIL}).encode()
    call = a_call(a_letter(), in_doubt=True)
    outcome = built(URLS["resend"]).read(call, Answer(409, {}, body), ServerNote())
    assert outcome.results[0].fate == "unknown"
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= 300


def test_mailgun_repeats_no_login():
    """The key stands in the header in base64, and is blotted out so, too."""
    login = base64.b64encode(b"api:key").decode()
    with HttpProvider() as server:
        server.script(Reply(f"who are you, Basic {login}?", 500))
        transport = built(f"mailgun://key@mg.example.com?endpoint={server.url}")
        outcome = transport.send(a_call(a_letter()))
        transport.close()
    assert "who are you" in outcome.detail
    assert login not in repr(outcome)
