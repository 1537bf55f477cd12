"""Requests to SendCloud, field by field against the fixtures, and what is refused beforehand."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.transports.sendcloud import SendCloudTransport
from tests.support.http_provider import Recorded
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sendcloud"
REQUESTS = sorted(FIXTURES.glob("request_*.json"))


@pytest.fixture
def sendcloud() -> Iterator[SendCloudTransport]:
    transport = SendCloudTransport("default", "api_user_test", "api_key_test")
    yield transport
    transport.close()


def encoded(request: Any) -> Recorded:
    """The request as its bytes read, after requests' own encoding."""
    prepared = request.prepare()
    headers = {name.lower(): value for name, value in prepared.headers.items()}
    body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    return Recorded(prepared.method, prepared.url, headers, body, 1, 0.0)


def form_of(sendcloud: SendCloudTransport, *args: Any, **kwargs: Any) -> dict[str, str]:
    return encoded(sendcloud.build_request(*args, **kwargs)).form


def two(**fields: Any) -> Any:
    return a_letter("ann@example.net", "bob@example.net", **fields)


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_every_fixture_is_reproduced(sendcloud, path):
    """Method, URL, kind of body, every field in its order and every file are the fixture's."""
    fixture = json.loads(path.read_text())
    letter = sendcloud.fit(letter_from_neutral(fixture["neutral"]))
    sendcloud.check(letter)
    if path.stem == "request_private":
        letter = two(private_copies=True)
    request = encoded(
        sendcloud.build_request(
            letter, letter.recipients, request_id=fixture["neutral"].get("idempotency_key")
        )
    )
    expected = fixture["request"]
    assert (request.method, request.path) == (expected["method"], expected["url"])
    assert request.body_kind == expected["body_kind"]
    assert request.fields == [tuple(field) for field in expected["fields"]]
    files = [
        {
            "field": file.field,
            "filename": file.filename,
            "content_type": file.content_type,
            "content_b64": base64.b64encode(file.data).decode(),
        }
        for file in request.files
    ]
    assert files == expected.get("files", [])
    for name, value in expected["headers"].items():
        assert request.headers[name.lower()] == value


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert [path.stem for path in REQUESTS] == [
        "request_full",
        "request_minimal",
        "request_private",
        "request_template",
    ]


def test_a_call_carries_our_message_id_and_key(sendcloud):
    """One Message-ID over all attempts, our reference, and the idempotency key in its place."""
    call = a_call(key="abc123")
    form = encoded(sendcloud.request_for(call)).form
    assert json.loads(form["headers"]) == {
        "Message-ID": "<20261122.1@example.com>",
        "SC-Custom-deferred-mail-job": call.reference,
    }
    assert form["sendRequestId"] == "abc123"


def test_only_the_recipients_of_the_call_are_mailed(sendcloud):
    """Those who are settled already are in no field of the request."""
    letter = a_letter(
        recipients=tuple(
            Recipient(Address(f"{who}@example.net"), kind)
            for who, kind in (("ann", "to"), ("bob", "to"), ("carol", "cc"), ("dan", "bcc"))
        )
    )
    open_ones = [letter.recipients[1], letter.recipients[3]]
    form = form_of(sendcloud, letter, open_ones)
    assert (form["to"], form["bcc"]) == ("bob@example.net", "dan@example.net")
    assert "cc" not in form
    assert "ann" not in str(form).replace("Ann", "")


def test_without_anybody_left_in_to_each_gets_a_mail_of_its_own(sendcloud):
    """SendCloud demands a To; putting Bcc recipients there would show them to each other."""
    letter = a_letter(
        recipients=(
            Recipient(Address("ann@example.net"), "bcc"),
            Recipient(Address("bob@example.net"), "bcc"),
        )
    )
    form = form_of(sendcloud, letter, letter.recipients)
    assert json.loads(form["xsmtpapi"]) == {"to": ["ann@example.net", "bob@example.net"]}
    assert not {"to", "cc", "bcc"} & set(form)


def test_substitutions_are_columns_in_the_order_of_the_recipients(sendcloud):
    """Global values fill in, own values win, a missing one is empty; values are text."""
    letter = two(
        private_copies=True,
        merge_global_data={"shop": "A", "name": "you"},
        merge_data={"bob@example.net": {"name": "Bob", "n": 3, "vip": True}},
    )
    content = json.loads(form_of(sendcloud, letter, letter.recipients)["xsmtpapi"])
    assert content["sub"] == {
        "%shop%": ["A", "A"],
        "%name%": ["you", "Bob"],
        "%n%": ["", "3"],
        "%vip%": ["", "true"],
    }


