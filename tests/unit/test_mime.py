"""A letter as bytes: its header fields, its layers, and what it refuses to write."""

from __future__ import annotations

import re
import tracemalloc
from email import message_from_bytes, policy
from email.message import EmailMessage
from hashlib import sha256

import pytest

from flask_deferred_mail.errors import AddressError, BadHeaderError, MessageError
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.mime import (
    address_needs_utf8,
    checked_header_names,
    header_needs_utf8,
    needs_smtputf8,
    render,
)

ANN = Recipient(Address("ann@example.com", "Ann"))
BOB = Recipient(Address("bob@example.com"), "cc")
EVE = Recipient(Address("eve@example.com"), "bcc")
IMAGE = Part(b"\x89PNG", "image/png", "logo.png", "inline", "logo@shop")
REPORT = Part(b"%PDF", "application/pdf", "report.pdf")


def letter(**fields: object) -> Letter:
    known: dict[str, object] = {
        "sender": Address("shop@example.com", "The Shop"),
        "recipients": (ANN,),
        "envelope_sender": "bounce@example.com",
        "message_id": "<5f0c6d@example.com>",
        "date": "Mon, 01 Jan 2024 10:00:00 +0000",
        "subject": "Welcome",
        "text": "Hello",
        **fields,
    }
    return Letter(**known)  # type: ignore[arg-type]  # tests give only known fields


def parsed(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def shape(message: EmailMessage) -> object:
    """The layers as nested lists of content types."""
    if not message.is_multipart() or message.get_content_maintype() == "message":
        return message.get_content_type()
    return [message.get_content_subtype(), *(shape(part) for part in message.iter_parts())]


def test_small_letter_byte_for_byte():
    """The plainest letter is these bytes, on every Python and for ever."""
    assert render(letter()) == (
        b"From: The Shop <shop@example.com>\r\n"
        b"To: Ann <ann@example.com>\r\n"
        b"Subject: Welcome\r\n"
        b"Date: Mon, 01 Jan 2024 10:00:00 +0000\r\n"
        b"Message-ID: <5f0c6d@example.com>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"Hello\r\n"
    )


def test_rich_letter_has_known_digest():
    """All layers at once give the same bytes on every Python: their digest is written down."""
    rich = letter(
        subject="Größe 👩‍👩‍👧‍👦 and more",
        text="Schöne Grüße\n",
        html="<img src='cid:logo@shop'>\n",
        alternatives=(("text/calendar; method=REQUEST", "BEGIN:VCALENDAR\nEND:VCALENDAR\n"),),
        parts=(IMAGE, Part(bytes(range(256)) * 300, "text/csv", "Zahlen für März.csv")),
    )
    assert sha256(render(rich)).hexdigest() == (
        "b411d717d7872b24092cef219798ed236ae1340fe58d83ce60a555d62dc04bb7"
    )


def test_fields_stand_in_order():
    """From, To, Cc, Reply-To, Subject, Date, Message-ID, MIME-Version, added ones, Content-*."""
    full = letter(
        recipients=(EVE, BOB, ANN),
        reply_to=(Address("help@example.com"), Address("desk@example.com")),
        headers=(("X-A", "1"), ("List-Unsubscribe", "<https://example.com/u>")),
    )
    assert checked_header_names(render(full)) == [
        *("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "MIME-Version"),
        *("X-A", "List-Unsubscribe", "Content-Type", "Content-Transfer-Encoding"),
    ]


def test_bcc_is_nowhere():
    """A hidden recipient stands in no line of the message."""
    raw = render(letter(recipients=(ANN, BOB, EVE)))
    assert b"eve@" not in raw
    assert b"bcc" not in raw.lower()


def test_hidden_recipients_only():
    """A letter to hidden recipients only shows an empty group, so that no relay adds them."""
    message = parsed(render(letter(recipients=(EVE,))))
    assert message["To"] == "undisclosed-recipients:;"
    assert message["To"].addresses == ()


def test_cc_only_has_no_to():
    """With a Cc, there is somebody to be seen, and To is left out."""
    names = checked_header_names(render(letter(recipients=(BOB, EVE))))
    assert "To" not in names
    assert "Cc" in names


@pytest.mark.parametrize("recipient", [ANN, BOB, EVE])
def test_private_copy_shows_one_recipient(recipient):
    """A private copy names its reader in To, whatever field they were given in, and nobody else."""
    message = parsed(render(letter(recipients=(ANN, BOB, EVE)), recipient))
    assert [a.addr_spec for a in message["To"].addresses] == [recipient.email]
    assert message["Cc"] is None
    assert sum(email in message.as_string() for email in ("ann@", "bob@", "eve@")) == 1


def test_private_copies_differ_in_boundaries():
    """The boundary derives from the recipient too, the Message-ID stays the same."""
    both = letter(recipients=(ANN, EVE), html="<p>")
    ann, eve = parsed(render(both, ANN)), parsed(render(both, EVE))
    assert ann.get_boundary() != eve.get_boundary()
    assert ann["Message-ID"] == eve["Message-ID"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "text/plain"),
        ({"text": None}, "text/plain"),
        ({"text": ""}, "text/plain"),
        ({"text": None, "html": "<p>"}, "text/html"),
        ({"text": "", "html": "<p>"}, "text/html"),
        ({"html": "<p>"}, ["alternative", "text/plain", "text/html"]),
        ({"text": None, "parts": (REPORT,)}, ["mixed", "application/pdf"]),
        ({"parts": (REPORT,)}, ["mixed", "text/plain", "application/pdf"]),
        (
            {"html": "<p>", "parts": (REPORT, REPORT)},
            ["mixed", ["alternative", "text/plain", "text/html"], *["application/pdf"] * 2],
        ),
        (
            {"text": None, "html": "<p>", "parts": (IMAGE,)},
            ["related", "text/html", "image/png"],
        ),
        (
            {"html": "<p>", "parts": (REPORT, IMAGE), "alternatives": (("text/calendar", "B"),)},
            [
                "mixed",
                [
                    *("alternative", "text/plain"),
                    *(["related", "text/html", "image/png"], "text/calendar"),
                ],
                "application/pdf",
            ],
        ),
        ({"parts": (IMAGE,)}, ["mixed", "text/plain", "image/png"]),
        (
            {"text": None, "alternatives": (("text/calendar", "BEGIN"),)},
            "text/calendar",
        ),
        (
            {"html": "<p>", "alternatives": (("text/x-amp-html", "<html>"),)},
            ["alternative", "text/plain", "text/x-amp-html", "text/html"],
        ),
    ],
)
def test_layers(fields, expected):
    """Only the layers that hold more than one thing are there."""
    assert shape(parsed(render(letter(**fields)))) == expected


