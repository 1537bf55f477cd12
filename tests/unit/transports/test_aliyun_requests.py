"""Requests to Aliyun against the fixtures, and what is refused beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.transports import aliyun
from flask_deferred_mail.transports.aliyun_signing import signature, string_to_sign
from flask_deferred_mail.transports.provider import Stamp
from tests.support.json_providers import built, fixture, fixtures
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

ALIYUN = built("aliyun://LTAItest:testsecret@cn-hangzhou")
NONCE = "3f0c9a52-7d5e-4c2b-9a51-0d6f3f1a2b42"
ANN, BOB = "ann@example.net", "bob@example.net"


@pytest.fixture(autouse=True)
def a_known_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nonce and the time that the fixtures were signed with."""
    monkeypatch.setattr(aliyun, "_nonce", lambda: NONCE)
    monkeypatch.setattr(aliyun, "_moment", lambda: "2026-11-21T12:00:00Z")


def pairs(letter: Letter, recipients: Any = None, stamp: Stamp | None = None) -> list[Any]:
    request = ALIYUN.build_request(letter, recipients or letter.recipients, stamp or Stamp())
    data: list[Any] = request.data
    return data


def fields(letter: Letter, recipients: Any = None, stamp: Stamp | None = None) -> dict[str, str]:
    given_ = pairs(letter, recipients, stamp)
    assert len(dict(given_)) == len(given_)
    return dict(given_)


def headers(letter: Letter, stamp: Stamp | None = None) -> dict[str, str]:
    found: dict[str, str] = json.loads(fields(letter, stamp=stamp).get("Headers", "{}"))
    return found


def people(*kinds: str) -> tuple[Recipient, ...]:
    """``u0`` and so on, in these fields."""
    return tuple(
        Recipient(Address(f"u{i}@example.net"), kind)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    )


def neutral(name: str) -> dict[str, Any]:
    """The fixture's message; of the full one, without what the fixture leaves out (see below)."""
    content: dict[str, Any] = fixture("aliyun", name)["neutral"]
    if name == "request_full":
        content = {**content, "cc": [], "metadata": {"job_id": "42"}}
    return content


@pytest.mark.parametrize("name", fixtures("aliyun", "request"))
def test_every_fixture_is_reproduced(name):
    """Method, URL, header, every field in its order, and with them the signature."""
    expected = fixture("aliyun", name)["request"]
    letter = ALIYUN.fit(letter_from_neutral(neutral(name)))
    ALIYUN.check(letter)
    request = ALIYUN.build_request(letter, letter.recipients, Stamp())
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert request.headers == expected["headers"]
    assert [list(pair) for pair in request.data] == expected["fields"]


def test_the_full_message_differs_from_its_fixture_in_two_points():
    """Whoever is in Cc is mailed, though blindly, and the second entry of the metadata goes along.

    The fixture has neither, and does not list the metadata as something that cannot be carried.
    """
    given_ = fixture("aliyun", "request_full")
    letter = ALIYUN.fit(letter_from_neutral(given_["neutral"]))
    ALIYUN.check(letter)
    ours, theirs = fields(letter), dict(given_["request"]["fields"])
    different = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
    assert different == {"BccAddress", "Headers", "Signature"}
    assert ours["BccAddress"] == "audit@example.com,carol@example.net"
    notes = json.loads(ours["Headers"])
    assert notes.pop("X-User-Notify-user_id") == "7"
    assert notes == json.loads(theirs["Headers"])


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert fixtures("aliyun", "request") == ["request_full", "request_minimal"]


def test_the_string_that_is_signed_is_the_worked_example():
    """Sorted by name, encoded twice, the blank as %20, the star encoded, the tilde not."""
    request = fixture("aliyun", "request_minimal")["request"]
    given_ = [(name, value) for name, value in request["fields"] if name != "Signature"]
    assert string_to_sign(given_) == request["signing"]["string_to_sign"]
    assert signature(given_, request["signing"]["secret"]) == request["signing"]["signature"]


