"""Requests to Tencent SES against the fixture, and what is refused beforehand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.transports import tencent_ses
from flask_deferred_mail.transports.provider import Stamp
from flask_deferred_mail.transports.tencent_signing import host_of
from tests.support.json_providers import built, fixture, fixtures, json_of
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

TENCENT = built("tencentses://AKIDtest:secretkeytest@ap-guangzhou")
ANN, BOB = "ann@example.net", "bob@example.net"


@pytest.fixture(autouse=True)
def a_known_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that the fixture was signed at."""
    monkeypatch.setattr(tencent_ses, "_now", lambda: 1795262400.0)


def templated(*to: str, **fields: Any) -> Letter:
    return a_letter(*to, **{"text": None, "template_id": "7", **fields})


def people(*kinds: str) -> tuple[Recipient, ...]:
    """``u0`` and so on, in these fields."""
    return tuple(
        Recipient(Address(f"u{i}@example.net"), kind)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    )


def content(letter: Letter, recipients: Any = None, stamp: Stamp | None = None) -> Any:
    given_ = recipients or letter.recipients
    return json_of(TENCENT.build_request(letter, given_, stamp or Stamp()))


def files(count: int, size: int = 1, name: str | None = "a.pdf") -> tuple[Part, ...]:
    return tuple(Part(bytes(size), "application/pdf", name) for _ in range(count))


def test_the_fixture_is_reproduced():
    """To the byte, because the signature is over the bytes; and so the signature too."""
    given_ = fixture("tencent_ses", "request_minimal")
    expected = given_["request"]
    letter = TENCENT.fit(letter_from_neutral(given_["neutral"]))
    TENCENT.check(letter)
    request = TENCENT.build_request(letter, letter.recipients, Stamp())
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert request.data.decode() == expected["body_exact"]
    assert json_of(request) == expected["json"]
    assert request.headers == expected["headers"]


def test_there_is_one_request_fixture():
    """The test above knows its name."""
    assert fixtures("tencent_ses", "request") == ["request_minimal"]


def test_a_call_carries_our_message_id():
    """In the field for it; one of the application's own goes before."""
    call = a_call(templated())
    assert json_of(TENCENT.request_for(call))["SmtpMessageId"] == call.letter.message_id
    call = a_call(templated(headers=(("Message-ID", "<own@example.com>"),)))
    assert json_of(TENCENT.request_for(call))["SmtpMessageId"] == "<own@example.com>"


@pytest.mark.parametrize(
    ("kinds", "left", "expected"),
    [
        (
            ("to", "to", "cc", "bcc"),
            (1, 2, 3),
            [{"Destination": ["u1"], "Cc": ["u2"], "Bcc": ["u3"]}],
        ),
        (("to", "cc", "cc", "bcc"), (1, 2, 3), [{"Destination": ["u1", "u2"], "Bcc": ["u3"]}]),
        (("to", "bcc", "bcc"), (1, 2), [{"Destination": ["u1"]}, {"Destination": ["u2"]}]),
    ],
)
def test_only_the_recipients_of_the_call_are_mailed(kinds, left, expected):
    """Whoever is settled is in no field; those in Bcc never see each other."""
    letter = templated(recipients=people(*kinds))
    groups = TENCENT.calls(letter, [letter.recipients[i] for i in left])
    found = []
    for group in groups:
        body = content(letter, group)
        named = {k: [a[:2] for a in body[k]] for k in ("Destination", "Cc", "Bcc") if k in body}
        found.append(named)
    assert found == expected


def test_private_copies_are_a_call_each_with_values_of_their_own():
    """Everybody in one call would see the others."""
    letter = templated(
        ANN,
        BOB,
        private_copies=True,
        merge_global_data={"shop": "店", "name": "you"},
        merge_data={BOB: {"name": "Bob"}},
    )
    TENCENT.check(letter)
    ann, bob = (content(letter, group) for group in TENCENT.calls(letter, letter.recipients))
    assert (ann["Destination"], bob["Destination"]) == ([ANN], [BOB])
    values = [json.loads(body["Template"]["TemplateData"]) for body in (ann, bob)]
    assert values == [{"shop": "店", "name": "you"}, {"shop": "店", "name": "Bob"}]


def test_a_template_without_values_has_none():
    """An empty object is not sent."""
    assert content(templated())["Template"] == {"TemplateID": 7}


def test_files_and_the_reply_to_address_go_along():
    """Names and content; the type follows from the name."""
    letter = templated(parts=files(1), reply_to=(Address("help@example.com", "Help"),))
    TENCENT.check(letter)
    body = content(letter)
    assert body["Attachments"] == [{"FileName": "a.pdf", "Content": "AA=="}]
    assert body["ReplyToAddresses"] == "help@example.com"


def test_esp_extra_adds_fields():
    """Also another way of sending than ours."""
    letter = templated(esp_extra={"Unsubscribe": "1", "TriggerType": 0})
    TENCENT.check(letter)
    assert (content(letter)["Unsubscribe"], content(letter)["TriggerType"]) == ("1", 0)


