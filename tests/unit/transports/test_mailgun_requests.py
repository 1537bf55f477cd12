"""Letters as requests to Mailgun: the fixtures, private copies, and what is refused."""

from __future__ import annotations

import base64
import calendar
import json
import time
from typing import Any

import pytest

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.transports.provider import Stamp
from tests.support.http_provider import Recorded
from tests.support.json_providers import built, fixture, fixtures
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

URL = "mailgun://key-test@mg.example.com"
ANN, BOB = "ann@example.net", "bob@example.net"
LONGEST_HEADER = 16_384


@pytest.fixture
def mailgun() -> Any:
    return built(URL)


def encoded(request: Any) -> Recorded:
    """The request as its bytes read, after requests' own encoding."""
    prepared = request.prepare()
    headers = {name.lower(): value for name, value in prepared.headers.items()}
    body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    return Recorded(prepared.method, prepared.url, headers, body, 1, 0.0)


def fields(mailgun: Any, letter: Any, recipients: Any = None, stamp: Stamp | None = None) -> Any:
    """The form, by name; lists of those that may stand twice."""
    request = mailgun.build_request(letter, recipients or letter.recipients, stamp or Stamp())
    found: dict[str, Any] = {}
    for name, value in encoded(request).fields:
        if name in ("to", "cc", "bcc", "o:tag"):
            found.setdefault(name, []).append(value)
        else:
            assert name not in found
            found[name] = value
    return found


def two(**more: Any) -> Any:
    return a_letter(ANN, BOB, **more)


def copies(**more: Any) -> Any:
    return two(private_copies=True, **more)


def four(**more: Any) -> Any:
    """Ann and Bob in To, Carol in Cc, Dan in Bcc."""
    people = (("ann", "to"), ("bob", "to"), ("carol", "cc"), ("dan", "bcc"))
    return a_letter(
        recipients=tuple(Recipient(Address(f"{who}@example.net"), kind) for who, kind in people),
        **more,
    )


def moment(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


@pytest.mark.parametrize("name", fixtures("mailgun", "request"))
def test_every_fixture_is_reproduced(name):
    """Method, URL, login, kind of body, every field in its order and every file."""
    given = fixture("mailgun", name)
    neutral, expected = given["neutral"], given["request"]
    mailgun = built(f"{URL}?schedule=native")
    letter = mailgun.fit(letter_from_neutral(neutral))
    mailgun.check(letter)
    stamp = Stamp(send_at=moment(neutral["send_at"]) if "send_at" in neutral else None)
    request = encoded(mailgun.build_request(letter, letter.recipients, stamp))
    assert (request.method, request.path) == (expected["method"], expected["url"])
    assert request.headers["authorization"] == f"Basic {login(expected['auth'])}"
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


def login(auth: dict[str, str]) -> str:
    return base64.b64encode(f"{auth['user']}:{auth['password']}".encode()).decode()


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert fixtures("mailgun", "request") == ["request_full", "request_minimal", "request_template"]


def test_a_call_carries_our_message_id_and_reference(mailgun):
    """One Message-ID over all attempts, and our name for the mail, which comes back in reports."""
    found = dict(encoded(mailgun.request_for(a_call())).fields)
    assert found["h:Message-Id"] == "<20261122.1@example.com>"
    assert found["v:deferred-mail-job"].startswith("42-")
    own = a_letter(headers=(("Message-ID", "<own@example.com>"),))
    found = dict(encoded(mailgun.request_for(a_call(own))).fields)
    assert "h:Message-Id" not in found
    assert found["h:Message-ID"] == "<own@example.com>"


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ("", "https://api.mailgun.net/v3/mg.example.com/messages"),
        ("?region=us", "https://api.mailgun.net/v3/mg.example.com/messages"),
        ("?region=eu", "https://api.eu.mailgun.net/v3/mg.example.com/messages"),
        ("?endpoint=http://127.0.0.1:8080", "http://127.0.0.1:8080/v3/mg.example.com/messages"),
        ("?endpoint=http://h/a/&region=eu", "http://h/a/v3/mg.example.com/messages"),
    ],
)
def test_region_and_endpoint_choose_the_host(options, url):
    """A path of the endpoint stays in front of Mailgun's own."""
    letter = a_letter()
    assert built(URL + options).build_request(letter, letter.recipients, Stamp()).url == url


