"""Requests to SendGrid against the fixtures and its own client, and what is refused beforehand."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
import sendgrid as client
from sendgrid.helpers import mail as parts

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.transports.provider import Stamp
from flask_deferred_mail.transports.sendgrid_request import RESERVED_ARGUMENTS, RESERVED_HEADERS
from tests.support.http_provider import HttpProvider, Reply
from tests.support.json_providers import built, fixture, fixtures, json_of
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

SENDGRID = built("sendgrid://SG.test@default?schedule=native")
DYNAMIC = "d-0123456789abcdef0123456789abcdef"
LEGACY = "13b8f94f-bcae-4ec6-b752-70d6cb59f932"
SEND_AT = 1795336200.0


def two(**fields: Any) -> Letter:
    return a_letter("ann@example.net", "bob@example.net", **fields)


def people(*kinds: str) -> tuple[Recipient, ...]:
    """``u0`` and so on, in these fields."""
    return tuple(
        Recipient(Address(f"u{i}@example.net"), kind)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    )


def body_of(letter: Letter, recipients: Any = None, stamp: Stamp | None = None) -> Any:
    return json_of(
        SENDGRID.build_request(letter, recipients or letter.recipients, stamp or Stamp())
    )


def mails(body: Any) -> list[dict[str, list[str]]]:
    """Who stands in which field of each personalization."""
    return [
        {kind: [p["email"] for p in mail[kind]] for kind in ("to", "cc", "bcc") if kind in mail}
        for mail in body["personalizations"]
    ]


@pytest.mark.parametrize("name", fixtures("sendgrid", "request"))
def test_every_fixture_is_reproduced(name):
    """Method, URL, headers and the whole body; templates have other names at SendGrid."""
    given = fixture("sendgrid", name)
    expected = given["request"]
    letter = letter_from_neutral(given["neutral"])
    if letter.template_id is not None:
        letter = replace(letter, template_id=expected["json"]["template_id"])
    letter = SENDGRID.fit(letter)
    SENDGRID.check(letter)
    stamp = Stamp(send_at=SEND_AT if "send_at" in given["neutral"] else None)
    request = SENDGRID.build_request(letter, letter.recipients, stamp)
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert json_of(request) == expected["json"]
    assert request.headers == expected["headers"]


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert len(fixtures("sendgrid", "request")) == 3


def test_the_request_is_that_of_sendgrids_own_client():
    """The same message through the sendgrid package: path, key and body are equal."""
    everything = letter_from_neutral(fixture("sendgrid", "request_full")["neutral"])
    letter = replace(
        everything,
        track_opens=False,
        track_clicks=True,
        esp_extra={"ip_pool_name": "main", "mail_settings": {"sandbox_mode": {"enable": True}}},
    )
    own = SENDGRID.build_request(letter, letter.recipients, Stamp(send_at=SEND_AT))
    with HttpProvider() as provider:
        provider.default = Reply(b"", 202)
        client.SendGridAPIClient("SG.test", host=provider.url).send(clients_mail(letter))
        [theirs] = provider.requests
    assert theirs.method == own.method
    assert f"https://api.sendgrid.com{theirs.path}" == own.url
    assert theirs.headers["authorization"] == own.headers["Authorization"]
    assert theirs.headers["content-type"] == own.headers["Content-Type"]
    assert json.loads(theirs.body) == json_of(own)


def clients_mail(letter: Letter) -> Any:
    """The letter, written down again with the classes of SendGrid's client."""
    mail = parts.Mail(
        from_email=parts.From(letter.sender.email, letter.sender.name),
        subject=letter.subject,
        plain_text_content=letter.text,
        html_content=letter.html,
    )
    classes = {"to": parts.To, "cc": parts.Cc, "bcc": parts.Bcc}
    for recipient in letter.recipients:
        person = classes[recipient.kind](recipient.email, recipient.address.name or None)
        {"to": mail.add_to, "cc": mail.add_cc, "bcc": mail.add_bcc}[recipient.kind](person)
    [reply_to] = letter.reply_to
    mail.reply_to = parts.ReplyTo(reply_to.email, reply_to.name)
    for name, value in letter.headers:
        mail.add_header(parts.Header(name, value))
    # The client puts each category and each file before the earlier ones.
    for tag in reversed(letter.tags):
        mail.add_category(parts.Category(tag))
    for name, value in letter.metadata.items():
        mail.add_custom_arg(parts.CustomArg(name, value))
    for part in (*letter.inline_parts, *letter.attachments):
        mail.add_attachment(
            parts.Attachment(
                parts.FileContent(base64.b64encode(part.data).decode()),
                parts.FileName(part.filename),
                parts.FileType(part.content_type),
                parts.Disposition(part.disposition),
                parts.ContentId(part.content_id) if part.content_id else None,
            )
        )
    mail.send_at = parts.SendAt(int(SEND_AT))
    mail.ip_pool_name = parts.IpPoolName("main")
    mail.mail_settings = parts.MailSettings(sandbox_mode=parts.SandBoxMode(enable=True))
    mail.tracking_settings = parts.TrackingSettings(
        click_tracking=parts.ClickTracking(enable=True, enable_text=None),
        open_tracking=parts.OpenTracking(enable=False),
    )
    return mail


