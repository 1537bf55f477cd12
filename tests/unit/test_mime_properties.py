"""Whatever a letter holds, a reader that shares no code with us finds it unchanged.

The readers are the standard library's two parsers. Where one of them is known to be wrong on some
supported Python, the comparison goes another way, and a comment says so.
"""

from __future__ import annotations

import re
import string
from binascii import a2b_base64, a2b_qp
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage, Message

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_deferred_mail.errors import MessageError
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.mime import checked_header_names, render

NASTY = [
    "",
    " ",
    "  ",
    "plain words",
    "Größe",
    "e\u0301\u0323",
    "日本語のとても長い件名です",
    "שלום עולם",
    "\u202eevil\u202c",
    "👩‍👩‍👧‍👦",
    "𝒳",
    "=?utf-8?q?x?=",
    "=?utf-8?b?eA==?=",
    "=?x",
    "?=",
    "=",
    "_",
    "a,b",
    ";",
    "<a@b.example>",
    '"',
    "\\",
    "(c)",
    "\t",
    "\x7f",
    "x" * 80,
    "y" * 1100,
    "é" * 90,
    "%41'",
    "*0*",
    "--=_",
    ":",
]
# No line breaks, NUL or surrogates: those are refused, see test_mime_headers.py.
HEADER_CHARS = st.characters(
    exclude_categories=["Cs"], exclude_characters="\0\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
)
header_text = st.one_of(
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
    st.lists(st.sampled_from(NASTY), max_size=6).map(" ".join),
    st.text(HEADER_CHARS, max_size=120),
)
LINES = [
    *NASTY,
    ".",
    "..",
    "From here on",
    ">From",
    "trailing ",
    "trailing\t",
    "a" * 75 + " ",
    "a" * 76 + " ",
    "From " + "b" * 71,
    "From " + "b" * 70 + " ",
    "é" * 24 + "xy ",
    "z" * 2000,
    "--",
    "\x0c",
    "\x1b[31m",
    "\u2028",
    "\x85",
]
body_text = st.one_of(
    st.lists(st.sampled_from(LINES), max_size=8).map("\n".join),
    st.lists(st.sampled_from(LINES), max_size=8).map("\r\n".join),
    st.lists(st.sampled_from(LINES), max_size=8).map("\r".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300),
)
local_part = st.text(string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-", min_size=1)
# What looks like an encoded word is refused, and crashes one of the parsers.
email = local_part.filter(lambda local: "=?" not in local).map(
    lambda local: f"{local[:60]}@mail.example.com"
)
mailbox = st.builds(Address, email, header_text)
binary = st.one_of(st.binary(max_size=300), st.binary(min_size=56, max_size=60))

quick = settings(max_examples=150, deadline=None)


def letter(**fields: object) -> Letter:
    given_fields: dict[str, object] = {
        "sender": Address("shop@example.com"),
        "recipients": (Recipient(Address("ann@example.com")),),
        "envelope_sender": "shop@example.com",
        "message_id": "<5f0c6d@example.com>",
        "date": "Mon, 01 Jan 2024 10:00:00 +0000",
        **fields,
    }
    return Letter(**given_fields)  # type: ignore[arg-type]  # tests give only known fields


def parsed(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def legacy(raw: bytes) -> Message:
    return message_from_bytes(raw, policy=policy.compat32)


def unfolded(raw: bytes, name: str) -> str:
    """A field's value as it stands on the wire, its lines joined (RFC 5322 section 2.2.3)."""
    head = raw.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()
    return next(line for line in head.split("\r\n") if line.startswith(f"{name}:"))[len(name) + 2 :]


def decoded(value: str) -> str:
    """Encoded words decoded after RFC 2047 alone: a third reader, for where the others differ."""
    pattern = r"=\?utf-8\?([qb])\?([^? ]*)\?="
    value = re.sub(rf"({pattern}) (?={pattern})", r"\1", value)

    def word(match: re.Match[str]) -> str:
        if match[1] == "q":
            return a2b_qp(match[2].replace("_", " ")).decode()
        return a2b_base64(match[2]).decode()

    return re.sub(pattern, word, value)


def without_blanks(text: str) -> str:
    return re.sub(r"[ \t]", "", text)


def legacy_filename(part: Message) -> str:
    """The file name. ``get_filename`` would also strip blanks, and angle brackets as if quotes."""
    value = part.get_param("filename", "", "content-disposition")
    if isinstance(value, tuple):
        return value[2].encode("latin-1").decode(value[0] or "ascii")
    return value


def lines_of(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_in(part: Message) -> str:
    """A text part's content, by its label. ``get_content`` is of no use: it splits lines at
    characters that are no line breaks in mail, such as U+2028.
    """
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode(str(part.get_content_charset())).replace("\r\n", "\n")


@quick
@given(header_text)
@example("x" * 997 + " é")
def test_subject_arrives(subject):
    """A subject of any characters is read as it was written, by three readers."""
    raw = render(letter(subject=subject))
    if not subject:
        assert "Subject" not in checked_header_names(raw)
        return
    assert decoded(unfolded(raw, "Subject")) == subject
    assert parsed(raw)["Subject"] == subject
    value = legacy(raw)["Subject"].replace("\r\n", "")
    assert str(make_header(decode_header(value))) == subject


@quick
@given(mailbox, st.lists(mailbox, min_size=1, max_size=4), st.lists(mailbox, max_size=3))
def test_addresses_arrive(sender, to, cc):
    """Names and addresses are read as they were written, each in its own field."""
    recipients = [Recipient(a, "to") for a in to] + [Recipient(a, "cc") for a in cc]
    raw = render(letter(sender=sender, recipients=tuple(recipients), reply_to=tuple(to)))
    message = parsed(raw)
    for name, meant in (("From", [sender]), ("To", to), ("Cc", cc), ("Reply-To", to)):
        found = message[name].addresses if message[name] is not None else ()
        assert [a.addr_spec for a in found] == [a.email for a in meant]
        # In a name, this parser joins runs of blanks, and keeps the blank between two encoded
        # words (against RFC 2047 section 6.2). The test below shows what is really there.
        assert [without_blanks(a.display_name) for a in found] == [
            without_blanks(a.name) for a in meant
        ]


@quick
@given(mailbox)
def test_display_name_arrives_exactly(sender):
    """A name is read as it was written, blanks included, whichever form it was given."""
    value = unfolded(render(letter(sender=sender)), "From")
    if not sender.name:
        assert value == sender.email
        return
    name = value.removesuffix(f" <{sender.email}>")
    if name.startswith('"'):
        assert re.sub(r"\\(.)", r"\1", name[1:-1]) == sender.name
    else:
        assert decoded(name) == sender.name


@quick
@given(st.one_of(st.none(), body_text), st.one_of(st.none(), body_text))
def test_bodies_arrive(text, html):
    """Text and HTML are read line by line as they were written."""
    raw = render(letter(text=text, html=html))
    leaves = [part for part in legacy(raw).walk() if not part.is_multipart()]
    meant = [body for body in (text, html) if body] or [""]
    assert len(leaves) == len(meant)
    for leaf, body in zip(leaves, meant, strict=True):
        found, written = text_in(leaf), lines_of(body)
        # A message that is not multipart always ends with a line end.
        assert found == written or (len(leaves) == 1 and found == written + "\n")


@quick
@given(st.lists(st.tuples(binary, st.one_of(st.none(), header_text)), min_size=1, max_size=3))
def test_files_arrive(files):
    """Attachments are read octet by octet, under their names."""
    parts = tuple(Part(data, "text/csv", name) for data, name in files)
    raw = render(letter(text="see below", parts=parts))
    found = list(parsed(raw).iter_attachments())
    assert [part.get_payload(decode=True) for part in found] == [data for data, _ in files]
    names = [name or "" for _, name in files]
    assert [part["Content-Disposition"].params.get("filename", "") for part in found] == names
    assert [legacy_filename(part) for part in list(legacy(raw).walk())[2:]] == names


@quick
@given(header_text)
def test_further_headers_arrive(value):
    """What an application adds is read as it was written."""
    raw = render(letter(headers=(("X-Note", value),)))
    assert decoded(unfolded(raw, "X-Note")) == value
    assert parsed(raw)["X-Note"] == value


@quick
@given(header_text, mailbox, body_text, body_text, binary, header_text)
def test_wire_is_lawful(subject, sender, text, html, data, name):
    """ASCII, CRLF only, no line over its limit, and exactly the fields that were meant."""
    raw = render(
        letter(
            subject=f"x{subject}",
            sender=sender,
            text=text,
            html=html,
            parts=(Part(data, "application/pdf", name),),
            headers=(("X-Note", subject), ("List-Id", "<a.example.com>")),
        )
    )
    assert raw.isascii()
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    assert raw.endswith(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert all(len(word) <= 75 for word in re.findall(rb"=\?utf-8\?[qb]\?[^? ]*\?=", raw))
    names = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "X-Note", "List-Id"]
    assert checked_header_names(raw) == [*names, "Content-Type"]
    assert parsed(raw).keys() == [*names, "Content-Type"]
    assert legacy(raw).keys() == [*names, "Content-Type"]


@quick
@given(body_text)
def test_encoded_lines_are_short(text):
    """Lines of quoted-printable and base64 never pass 76 characters (RFC 2045)."""
    raw = render(letter(text=text))
    if b"Transfer-Encoding: 7bit" not in raw:
        body = raw.partition(b"\r\n\r\n")[2]
        assert max(map(len, body.split(b"\r\n"))) <= 76


@quick
@given(st.data())
def test_no_field_injects(data):
    """Whatever stands in any field, header fields on the wire are those meant, or it is refused."""
    hostile = st.lists(
        st.sampled_from(["\r\n", "\n", "\r", "\n ", "Bcc: e@x.example", "\u2028", "\0", "\ud800"])
        | st.sampled_from([*NASTY, "\n\n", "\r\n\r\n", "a@b.example", ">", ", "]),
        max_size=4,
    ).map("".join)
    some = data.draw
    try:
        raw = render(
            letter(
                sender=Address(some(st.just("a@b.example") | hostile), some(hostile)),
                subject=f"x{some(hostile)}",
                message_id=f"<{some(hostile)}>",
                date=some(st.just("now") | hostile),
                headers=((some(st.just("X-Note") | hostile), some(hostile)),),
                text="t",
                parts=(
                    Part(
                        b"",
                        some(st.just("a/b") | hostile),
                        some(hostile),
                        content_id=some(st.none() | hostile),
                        headers=(("X-Part", some(hostile)),),
                    ),
                ),
            )
        )
    except MessageError:
        return
    assert b"\nBcc:" not in raw
    names = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version"]
    found = legacy(raw).keys()
    assert found[:6] == names
    assert found[7:] == ["Content-Type"]
    part = list(legacy(raw).walk())[2].keys()
    assert [name for name in part if name != "Content-ID"] == [
        "Content-Type",
        "Content-Transfer-Encoding",
        "Content-Disposition",
        "X-Part",
    ]


@quick
@given(body_text, header_text)
def test_same_letter_same_bytes(text, subject):
    """Two renderings of equal letters are equal; another Message-ID gives other boundaries."""
    fields = {"text": text, "html": f"<p>{text}", "subject": subject}
    assert render(letter(**fields)) == render(letter(**fields))
    assert render(letter(**fields)) != render(letter(**fields, message_id="<other@example.com>"))


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "shift_jis", "gb18030", "big5"])
@quick
@given(text=body_text)
def test_other_charsets_arrive(charset, text):
    """A charset is used where it can hold the text, and the text arrives in any case."""
    [leaf] = legacy(render(letter(text=text, charset=charset))).walk()
    assert text_in(leaf).removesuffix("\n") == lines_of(text).removesuffix("\n")