def test_only_the_recipients_of_the_call_are_mailed(mailgun):
    """Those who are settled already are in no field of the request."""
    letter = four()
    found = fields(mailgun, letter, [letter.recipients[1], letter.recipients[3]])
    assert (found["to"], found["bcc"]) == ([BOB], ["dan@example.net"])
    assert "cc" not in found
    assert "recipient-variables" not in found


def test_without_anybody_left_in_to_those_in_cc_stand_there(mailgun):
    """Mailgun demands a To, and everybody has seen them anyway; Bcc stays hidden."""
    letter = four()
    found = fields(mailgun, letter, letter.recipients[2:])
    assert (found["to"], found["bcc"]) == (["carol@example.net"], ["dan@example.net"])
    assert "cc" not in found


def test_bcc_recipients_alone_get_a_mail_each(mailgun):
    """In one To they would see each other."""
    letter = a_letter(recipients=tuple(Recipient(Address(who), "bcc") for who in (ANN, BOB)))
    found = fields(mailgun, letter)
    assert found["to"] == [ANN, BOB]
    assert json.loads(found["recipient-variables"]) == {ANN: {}, BOB: {}}


def test_private_copies_go_a_thousand_at_a_time(mailgun):
    """Even without values ``recipient-variables`` is there: it is what keeps copies apart."""
    letter = a_letter(*(f"u{i}@example.net" for i in range(2500)), private_copies=True)
    mailgun.check(letter)
    groups = mailgun.calls(letter, letter.recipients)
    assert [len(group) for group in groups] == [1000, 1000, 500]
    variables = json.loads(fields(mailgun, letter, groups[0])["recipient-variables"])
    assert list(variables) == [r.email for r in groups[0]]


def test_everybody_has_a_value_for_every_name(mailgun):
    """Common values fill in, own ones win; what is missing is empty, not ``%recipient.n%``."""
    letter = copies(
        merge_global_data={"shop": "A", "name": "you"},
        merge_data={BOB: {"name": "Bob", "n": 3, "vip": True, "none": None}},
    )
    mailgun.check(letter)
    found = json.loads(fields(mailgun, letter)["recipient-variables"])
    assert found == {
        ANN: {"name": "you", "n": "", "vip": "", "none": "", "shop": "A"},
        BOB: {"name": "Bob", "n": 3, "vip": "true", "none": "", "shop": "A"},
    }


def test_a_templates_values_that_are_the_same_for_all_may_be_lists(mailgun):
    """They go as one piece of JSON, to a visible list too."""
    letter = two(text=None, template_id="t", merge_global_data={"items": [1, {"a": "b"}]})
    mailgun.check(letter)
    found = fields(mailgun, letter)
    assert json.loads(found["t:variables"]) == {"items": [1, {"a": "b"}]}
    assert "recipient-variables" not in found


def test_a_templates_values_for_each_go_by_way_of_the_variables(mailgun):
    """Common ones too then: how Mailgun would mix both ways is not documented."""
    letter = copies(
        text=None,
        template_id="t",
        merge_global_data={"shop": "A"},
        merge_data={ANN: {"name": "Ann"}},
    )
    found = fields(mailgun, letter)
    assert (found["v:name"], found["v:shop"]) == ("%recipient.name%", "%recipient.shop%")
    assert "t:variables" not in found
    assert json.loads(found["recipient-variables"])[BOB] == {"name": "", "shop": "A"}


def test_metadata_for_each_goes_by_way_of_the_variables(mailgun):
    """Under a prefix, so that it is no value of the text; common metadata stands in."""
    letter = copies(metadata={"a": "0", "b": "1"}, merge_metadata={BOB: {"a": "2"}})
    found = fields(mailgun, letter, stamp=Stamp(reference="42-0"))
    assert (found["v:a"], found["v:b"]) == ("%recipient.v:a%", "1")
    assert found["v:deferred-mail-job"] == "42-0"
    assert json.loads(found["recipient-variables"]) == {ANN: {"v:a": "0"}, BOB: {"v:a": "2"}}


