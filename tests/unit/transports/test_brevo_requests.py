"""Requests to Brevo against the fixtures and its own client, and what is refused beforehand."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import brevo as client
import httpx
import pytest
from brevo import transactional_emails as parts

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.transports.provider import Stamp
from tests.support.http_provider import HttpProvider, Reply
from tests.support.json_providers import built, fixture, fixtures, json_of
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

BREVO = built("brevo://xkeysib-test@default?schedule=native")
SEND_AT = 1795336200.0
KEY = "3f0c9a52-7d5e-4c2b-9a51-0d6f3f1a2b42"


def two(**fields: Any) -> Letter:
    return a_letter("ann@example.net", "bob@example.net", **fields)


def people(*kinds: str) -> tuple[Recipient, ...]:
    """``u0`` and so on, in these fields."""
    return tuple(
        Recipient(Address(f"u{i}@example.net"), kind)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    )


def body_of(letter: Letter, recipients: Any = None, stamp: Stamp | None = None) -> Any:
    return json_of(BREVO.build_request(letter, recipients or letter.recipients, stamp or Stamp()))


def emails(mail: dict[str, Any]) -> dict[str, list[str]]:
    """Who stands in which field."""
    return {kind: [p["email"] for p in mail[kind]] for kind in ("to", "cc", "bcc") if kind in mail}


def a_file(name: str | None, kind: str = "application/pdf") -> Letter:
    return a_letter(parts=(Part(b"1", kind, name),))


@pytest.mark.parametrize("name", fixtures("brevo", "request"))
def test_every_fixture_is_reproduced(name):
    """Method, URL, headers and the whole body; templates have numbers at Brevo."""
    given = fixture("brevo", name)
    expected = given["request"]
    letter = letter_from_neutral(given["neutral"])
    if letter.template_id is not None:
        letter = replace(letter, template_id=str(expected["json"]["templateId"]))
    letter = BREVO.fit(letter)
    BREVO.check(letter)
    stamp = Stamp(
        idempotency_key=given["neutral"].get("idempotency_key", ""),
        send_at=SEND_AT if "send_at" in given["neutral"] else None,
    )
    request = BREVO.build_request(letter, letter.recipients, stamp)
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert json_of(request) == expected["json"]
    assert request.headers == expected["headers"]


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("brevo", "request")) == 3


def test_the_request_is_that_of_brevos_own_client():
    """The same message through the brevo package, but for the form of the time."""
    letter = BREVO.fit(letter_from_neutral(fixture("brevo", "request_full")["neutral"]))
    stamp = Stamp(idempotency_key=KEY, send_at=SEND_AT)
    own = BREVO.build_request(letter, letter.recipients, stamp)
    with HttpProvider() as provider, httpx.Client() as http:
        provider.default = Reply({"messageId": "<1@example.com>"}, 201)
        url = f"{provider.url}/v3"
        sender = client.Brevo(api_key="xkeysib-test", base_url=url, httpx_client=http)
        sender.transactional_emails.send_transac_email(**clients_mail(letter))
        [theirs] = provider.requests
    assert theirs.method == own.method
    assert f"https://api.brevo.com{theirs.path}" == own.url
    for name in ("api-key", "Content-Type"):
        assert theirs.headers[name.lower()] == own.headers[name]
    their_body, own_body = json.loads(theirs.body), json_of(own)
    moments = [datetime.fromisoformat(b.pop("scheduledAt")) for b in (their_body, own_body)]
    assert moments[0] == moments[1]
    assert their_body == own_body


def clients_mail(letter: Letter) -> dict[str, Any]:
    """The letter, written down again with the classes of Brevo's client."""
    classes = {
        "to": parts.SendTransacEmailRequestToItem,
        "cc": parts.SendTransacEmailRequestCcItem,
        "bcc": parts.SendTransacEmailRequestBccItem,
    }
    named = {
        kind: [one(email=a.email, **name_of(a)) for a in letter.of_kind(kind)]  # type: ignore[arg-type]
        for kind, one in classes.items()
    }
    [reply_to] = letter.reply_to
    return {
        **named,
        "sender": parts.SendTransacEmailRequestSender(
            email=letter.sender.email, name=letter.sender.name
        ),
        "reply_to": parts.SendTransacEmailRequestReplyTo(email=reply_to.email, name=reply_to.name),
        "subject": letter.subject,
        "text_content": letter.text,
        "html_content": letter.html,
        "headers": {
            **dict(letter.headers),
            "X-Mailin-custom": json.dumps(dict(letter.metadata)),
            "idempotencyKey": KEY,
        },
        "attachment": [
            parts.SendTransacEmailRequestAttachmentItem(
                name=part.filename, content=base64.b64encode(part.data).decode()
            )
            for part in letter.attachments
        ],
        "tags": list(letter.tags),
        "scheduled_at": datetime.fromtimestamp(SEND_AT, UTC),
    }