def test_a_call_carries_our_message_id_and_reference():
    """The Message-ID as a header field, and what reports are told apart by as an argument."""
    call = a_call()
    body = json_of(SENDGRID.request_for(call))
    assert body["headers"] == {"Message-ID": "<20261122.1@example.com>"}
    assert body["custom_args"] == {"deferred-mail-job": call.reference}
    assert "send_at" not in body


@pytest.mark.parametrize(
    ("kinds", "left", "expected"),
    [
        (
            ("to", "to", "cc", "bcc"),
            (1, 2, 3),
            [{"to": ["u1@example.net"], "cc": ["u2@example.net"], "bcc": ["u3@example.net"]}],
        ),
        (
            ("to", "cc", "cc", "bcc"),
            (1, 2, 3),
            [{"to": ["u1@example.net", "u2@example.net"], "bcc": ["u3@example.net"]}],
        ),
        (
            ("to", "bcc", "bcc"),
            (1, 2),
            [{"to": ["u1@example.net"]}, {"to": ["u2@example.net"]}],
        ),
    ],
)
def test_only_the_recipients_of_the_call_are_mailed(kinds, left, expected):
    """Whoever is settled is in no field; no recipient of Bcc is shown to anybody else."""
    letter = a_letter(recipients=people(*kinds))
    body = body_of(letter, [letter.recipients[i] for i in left])
    assert mails(body) == expected


def test_private_copies_are_a_personalization_each():
    """Values, metadata and headers of their own, with the common ones that they would hide."""
    letter = two(
        private_copies=True,
        headers=(("X-Shop", "A"), ("X-Kind", "order")),
        metadata={"user": "0", "shop": "A"},
        template_id=DYNAMIC,
        text=None,
        subject="",
        merge_global_data={"shop": "A", "n": 1},
        merge_data={"bob@example.net": {"n": 2}},
        merge_metadata={"bob@example.net": {"user": "7"}},
        merge_headers={"bob@example.net": {"x-kind": "reminder"}},
    )
    SENDGRID.check(letter)
    body = body_of(letter, stamp=Stamp("<1@example.com>", "42-ab"))
    common = {"user": "0", "shop": "A", "deferred-mail-job": "42-ab"}
    assert body["custom_args"] == common
    assert body["headers"] == {"X-Shop": "A", "X-Kind": "order", "Message-ID": "<1@example.com>"}
    assert body["personalizations"] == [
        {"to": [{"email": "ann@example.net"}], "dynamic_template_data": {"shop": "A", "n": 1}},
        {
            "to": [{"email": "bob@example.net"}],
            "dynamic_template_data": {"shop": "A", "n": 2},
            "custom_args": {**common, "user": "7"},
            "headers": {"X-Shop": "A", "Message-ID": "<1@example.com>", "x-kind": "reminder"},
        },
    ]