def test_header_fields_for_each_share_a_call_only_with_the_same_names(mailgun):
    """In one call, who has no value would get an empty field."""
    letter = a_letter(
        ANN,
        BOB,
        "carol@example.net",
        private_copies=True,
        headers=(("X-A", "0"), ("X-B", "1")),
        merge_headers={ANN: {"x-a": "1"}, "carol@example.net": {"x-a": "2"}},
    )
    mailgun.check(letter)
    first, second = mailgun.calls(letter, letter.recipients)
    assert [r.email for r in first] == [ANN, "carol@example.net"]
    found = fields(mailgun, letter, first)
    assert (found["h:x-a"], found["h:X-B"]) == ("%recipient.h:x-a%", "1")
    assert "h:X-A" not in found
    variables = json.loads(found["recipient-variables"])
    assert variables == {ANN: {"h:x-a": "1"}, "carol@example.net": {"h:x-a": "2"}}
    found = fields(mailgun, letter, second)
    assert (found["to"], found["h:X-A"]) == ([BOB], "0")


def test_switches_and_extra_fields(mailgun):
    """Tracking as yes and no; what only Mailgun knows is passed on, lists as several fields."""
    letter = a_letter(
        track_opens=True,
        track_clicks=False,
        alternatives=(("text/x-amp-html", "<html amp4email>"),),
        esp_extra={"o:testmode": "yes", "o:require-tls": True, "o:x": [1, "b"]},
    )
    mailgun.check(letter)
    sent = encoded(mailgun.build_request(letter, letter.recipients, Stamp())).fields
    for pair in (
        ("o:tracking-opens", "yes"),
        ("o:tracking-clicks", "no"),
        ("amp-html", "<html amp4email>"),
        ("o:testmode", "yes"),
        ("o:require-tls", "true"),
        ("o:x", "1"),
        ("o:x", "b"),
    ):
        assert pair in sent


def test_file_names_beyond_ascii_stay_what_they_are(mailgun):
    """As UTF-8, and with quotes as percent codes, as browsers do."""
    letter = a_letter(parts=(Part(b"1", "application/pdf", '账单 "1".pdf'),))
    [file] = encoded(mailgun.build_request(letter, letter.recipients, Stamp())).files
    assert file.filename == "账单 %221%22.pdf"


