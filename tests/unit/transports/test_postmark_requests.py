"""Letters as requests to Postmark: the fixtures, batches, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flask_deferred_mail.errors import MessageTooLarge, UnsupportedFeature
from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.transports.provider import Stamp
from tests.support.json_providers import built, fixture, fixtures, json_of
from tests.support.transport_calls import a_call, a_letter, letter_from_neutral

URL = "postmark://server-token-test@default"
ANN, BOB = "ann@example.net", "bob@example.net"


@pytest.fixture
def postmark() -> Any:
    return built(URL)


def two(**fields: Any) -> Any:
    return a_letter(ANN, BOB, **fields)


def copies(**fields: Any) -> Any:
    return two(private_copies=True, **fields)


def of_template(**fields: Any) -> Any:
    return copies(text=None, subject="", template_id="receipt", **fields)


def four(**fields: Any) -> Any:
    """Ann and Bob in To, Carol in Cc, Dan in Bcc."""
    people = (("ann", "to"), ("bob", "to"), ("carol", "cc"), ("dan", "bcc"))
    return a_letter(
        recipients=tuple(Recipient(Address(f"{who}@example.net"), kind) for who, kind in people),
        **fields,
    )


def request(postmark: Any, letter: Any, recipients: Any = None) -> Any:
    return postmark.build_request(letter, recipients or letter.recipients, Stamp())


def content(postmark: Any, letter: Any, recipients: Any = None) -> Any:
    return json_of(request(postmark, letter, recipients))


@pytest.mark.parametrize("name", fixtures("postmark", "request"))
def test_every_fixture_is_reproduced(postmark, name):
    """Method, URL, headers and the whole body are the fixture's."""
    given = fixture("postmark", name)
    expected = given["request"]
    letter = postmark.fit(letter_from_neutral(given["neutral"]))
    postmark.check(letter)
    made = request(postmark, letter)
    assert (made.method, made.url) == (expected["method"], expected["url"])
    assert made.headers == expected["headers"]
    assert json_of(made) == expected["json"]


def test_there_are_request_fixtures():
    """The test above must not pass because it found nothing."""
    assert fixtures("postmark", "request") == ["request_batch", "request_full", "request_minimal"]


def test_a_call_carries_our_message_id_and_reference(postmark):
    """The one that the application or we gave stays; without the switch Postmark replaces it."""
    keep = {"Name": "X-PM-KeepID", "Value": "true"}
    body = json_of(postmark.request_for(a_call()))
    assert body["Headers"] == [{"Name": "Message-ID", "Value": "<20261122.1@example.com>"}, keep]
    assert body["Metadata"]["deferred-mail-job"].startswith("42-")
    own = a_letter(headers=(("Message-Id", "<own@example.com>"),))
    body = json_of(postmark.request_for(a_call(own)))
    assert body["Headers"] == [{"Name": "Message-Id", "Value": "<own@example.com>"}, keep]


@pytest.mark.parametrize(
    ("letter", "path"),
    [
        (two(), "/email"),
        (a_letter(private_copies=True), "/email"),
        (copies(), "/email/batch"),
        (a_letter(template_id="t", text=None, subject=""), "/email/withTemplate"),
        (of_template(), "/email/batchWithTemplates"),
    ],
)
def test_the_path_is_that_of_the_kind_of_mail(letter, path):
    """One mail or several, with its own text or a template's; behind any path of the endpoint."""
    postmark = built(f"{URL}?endpoint=http://127.0.0.1:8080/prefix/")
    postmark.check(letter)
    assert request(postmark, letter).url == f"http://127.0.0.1:8080/prefix{path}"


def test_the_message_stream_is_the_urls_or_the_mails(postmark):
    """A mail of another kind names its stream itself."""
    news = built(f"{URL}?stream=newsletter")
    assert content(news, a_letter())["MessageStream"] == "newsletter"
    letter = a_letter(esp_extra={"MessageStream": "alerts"})
    postmark.check(letter)
    assert content(postmark, letter)["MessageStream"] == "alerts"


def test_only_the_recipients_of_the_call_are_mailed(postmark):
    """Those who are settled already are in no field of the request."""
    letter = four()
    body = content(postmark, letter, [letter.recipients[1], letter.recipients[3]])
    assert (body["To"], body["Bcc"]) == (BOB, "dan@example.net")
    assert "Cc" not in body


def test_without_anybody_left_in_to_those_in_cc_stand_there(postmark):
    """Everybody has seen them anyway; Bcc stays hidden."""
    letter = four()
    body = content(postmark, letter, letter.recipients[2:])
    assert (body["To"], body["Bcc"]) == ("carol@example.net", "dan@example.net")
    assert "Cc" not in body