def test_a_call_carries_our_message_id_and_reference():
    """Aliyun lets a Message-ID be set; the reference comes back in its events."""
    call = a_call()
    found = json.loads(dict(ALIYUN.request_for(call).data)["Headers"])
    assert found == {
        "Message-ID": call.letter.message_id,
        "X-User-Notify-deferred-mail-job": call.reference,
    }
    assert ALIYUN.keeps_message_id


def test_every_request_has_a_nonce_of_its_own(monkeypatch):
    """A repeated one is refused, so a retry needs another."""
    monkeypatch.undo()
    nonces = {fields(a_letter())["SignatureNonce"] for _ in range(3)}
    assert len(nonces) == 3


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("X-Order-Id", "X-User-Order-Id"),
        ("x-user-order", "x-user-order"),
        ("X-User-Notify-A", "X-User-Notify-A"),
        ("list-unsubscribe", "List-Unsubscribe"),
        ("List-Unsubscribe-Post", "List-Unsubscribe-Post"),
        ("message-id", "Message-ID"),
    ],
)
def test_header_fields_have_the_names_that_aliyun_wants(name, wire):
    """Three of the standard's; others begin with X-User-."""
    assert headers(a_letter(headers=((name, "v"),))) == {wire: "v"}


def test_only_the_recipients_of_the_call_are_mailed():
    """Two blind copies go along; whoever is settled is in no field."""
    letter = a_letter(recipients=people("to", "to", "bcc", "bcc", "bcc", "bcc"))
    groups = ALIYUN.calls(letter, letter.recipients[1:])
    assert [[r.email[:2] for r in group] for group in groups] == [
        ["u1", "u2", "u3"],
        ["u4"],
        ["u5"],
    ]
    first, second = fields(letter, groups[0]), fields(letter, groups[1])
    assert (first["ToAddress"], first["BccAddress"]) == (
        "u1@example.net",
        "u2@example.net,u3@example.net",
    )
    assert second["ToAddress"] == "u4@example.net"
    assert "BccAddress" not in second


def test_recipients_of_bcc_alone_do_not_see_each_other():
    """Each has a call of its own, because somebody must stand in To."""
    letter = a_letter(recipients=people("to", "bcc", "bcc"))
    groups = ALIYUN.calls(letter, letter.recipients[1:])
    assert [len(group) for group in groups] == [1, 1]


def test_private_copies_are_a_call_each_with_values_of_their_own():
    """Template, header fields and metadata of the one who reads it."""
    letter = a_letter(
        ANN,
        BOB,
        private_copies=True,
        text=None,
        template_id="100",
        merge_global_data={"shop": "店", "name": "you"},
        merge_data={BOB: {"name": "Bob"}},
        headers=(("X-Kind", "order"),),
        merge_headers={BOB: {"x-kind": "reminder"}},
        metadata={"user": "0"},
        merge_metadata={BOB: {"user": "7"}},
    )
    ALIYUN.check(letter)
    ann, bob = (fields(letter, group) for group in ALIYUN.calls(letter, letter.recipients))
    assert (ann["ToAddress"], bob["ToAddress"]) == (ANN, BOB)
    assert json.loads(ann["Template"]) == {
        "TemplateId": "100",
        "TemplateData": {"shop": "店", "name": "you"},
    }
    assert json.loads(bob["Template"])["TemplateData"]["name"] == "Bob"
    assert json.loads(ann["Headers"]) == {"X-User-Kind": "order", "X-User-Notify-user": "0"}
    assert json.loads(bob["Headers"]) == {"X-User-kind": "reminder", "X-User-Notify-user": "7"}


@pytest.mark.parametrize(
    ("opens", "clicks", "expected"),
    [
        (True, None, "1"),
        (None, True, "1"),
        (True, True, "1"),
        (False, False, "0"),
        (None, None, None),
    ],
)
def test_one_switch_tracks_both(opens, clicks, expected):
    """What is asked of either holds for both."""
    letter = a_letter(track_opens=opens, track_clicks=clicks, tags=("receipt",))
    ALIYUN.check(letter)
    assert fields(letter).get("ClickTrace") == expected