def extra(**more: Any) -> Any:
    return a_letter(esp_extra=more)


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("attachments", a_letter(parts=(Part(b"1", "application/pdf"),))),
        (
            "attachment headers",
            a_letter(parts=(Part(b"1", "application/pdf", "a.pdf", headers=(("X-A", "b"),)),)),
        ),
        ("tags", a_letter(tags=tuple(f"t{i}" for i in range(11)))),
        ("tags", a_letter(tags=("ü",))),
        ("tags", a_letter(tags=("x" * 129,))),
        ("alternatives", a_letter(alternatives=(("text/calendar", "BEGIN"),))),
        ("alternatives", a_letter(alternatives=(("text/x-amp-html", "a"),) * 2)),
        ("merge_data", two(merge_data={ANN: {"a": "b"}})),
        ("merge_metadata", two(merge_metadata={ANN: {"a": "b"}})),
        ("merge_headers", two(merge_headers={ANN: {"X-A": "b"}})),
        ("merge_global_data", two(merge_global_data={"a": "b"})),
        ("merge_data", copies(merge_data={ANN: {"a": ["b"]}})),
        ("merge_data", copies(merge_global_data={"a": {"b": "c"}})),
        ("merge_data", copies(merge_data={ANN: {"100%": "b"}})),
        ("merge_metadata", copies(merge_metadata={ANN: {"100%": "b"}})),
        (
            "merge_data",
            copies(text=None, template_id="t", metadata={"a": "1"}, merge_data={ANN: {"a": "b"}}),
        ),
        (
            "merge_data",
            copies(text=None, template_id="t", merge_data={ANN: {"deferred-mail-job": "b"}}),
        ),
        ("metadata", a_letter(metadata={"deferred-mail-job": "17-0"})),
        ("metadata", copies(merge_metadata={ANN: {"deferred-mail-job": "17-0"}})),
        ("template_id", a_letter(template_id="t")),
        ("template_id", a_letter(text=None, html="<p>", template_id="t")),
        ("extra_headers", a_letter(headers=(("X-A", "1"), ("x-a", "2")))),
        ("extra_headers", a_letter(headers=(("X-Mailgun-Variables", "{}"),))),
        ("body", a_letter(text=None)),
        ("sender", a_letter(sender=Address("jörg@example.com"))),
        ("reply_to", a_letter(reply_to=(Address("jörg@example.com"),))),
        ("esp_extra", extra(to="x@example.net")),
        ("esp_extra", extra(Bcc="x@example.net")),
        ("esp_extra", extra(**{"from": "x@example.net"})),
        ("esp_extra", extra(**{"recipient-variables": "{}"})),
        ("esp_extra", extra(**{"h:To": "x@example.net"})),
        ("esp_extra", extra(**{"V:deferred-mail-job": "x"})),
        ("esp_extra", extra(**{"o:deliverytime": "x"})),
        ("esp_extra", a_letter(track_clicks=True, esp_extra={"o:tracking-clicks": "htmlonly"})),
    ],
)
def test_what_mailgun_cannot_carry_is_refused_in_the_caller(mailgun, field, letter):
    """Refused with the field's name, instead of being left out, dropped, or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        mailgun.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(1001)))),
        ("attachments", a_letter(parts=(Part(bytes(19_700_000), "application/pdf", "a.pdf"),))),
        ("metadata", a_letter(headers=(("X-A", "x" * LONGEST_HEADER),))),
        ("metadata", a_letter(metadata={f"n{i}": "ü" * 900 for i in range(10)})),
        (
            "metadata",
            a_letter(text=None, template_id="t", merge_global_data={"a": "x" * LONGEST_HEADER}),
        ),
    ],
)
def test_what_is_too_large_for_mailgun_is_refused_in_the_caller(mailgun, field, letter):
    """1000 recipients who see each other, 25 MB after base64, 16 kB of options, in bytes."""
    with pytest.raises(MessageTooLarge) as caught:
        mailgun.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "letter",
    [
        a_letter(*(f"u{i}@example.net" for i in range(1000))),
        a_letter("jörg@example.net"),
        a_letter(metadata={f"n{i}": "x" * 1000 for i in range(15)}),
        a_letter(tags=tuple(f"t{i}" for i in range(10))),
        copies(merge_data={ANN: {"a": "x" * 100_000}}),
        a_letter(esp_extra={"o:tracking-clicks": "htmlonly"}),
        a_letter(text=None, template_id="t", subject=""),
    ],
)
def test_what_fits_passes(mailgun, letter):
    """The limits themselves are allowed; values of recipients have none."""
    mailgun.check(letter)


def test_what_can_be_dropped_is_dropped(mailgun):
    """Tags beyond the tenth or beyond ASCII, other alternatives than AMP, headers of files."""
    letter = mailgun.fit(
        a_letter(
            tags=("ü", *(f"t{i}" for i in range(12))),
            alternatives=(("text/calendar", "BEGIN"), ("text/x-amp-html", "a")),
            parts=(Part(b"1", "application/pdf", "a.pdf", headers=(("X-A", "b"),)),),
        )
    )
    mailgun.check(letter)
    assert letter.tags == tuple(f"t{i}" for i in range(10))
    assert letter.alternatives == (("text/x-amp-html", "a"),)


def test_no_secret_is_shown(mailgun):
    """Neither the object nor its parts show the key, and answers are cleaned of it."""
    assert "key-test" not in repr(mailgun)
    assert "key-test" in mailgun.secrets()
