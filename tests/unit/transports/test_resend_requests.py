"""Letters as requests to Resend: the fixtures, batches, and what is refused."""

from __future__ import annotations

import calendar
import time
from dataclasses import replace
from typing import Any

import pytest

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.transports import resend_request
from flask_deferred_mail.transports.provider import Stamp
from tests.support.json_providers import built, fixture, fixtures, json_of
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

NATIVE = "resend://re_test@default?schedule=native"
ANN = "ann@example.net"
BOB = "bob@example.net"


@pytest.fixture
def resend() -> Any:
    return built("resend://re_test@default")


def two(**fields: Any) -> Any:
    return a_letter(ANN, BOB, **fields)


def copies(**fields: Any) -> Any:
    return two(private_copies=True, **fields)


def four(**fields: Any) -> Any:
    """Ann and Bob in To, Carol in Cc, Dan in Bcc."""
    people = (("ann", "to"), ("bob", "to"), ("carol", "cc"), ("dan", "bcc"))
    return a_letter(
        recipients=tuple(Recipient(Address(f"{who}@example.net"), kind) for who, kind in people),
        **fields,
    )


def content(resend: Any, letter: Any, recipients: Any = None) -> Any:
    return json_of(resend.build_request(letter, recipients or letter.recipients, Stamp()))


def moment(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


@pytest.mark.parametrize("name", fixtures("resend", "request"))
def test_every_fixture_is_reproduced(name):
    """Method, URL, headers and the whole body are the fixture's."""
    given = fixture("resend", name)
    neutral, expected = given["neutral"], given["request"]
    resend = built(NATIVE)
    letter = resend.fit(letter_from_neutral(neutral))
    resend.check(letter)
    if name == "request_batch":
        letter = copies(text="Hi\n")
    stamp = Stamp(
        idempotency_key=expected["headers"]["Idempotency-Key"],
        send_at=moment(neutral["send_at"]) if "send_at" in neutral else None,
    )
    request = resend.build_request(letter, letter.recipients, stamp)
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert request.headers == expected["headers"]
    assert json_of(request) == expected["json"]


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert fixtures("resend", "request") == [
        "request_batch",
        "request_full",
        "request_minimal",
        "request_template",
    ]


def test_a_call_carries_our_reference_and_key(resend):
    """The key in its header, the reference as a tag; no Message-ID, which Resend makes itself."""
    request = resend.request_for(a_call(key="abc123"))
    assert request.headers["Idempotency-Key"] == "abc123"
    body = json_of(request)
    [tag] = body["tags"]
    assert tag["name"] == "deferred-mail-job"
    assert resend_request.is_tag(tag["value"])
    assert "headers" not in body


def test_the_same_call_gives_the_same_bytes(resend):
    """Resend compares the body when it sees a key again."""
    letter = copies(metadata={"a": "1"}, tags=("b",), headers=(("X-A", "1"),))
    first, second = (resend.request_for(a_call(letter)).data for _ in range(2))
    assert first == second


def test_only_the_recipients_of_the_call_are_mailed(resend):
    """Those who are settled already are in no field of the request."""
    letter = four()
    body = content(resend, letter, [letter.recipients[1], letter.recipients[3]])
    assert (body["to"], body["bcc"]) == ([BOB], ["dan@example.net"])
    assert "cc" not in body


def test_without_anybody_left_in_to_those_in_cc_stand_there(resend):
    """Resend demands a To, and everybody has seen them anyway; Bcc stays hidden."""
    letter = four()
    [group] = resend.calls(letter, letter.recipients[2:])
    body = content(resend, letter, group)
    assert (body["to"], body["bcc"]) == (["carol@example.net"], ["dan@example.net"])
    assert "cc" not in body


def test_bcc_recipients_alone_are_mailed_one_by_one(resend):
    """In one To they would see each other."""
    letter = a_letter(
        recipients=tuple(Recipient(Address(f"u{i}@example.net"), "bcc") for i in range(3))
    )
    groups = resend.calls(letter, letter.recipients)
    assert [len(group) for group in groups] == [1, 1, 1]
    assert content(resend, letter, groups[1])["to"] == ["u1@example.net"]
    assert "bcc" not in content(resend, letter, groups[1])


def test_private_copies_go_a_hundred_at_a_time_and_files_one_at_a_time(resend):
    """A batch takes no files; huge mails are fewer to a batch."""
    people = [f"u{i}@example.net" for i in range(250)]

    def sizes(**fields: Any) -> list[int]:
        letter = a_letter(*people, private_copies=True, **fields)
        resend.check(letter)
        return [len(group) for group in resend.calls(letter, letter.recipients)]

    assert sizes() == [100, 100, 50]
    assert sizes(parts=(Part(b"1", "application/pdf", "a.pdf"),)) == [1] * 250
    assert max(sizes(html="x" * 1_000_000)) == 9


def test_each_mail_of_a_batch_is_its_recipients_own(resend):
    """Its To, variables, headers and metadata; common values where it has none."""
    letter = copies(
        text=None,
        template_id="receipt",
        merge_global_data={"shop": "A", "name": "you"},
        merge_data={BOB: {"name": "Bob"}},
        headers=(("X-Order", "0"), ("X-Shop", "A")),
        merge_headers={BOB: {"x-order": "2"}},
        metadata={"user": "0"},
        merge_metadata={BOB: {"user": "2"}},
    )
    resend.check(letter)
    ann, bob = content(resend, letter)
    assert (ann["to"], bob["to"]) == ([ANN], [BOB])
    assert ann["template"] == {"id": "receipt", "variables": {"shop": "A", "name": "you"}}
    assert bob["template"]["variables"] == {"shop": "A", "name": "Bob"}
    assert ann["headers"] == {"X-Order": "0", "X-Shop": "A"}
    assert bob["headers"] == {"X-Shop": "A", "x-order": "2"}
    assert ann["tags"] == [{"name": "user", "value": "0"}]
    assert bob["tags"] == [{"name": "user", "value": "2"}]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Ann", "Ann <a@example.net>"),
        ("示例商店 Shop", "示例商店 Shop <a@example.net>"),
        ("Bob, Jr.", '"Bob, Jr." <a@example.net>'),
        ('The "Boss"', '"The \\"Boss\\"" <a@example.net>'),
        ("a <b@example.net>", '"a <b@example.net>" <a@example.net>'),
        ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <a@example.net>"),
    ],
)
def test_a_name_stays_a_name(name, written):
    """Quoted where it could be read as something else, encoded where quotes do not help."""
    assert resend_request.mailbox(Address("a@example.net", name)) == written