def test_inline_image_is_found_by_its_id():
    """An image that the HTML shows stands beside it, under the identifier that it is shown by."""
    message = parsed(render(letter(html='<img src="cid:logo@shop">', parts=(IMAGE,))))
    related = message.get_payload()[1]
    assert related.get_param("type") == "text/html"
    image = related.get_payload()[1]
    assert image["Content-ID"] == "<logo@shop>"
    assert image.get_content_disposition() == "inline"
    assert image.get_payload(decode=True) == b"\x89PNG"


def test_inline_part_without_id_is_a_file():
    """An inline part that no HTML can point at stands with the attachments."""
    part = Part(b"x", "text/x-patch", "fix.patch", "inline")
    message = parsed(render(letter(html="<p>", parts=(part,))))
    assert shape(message) == [
        "mixed",
        ["alternative", "text/plain", "text/html"],
        "text/x-patch",
    ]
    assert message.get_payload()[1].get_content_disposition() == "inline"


def test_id_among_part_headers_counts():
    """A Content-ID given as a further header, as Flask-Mail's users do, is one."""
    part = Part(b"x", "image/png", disposition="inline", headers=(("Content-ID", "<a@b>"),))
    message = parsed(render(letter(text=None, html="<p>", parts=(part,))))
    assert shape(message) == ["related", "text/html", "image/png"]
    assert message.get_payload()[1]["Content-ID"] == "<a@b>"


def test_calendar_keeps_its_parameters():
    """The parameters of an alternative's type stay, its charset is the one that was used."""
    kind = 'text/calendar; charset="latin-1"; method=REQUEST'
    message = parsed(render(letter(alternatives=((kind, "BEGIN:VCALENDAR é\n"),))))
    calendar = message.get_payload()[1]
    assert calendar.get_param("method") == "REQUEST"
    assert calendar.get_content_charset() == "utf-8"
    assert calendar.get_payload(decode=True).decode() == "BEGIN:VCALENDAR é\r\n"


def test_alternative_that_is_no_text_keeps_its_bytes():
    """JSON and the like have no line ends to be normalised."""
    message = parsed(render(letter(alternatives=(("application/ld+json", '{"a":\n"é"}'),))))
    assert message.get_payload()[1].get_payload(decode=True).decode() == '{"a":\n"é"}'