@pytest.mark.parametrize(
    ("options", "url", "host"),
    [
        ("", "https://ses.tencentcloudapi.com/", "ses.tencentcloudapi.com"),
        ("?endpoint=http://127.0.0.1:8080", "http://127.0.0.1:8080/", "127.0.0.1:8080"),
        ("?endpoint=http://127.0.0.1:8080/p/", "http://127.0.0.1:8080/p/", "127.0.0.1:8080"),
    ],
)
def test_the_endpoint_replaces_the_host(options, url, host):
    """It is signed, so the header has to be the same."""
    transport = built(f"tencentses://k:s@ap-hongkong{options}")
    request = transport.build_request(templated(), templated().recipients, Stamp())
    assert request.url == url
    assert request.headers["Host"] == host
    assert request.headers["X-TC-Region"] == "ap-hongkong"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example:443/", "a.example"),
        ("http://a.example:80/", "a.example"),
        ("https://a.example:80/", "a.example:80"),
        ("http://[::1]:8080/", "[::1]:8080"),
    ],
)
def test_the_host_is_signed_as_it_is_sent(url, host):
    """Without the port that the scheme means anyway."""
    assert host_of(url) == host


def test_no_secret_shows():
    """Nor does a request hold it."""
    request = TENCENT.request_for(a_call(templated()))
    for text in (repr(TENCENT), repr(request.headers), repr(request.data)):
        assert "secretkeytest" not in text
    assert TENCENT.secrets() == ("secretkeytest",)


REFUSED = [
    ("body", a_letter()),
    ("template_id", templated(text="x")),
    ("template_id", templated(template_id="welcome")),
    ("template_id", templated(template_id="0")),
    ("subject", templated(subject="")),
    ("merge_data", templated(merge_data={ANN: {"a": 1}})),
    ("extra_headers", templated(headers=(("X-A", "1"),))),
    ("tags", templated(tags=("a",))),
    ("metadata", templated(metadata={"a": "1"})),
    ("track_opens", templated(track_opens=True)),
    ("inline", templated(parts=(Part(b"1", "image/png", "a.png", "inline", "logo"),))),
    ("attachments", templated(parts=files(1, name=None))),
    ("attachments", templated(parts=files(1, name="x" * 256))),
    ("reply_to", templated(reply_to=(Address("a@example.com"), Address("b@example.com")))),
    ("recipients", templated("größe@example.net")),
    ("sender", templated(sender=Address("a@example.com", "Shop: Berlin"))),
    ("sender", templated(sender=Address("a@example.com", "Shop <x@example.com>"))),
    ("esp_extra", templated(esp_extra={"Bcc": [BOB]})),
    ("esp_extra", templated(esp_extra={"HeaderFrom": "x@example.com"})),
    ("esp_extra", templated(esp_extra={"Simple": {}})),
]


@pytest.mark.parametrize(("field", "letter"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_tencent_cannot_carry_is_refused_in_the_caller(field, letter):
    """Refused with the field's name, instead of being left out or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        TENCENT.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", templated(*(f"u{i}@example.net" for i in range(51)))),
        ("recipients", templated(recipients=people("to", *["cc"] * 21))),
        ("recipients", templated(recipients=people("to", *["bcc"] * 21))),
        ("attachments", templated(parts=files(11))),
        ("attachments", templated(parts=files(2, 2_100_000))),
    ],
)
def test_what_is_too_large_for_tencent_is_refused_in_the_caller(field, letter):
    """50 in To, 20 in Cc and Bcc, ten files, 4 MB."""
    with pytest.raises(MessageTooLarge) as caught:
        TENCENT.check(letter)
    assert caught.value.field == field


def test_the_limits_themselves_pass():
    """What is refused begins one beyond them; private copies may be as many as one likes."""
    everybody = people(*["to"] * 50, *["cc"] * 20, *["bcc"] * 20)
    TENCENT.check(templated(recipients=everybody, parts=files(10, 400_000)))
    TENCENT.check(templated(*(f"u{i}@example.net" for i in range(200)), private_copies=True))


def test_what_is_dropped_on_request_leaves_a_letter_that_passes():
    """Of the addresses to reply to the first stays, of the header fields the Message-ID."""
    letter = TENCENT.fit(
        templated(
            sender=Address("orders@example.com", "Shop: Berlin"),
            reply_to=(Address("a@example.com"), Address("b@example.com")),
            headers=(("X-A", "1"), ("Message-Id", "<a@example.com>")),
            tags=("a",),
            metadata={"b": "1"},
            track_clicks=True,
            parts=(*files(1), Part(b"1", "image/png", "a.png", "inline", "logo")),
        )
    )
    TENCENT.check(letter)
    assert letter.sender == Address("orders@example.com")
    assert letter.reply_to == (Address("a@example.com"),)
    assert letter.headers == (("Message-Id", "<a@example.com>"),)
    assert letter.parts == files(1)