def name_of(address: Address) -> dict[str, str]:
    return {"name": address.name} if address.name else {}


def test_a_call_carries_reference_and_key_but_no_message_id():
    """The reference among the metadata; the key as a UUID; a Message-ID would be Brevo's own."""
    call = a_call(key="5f" * 32)
    headers = json_of(BREVO.request_for(call))["headers"]
    assert json.loads(headers.pop("X-Mailin-custom")) == {"deferred-mail-job": call.reference}
    assert headers == {"idempotencyKey": "5f5f5f5f-5f5f-4f5f-9f5f-5f5f5f5f5f5f"}
    assert uuid.UUID(headers["idempotencyKey"]).version == 4
    assert not BREVO.keeps_message_id


@pytest.mark.parametrize(
    ("kinds", "left", "expected"),
    [
        (
            ("to", "to", "cc", "bcc"),
            (1, 2, 3),
            {"to": ["u1@example.net"], "cc": ["u2@example.net"], "bcc": ["u3@example.net"]},
        ),
        (
            ("to", "cc", "cc", "bcc"),
            (1, 2, 3),
            {"to": ["u1@example.net", "u2@example.net"], "bcc": ["u3@example.net"]},
        ),
        (("to", "bcc", "bcc"), (1,), {"to": ["u1@example.net"]}),
    ],
)
def test_only_the_recipients_of_the_call_are_mailed(kinds, left, expected):
    """Whoever is settled is in no field, although Brevo demands somebody in To."""
    letter = a_letter(recipients=people(*kinds))
    body = body_of(letter, [letter.recipients[i] for i in left])
    assert emails(body) == expected
    assert "messageVersions" not in body


def test_several_recipients_of_bcc_alone_do_not_see_each_other():
    """Each has a version of its own."""
    letter = a_letter(recipients=people("to", "bcc", "bcc"))
    body = body_of(letter, letter.recipients[1:])
    assert emails(body) == {}
    assert [emails(version) for version in body["messageVersions"]] == [
        {"to": ["u1@example.net"]},
        {"to": ["u2@example.net"]},
    ]


def test_private_copies_are_a_version_each():
    """Values, metadata and headers of their own, with the common ones that they would hide."""
    letter = two(
        private_copies=True,
        headers=(("X-Shop", "A"), ("X-Kind", "order")),
        metadata={"user": "0", "shop": "A"},
        template_id="3",
        text=None,
        merge_global_data={"shop": "A", "n": 1},
        merge_data={"bob@example.net": {"n": 2}},
        merge_metadata={"bob@example.net": {"user": "7"}},
        merge_headers={"bob@example.net": {"x-kind": "reminder"}},
    )
    BREVO.check(letter)
    stamp = Stamp("<1@example.com>", "42-ab", KEY)
    body = body_of(letter, stamp=stamp)
    common = {"user": "0", "shop": "A", "deferred-mail-job": "42-ab"}
    custom = json.loads(body["headers"].pop("X-Mailin-custom"))
    assert custom == common
    assert body["headers"] == {"X-Shop": "A", "X-Kind": "order", "idempotencyKey": KEY}
    assert body["params"] == {"shop": "A", "n": 1}
    ann, bob = body["messageVersions"]
    assert ann == {"to": [{"email": "ann@example.net"}]}
    assert json.loads(bob["headers"].pop("X-Mailin-custom")) == {**common, "user": "7"}
    assert bob == {
        "to": [{"email": "bob@example.net"}],
        "params": {"shop": "A", "n": 2},
        "headers": {"X-Shop": "A", "x-kind": "reminder"},
    }
    alone = body_of(letter, letter.recipients[1:], stamp)
    assert alone["params"] == {"shop": "A", "n": 2}
    assert alone["headers"] == {"X-Shop": "A", "idempotencyKey": KEY, **bob["headers"]} | {
        "X-Mailin-custom": alone["headers"]["X-Mailin-custom"]
    }
    assert json.loads(alone["headers"]["X-Mailin-custom"]) == {**common, "user": "7"}


