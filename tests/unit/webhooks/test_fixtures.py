"""What each provider's reports say, byte for byte, and what is refused at their doors."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import Any

import pytest

from flask_deferred_mail.tracking import TrackingEvent
from flask_deferred_mail.webhook_spec import webhook_spec
from flask_deferred_mail.webhooks import aws_fetch, registry
from flask_deferred_mail.webhooks.receiver import Receiver, Refused, WebhookRequest
from tests.support.webhook_fixtures import (
    CERTIFICATE_URL,
    FIXTURES,
    NOW,
    PROVIDERS,
    WebhookFixture,
    certificate,
    fixture,
    setting,
    webhook_fixtures,
)

DAY = 86_400.0


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched from SNS, which has one certificate and confirms everything."""
    urls: list[str] = []

    def fetch(url: str) -> bytes:
        urls.append(url)
        return certificate() if url == CERTIFICATE_URL else b"<ok/>"

    monkeypatch.setattr(aws_fetch, "fetch", fetch)
    return urls


def receiver(provider: str, **changed: Any) -> Receiver:
    return registry.build(provider, webhook_spec({**setting(provider), **changed}))


def request(one: WebhookFixture, body: bytes | None = None, **headers: str) -> WebhookRequest:
    named = {name.lower(): value for name, value in one.headers.items()} | headers
    method = one.content["method"]
    return WebhookRequest(method, named, one.body if body is None else body)


def seen(event: TrackingEvent, wanted: dict[str, Any]) -> dict[str, Any]:
    """As much of an event as a fixture tells of."""
    found = dataclasses.asdict(event) | {"event": str(event.kind)}
    return {name: found[name] for name in wanted}


def one_of(provider: str) -> WebhookFixture:
    return fixture(provider, "delivered" if provider != "sendgrid" else "mixed")


@pytest.mark.parametrize("one", webhook_fixtures(), ids=lambda one: f"{one.provider}-{one.name}")
def test_every_report_says_what_its_fixture_expects(one: WebhookFixture) -> None:
    """Proven by the fixture's own key, and read to the same events."""
    events = receiver(one.provider).read(request(one), NOW)
    assert [seen(e, w) for e, w in zip(events, one.expect, strict=True)] == one.expect


TABLE = json.loads((FIXTURES / "sendcloud" / "webhook_substat_classes.json").read_text())


@pytest.mark.parametrize(
    ("word", "code", "meaning"),
    [(w, c, m) for w in ("invalid", "soft_bounce") for c, m in TABLE[w].items()],
)
def test_the_codes_of_sendcloud(word: str, code: str, meaning: str) -> None:
    """What SendCloud's codes of a bounce mean."""
    one = fixture("sendcloud", "bounce_hard")
    body = one.body.replace(b"event=invalid", f"event={word}".encode())
    body = body.replace(b"subStat=406", f"subStat={code}".encode())
    (event,) = receiver("sendcloud").read(request(one, body), NOW)
    assert "/".join(filter(None, (event.kind, event.bounce_type))) == meaning.partition(" ")[0]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_report_without_proof_is_refused(provider: str) -> None:
    """Neither signature nor login: nobody's word."""
    one = one_of(provider)
    body = one.body
    if provider == "mailgun":
        body = json.dumps({"event-data": json.loads(body)["event-data"]}).encode()
    if provider == "ses":
        body = json.dumps({**json.loads(body), "Signature": None}).encode()
    if provider == "sendcloud":
        body = body.replace(b"&signature=", b"&sign=")
    bare = WebhookRequest("POST", {"content-type": one.headers["Content-Type"]}, body)
    with pytest.raises(Refused):
        receiver(provider).read(bare, NOW)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_report_with_somebody_elses_proof_is_refused(provider: str) -> None:
    """Signed by another key, or with another password."""
    other = {
        "key": "whsec_b3RoZXI=" if provider == "resend" else "other",
        "password": "other",
        "token": "other",
        "topics": ["arn:aws:sns:us-east-1:123456789012:other"],
    }
    if provider == "sendgrid":
        other["key"] = other_key()
    changed = {name: other[name] for name in setting(provider) if name in other}
    with pytest.raises(Refused):
        receiver(provider, **changed).read(request(one_of(provider)), NOW)


def other_key() -> str:
    import base64

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


@pytest.mark.parametrize("provider", ["ses", "sendgrid", "resend"])
def test_a_report_that_was_changed_on_the_way_is_refused(provider: str) -> None:
    """Where the signature covers what is said."""
    one = one_of(provider)
    with pytest.raises(Refused):
        receiver(provider).read(request(one, one.body.replace(b"ann@", b"eve@")), NOW)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_old_report_is_refused(provider: str) -> None:
    """Somebody who has caught one cannot use it for ever."""
    with pytest.raises(Refused, match="too old"):
        receiver(provider).read(request(one_of(provider)), NOW + 30 * DAY)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_report_from_the_future_is_refused(provider: str) -> None:
    """Else one could be made today for next year."""
    with pytest.raises(Refused, match="future"):
        receiver(provider).read(request(one_of(provider)), NOW - DAY)