def test_esp_extra_adds_fields(sendcloud):
    """What only SendCloud knows is passed on; booleans as it writes them."""
    letter = a_letter(esp_extra={"labelId": 7, "useNotification": False})
    form = form_of(sendcloud, letter, letter.recipients)
    assert (form["labelId"], form["useNotification"]) == ("7", "false")


def test_a_file_name_beyond_ascii_is_percent_encoded(sendcloud):
    """As in SendCloud's own samples; a nameless file gets a name."""
    letter = a_letter(
        parts=(Part(b"1", "application/pdf", "账单 1.pdf"), Part(b"2", "application/pdf"))
    )
    request = encoded(sendcloud.build_request(letter, letter.recipients))
    names = [file.filename for file in request.files]
    assert names == ["%E8%B4%A6%E5%8D%95 1.pdf", "attachment-2"]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (None, "https://api.sendcloud.net/apiv2/mail/send"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/apiv2/mail/send"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/apiv2/mail/send"),
        ("https://api2.sendcloud.net/api", "https://api2.sendcloud.net/api/mail/send"),
    ],
)
def test_the_endpoint_replaces_the_host_and_if_it_has_one_the_path(endpoint, url):
    """A bare host keeps /apiv2, so that a test server sees the paths of the real one."""
    transport = SendCloudTransport("default", "u", "k", endpoint=endpoint)
    assert transport.build_request(a_letter(), a_letter().recipients).url == url


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("tags", a_letter(tags=("a", "b"))),
        ("tags", a_letter(tags=("x" * 256,))),
        ("track_opens", a_letter(track_opens=True)),
        ("alternatives", a_letter(alternatives=(("text/calendar", "BEGIN"),))),
        ("merge_metadata", a_letter(merge_metadata={"ann@example.net": {"a": "b"}})),
        ("template_id", two(template_id="t", text=None)),
        ("template_id", a_letter(template_id="t")),
        (
            "template_id",
            a_letter(
                template_id="t",
                text=None,
                recipients=(
                    Recipient(Address("ann@example.net")),
                    Recipient(Address("bob@example.net"), "cc"),
                ),
            ),
        ),
        ("merge_data", two(merge_data={"ann@example.net": {"a": "b"}})),
        ("merge_global_data", two(merge_global_data={"a": "b"})),
        ("reply_to", a_letter(reply_to=tuple(Address(f"r{i}@example.com") for i in range(4)))),
        ("esp_extra", a_letter(esp_extra={"apiKey": "x"})),
        ("esp_extra", a_letter(esp_extra={"useAddressList": True})),
        ("extra_headers", a_letter(headers=(("X-A", "1"), ("x-a", "2")))),
        ("body", a_letter(text=None)),
    ],
)
def test_what_sendcloud_cannot_carry_is_refused_in_the_caller(sendcloud, field, letter):
    """Refused with the field's name, instead of being left out or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        sendcloud.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(101)))),
        ("attachments", a_letter(parts=(Part(bytes(10_485_761), "application/pdf", "a"),))),
        (
            "merge_data",
            a_letter(private_copies=True, merge_data={"ann@example.net": {"a": "x" * 1_048_576}}),
        ),
    ],
)
def test_what_is_too_large_for_sendcloud_is_refused_in_the_caller(sendcloud, field, letter):
    """The provider's limits: 100 visible recipients, 10 MiB of files, 1 MiB of values."""
    with pytest.raises(MessageTooLarge) as caught:
        sendcloud.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "letter",
    [
        a_letter(),
        a_letter(*(f"u{i}@example.net" for i in range(100))),
        a_letter(*(f"u{i}@example.net" for i in range(250)), private_copies=True),
        a_letter(parts=(Part(bytes(10_485_760), "application/pdf", "a"),)),
        a_letter(template_id="t", text=None),
        two(template_id="t", text=None, private_copies=True, subject=""),
    ],
)
def test_what_fits_passes(sendcloud, letter):
    """The limits themselves are allowed, and private copies may be any number."""
    sendcloud.check(letter)


def test_private_copies_go_a_hundred_at_a_time(sendcloud):
    """250 private copies are three calls, each within the provider's limit."""
    letter = a_letter(*(f"u{i}@example.net" for i in range(250)), private_copies=True)
    assert [len(call) for call in sendcloud.calls(letter, letter.recipients)] == [100, 100, 50]


@pytest.mark.parametrize("name", ["order id", "a:b", "größe", "Deferred-Mail-Job"])
def test_metadata_that_cannot_name_a_header_is_refused_or_dropped(sendcloud, name):
    """It goes out as the field ``SC-Custom-NAME``; ours brings the reports home."""
    letter = a_letter(metadata={name: "7", "ok": "8"})
    with pytest.raises(UnsupportedFeature, match="metadata"):
        sendcloud.check(letter)
    fitted = sendcloud.fit(letter)
    sendcloud.check(fitted)
    assert fitted.metadata == {"ok": "8"}