def test_a_text_is_sent_as_html_too():
    """Of a text alone Brevo makes HTML, and leaves out the text."""
    letter = a_letter(text="1 < 2 & so on\n\n  bye\n")
    BREVO.check(letter)
    body = body_of(letter)
    assert body["textContent"] == "1 < 2 & so on\n\n  bye\n"
    assert body["htmlContent"] == (
        '<div style="white-space: pre-wrap">1 &lt; 2 &amp; so on\n\n  bye</div>'
    )
    assert body_of(a_letter(html="<p>Hi</p>"))["htmlContent"] == "<p>Hi</p>"


def test_a_name_that_brevo_would_leave_out_is_encoded():
    """One beyond ASCII with a comma in it; others go as they are."""
    letter = a_letter(sender=Address("a@example.com", "Müller, Ann"))
    assert body_of(letter)["sender"]["name"] == "=?utf-8?b?TcO8bGxlciwgQW5u?="
    for name in ("Müller Ann", "Smith, Ann"):
        letter = a_letter(sender=Address("a@example.com", name))
        assert body_of(letter)["sender"]["name"] == name


def test_a_nameless_file_is_named_after_its_type():
    """Brevo takes the type from the name."""
    BREVO.check(a_file(None))
    assert body_of(a_file(None))["attachment"][0]["name"] == "attachment-1.pdf"


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ("", "https://api.brevo.com/v3/smtp/email"),
        ("?endpoint=http://127.0.0.1:8080", "http://127.0.0.1:8080/v3/smtp/email"),
        ("?endpoint=http://127.0.0.1:8080/proxy/", "http://127.0.0.1:8080/proxy/v3/smtp/email"),
    ],
)
def test_the_endpoint_replaces_the_host(options, url):
    """A path of it goes before that of the call."""
    transport = built(f"brevo://k@default{options}")
    assert transport.build_request(a_letter(), a_letter().recipients, Stamp()).url == url


def test_scheduling_is_left_to_brevo_only_on_request():
    """Three days ahead at the most, with a little room for clocks that differ."""
    assert built("brevo://k@default").schedules_ahead is None
    assert BREVO.schedules_ahead == 259_200 - 900