@pytest.mark.parametrize(
    ("provider", "hours"),
    [("sendcloud", 3), ("mailgun", 8), ("ses", 1), ("postmark", 11), ("sendgrid", 24)],
)
def test_a_report_that_is_repeated_for_hours_is_taken(provider: str, hours: float) -> None:
    """The window is wider than the time for which the provider tries again."""
    assert receiver(provider).read(request(one_of(provider)), NOW + hours * 3600)


@pytest.mark.parametrize("provider", ["sendcloud", "mailgun", "sendgrid", "resend"])
def test_while_a_key_is_exchanged_both_are_good(provider: str) -> None:
    """A list of keys: the old one and the new one."""
    key = setting(provider)["key"]
    other = {"sendgrid": other_key(), "resend": "whsec_b3RoZXI="}.get(provider, "other")
    assert receiver(provider, key=[other, key]).read(request(one_of(provider)), NOW)


def test_refusals_that_end_the_tries_have_the_providers_own_status() -> None:
    """406 for Mailgun, 403 for Postmark: they do not come again with it."""
    for provider, field, status in (("mailgun", "key", 406), ("postmark", "password", 403)):
        take = receiver(provider, **{field: "other"}).read
        with pytest.raises(Refused) as refused:
            take(request(one_of(provider)), NOW)
        assert refused.value.status == status


UNKNOWN_WORDS = {
    "sendcloud": (b"event=deliver", b"event=teleport"),
    "mailgun": (b'"event": "delivered"', b'"event": "teleported"'),
    "postmark": (b'"RecordType": "Delivery"', b'"RecordType": "Teleport"'),
    "brevo": (b'"event": "delivered"', b'"event": "teleported"'),
}


@pytest.mark.parametrize("provider", UNKNOWN_WORDS)
def test_an_unknown_word_is_other(provider: str) -> None:
    """What a provider invents tomorrow is kept, and crashes nothing."""
    one = one_of(provider)
    (event,) = receiver(provider).read(
        request(one, one.body.replace(*UNKNOWN_WORDS[provider])), NOW
    )
    assert (event.kind, event.recipient) == ("other", "ann@example.net")


@pytest.mark.parametrize("provider", ["mailgun", "postmark", "brevo", "sendcloud"])
@pytest.mark.parametrize(
    "value", [None, [], {}, 0, True, "\x00\x1b[31m", "\ud800", "x" * 5000, [[{}]]]
)
def test_fields_of_any_shape_crash_nothing(provider: str, value: Any) -> None:
    """Every field of what is not covered by a signature, replaced in turn."""
    one = one_of(provider)
    if provider == "sendcloud":
        from urllib.parse import parse_qsl

        content: dict[str, Any] = dict(parse_qsl(one.body.decode()))
        inner, kept = content, ("timestamp", "token", "signature")
        headers = {"content-type": "application/json"}
    else:
        content = json.loads(one.body)
        inner, kept = content.get("event-data", content), ()
        headers = {}
    for name in [name for name in inner if name not in kept]:
        before, inner[name] = inner[name], value
        body = json.dumps(content).encode()
        events: tuple[TrackingEvent, ...] = ()
        with suppress(Refused):  # a time that is none
            events = receiver(provider).read(request(one, body, **headers), NOW)
        for event in events:
            assert event.recipient is None or len(event.recipient) <= 320
            assert event.message_id is None or len(event.message_id) <= 255
            assert event.detail.isprintable()
        inner[name] = before


def test_reports_of_postmark_under_one_number_are_told_apart() -> None:
    """A complaint may have the number of a bounce, and 0 is nobody's."""
    content = json.loads(fixture("postmark", "bounce_hard").body)
    took: set[str] = set()
    for changes in (
        {},
        {"ID": 0},
        {"ID": 0, "MessageID": "m2"},
        {"RecordType": "SpamComplaint"},
    ):
        body = json.dumps({**content, **changes}).encode()
        [event] = receiver("postmark").read(request(one_of("postmark"), body), NOW)
        took.add(event.event_id)
    assert len(took) == 4


def test_probes_of_sendcloud_say_nothing() -> None:
    """A GET, and a POST of JSON without a signature, are what saving the URL brings."""
    take = receiver("sendcloud").read
    assert take(WebhookRequest("GET", {}, b""), NOW) == ()
    assert take(WebhookRequest("POST", {"content-type": "application/json"}, b"{}"), NOW) == ()


def test_svix_takes_one_of_several_signatures_of_its_version() -> None:
    """What is of another version, or not base64, is passed over."""
    one = fixture("resend", "delivered")
    good = one.content["verify"]["signature"]
    signed = request(one, **{"svix-signature": f"v1a,{good[3:]} v1,# {good}"})
    assert receiver("resend").read(signed, NOW)
    other_version = request(one, **{"svix-signature": f"v2,{good[3:]}"})
    with pytest.raises(Refused):
        receiver("resend").read(other_version, NOW)
