"""Letters as requests to Amazon SES: the fixtures, the three forms, and what is refused."""

from __future__ import annotations

import base64
import email
import email.policy
import json
from typing import Any

import pytest

from flask_deferred_mail.errors import ConfigurationError, MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.transports import ses_request
from flask_deferred_mail.transports.provider import Stamp
from flask_deferred_mail.transports.ses import SesTransport
from tests.support.json_providers import built, fixture, fixtures, json_of
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

PLAIN = "ses://AKIDEXAMPLE:hush-secret@us-east-1"
SINGLE = ["request_full", "request_minimal", "request_bulk"]
ANN = "ann@example.net"
BOB = "bob@example.net"


@pytest.fixture
def ses() -> Any:
    return built(PLAIN)


def two(**fields: Any) -> Any:
    return a_letter(ANN, BOB, **fields)


def four(**fields: Any) -> Any:
    """Ann and Bob in To, Carol in Cc, Dan in Bcc."""
    people = (("ann", "to"), ("bob", "to"), ("carol", "cc"), ("dan", "bcc"))
    return a_letter(
        recipients=tuple(Recipient(Address(f"{who}@example.net"), kind) for who, kind in people),
        **fields,
    )


def content(ses: SesTransport, letter: Any, recipients: Any = None) -> Any:
    return json_of(ses.build_request(letter, recipients or letter.recipients, Stamp()))


def mime(body: Any) -> Any:
    """The mail of a raw request, taken apart."""
    data = base64.b64decode(body["Content"]["Raw"]["Data"])
    return email.message_from_bytes(data, policy=email.policy.default)


def template(**fields: Any) -> Any:
    return two(text=None, template_id="receipt", private_copies=True, **fields)


@pytest.mark.parametrize("name", SINGLE)
def test_every_fixture_is_reproduced(name):
    """Method, URL, headers and the whole body are the fixture's."""
    given = fixture("ses", name)
    expected = given["request"]
    configuration_set = expected["json"].get("ConfigurationSetName")
    ses = built(PLAIN + (f"?configuration_set={configuration_set}" if configuration_set else ""))
    letter = ses.fit(letter_from_neutral(given["neutral"]))
    ses.check(letter)
    request = ses.build_request(letter, letter.recipients, Stamp())
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert request.headers["Content-Type"] == "application/json"
    assert json_of(request) == expected["json"]
    if "body_exact" in expected:
        assert request.data == expected["body_exact"].encode()


def test_the_raw_fixture_is_reproduced():
    """As decoded MIME: From, To, subject and body; Date and Message-ID are a letter's own."""
    given = fixture("ses", "request_raw")
    letter = letter_from_neutral(given["neutral"])
    expected = mime(given["request"]["json"])
    ours = mime({"Content": ses_request.raw(letter, None)})
    for name in ("From", "To", "Subject", "MIME-Version"):
        assert ours[name] == expected[name]
    assert ours.get_content().splitlines() == expected.get_content().splitlines()


def test_there_are_request_fixtures():
    """The tests above must not pass because they found nothing."""
    assert fixtures("ses", "request") == sorted([*SINGLE, "request_raw"])


def test_a_call_is_signed_and_carries_our_reference(ses):
    """Signed over the bytes that go out, with the reference as a message tag."""
    request = ses.request_for(a_call())
    assert "AKIDEXAMPLE/" in request.headers["Authorization"]
    assert "us-east-1/ses/aws4_request" in request.headers["Authorization"]
    [tag] = json_of(request)["EmailTags"]
    assert tag["Name"] == "deferred-mail-job"
    assert tag["Value"].startswith("42-")
    assert ses_request.is_tag(tag["Value"])


