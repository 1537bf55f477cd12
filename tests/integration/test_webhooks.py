"""Reports of providers, posted to the blueprint: proven, kept once, and joined to their mail."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import has_request_context

from flask_deferred_mail.errors import ConfigurationError, StoreError
from flask_deferred_mail.signals import mail_tracking
from flask_deferred_mail.webhooks import aws_fetch
from tests.support.mail_app import MailApp
from tests.support.webhook_fixtures import (
    CERTIFICATE_URL,
    NOW,
    PROVIDERS,
    URLS,
    WebhookFixture,
    certificate,
    fixture,
    setting,
    webhook_fixtures,
)
from tests.support.webhook_site import PREFIX, WebhookSite

Make = Callable[..., MailApp]
BEARER = {"Authorization": "Bearer hook-token"}


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched from SNS, which has one certificate and confirms everything."""
    urls: list[str] = []

    def fetch(url: str) -> bytes:
        urls.append(url)
        return certificate() if url == CERTIFICATE_URL else b"<ok/>"

    monkeypatch.setattr(aws_fetch, "fetch", fetch)
    return urls


def one_of(provider: str) -> WebhookFixture:
    return fixture(provider, "delivered" if provider != "sendgrid" else "mixed")


@pytest.mark.parametrize("one", webhook_fixtures(), ids=lambda one: f"{one.provider}-{one.name}")
def test_every_fixture_is_taken_and_kept_once(make_app: Make, one: WebhookFixture) -> None:
    """Byte for byte through the blueprint, twice: the second time changes nothing."""
    site = WebhookSite(make_app, one.provider)
    assert [site.feed(one), site.feed(one)] == [200, 200]
    rows = site.rows("kind", "address", "provider_message_id", "bounce_type")
    wanted = [
        (w["event"], w["recipient"], w["message_id"], w.get("bounce_type")) for w in one.expect
    ]
    assert rows == wanted


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_not_proven_is_not_kept(make_app: Make, provider: str) -> None:
    """A report without its proof, and one of last month, leave nothing behind."""
    one = one_of(provider)
    site = WebhookSite(make_app, provider)
    refused = {"mailgun": 406}.get(provider, 403)
    headers = {"Content-Type": one.headers["Content-Type"]}
    body = one.body
    for proof in (b'"Signature": "', b"&signature=2", b'"signature": "2'):
        body = body.replace(proof, proof + b"AAAA")
    assert site.post(body, headers) == refused
    site.state.webhooks.clock = lambda: NOW + 30 * 86_400
    assert site.feed(one) == refused
    assert site.stored() == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_huge_report_is_not_read(make_app: Make, provider: str) -> None:
    """413, also where the size is not announced: no more than a megabyte is ever taken."""
    site = WebhookSite(make_app, provider)
    one = one_of(provider)
    assert site.post(one.body + b" " * 1_000_000, one.headers) == 413
    endless = Endless()
    answer = site.client.post(
        f"{PREFIX}/default",
        headers=one.headers,
        environ_overrides={"wsgi.input": endless, "wsgi.input_terminated": True},
    )
    assert answer.status_code == 413
    assert endless.taken < 1_200_000
    assert site.stored() == 0


class Endless(io.RawIOBase):
    """A body that does not end."""

    taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "somebody wants all of it"
        self.taken += size
        return b" " * size


def test_a_report_in_chunks_is_taken(make_app: Make) -> None:
    """A body whose size is not announced, and is small enough."""
    site = WebhookSite(make_app, "brevo")
    one = fixture("brevo", "delivered")
    answer = site.client.post(
        f"{PREFIX}/default",
        headers=one.headers,
        environ_overrides={"wsgi.input": io.BytesIO(one.body), "wsgi.input_terminated": True},
    )
    assert (answer.status_code, site.stored()) == (200, 1)


def test_nothing_is_taken_for_a_name_without_a_secret(make_app: Make) -> None:
    """Neither for another transport nor for one that is not there."""
    site = WebhookSite(make_app, "brevo", DEFERRED_MAIL_TRANSPORTS={"bulk": URLS["sendcloud"]})
    one = fixture("brevo", "delivered")
    assert [site.post(one.body, one.headers, name) for name in ("bulk", "nobody")] == [404, 404]
    assert site.stored() == 0


