"""Files: how they are given, and the part that they become."""

import io

import pytest

from flask_deferred_mail.attachment import (
    MAX_DATA,
    Attachment,
    check_attachment,
    check_content_type,
    guess_content_type,
)
from flask_deferred_mail.errors import BadHeaderError, MessageError, MessageTooLarge


def part_of(attachment, *bodies):
    return check_attachment(attachment, "attachments", bodies)


@pytest.mark.parametrize(
    "data",
    [b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", io.BytesIO(b"abc"), io.StringIO("abc")],
)
def test_ways_to_give_the_content(data):
    """Bytes, text and open files come to the same bytes."""
    assert part_of(Attachment("a.bin", "application/x-a", data)).data == b"abc"


def test_an_open_file_is_read_at_once(tmp_path):
    """It may be closed before the message is recorded."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        attachment = Attachment("a.txt", data=file)
    assert part_of(attachment).data == b"abc"


@pytest.mark.parametrize(
    ("filename", "data", "expected"),
    [
        ("a.pdf", b"", "application/pdf"),
        ("a.png", b"", "image/png"),
        ("a.tar.gz", b"", "application/gzip"),
        ("a", b"", "application/octet-stream"),
        ("a", "", "text/plain"),
        (None, b"", "application/octet-stream"),
    ],
)
def test_content_types_are_guessed_from_the_name(filename, data, expected):
    """What is compressed is named for its compression."""
    assert guess_content_type(filename, data) == expected


def test_text_says_its_charset():
    """Text that we encode is marked, unless it is ASCII or says so itself."""
    assert part_of(Attachment("a.txt", None, "ä")).content_type == "text/plain; charset=utf-8"
    assert part_of(Attachment("a.txt", None, "a")).content_type == "text/plain"
    given = Attachment("a.txt", "text/plain; charset=utf-8", "ä")
    assert part_of(given).content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize("data", [None, 5, {"a": 1}, [b"a"]])
def test_content_that_cannot_be_read(data):
    """The error says what was given."""
    with pytest.raises(MessageError, match=type(data).__name__):
        Attachment("a.txt", "text/plain", data)


def test_a_file_without_an_end_is_not_read_for_ever():
    """A stream is read up to the cap, not until memory ends."""

    class Endless:
        def read(self, size):
            return bytes(size)

    with pytest.raises(MessageTooLarge, match=str(MAX_DATA)):
        Attachment("a.bin", None, Endless())


def test_text_with_a_surrogate_is_refused():
    """It has no UTF-8."""
    with pytest.raises(MessageError, match="surrogate"):
        Attachment("a.txt", None, "\ud800")


@pytest.mark.parametrize(
    "value",
    ["text/plain", "text/calendar; method=REQUEST", 'text/csv; header="present"; charset=utf-8'],
)
def test_content_types(value):
    """With their parameters."""
    assert check_content_type(value, "f") == value


@pytest.mark.parametrize(
    "value",
    ["", "text", "/plain", "text/", "text/plain\n", "text/plain; x", "text/pl ain", "text/plain;",
     "multipart/mixed", "text/plain\r\nBcc: a@b", "text/pläin", 'text/plain; a="b\\"', "x" * 300],
)  # fmt: skip
def test_what_is_no_content_type(value):
    """Nothing that could open another header, and no containers."""
    with pytest.raises(MessageError, match=r"^f: "):
        check_content_type(value, "f")


@pytest.mark.parametrize("name", ["a\r\nb.txt", "a\n", "a\0b", "a\u2028b", "\ud800", "a\tb"])
def test_file_names_stay_in_their_line(name):
    """The error says that it was the file name."""
    with pytest.raises(BadHeaderError, match="file name"):
        part_of(Attachment(name, "text/plain", b""))


def test_file_names_have_a_cap():
    """Longer ones cannot be saved anyway."""
    with pytest.raises(MessageTooLarge, match="255"):
        part_of(Attachment("a" * 256, "text/plain", b""))


def test_a_content_id_makes_an_inline_part():
    """Flask-Mail keeps it among the headers, with angle brackets."""
    part = part_of(Attachment("l.png", None, b"x", "inline", {"Content-ID": "<logo>"}))
    assert (part.disposition, part.content_id, part.headers) == ("inline", "logo", ())


def test_a_part_that_the_html_shows_is_inline_whatever_it_says():
    """Flask-Mail's default disposition hides such images in some programs."""
    given = Attachment("l.png", None, b"x", headers=[("content-id", "<logo>")])
    assert part_of(given, '<img src="cid:logo">').disposition == "inline"
    other = part_of(given, "<p>")
    assert (other.disposition, other.headers) == ("attachment", (("Content-ID", "<logo>"),))


def test_an_inline_part_without_a_content_id_gets_one():
    """Each inline part has one, and no two are the same."""
    ids = {part_of(Attachment("l.png", None, b"x", "inline")).content_id for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    "value", ["<a b>", "<>", "<a>\n<b>", "<ä>", "<a<b>", "<" + "a" * 300 + ">"]
)
def test_what_is_no_content_id(value):
    """One identifier, nothing around it."""
    with pytest.raises(MessageError):
        part_of(Attachment("l.png", None, b"x", "inline", {"Content-ID": value}))


@pytest.mark.parametrize("name", ["Content-Type", "content-disposition", "MIME-Version"])
def test_headers_that_the_part_writes_itself(name):
    """They would be there twice."""
    with pytest.raises(MessageError, match="written for you"):
        part_of(Attachment("a.txt", None, b"", headers={name: "x"}))


@pytest.mark.parametrize("headers", [{"X-A": "a\nb"}, {"X\n": "a"}, {"X A": "a"}])
def test_headers_stay_in_their_line(headers):
    """Names and values alike."""
    with pytest.raises(BadHeaderError):
        part_of(Attachment("a.txt", None, b"", headers=headers))


@pytest.mark.parametrize("value", ["inlined", "inline\n", 5])
def test_what_is_no_disposition(value):
    """There are two."""
    with pytest.raises(MessageError):
        part_of(Attachment("a.txt", None, b"", value))


def test_what_is_no_attachment_at_all():
    """Bare bytes have no name."""
    with pytest.raises(MessageError, match=r"Message\.attach"):
        part_of(b"abc")


def test_the_repr_shows_no_content():
    """Content may be anything, and names may hold escapes."""
    text = repr(Attachment("a\x1b.txt", None, b"geheim"))
    assert "geheim" not in text
    assert "\x1b" not in text