def test_esp_extra_adds_fields():
    """Such as what only Aliyun knows, as texts; the console's reply-to address on request."""
    letter = a_letter(
        esp_extra={"IpPoolId": "p", "DomainAuth": True, "ReplyToAddress": True, "OwnerId": 7}
    )
    ALIYUN.check(letter)
    found = fields(letter)
    assert (found["IpPoolId"], found["DomainAuth"], found["OwnerId"]) == ("p", "true", "7")
    assert found["ReplyToAddress"] == "true"


@pytest.mark.parametrize(
    ("region", "options", "url"),
    [
        ("cn-hangzhou", "", "https://dm.aliyuncs.com/"),
        ("ap-southeast-1", "", "https://dm.ap-southeast-1.aliyuncs.com/"),
        ("eu-central-1", "?endpoint=http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("eu-central-1", "?endpoint=http://127.0.0.1:8080/p/", "http://127.0.0.1:8080/p/"),
    ],
)
def test_each_region_has_a_host(region, options, url):
    """The endpoint replaces it; a path of it stays."""
    request = built(f"aliyun://k:s@{region}{options}").build_request(
        a_letter(), a_letter().recipients, Stamp()
    )
    assert request.url == url
    assert dict(request.data)["RegionId"] == region


def test_no_secret_shows():
    """Nor does a request hold it."""
    assert "testsecret" not in repr(ALIYUN)
    assert "testsecret" not in repr(pairs(a_letter()))
    assert ALIYUN.secrets() == ("testsecret",)


REFUSED = [
    ("cc", a_letter(recipients=people("to", "cc"))),
    ("attachments", a_letter(parts=(Part(b"1", "application/pdf", "a.pdf"),))),
    ("inline", a_letter(parts=(Part(b"1", "image/png", "a.png", "inline", "logo"),))),
    ("alternatives", a_letter(alternatives=(("text/calendar", "BEGIN"),))),
    ("tags", a_letter(tags=("a", "b"))),
    ("tags", a_letter(tags=("two words",))),
    ("tags", a_letter(track_opens=True)),
    ("track_clicks", a_letter(track_opens=True, track_clicks=False, tags=("a",))),
    ("reply_to", a_letter(reply_to=(Address("a@example.com"), Address("b@example.com")))),
    ("recipients", a_letter("größe@example.net")),
    ("recipients", a_letter('"a,b"@example.net')),
    ("sender", a_letter(sender=Address("a@example.com", "x" * 16))),
    ("subject", a_letter(subject="")),
    ("subject", a_letter(subject="x" * 257)),
    ("body", a_letter(text=None)),
    ("template_id", a_letter(template_id="1")),
    ("merge_data", a_letter(ANN, private_copies=True, merge_data={ANN: {"a": 1}})),
    ("merge_data", a_letter(text=None, template_id="1", merge_data={ANN: {"a": 1}})),
    ("merge_global_data", a_letter(merge_global_data={"a": 1})),
    ("merge_headers", a_letter(merge_headers={ANN: {"X-A": "1"}})),
    ("merge_metadata", a_letter(merge_metadata={ANN: {"a": "1"}})),
    ("extra_headers", a_letter(headers=(("Precedence", "bulk"),))),
    ("extra_headers", a_letter(headers=(("X-A", "größe"),))),
    ("extra_headers", a_letter(headers=(("X-A", "1"), ("X-User-A", "2")))),
    ("extra_headers", a_letter(headers=(("X-User-Notify-a", "1"),), metadata={"A": "2"})),
    ("extra_headers", a_letter(headers=tuple((f"X-{i}", "v") for i in range(9)))),
    ("extra_headers", a_letter(metadata={f"k{i}": "v" for i in range(9)})),
    ("metadata", a_letter(metadata={"a b": "1"})),
    ("metadata", a_letter(metadata={"a": "größe"})),
    ("metadata", a_letter(metadata={"deferred-mail-job": "1"})),
    ("merge_metadata", a_letter(ANN, private_copies=True, merge_metadata={ANN: {"a:": "1"}})),
    ("esp_extra", a_letter(esp_extra={"ToAddress": BOB})),
    ("esp_extra", a_letter(esp_extra={"bccaddress": BOB})),
    ("esp_extra", a_letter(esp_extra={"AccessKeyId": "x"})),
    ("esp_extra", a_letter(esp_extra={"AccountName": "x"})),
]


@pytest.mark.parametrize(("field", "letter"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_aliyun_cannot_carry_is_refused_in_the_caller(field, letter):
    """Refused with the field's name, instead of being left out or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        ALIYUN.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(101)))),
        ("body", a_letter(html="x" * 8_000_001)),
    ],
)
def test_what_is_too_large_for_aliyun_is_refused_in_the_caller(field, letter):
    """100 visible recipients, 8 MB of text."""
    with pytest.raises(MessageTooLarge) as caught:
        ALIYUN.check(letter)
    assert caught.value.field == field


def test_the_limits_themselves_pass():
    """What is refused begins one beyond them."""
    ALIYUN.check(
        a_letter(
            *(f"u{i}@example.net" for i in range(100)),
            sender=Address("a@example.com", "x" * 15),
            subject="x" * 256,
            headers=tuple((f"X-{i}", "v") for i in range(4)),
            metadata={f"k{i}": "v" for i in range(4)},
        )
    )


def test_what_is_dropped_on_request_leaves_a_letter_that_passes():
    """Nobody is left out of it: Cc becomes a blind copy; images go, and what shows them."""
    letter = a_letter(
        recipients=people("to", "cc", "bcc"),
        sender=Address("orders@example.com", "A very long name of a shop"),
        reply_to=(Address("a@example.com"), Address("b@example.com")),
        html='<p>A<img alt="x" src=\'cid:logo\'/>b <img src="https://example.com/a.png"></p>',
        parts=(
            Part(b"1", "application/pdf", "a.pdf"),
            Part(b"1", "image/png", "a.png", "inline", "logo"),
        ),
        tags=("two words", "receipt", "shop"),
        headers=(("Precedence", "bulk"), ("X-A", "ü"), *((f"X-{i}", "v") for i in range(6))),
        metadata={"a b": "1", "b": "1", "c": "1", "d": "1"},
        track_opens=True,
        track_clicks=False,
    )
    fitting = ALIYUN.fit(letter)
    ALIYUN.check(fitting)
    assert [(r.email[:2], r.kind) for r in fitting.recipients] == [
        ("u0", "to"),
        ("u2", "bcc"),
        ("u1", "bcc"),
    ]
    assert fitting.html == '<p>Ab <img src="https://example.com/a.png"></p>'
    assert (fitting.tags, fitting.sender.name) == (("receipt",), "")
    assert [name for name, _ in fitting.headers] == [f"X-{i}" for i in range(6)]
    assert fitting.metadata == {"b": "1", "c": "1"}
    assert (fitting.track_opens, fitting.track_clicks) == (None, None)


def test_a_letter_that_fits_stays_as_it_is():
    """Nothing is dropped without need."""
    letter = a_letter(
        recipients=people("to", "bcc"),
        sender=Address("a@example.com", "Shop"),
        reply_to=(Address("b@example.com"),),
        html='<p><img src="cid:elsewhere"></p>',
        tags=("a",),
        headers=(("X-A", "1"),),
        metadata={"b": "1"},
        track_opens=True,
    )
    assert ALIYUN.fit(letter) == replace(letter)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_what_is_signed_is_what_is_sent(extra):
    """Whatever stands in a field: encoded, it is one field, and pairs cannot run together."""
    text = string_to_sign(extra)
    assert text.startswith("POST&%2F&")
    assert text.isascii()
    assert text.count("&") == 2
    assert text.count("%3D") == len(extra)