def test_text_attachment_keeps_its_bytes():
    """A text file is a file: its line ends are not touched."""
    data = b"a\nb\r\nc\rd \n.\n"
    message = parsed(render(letter(parts=(Part(data, "text/plain; charset=utf-8", "a.txt"),))))
    assert message.get_payload()[1].get_payload(decode=True) == data


def test_message_attachment_is_not_encoded():
    """A message as attachment goes out as it is (RFC 2046 section 5.2.1), with CRLF ends."""
    inner = b"Subject: inner\n\nbody\n"
    raw = render(letter(parts=(Part(inner, "message/rfc822", "old.eml"),)))
    attached = parsed(raw).get_payload()[1]
    assert attached["Content-Transfer-Encoding"] == "7bit"
    assert attached.get_payload()[0]["Subject"] == "inner"
    assert inner.replace(b"\n", b"\r\n") in raw


@pytest.mark.parametrize(
    "inner",
    [b"Subject: \xc3\xa9\r\n\r\n", b"a: b\r\n\r\n" + b"x" * 999, b"a: \rb", b"From x\na: b\n"],
)
def test_message_attachment_that_is_not_seven_bit(inner):
    """A message that cannot go out as it is goes as a file of octets instead."""
    message = parsed(render(letter(parts=(Part(inner, "message/rfc822", "old.eml"),))))
    attached = message.get_payload()[1]
    assert attached.get_content_type() == "application/octet-stream"
    assert attached.get_payload(decode=True) == inner
    assert attached.get_filename() == "old.eml"


def test_multipart_attachment_is_octets():
    """A multipart as attachment would need its boundary and may not be encoded: octets."""
    message = parsed(render(letter(parts=(Part(b"--x", "multipart/mixed", "a"),))))
    assert message.get_payload()[1].get_content_type() == "application/octet-stream"


def test_boundary_in_the_content_is_avoided():
    """Content that holds the boundary gets another one, the same at every attempt."""
    boundary = parsed(render(letter(html="<p>"))).get_boundary()
    trap = letter(text=f"--{boundary}\n--{boundary}--", html="<p>")
    message = parsed(render(trap))
    assert message.get_boundary() != boundary
    assert message.get_payload()[0].get_payload() == f"--{boundary}\r\n--{boundary}--"
    assert render(trap) == render(trap)


def test_long_recipient_list_is_folded_between_members():
    """A thousand recipients stand in short lines, each whole."""
    many = tuple(Recipient(Address(f"user{n}@example.com", f"User {n}")) for n in range(1000))
    raw = render(letter(recipients=many))
    head = raw.partition(b"\r\n\r\n")[0]
    assert max(map(len, head.split(b"\r\n"))) <= 78
    assert all(f"User {n} <user{n}@example.com>".encode() in head for n in range(1000))


def test_empty_subject_is_left_out():
    """No subject means no field: a field of nothing is changed by some relays."""
    assert "Subject" not in checked_header_names(render(letter(subject="")))


@pytest.mark.parametrize(
    "name", ["Bcc", "bcc", "From", "TO", "Message-ID", "Content-Type", "content-x", "Resent-Bcc"]
)
def test_own_fields_cannot_be_doubled(name):
    """An added header that the letter writes itself is refused, not sent twice."""
    with pytest.raises(BadHeaderError, match="extra_headers"):
        render(letter(headers=((name, "x"),)))


def test_reply_to_among_headers():
    """Reply-To may be an added header, as long as there is only one."""
    headers = (("Reply-To", "help@example.com"),)
    assert b"\r\nReply-To: help@example.com\r\n" in render(letter(headers=headers))
    with pytest.raises(BadHeaderError, match="Reply-To"):
        render(letter(headers=headers, reply_to=(Address("a@example.com"),)))


def test_part_header_cannot_double_ours():
    """Neither can a header of a part."""
    part = Part(b"", "a/b", headers=(("Content-Type", "c/d"),))
    with pytest.raises(BadHeaderError, match="attachments"):
        render(letter(parts=(part,)))


@pytest.mark.parametrize("evil", ["x\r\nBcc: e@x.example", "x\n", "x\rBcc: y", "\0", "x\u2028y"])
@pytest.mark.parametrize(
    "place",
    ["subject", "name", "header", "header name", "date", "id", "file", "type", "cid", "part"],
)
def test_line_breaks_are_refused_everywhere(evil, place):
    """A line break or NUL in any field is an error, never a second field."""
    part = Part(
        b"",
        f"a/b{evil}" if place == "type" else "a/b",
        evil if place == "file" else None,
        content_id=evil if place == "cid" else None,
        headers=(("X-Part", evil),) if place == "part" else (),
    )
    bad = letter(
        subject=evil if place == "subject" else "",
        sender=Address("a@b.example", evil if place == "name" else ""),
        headers=((evil, "x") if place == "header name" else ("X", evil),)
        if place.startswith("header")
        else (),
        date=evil if place == "date" else "now",
        message_id=evil if place == "id" else "<a@b.example>",
        parts=(part,),
    )
    with pytest.raises(MessageError):
        render(bad)