@pytest.mark.parametrize(
    "fields",
    [
        {"alternatives": (("text/calendar", "BEGIN:VCALENDAR"),)},
        {"headers": tuple((f"X-{i}", "y") for i in range(16))},
        {"headers": (("X-Name", "Ärger"),)},
        {"headers": (("X-Long", "y " * 500),)},
        {"headers": (("X-A", "1"), ("x-a", "2"))},
        {"text": None},
        {"parts": (Part(b"1", "application/pdf"),)},
        {"parts": (Part(b"1", "application/pdf", "a.pdf", headers=(("X-A", "b"),)),)},
        {"parts": (Part(b"From: a\r\n\r\nb", "message/rfc822", "a.eml"),)},
        {"parts": (Part(b"1", "image/png", "a.png", "inline", "c" * 79),), "html": "<p>"},
        {"parts": (Part(b"1", "image/png", "a.png", "inline", "logo"),)},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_simple_has_no_place_for_goes_as_raw_mime(ses, fields):
    """Nothing is dropped: the whole mail goes as we would hand it to an SMTP server, in ASCII."""
    letter = four(**fields)
    ses.check(letter)
    body = content(ses, letter)
    assert "FromEmailAddress" not in body
    assert body["Destination"]["BccAddresses"] == ["dan@example.net"]
    data = base64.b64decode(body["Content"]["Raw"]["Data"])
    assert data.isascii()
    assert b"dan@example.net" not in data
    assert mime(body)["To"] == "ann@example.net, bob@example.net"


def test_a_retry_of_some_shows_all_and_mails_only_them(ses):
    """To and Cc stay as the message says; the destination is who is still open, and nobody else."""
    letter = four()
    body = content(ses, letter, [letter.recipients[1], letter.recipients[3]])
    assert body["Destination"] == {"ToAddresses": [BOB], "BccAddresses": ["dan@example.net"]}
    assert mime(body)["To"] == f"{ANN}, {BOB}"
    assert mime(body)["Cc"] == "carol@example.net"


def test_without_its_bcc_a_letter_shows_the_same_and_stays_simple(ses):
    """Nobody could see them anyway, so the simple form says all."""
    letter = four()
    body = content(ses, letter, letter.recipients[:3])
    assert "Simple" in body["Content"]
    assert "BccAddresses" not in body["Destination"]


def test_private_copies_are_a_call_each_and_show_one_address(ses):
    """SES can put only the copies of a template into one call."""
    letter = two(private_copies=True)
    assert [len(group) for group in ses.calls(letter, letter.recipients)] == [1, 1]
    assert content(ses, letter, letter.recipients[1:])["Destination"] == {"ToAddresses": [BOB]}
    raw = two(private_copies=True, alternatives=(("text/calendar", "BEGIN"),))
    assert mime(content(ses, raw, raw.recipients[1:]))["To"] == BOB


def test_a_copy_has_its_own_headers_and_metadata(ses):
    """Those of its recipient replace the common ones of the same name."""
    letter = two(
        private_copies=True,
        headers=(("X-Order", "0"), ("X-Shop", "A")),
        metadata={"user": "0"},
        merge_headers={BOB: {"x-order": "2"}},
        merge_metadata={BOB: {"user": "2"}},
    )
    body = content(ses, letter, letter.recipients[1:])
    assert body["Content"]["Simple"]["Headers"] == [
        {"Name": "X-Shop", "Value": "A"},
        {"Name": "x-order", "Value": "2"},
    ]
    assert body["EmailTags"] == [{"Name": "user", "Value": "2"}]


def test_copies_of_a_template_go_fifty_at_a_time(ses):
    """120 of them are three calls."""
    people = [f"u{i}@example.net" for i in range(120)]
    letter = a_letter(*people, text=None, template_id="receipt", private_copies=True)
    ses.check(letter)
    assert [len(group) for group in ses.calls(letter, letter.recipients)] == [50, 50, 20]


def test_each_entry_of_a_bulk_call_has_all_of_its_values(ses):
    """Global values, own ones over them; headers and tags only where the recipient has its own."""
    letter = template(
        merge_global_data={"shop": "A", "name": "you"},
        merge_data={BOB: {"name": "Bob"}},
        merge_headers={BOB: {"X-Order": "2"}},
        merge_metadata={BOB: {"user": "2"}},
        metadata={"list": "x"},
        headers=(("X-Shop", "A"),),
        parts=(Part(b"1", "application/pdf", "a.pdf"),),
    )
    ses.check(letter)
    body = content(ses, letter)
    common = body["DefaultContent"]["Template"]
    assert json.loads(common["TemplateData"]) == {"shop": "A", "name": "you"}
    assert common["Headers"] == [{"Name": "X-Shop", "Value": "A"}]
    assert common["Attachments"][0]["FileName"] == "a.pdf"
    first, second = body["BulkEmailEntries"]
    data = [
        json.loads(e["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"])
        for e in (first, second)
    ]
    assert data == [{"shop": "A", "name": "you"}, {"shop": "A", "name": "Bob"}]
    assert "ReplacementHeaders" not in first
    assert "ReplacementTags" not in first
    assert second["ReplacementHeaders"] == [{"Name": "X-Order", "Value": "2"}]
    assert second["ReplacementTags"] == [
        {"Name": "list", "Value": "x"},
        {"Name": "user", "Value": "2"},
    ]


def test_a_template_for_a_visible_list_is_one_mail(ses):
    """SendEmail with the template, by name or by ARN."""
    letter = four(text=None, template_id="receipt", merge_global_data={"n": 1})
    ses.check(letter)
    body = content(ses, letter)
    assert body["Content"]["Template"] == {"TemplateName": "receipt", "TemplateData": '{"n": 1}'}
    assert body["Destination"]["CcAddresses"] == ["carol@example.net"]
    arn = "arn:aws:ses:us-east-1:123456789012:template/receipt"
    by_arn = content(ses, a_letter(text=None, template_id=arn))
    assert by_arn["Content"]["Template"]["TemplateArn"] == arn


def test_esp_extra_adds_fields_and_names_another_configuration_set():
    """What only SES knows is passed on; the set of the URL is a default."""
    ses = built(f"{PLAIN}?configuration_set=main")
    letter = a_letter(esp_extra={"ConfigurationSetName": "other", "TenantName": "t"})
    ses.check(letter)
    body = content(ses, letter)
    assert (body["ConfigurationSetName"], body["TenantName"]) == ("other", "t")


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("track_opens", a_letter(track_opens=True)),
        ("track_clicks", a_letter(track_clicks=False)),
        ("tags", a_letter(tags=("two words",))),
        ("tags", a_letter(tags=("订单",))),
        ("tags", a_letter(tags=("x" * 257,))),
        ("metadata", a_letter(metadata={"name": "a@b"})),
        ("metadata", a_letter(metadata={"a name": "x"})),
        ("metadata", a_letter(metadata={"empty": ""})),
        ("metadata", a_letter(metadata={"tag1": "x"}, tags=("y",))),
        ("metadata", a_letter(metadata={"deferred-mail-job": "17-0"})),
        ("merge_metadata", a_letter(private_copies=True, merge_metadata={ANN: {"a": "b c"}})),
        ("merge_metadata", a_letter(merge_metadata={ANN: {"a": "b"}})),
        ("merge_headers", a_letter(merge_headers={ANN: {"X-A": "b"}})),
        ("merge_data", a_letter(private_copies=True, merge_data={ANN: {"a": "b"}})),
        ("merge_data", two(text=None, template_id="t", merge_data={ANN: {"a": "b"}})),
        ("merge_global_data", a_letter(merge_global_data={"a": "b"})),
        ("template_id", a_letter(template_id="t")),
        ("attachments", template(parts=(Part(b"1", "application/pdf"),))),
        ("extra_headers", template(headers=(("X-A", "ü"),))),
        ("extra_headers", template(merge_headers={BOB: {"X-A": "ü"}})),
        ("recipients", a_letter("jörg@example.net")),
        ("recipients", a_letter(sender=Address("jörg@example.com"))),
        ("recipients", a_letter(reply_to=(Address("jörg@example.com"),))),
        ("esp_extra", a_letter(esp_extra={"Destination": {}})),
        ("esp_extra", a_letter(esp_extra={"FromEmailAddress": "x@example.com"})),
        ("esp_extra", template(esp_extra={"BulkEmailEntries": []})),
    ],
)
def test_what_ses_cannot_carry_is_refused_in_the_caller(ses, field, letter):
    """Refused with the field's name, instead of being left out or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        ses.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(51)))),
        ("attachments", a_letter(parts=(Part(bytes(31_500_000), "application/pdf", "a"),))),
        ("merge_data", template(merge_data={ANN: {"a": "x" * 262_144}})),
    ],
)
def test_what_is_too_large_for_ses_is_refused_in_the_caller(ses, field, letter):
    """50 visible recipients, 40 MB after base64, 256 KiB of values."""
    with pytest.raises(MessageTooLarge) as caught:
        ses.check(letter)
    assert caught.value.field == field


def test_what_can_be_dropped_is_dropped(ses):
    """Tags and metadata whose characters SES refuses, and switches that it does not have."""
    letter = ses.fit(
        two(
            private_copies=True,
            tags=("receipt", "two words"),
            metadata={"a": "1", "b": "ü"},
            merge_metadata={ANN: {"c": "x y", "d": "2"}},
            track_opens=True,
        )
    )
    ses.check(letter)
    assert (letter.tags, letter.metadata) == (("receipt",), {"a": "1"})
    assert letter.merge_metadata == {ANN: {"d": "2"}}


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("ses://a:b@eu-west-1", "https://email.eu-west-1.amazonaws.com"),
        ("ses://a:b@cn-north-1", "https://email.cn-north-1.amazonaws.com.cn"),
        ("ses://a:b@eu-west-1?endpoint=http://127.0.0.1:80/aws/", "http://127.0.0.1:80/aws"),
    ],
)
def test_the_region_or_the_option_names_the_endpoint(url, endpoint):
    """A path in the option stays in front of the API's own."""
    request = built(url).build_request(a_letter(), a_letter().recipients, Stamp())
    assert request.url == f"{endpoint}/v2/email/outbound-emails"


@pytest.mark.parametrize("place", ["email.us-east-1.amazonaws.com", "us-east-1:443", "us_east"])
def test_what_is_no_region_is_refused(place):
    """A host name there would be put into another host name."""
    with pytest.raises(ConfigurationError, match="region"):
        built(f"ses://a:b@{place}")


def test_no_secret_is_shown(ses):
    """Neither by repr nor in what is blotted out of answers by mistake."""
    assert "hush" not in repr(ses)
    assert ses.secrets() == ("hush-secret",)