def test_bcc_recipients_alone_get_a_mail_each(postmark):
    """In one To they would see each other; one call takes all of them."""
    letter = a_letter(recipients=tuple(Recipient(Address(who), "bcc") for who in (ANN, BOB)))
    [group] = postmark.calls(letter, letter.recipients)
    assert [(m["To"], "Bcc" in m) for m in content(postmark, letter, group)] == [
        (ANN, False),
        (BOB, False),
    ]


def test_private_copies_go_five_hundred_at_a_time_or_as_many_as_fit(postmark):
    """A batch has a limit of bytes too, in which every copy of a file counts."""
    people = [f"u{i}@example.net" for i in range(1200)]

    def sizes(**fields: Any) -> list[int]:
        letter = a_letter(*people, private_copies=True, **fields)
        postmark.check(letter)
        return [len(group) for group in postmark.calls(letter, letter.recipients)]

    assert sizes() == [500, 500, 200]
    assert max(sizes(parts=(Part(bytes(3_000_000), "application/pdf", "a.pdf"),))) == 9
    values = {people[0]: {"a": "x" * 1_000_000}}
    assert max(sizes(text=None, subject="", template_id="t", merge_data=values)) < 50


def test_a_full_batch_stays_below_postmarks_limit(postmark):
    """Also where JSON needs two bytes for one."""
    letter = a_letter(
        *(f"u{i}@example.net" for i in range(500)), private_copies=True, html='"\n' * 100_000
    )
    [first, *_] = postmark.calls(letter, letter.recipients)
    assert len(first) > 50
    assert len(request(postmark, letter, first).data) < 50_000_000


def test_each_mail_of_a_batch_is_its_recipients_own(postmark):
    """Its To, values, headers and metadata; common ones where it has none."""
    letter = of_template(
        merge_global_data={"shop": "A", "items": [1]},
        merge_data={BOB: {"shop": "B"}},
        headers=(("X-Order", "0"), ("X-Shop", "A")),
        merge_headers={BOB: {"x-order": "2"}},
        metadata={"user": "0"},
        merge_metadata={BOB: {"user": "2"}},
    )
    postmark.check(letter)
    ann, bob = content(postmark, letter)["Messages"]
    assert (ann["To"], bob["To"]) == (ANN, BOB)
    assert ann["TemplateModel"] == {"shop": "A", "items": [1]}
    assert bob["TemplateModel"] == {"shop": "B", "items": [1]}
    assert [h["Value"] for h in ann["Headers"]] == ["0", "A"]
    assert bob["Headers"] == [
        {"Name": "X-Shop", "Value": "A"},
        {"Name": "x-order", "Value": "2"},
    ]
    assert (ann["Metadata"], bob["Metadata"]) == ({"user": "0"}, {"user": "2"})


@pytest.mark.parametrize(
    ("template", "field"),
    [("17", {"TemplateId": 17}), ("receipt-1", {"TemplateAlias": "receipt-1"})],
)
def test_a_template_has_a_number_or_an_alias(postmark, template, field):
    """And a model even without values: Postmark demands one."""
    body = content(postmark, a_letter(text=None, subject="", template_id=template))
    assert body.items() >= {**field, "TemplateModel": {}}.items()
    assert not {"Subject", "TextBody", "HtmlBody"} & set(body)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"track_opens": True, "track_clicks": True},
            {"TrackOpens": True, "TrackLinks": "HtmlAndText"},
        ),
        (
            {"track_opens": False, "track_clicks": False},
            {"TrackOpens": False, "TrackLinks": "None"},
        ),
        ({"esp_extra": {"TrackLinks": "HtmlOnly"}}, {"TrackLinks": "HtmlOnly"}),
    ],
)
def test_switches(postmark, fields, expected):
    """As Postmark names them; without a wish the server's own setting counts."""
    letter = a_letter(**fields)
    postmark.check(letter)
    found = content(postmark, letter)
    assert {name: found[name] for name in found if name.startswith("Track")} == expected


def test_a_header_that_stands_twice_stays_twice(postmark):
    """They are a list."""
    letter = a_letter(headers=(("X-A", "1"), ("x-a", "2")))
    postmark.check(letter)
    assert [h["Value"] for h in content(postmark, letter)["Headers"]] == ["1", "2"]