@pytest.mark.parametrize(
    "email",
    [
        "a@b.example>, <e@x.example",
        "a@b.example\r\nBcc: e",
        "a b@c.example",
        "nobody",
        "",
        "a@b\0c",
    ],
)
def test_addresses_that_would_not_stay_one(email):
    """An address that ends early, or is none, is refused in every field."""
    for fields in ({"sender": Address(email)}, {"reply_to": (Address(email),)}):
        with pytest.raises(AddressError):
            render(letter(**fields))
    with pytest.raises(AddressError):
        render(letter(recipients=(Recipient(Address(email)),)))


@pytest.mark.parametrize("email", ['"a b"@example.com', '"a\\"@x"@example.com', "a@[192.0.2.1]"])
def test_unusual_addresses_are_written(email):
    """Quoted local parts and address literals are addresses."""
    message = parsed(render(letter(sender=Address(email, "N"))))
    assert f"N <{email}>".encode() in render(letter(sender=Address(email, "N")))
    assert len(message["From"].addresses) == 1


@pytest.mark.parametrize("field", ["text", "html"])
def test_surrogates_are_refused(field):
    """Half a surrogate pair is no text in any charset."""
    with pytest.raises(MessageError, match="surrogate"):
        render(letter(**{field: "x\ud800"}))
    with pytest.raises(MessageError, match="surrogate"):
        render(letter(alternatives=(("application/json", "\ud800"),)))


def test_non_ascii_local_part_stays():
    """A local part that is not ASCII stands in UTF-8, and the letter says so."""
    jörg = Recipient(Address("jörg@example.com", "Jörg"))
    special = letter(recipients=(jörg,))
    assert "<jörg@example.com>".encode() in render(special)
    assert header_needs_utf8(special)


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"subject": "Größe", "text": "Größe", "sender": Address("a@b.example", "Ä")}, False),
        ({"recipients": (ANN, Recipient(Address("ü@example.com"), "bcc"))}, False),
        ({"recipients": (ANN, Recipient(Address("ü@example.com"), "cc"))}, True),
        ({"reply_to": (Address("ü@example.com"),)}, True),
        ({"sender": Address("ü@example.com")}, True),
        ({"message_id": "<ü@example.com>"}, True),
    ],
)
def test_header_needs_utf8(fields, needed):
    """Only addresses that are shown, and the Message-ID, can make a header need SMTPUTF8."""
    special = letter(**fields)
    assert header_needs_utf8(special) is needed
    head = render(special).partition(b"\r\n\r\n")[0]
    assert (not head.isascii()) is needed


def test_private_copy_asks_only_for_its_own_reader():
    """Another recipient's address does not make a private copy need SMTPUTF8."""
    special = letter(recipients=(ANN, Recipient(Address("ü@example.com"))))
    assert header_needs_utf8(special)
    assert not header_needs_utf8(special, ANN)


def test_envelope_counts_for_smtputf8():
    """The addresses of the envelope count too, whether or not they are shown."""
    assert not needs_smtputf8(letter(), ["ann@example.com"])
    assert needs_smtputf8(letter(), ["ann@example.com", "ü@example.com"])
    assert needs_smtputf8(letter(envelope_sender="ü@example.com"), [])
    assert address_needs_utf8("ü@example.com")
    assert not address_needs_utf8("u@example.com")


def test_large_file_is_held_twice_at_most():
    """A large file costs its encoded form beside itself, not copies of that."""
    big = letter(parts=(Part(bytes(8_000_000), "application/pdf", "big.pdf"),))
    tracemalloc.start()
    try:
        raw = render(big)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(raw) > 10_000_000
    assert peak < 2 * 8_000_000


def test_file_names_arrive_in_short_lines():
    """A long name in any script is cut into sections that keep characters whole."""
    name = "ファイル名がとても長い" * 12 + ".pdf"
    raw = render(letter(parts=(Part(b"", "application/pdf", name),)))
    assert parsed(raw).get_payload()[1].get_filename() == name
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    sections = re.findall(rb"filename\*\d+\*=([^;\r]*)", raw)
    assert len(sections) > 10
    assert all(
        len(section.removeprefix(b"utf-8''").split(b"%")) % 3 == 1 for section in sections[:-1]
    )