def test_a_second_report_under_one_token_is_a_repeat_whatever_it_says(make_app: Make) -> None:
    """Where the signature does not cover the body, a caught token is good for nothing more."""
    for provider, name in (("mailgun", "delivered"), ("sendcloud", "delivered")):
        site = WebhookSite(make_app, provider, DEFERRED_MAIL_DATABASE_URI="sqlite://", TESTING=True)
        one = fixture(provider, name)
        assert site.feed(one) == 200
        forged = one.body.replace(b"ann@", b"eve@").replace(b"%40example.net&message", b"&message")
        assert site.post(forged, one.headers) == 200
        several = b"event=request&recipientArray=%5B%22a%40b.c%22%2C%22d%40e.f%22%5D&"
        if provider == "sendcloud":
            forged = several + one.body.replace(b"event=deliver&", b"")
            assert site.post(forged, one.headers) == 200
        assert site.rows("address") == [("ann@example.net",)]


def test_probes_are_answered_and_not_kept(make_app: Make) -> None:
    """Saving the URL at SendCloud works; a form without a signature is no probe."""
    site = WebhookSite(make_app, "sendcloud")
    assert site.client.get(f"{PREFIX}/default").status_code == 200
    assert site.client.post(f"{PREFIX}/default", json={"event": "deliver"}).status_code == 200
    assert site.client.post(f"{PREFIX}/default", data={"event": "deliver"}).status_code == 403
    assert site.stored() == 0


@pytest.mark.parametrize("provider", [p for p in PROVIDERS if p != "sendcloud"])
def test_a_look_at_the_url_is_refused(make_app: Make, provider: str) -> None:
    """Only SendCloud asks by GET; elsewhere nothing is told and nothing kept."""
    site = WebhookSite(make_app, provider)
    assert site.client.get(f"{PREFIX}/default").status_code >= 400
    assert site.stored() == 0


# -- SNS ----------------------------------------------------------------------------------------


def test_a_subscription_to_our_topic_is_confirmed(make_app: Make, fetched: list[str]) -> None:
    """By asking for the URL in it, once its signature is proven."""
    site = WebhookSite(make_app, "ses")
    one = fixture("ses", "subscription_confirmation")
    assert site.feed(one) == 200
    assert fetched == [CERTIFICATE_URL, json.loads(one.body)["SubscribeURL"]]


def test_a_subscription_to_another_topic_is_not(make_app: Make, fetched: list[str]) -> None:
    """Anybody can point a topic of his own at our URL; SNS signs that too."""
    other = {"provider": "ses", "topics": ["arn:aws:sns:us-east-1:123456789012:other"]}
    site = WebhookSite(make_app, "ses")
    site.state.webhooks._specs = {
        "default": dataclasses.replace(
            site.state.webhooks._specs["default"], topics=tuple(other["topics"])
        )
    }
    assert site.feed(fixture("ses", "subscription_confirmation")) == 403
    assert site.feed(fixture("ses", "delivered")) == 403
    assert fetched == []


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.us-east-1.amazonaws.com/x.pem",
        "https://sns.us-east-1.amazonaws.com.evil.example/x.pem",
        "https://sns.us-east-1.amazonaws.com@evil.example/x.pem",
        "https://sns.us-east-1.amazonaws.com:8443/x.pem",
        "https://sns.eu-west-1.amazonaws.com/x.pem",
        "https://s3.amazonaws.com/bucket/x.pem",
        "https://sns.us-east-1.amazonaws.com/x.txt",
        "https://sns.us-east-1.amazonaws.com/?Action=Publish&Message=x.pem",
        "https://sns.us-east-1.amazonaws.com/?x#/x.pem",
        "https://169.254.169.254/x.pem",
        "file:///etc/x.pem",
    ],
)
def test_a_certificate_from_elsewhere_is_not_fetched(
    make_app: Make, fetched: list[str], url: str
) -> None:
    """Only from SNS itself, in the region of the topic."""
    site = WebhookSite(make_app, "ses")
    one = fixture("ses", "delivered")
    body = json.dumps({**json.loads(one.body), "SigningCertURL": url}).encode()
    assert site.post(body, one.headers) == 403
    assert (fetched, site.stored()) == ([], 0)