def test_an_image_without_a_name_is_called_by_its_content_id(postmark):
    """Postmark demands a name."""
    letter = a_letter(html="<img>", parts=(Part(b"1", "image/png", None, "inline", "logo"),))
    postmark.check(letter)
    [file] = content(postmark, letter)["Attachments"]
    assert (file["Name"], file["ContentID"]) == ("logo", "cid:logo")


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("tags", a_letter(tags=("a", "b"))),
        ("alternatives", a_letter(alternatives=(("text/calendar", "BEGIN"),))),
        (
            "attachment headers",
            a_letter(parts=(Part(b"1", "application/pdf", "a.pdf", headers=(("X-A", "b"),)),)),
        ),
        ("attachments", a_letter(parts=(Part(b"1", "application/pdf"),))),
        ("inline", a_letter(parts=(Part(b"1", "image/png", "a", "inline", "ein bild"),))),
        ("inline", a_letter(parts=(Part(b"1", "image/png", "a", "inline", "bïld"),))),
        ("merge_data", two(text=None, subject="", template_id="t", merge_data={ANN: {"a": "b"}})),
        ("merge_metadata", two(merge_metadata={ANN: {"a": "b"}})),
        ("merge_headers", two(merge_headers={ANN: {"X-A": "b"}})),
        ("merge_data", copies(merge_data={ANN: {"a": "b"}})),
        ("merge_global_data", a_letter(merge_global_data={"a": "b"})),
        ("metadata", a_letter(metadata={"n" * 21: "x"})),
        ("metadata", a_letter(metadata={"n": "x" * 81})),
        ("metadata", a_letter(metadata={f"n{i}": "x" for i in range(10)})),
        ("metadata", a_letter(metadata={"a": "1", "A": "2"})),
        ("metadata", a_letter(metadata={"Deferred-Mail-Job": "17-0"})),
        ("merge_metadata", copies(merge_metadata={ANN: {"n": "x" * 81}})),
        ("merge_metadata", copies(metadata={"a": "1"}, merge_metadata={ANN: {"A": "2"}})),
        ("template_id", a_letter(template_id="t", subject="")),
        ("subject", a_letter(template_id="t", text=None)),
        ("body", a_letter(text=None)),
        ("recipients", a_letter("jörg@example.net")),
        ("recipients", a_letter(sender=Address("jörg@example.com"))),
        ("esp_extra", a_letter(esp_extra={"To": "x@example.net"})),
        ("esp_extra", a_letter(esp_extra={"bcc": "x@example.net"})),
        ("esp_extra", a_letter(esp_extra={"From": "x@example.net"})),
        ("esp_extra", a_letter(esp_extra={"Metadata": {}})),
        ("esp_extra", a_letter(track_clicks=True, esp_extra={"TrackLinks": "HtmlOnly"})),
    ],
)
def test_what_postmark_cannot_carry_is_refused_in_the_caller(postmark, field, letter):
    """Refused with the field's name, instead of being left out, dropped, or failing later."""
    with pytest.raises(UnsupportedFeature) as caught:
        postmark.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "letter"),
    [
        ("recipients", a_letter(*(f"u{i}@example.net" for i in range(51)))),
        ("attachments", a_letter(parts=(Part(bytes(7_900_000), "application/pdf", "a.pdf"),))),
        ("body", a_letter(text="ü" * 2_700_000)),
        ("html", a_letter(html="x" * 5_242_881)),
    ],
)
def test_what_is_too_large_for_postmark_is_refused_in_the_caller(postmark, field, letter):
    """50 recipients who see each other, 10 MB after base64, 5 MB for a body."""
    with pytest.raises(MessageTooLarge) as caught:
        postmark.check(letter)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "letter",
    [
        a_letter(*(f"u{i}@example.net" for i in range(50))),
        a_letter(metadata={"n" * 20: "x" * 80, **{f"n{i}": "x" for i in range(8)}}),
        a_letter(html="x" * 5_242_880),
        a_letter(subject=""),
    ],
)
def test_what_fits_passes(postmark, letter):
    """The limits themselves are allowed."""
    postmark.check(letter)


def test_what_can_be_dropped_is_dropped(postmark):
    """All tags but the first, metadata that is too long or too much, a subject over a template."""
    letter = postmark.fit(
        of_template(
            tags=("receipt", "shop-a"),
            metadata={"a" * 21: "1", **{f"n{i}": "x" for i in range(12)}},
            merge_metadata={ANN: {"c": "x" * 81, "n1": "2"}},
        )
    )
    postmark.check(letter)
    assert letter.tags == ("receipt",)
    assert list(letter.metadata) == [f"n{i}" for i in range(9)]
    assert letter.merge_metadata == {ANN: {"n1": "2"}}
    assert postmark.fit(a_letter(template_id="t", text=None)).subject == ""
    assert postmark.fit(a_letter()).subject == "Hello"


def test_no_secret_is_shown(postmark):
    """Neither the object nor its parts show the token, and answers are cleaned of it."""
    assert "token-test" not in repr(postmark)
    assert postmark.secrets() == ("server-token-test",)
