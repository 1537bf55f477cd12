"""Content on the wire: which encoding is chosen, and that it comes back equal."""

from __future__ import annotations

from base64 import b64decode
from binascii import a2b_qp

import pytest

from flask_deferred_mail.errors import BadHeaderError
from flask_deferred_mail.mime_bodies import base64_lines, message_body, text_body


def read(body: object) -> str:
    """The text that a reader sees, by the labels alone."""
    decode = {"7bit": bytes, "base64": b64decode, "quoted-printable": a2b_qp}[body.encoding]
    return decode(body.data).decode(body.charset)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("", "7bit"),
        ("plain\r\ntext\n", "7bit"),
        ("tab\tinside", "7bit"),
        ("a" * 900, "7bit"),
        ("a" * 901, "quoted-printable"),
        ("trailing ", "quoted-printable"),
        ("trailing \nmore", "quoted-printable"),
        ("trailing\t\nmore", "quoted-printable"),
        ("From me, with some more text", "quoted-printable"),
        ("Hello,\nFrom me, with some more text", "quoted-printable"),
        (".\nhello, this is longer", "quoted-printable"),
        ("hello, this is longer\n.\n", "quoted-printable"),
        ("hello, this is longer\n.", "quoted-printable"),
        ("..\n.x\n", "7bit"),
        ("bell \x07 in some text, one of many characters", "quoted-printable"),
        ("Ein Text mit einem Umlaut, nämlich diesem", "quoted-printable"),
        ("こんにちは", "base64"),
    ],
)
def test_choice_of_encoding(text, encoding):
    """Plain only where nothing on the way can change it; else the smaller of the two encodings."""
    body = text_body(text)
    assert body.encoding == encoding
    assert body.data.isascii()
    assert read(body).replace("\r\n", "\n") == text.replace("\r\n", "\n")


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\r\nb"])
@pytest.mark.parametrize("more", ["", "é" + "x" * 40, "日本"])
def test_line_ends_become_crlf(text, more):
    """CR, LF and CRLF all mean one line end, in every encoding."""
    assert read(text_body(text + more)) == f"a\r\nb{more}"


def test_risky_lines_are_disguised():
    """No line of quoted-printable looks like mbox's From, ends in a blank or is a lone dot."""
    text = "From a\nend \n.\n" + "From " + "é" * 8 + "\n" + ("x" * 70 + " From here ") * 20
    body = text_body(text + "\n" + "z" * 75 + ".\n")
    assert body.encoding == "quoted-printable"
    for line in body.data.split(b"\r\n"):
        assert not line.startswith(b"From ")
        assert not line.endswith((b" ", b"\t"))
        assert line != b"."
    assert read(body).replace("\r\n", "\n") == text + "\n" + "z" * 75 + ".\n"


@pytest.mark.parametrize("length", range(60, 82))
@pytest.mark.parametrize("end", [" ", "\t", "=", "é", " \n", "é \n", "= \n", "==\t\nFrom x"])
@pytest.mark.parametrize("start", ["", "From ", "é\nFrom "])
def test_quoted_printable_lines_stay_short(length, end, start):
    """Whatever stands around the limit, no line passes 76 characters and nothing is lost."""
    text = start + "x" * length + end + "\nä " + "w" * 80
    body = text_body(text)
    assert body.encoding == "quoted-printable"
    assert max(map(len, body.data.split(b"\r\n"))) <= 76
    assert read(body) == text.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("charset", "text", "label"),
    [
        ("utf-8", "é", "utf-8"),
        ("UTF8", "é", "utf-8"),
        ("latin-1", "é", "iso-8859-1"),
        ("cp1252", "€", "windows-1252"),
        ("latin-1", "€", "utf-8"),
        ("us-ascii", "abc", "us-ascii"),
        ("us-ascii", "é", "utf-8"),
        ("iso-2022-jp", "日本", "iso-2022-jp"),
        ("shift_jis", "¥", "utf-8"),
        ("utf-16", "é", "utf-8"),
        ("utf-7", "é", "utf-8"),
        ("rot13", "a", "utf-8"),
        ("idna", "é", "utf-8"),
        ("no such", "é", "utf-8"),
        ("a\0b", "é", "utf-8"),
        ("x\r\ny", "é", "utf-8"),
    ],
)
def test_charsets(charset, text, label):
    """A charset is taken if mail knows it and it holds the text; the label is its name in mail."""
    body = text_body(text, charset)
    assert body.charset == label
    assert read(body) == text


def test_surrogates_are_refused():
    """Half a surrogate pair is an error, also where another charset was asked for."""
    for charset in ("utf-8", "latin-1"):
        with pytest.raises(BadHeaderError, match="surrogate"):
            text_body("a\udc80", charset)


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 114, 58_367, 58_368, 58_369, 200_000])
def test_base64_lines(size):
    """Lines of 76 characters and CRLF, across the steps in which they are made."""
    data = bytes(n * 7 % 256 for n in range(size))
    coded = b"".join(base64_lines(data))
    assert b64decode(coded) == data
    lines = coded.split(b"\r\n")
    assert lines.pop() == b""
    assert all(len(line) == 76 for line in lines[:-1])
    assert b64decode(coded, validate=False) == data
    assert coded.count(b"\n") == coded.count(b"\r\n") == len(lines)


def test_message_body_is_left_alone():
    """A message's bytes stay, but for line ends, which become CRLF."""
    body = message_body(b"A: b\n\n.\nFrom x \r\n")
    assert body.encoding == "7bit"
    assert body.data == b"A: b\r\n\r\n.\r\nFrom x \r\n"


@pytest.mark.parametrize("data", [b"\xff", b"a\rb", b"\0", b"From a\n", b"x" * 999])
def test_message_body_refuses(data):
    """What would have to be encoded, or is no message, is none."""
    assert message_body(data) is None