REFUSED = [
    ("recipients", a_letter("größe@example.net")),
    ("inline", a_letter(parts=(Part(b"1", "image/png", "a.png", "inline", "logo"),))),
    ("alternatives", a_letter(alternatives=(("text/calendar", "BEGIN"),))),
    ("track_opens", a_letter(track_opens=True)),
    ("track_clicks", a_letter(track_clicks=False)),
    ("reply_to", a_letter(reply_to=(Address("a@example.com"), Address("b@example.com")))),
    ("extra_headers", a_letter(headers=(("Message-ID", "<a@example.com>"),))),
    ("extra_headers", a_letter(headers=(("X-Mailin-Custom", "x"),))),
    ("extra_headers", a_letter(headers=(("IdempotencyKey", "x"),))),
    ("extra_headers", a_letter(headers=(("X-Note", "größer"),))),
    ("extra_headers", a_letter(headers=(("X-A", "1"), ("x-a", "2")))),
    ("merge_headers", two(private_copies=True, merge_headers={"a@b.c": {"X-A": "größer"}})),
    ("metadata", a_letter(metadata={"a": "größer"})),
    ("metadata", a_letter(metadata={"deferred-mail-job": "x"})),
    ("merge_metadata", two(private_copies=True, merge_metadata={"a@b.c": {"a": "größer"}})),
    ("merge_data", two(merge_data={"ann@example.net": {"a": "b"}})),
    ("merge_metadata", two(merge_metadata={"ann@example.net": {"a": "b"}})),
    ("merge_headers", two(merge_headers={"ann@example.net": {"X-A": "b"}})),
    ("body", a_letter(text=None)),
    ("subject", a_letter(subject="")),
    ("template_id", a_letter(template_id="welcome", text=None)),
    ("template_id", a_letter(template_id="0", text=None)),
    ("template_id", a_letter(template_id="3")),
    ("attachments", a_file("run.exe")),
    ("attachments", a_file("pdf")),
    ("attachments", a_file(None, "application/x-odd")),
    ("attachment headers", a_letter(parts=(Part(b"1", "a/b", "a.pdf", headers=(("A", "1"),)),))),
    ("esp_extra", a_letter(esp_extra={"to": []})),
    ("esp_extra", a_letter(esp_extra={"messageVersions": []})),
    ("esp_extra", a_letter(esp_extra={"sender": {"id": 1}})),
]


@pytest.mark.parametrize(("field", "letter"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_brevo_cannot_carry_is_refused_in_the_caller(field, letter):
    """Refused with the field's name, instead of being left out or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        BREVO.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(100)))),
        ("attachments", a_letter(parts=(Part(bytes(15_800_000), "application/pdf", "a.pdf"),))),
        (
            "merge_data",
            two(private_copies=True, merge_data={"ann@example.net": {"a": "x" * 102_400}}),
        ),
    ],
)
def test_what_is_too_large_for_brevo_is_refused_in_the_caller(field, letter):
    """99 visible recipients, 20 MB, 100 KB of values for one."""
    with pytest.raises(MessageTooLarge) as caught:
        BREVO.check(letter)
    assert caught.value.field == field


def test_what_is_dropped_on_request_leaves_a_letter_that_passes():
    """One reply-to address stays, and what is ASCII."""
    letter = BREVO.fit(
        two(
            private_copies=True,
            reply_to=(Address("a@example.com"), Address("b@example.com")),
            headers=(("X-Note", "größer"), ("Message-ID", "<a@example.com>"), ("X-A", "1")),
            metadata={"a": "größer", "user": "7"},
            merge_metadata={"ann@example.net": {"größe": "x", "n": "1"}},
            parts=(Part(b"1", "image/png", "a.png", "inline", "logo"),),
            track_opens=True,
        )
    )
    BREVO.check(letter)
    assert letter.reply_to == (Address("a@example.com"),)
    assert letter.headers == (("X-A", "1"),)
    assert (letter.metadata, letter.merge_metadata["ann@example.net"]) == (
        {"user": "7"},
        {"n": "1"},
    )
    assert (letter.parts, letter.track_opens) == ((), None)


def test_private_copies_go_by_number_and_by_the_size_of_their_values():
    """2000 in a call, and 1000 KB of values."""
    letter = a_letter(*(f"u{i}@example.net" for i in range(4500)), private_copies=True)
    assert [len(c) for c in BREVO.calls(letter, letter.recipients)] == [2000, 2000, 500]
    short = replace(letter, merge_data={"u1@example.net": {"a": "b"}})
    assert [len(c) for c in BREVO.calls(short, short.recipients)] == [2000, 2000, 500]
    long = replace(letter, merge_global_data={"a": "x" * 991}, merge_data={"u1@example.net": {}})
    groups = BREVO.calls(long, long.recipients)
    assert [len(group) for group in groups] == [1000, 1000, 1000, 1000, 500]
    assert tuple(r for group in groups for r in group) == long.recipients