def test_a_certificate_is_fetched_once(make_app: Make, fetched: list[str]) -> None:
    """Further reports cost no request."""
    site = WebhookSite(make_app, "ses")
    for name in ("delivered", "open", "bounce_hard"):
        assert site.feed(fixture("ses", name)) == 200
    assert fetched == [CERTIFICATE_URL]


def test_without_its_certificate_a_report_is_to_come_again(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503: SNS repeats; and Amazon is not asked again at once."""
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(aws_fetch, "fetch", fetch)
    site = WebhookSite(make_app, "ses")
    assert [site.feed(fixture("ses", "delivered")) for _ in range(3)] == [503, 503, 503]
    assert len(asked) == 1


# -- around it ----------------------------------------------------------------------------------


def test_a_database_that_is_gone_makes_the_provider_come_again(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 and nothing kept; the repeat is."""
    site = WebhookSite(make_app, "brevo")
    one = fixture("brevo", "delivered")

    def gone(*_: Any, **__: Any) -> None:
        raise StoreError("the database is gone")

    with monkeypatch.context() as broken:
        broken.setattr(site.app.runtime.database, "write", gone)
        assert site.feed(one) == 503
    assert (site.feed(one), site.stored()) == (200, 1)


def test_receivers_hear_once_and_see_no_request(make_app: Make) -> None:
    """mail_tracking carries the mail as it is afterwards, and the event."""
    site = WebhookSite(make_app, now=None)
    seen: list[bool] = []

    def receiver(_app: Any, **_: Any) -> None:
        seen.append(has_request_context())
        raise RuntimeError("a receiver's own trouble")

    mail_tracking.connect(receiver, sender=site.app.app)
    job = site.app.send()
    site.app.sweep()
    for _ in range(2):
        assert site.report(job, "delivered", ts_event=7) == 200
    assert [(j.id, j.recipients[0].status, e.kind) for j, e in site.heard][:1] == [
        (job.id, "delivered", "delivered")
    ]
    assert seen[:1] == [False]


def test_settings_of_webhooks_are_checked(make_app: Make) -> None:
    """Every fault is told at once, and no secret with it."""
    with pytest.raises(ConfigurationError) as caught:
        make_app(
            "smtp://mail.example.com",
            DEFERRED_MAIL_TRANSPORTS={"bulk": URLS["sendcloud"]},
            DEFERRED_MAIL_WEBHOOKS={
                "default": {"key": "hush"},
                "nobody": {"key": "hush"},
                "bulk": {"token": "hush"},
                "Odd Name": {"provider": "mailgun", "key": "hush"},
                "keyless": {"provider": "mailgun"},
                "grid": {"provider": "sendgrid", "key": "hush"},
                "again": {"provider": "resend", "key": "hush!"},
                "topics": {"provider": "ses", "topics": "hush"},
                "half": {"provider": "postmark", "user": "hush"},
                "pigeon": {"provider": "pigeon", "key": "hush"},
            },
        )
    assert len(caught.value.faults) == 10
    assert "hush" not in str(caught.value)


def test_settings_may_be_json_text(make_app: Make) -> None:
    """As they come from the environment."""
    text = json.dumps({"default": {**setting("mailgun"), "provider": "mailgun"}})
    app = make_app("memory:", DEFERRED_MAIL_WEBHOOKS=text)
    spec = app.mail.for_app(app.app).settings.webhooks["default"]
    assert spec.provider == "mailgun"
    assert setting("mailgun")["key"] not in repr(spec)


def test_the_provider_follows_from_the_transport(make_app: Make) -> None:
    """Of the same name, whose URL says which it is."""
    app = make_app(URLS["sendcloud"], DEFERRED_MAIL_WEBHOOKS={"default": setting("sendcloud")})
    assert app.mail.for_app(app.app).settings.webhooks["default"].provider == "sendcloud"