def test_esp_extra_adds_fields(resend):
    """What only Resend knows is passed on, to every mail of a batch."""
    letter = copies(esp_extra={"topic_id": "t"})
    resend.check(letter)
    assert [mail["topic_id"] for mail in content(resend, letter)] == ["t", "t"]


def test_resend_keeps_no_mail_with_files_and_no_batch_until_its_time():
    """Those wait in our own queue, although the URL asks for the provider's."""
    native, plain = built(NATIVE), built("resend://re_test@default")
    file = (Part(b"1", "application/pdf", "a.pdf"),)
    assert native.keeps_for(two()) == 30 * 86400
    assert native.keeps_for(a_letter(private_copies=True)) == 30 * 86400
    assert native.keeps_for(two(parts=file)) is None
    assert native.keeps_for(copies()) is None
    assert plain.keeps_for(two()) is None


def test_a_mail_that_resend_cannot_keep_is_never_sent_with_a_time():
    """Somebody asked for it now, although its own time is later: a time would have it refused."""
    native = built(NATIVE)
    file = (Part(b"1", "application/pdf", "a.pdf"),)
    for letter, is_told in ((two(), True), (two(parts=file), False)):
        call = replace(a_call(letter), send_at=1795336200.0)
        assert ("scheduled_at" in json_of(native.request_for(call))) is is_told


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("track_opens", a_letter(track_opens=True)),
        ("alternatives", a_letter(alternatives=(("text/calendar", "BEGIN"),))),
        (
            "attachment headers",
            a_letter(parts=(Part(b"1", "application/pdf", "a.pdf", headers=(("X-A", "b"),)),)),
        ),
        ("tags", a_letter(tags=("two words",))),
        ("metadata", a_letter(metadata={"name": "a@b"})),
        ("metadata", a_letter(metadata={"tag1": "x"}, tags=("y",))),
        ("metadata", a_letter(metadata={"deferred-mail-job": "17-0"})),
        ("merge_metadata", copies(merge_metadata={ANN: {"a": "b c"}})),
        ("merge_metadata", two(merge_metadata={ANN: {"a": "b"}})),
        ("merge_headers", two(merge_headers={ANN: {"X-A": "b"}})),
        ("merge_data", copies(merge_data={ANN: {"a": "b"}})),
        ("merge_data", two(text=None, template_id="t", merge_data={ANN: {"a": "b"}})),
        ("merge_global_data", a_letter(merge_global_data={"a": "b"})),
        ("template_id", a_letter(template_id="t")),
        ("extra_headers", a_letter(headers=(("X-A", "1"), ("x-a", "2")))),
        ("body", a_letter(text=None)),
        ("subject", a_letter(subject="")),
        ("attachments", a_letter(parts=(Part(b"1", "application/pdf"),))),
        ("attachments", a_letter(parts=(Part(b"1", "text/csv", "data.txt"),))),
        ("attachments", a_letter(parts=(Part(b"1", "text/plain; charset=utf-8", "a.PDF"),))),
        ("recipients", a_letter("jörg@example.net")),
        ("esp_extra", a_letter(esp_extra={"to": ["x@example.net"]})),
        ("esp_extra", a_letter(esp_extra={"from": "x@example.net"})),
        ("esp_extra", a_letter(esp_extra={"bcc": "x@example.net"})),
    ],
)
def test_what_resend_cannot_carry_is_refused_in_the_caller(resend, field, letter):
    """Refused with the field's name, instead of being left out, dropped, or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        resend.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(51)))),
        ("attachments", a_letter(parts=(Part(bytes(31_500_000), "application/pdf", "a.pdf"),))),
    ],
)
def test_what_is_too_large_for_resend_is_refused_in_the_caller(resend, field, letter):
    """50 recipients who see each other, 40 MB after base64."""
    with pytest.raises(MessageTooLarge) as caught:
        resend.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("content_type", "filename"),
    [
        ("application/pdf", "a.pdf"),
        ("text/plain; charset=utf-8", "a.txt"),
        ("application/octet-stream", "a.pdf"),
        ("text/xml", "a.xml"),
        ("application/x-odd", "a.odd"),
        ("application/x-odd", "LICENSE"),
        ("application/gzip", "a.csv.gz"),
    ],
)
def test_a_file_whose_type_fits_its_name_passes(resend, content_type, filename):
    """So do types and extensions that nobody has heard of, and bare octets."""
    resend.check(a_letter(parts=(Part(b"1", content_type, filename),)))


def test_bare_octets_are_sent_without_a_type(resend):
    """It would contradict the extension, and Resend drops such mails; the name tells enough."""
    letter = a_letter(parts=(Part(b"1", "application/octet-stream", "a.pdf"),))
    assert content(resend, letter)["attachments"] == [{"filename": "a.pdf", "content": "MQ=="}]


def test_what_can_be_dropped_is_dropped(resend):
    """Tags and metadata whose characters Resend refuses, and switches that it does not have."""
    letter = resend.fit(
        copies(
            tags=("receipt", "two words"),
            metadata={"a": "1", "b": "ü"},
            merge_metadata={ANN: {"c": "x y", "d": "2"}},
            track_clicks=True,
            alternatives=(("text/calendar", "BEGIN"),),
        )
    )
    resend.check(letter)
    assert (letter.tags, letter.metadata) == (("receipt",), {"a": "1"})
    assert letter.merge_metadata == {ANN: {"d": "2"}}


def test_the_option_replaces_the_endpoint_and_keeps_its_path():
    """A proxy may have a path of its own."""
    resend = built("resend://re_test@default?endpoint=http://127.0.0.1:8080/resend/")
    request = resend.build_request(a_letter(), a_letter().recipients, Stamp())
    assert request.url == "http://127.0.0.1:8080/resend/emails"


def test_no_secret_is_shown():
    """The key is in no repr, and blotted out of answers."""
    resend = built("resend://re_hush@default")
    assert "hush" not in repr(resend)
    assert resend.secrets() == ("re_hush",)