@pytest.mark.parametrize(
    ("extra", "names"),
    [({}, ["-name-", "-n-"]), ({"merge_field_format": "-{}-"}, ["name", "n"])],
)
def test_without_a_dynamic_template_values_are_substituted(extra, names):
    """Names stand as in the text, or in the form that esp_extra gives; values are texts."""
    name, number = names
    letter = two(
        private_copies=True,
        merge_global_data={name: "you"},
        merge_data={"bob@example.net": {name: "Bob", number: 3}},
        esp_extra=extra,
    )
    SENDGRID.check(letter)
    ann, bob = body_of(letter)["personalizations"]
    assert ann["substitutions"] == {"-name-": "you"}
    assert bob["substitutions"] == {"-name-": "Bob", "-n-": "3"}
    assert "merge_field_format" not in body_of(letter)


def test_a_legacy_template_keeps_subject_and_body():
    """They are filled into it."""
    letter = a_letter(template_id=LEGACY)
    SENDGRID.check(letter)
    body = body_of(letter)
    assert (body["template_id"], body["subject"]) == (LEGACY, "Hello")
    assert body["content"] == [{"type": "text/plain", "value": "Hi Ann\n"}]


def test_tracking_goes_before_what_esp_extra_says_of_it():
    """The field of the message wins; the rest of the settings stays."""
    extra = {"tracking_settings": {"open_tracking": {"enable": True}, "ganalytics": {}}}
    body = body_of(a_letter(track_opens=False, esp_extra=extra))
    assert body["tracking_settings"] == {"open_tracking": {"enable": False}, "ganalytics": {}}


def test_headers_are_encoded_and_files_have_names_and_bare_types():
    """SendGrid demands ASCII in the first, and refuses a semicolon in the second."""
    letter = a_letter(
        headers=(("X-Note", "größer"),),
        parts=(Part(b"1", "text/csv; charset=utf-8"),),
        alternatives=(("text/calendar; method=REQUEST", "BEGIN"),),
        reply_to=(Address("a@example.com"), Address("b@example.com", "B")),
    )
    SENDGRID.check(letter)
    body = body_of(letter)
    assert body["headers"] == {"X-Note": "=?utf-8?b?Z3LDtsOfZXI=?="}
    assert body["attachments"][0]["filename"] == "attachment-1"
    assert body["attachments"][0]["type"] == "text/csv"
    assert [part["type"] for part in body["content"]] == ["text/plain", "text/calendar"]
    assert body["reply_to_list"] == [
        {"email": "a@example.com"},
        {"email": "b@example.com", "name": "B"},
    ]


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ("", "https://api.sendgrid.com/v3/mail/send"),
        ("?region=eu", "https://api.eu.sendgrid.com/v3/mail/send"),
        ("?endpoint=http://127.0.0.1:8080", "http://127.0.0.1:8080/v3/mail/send"),
        ("?endpoint=http://127.0.0.1:8080/proxy/", "http://127.0.0.1:8080/proxy/v3/mail/send"),
    ],
)
def test_region_and_endpoint_choose_the_host(options, url):
    """A path of the endpoint goes before that of the call."""
    transport = built(f"sendgrid://SG.test@default{options}")
    assert transport.build_request(a_letter(), a_letter().recipients, Stamp()).url == url


def test_scheduling_is_left_to_sendgrid_only_on_request():
    """Three days ahead at the most, with a little room for clocks that differ."""
    assert built("sendgrid://SG.test@default").schedules_ahead is None
    assert SENDGRID.schedules_ahead == 259_200 - 900


REFUSED = [
    ("recipients", a_letter("ann@example.net", "Ann@example.net")),
    ("recipients", a_letter("größe@example.net")),
    ("tags", a_letter(tags=tuple(f"t{i}" for i in range(11)))),
    *(("extra_headers", a_letter(headers=((name, "x"),))) for name in sorted(RESERVED_HEADERS)),
    ("extra_headers", a_letter(headers=(("X-A", "1"), ("x-a", "2")))),
    ("merge_headers", two(private_copies=True, merge_headers={"a@b.c": {"Received": "x"}})),
    *(("metadata", a_letter(metadata={name: "x"})) for name in sorted(RESERVED_ARGUMENTS)),
    ("merge_metadata", two(private_copies=True, merge_metadata={"a@b.c": {"event": "x"}})),
    ("merge_data", two(merge_data={"ann@example.net": {"-a-": "b"}})),
    ("merge_metadata", two(merge_metadata={"ann@example.net": {"a": "b"}})),
    ("merge_headers", two(merge_headers={"ann@example.net": {"X-A": "b"}})),
    ("merge_data", two(private_copies=True, merge_data={"ann@example.net": {"name": "b"}})),
    ("merge_data", two(merge_global_data={"name": "b"})),
    ("subject", a_letter(template_id=DYNAMIC, text=None)),
    ("template_id", a_letter(template_id=DYNAMIC, subject="")),
    ("body", a_letter(text=None)),
    ("subject", a_letter(subject="")),
    ("attachments", a_letter(parts=(Part(b"1", "application/pdf", "a;b.pdf"),))),
    ("attachments", a_letter(parts=(Part(b"1", "text/plain; charset=gbk", "a.txt"),))),
    ("alternatives", a_letter(alternatives=(("text/calendar; component=x", "B"),))),
    ("attachment headers", a_letter(parts=(Part(b"1", "a/b", "a", headers=(("X-A", "1"),)),))),
    ("esp_extra", a_letter(esp_extra={"personalizations": []})),
    ("esp_extra", a_letter(esp_extra={"from": {"email": "x@example.com"}})),
    ("esp_extra", a_letter(esp_extra={"tracking_settings": []})),
    ("esp_extra", a_letter(esp_extra={"mail_settings": {"bcc": {"enable": True}}})),
]


@pytest.mark.parametrize(("field", "letter"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_sendgrid_cannot_carry_is_refused_in_the_caller(field, letter):
    """Refused with the field's name, instead of being left out or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        SENDGRID.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(1001)))),
        ("attachments", a_letter(parts=(Part(bytes(23_600_000), "application/pdf", "a"),))),
        ("metadata", a_letter(metadata={f"m{i}": "x" * 1000 for i in range(10)})),
        ("merge_data", two(private_copies=True, merge_global_data={"-a-": "x" * 10_000})),
    ],
)
def test_what_is_too_large_for_sendgrid_is_refused_in_the_caller(field, letter):
    """1000 recipients, 30 MB, 10000 bytes of arguments and of substitutions."""
    with pytest.raises(MessageTooLarge) as caught:
        SENDGRID.check(letter)
    assert caught.value.field == field


def test_what_is_dropped_on_request_leaves_a_letter_that_passes():
    """The first ten tags stay, and everything that SendGrid does not use itself."""
    letter = SENDGRID.fit(
        two(
            private_copies=True,
            tags=tuple(f"t{i}" for i in range(12)),
            headers=(("Received", "x"), ("X-A", "1")),
            metadata={"event": "x", "user": "7"},
            merge_metadata={"ann@example.net": {"type": "x", "n": "1"}},
            parts=(Part(b"1", "a/b", "a", headers=(("X-A", "1"),)),),
        )
    )
    SENDGRID.check(letter)
    assert letter.tags == tuple(f"t{i}" for i in range(10))
    assert letter.headers == (("X-A", "1"),)
    assert (letter.metadata, letter.merge_metadata["ann@example.net"]) == (
        {"user": "7"},
        {"n": "1"},
    )


def test_private_copies_go_a_thousand_at_a_time():
    """2500 private copies are three calls, each within the provider's limit."""
    letter = a_letter(*(f"u{i}@example.net" for i in range(2500)), private_copies=True)
    SENDGRID.check(letter)
    calls = SENDGRID.calls(letter, letter.recipients)
    assert [len(call) for call in calls] == [1000, 1000, 500]
    assert len(body_of(letter, calls[0])["personalizations"]) == 1000
