"""Header fields: what is written plainly, what is encoded, where lines break, what is refused."""

from __future__ import annotations

import re
from binascii import a2b_base64

import pytest

from flask_deferred_mail.errors import AddressError, BadHeaderError
from flask_deferred_mail.letter import Address
from flask_deferred_mail.mime_headers import (
    addresses,
    block,
    checked_header_names,
    encoded_words,
    identifier,
    structured,
    unstructured,
    with_parameters,
)


def line(field: tuple[str, str]) -> str:
    return field[1]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Welcome", "Subject: Welcome"),
        ("", "Subject:"),
        ("50 % off = a lot?", "Subject: 50 % off = a lot?"),
        ("a  b", "Subject: a  b"),
        ("Käsekuchen", "Subject: =?utf-8?q?K=C3=A4sekuchen?="),
        ("日本", "Subject: =?utf-8?b?5pel5pys?="),
        ("Re: Größe of it", "Subject: Re: =?utf-8?b?R3LDtsOfZQ==?= of it"),
        ("é a é", "Subject: =?utf-8?b?w6kgYSDDqQ==?="),
        (" x", "Subject: =?utf-8?q?_x?="),
        ("x ", "Subject: =?utf-8?q?x_?="),
        ("a\tb", "Subject: =?utf-8?b?YQli?="),
        ("see =?utf-8?q?x?= there", "Subject: see =?utf-8?b?PT91dGYtOD9xP3g/PQ==?= there"),
        ("https://x.example/?a=?b", "Subject: https://x.example/?a=?b"),
    ],
)
def test_unstructured(value, written):
    """Words are encoded only if they must be, and never one by one with blanks between them."""
    assert line(unstructured("Subject", value)) == written


def test_empty_value_has_no_blank():
    """A field of nothing is its name and a colon, however long the name."""
    name = "X-" + "n" * 90
    assert line(unstructured(name, "")) == f"{name}:"


def test_long_values_fold_at_blanks():
    """Plain words stay plain; lines break before the word that would pass the limit."""
    value = " ".join(["word"] * 60)
    lines = line(unstructured("Subject", value)).split("\r\n")
    assert len(lines) > 3
    assert max(map(len, lines)) <= 78
    assert "".join(lines) == f"Subject: {value}"


def test_long_url_stays_whole():
    """A word over the soft limit, such as a URL in List-Unsubscribe, is left as it is."""
    url = f"<https://example.com/{'u' * 400}>"
    written = line(unstructured("List-Unsubscribe", f"<mailto:a@b.example>, {url}"))
    assert written.split("\r\n") == ["List-Unsubscribe: <mailto:a@b.example>,", f" {url}"]


def test_endless_word_is_encoded():
    """A word that no line can hold goes as encoded words."""
    lines = line(unstructured("Subject", "x" * 5000)).split("\r\n")
    assert max(map(len, lines)) <= 78
    assert "".join(re.findall(r"=\?utf-8\?q\?(x+)\?=", "".join(lines))) == "x" * 5000


def test_runs_of_blanks_make_no_empty_line():
    """However many blanks there are, no line consists of them: it would end the header."""
    for count in (70, 300, 2000):
        raw = block([unstructured("Subject", "a" + " " * count + "b")])
        assert checked_header_names(raw) == ["Subject"]


@pytest.mark.parametrize("name", ["X", "X-Rather-Long-Name-Of-A-Header-Field", "X-" + "n" * 70])
def test_encoded_words_fit_beside_the_name(name):
    """The first line holds the name and a first word, under the limit if the name allows it."""
    lines = line(unstructured(name, "ü" * 100)).split("\r\n")
    assert lines[0].startswith(f"{name}: =?utf-8?")
    assert max(map(len, lines[1:])) <= 76
    assert len(lines[0]) <= max(76, len(name) + 30)


@pytest.mark.parametrize("text", ["👩‍👩‍👧‍👦" * 20, "日本語" * 40, "aé" * 60, "x" * 300])
def test_encoded_words_hold_whole_characters(text):
    """Each word is at most 75 characters and can be decoded alone."""
    words = encoded_words(text)
    assert max(map(len, words)) <= 75
    out = ""
    for word in words:
        coding, content = re.fullmatch(r"=\?utf-8\?([qb])\?(.*)\?=", word).groups()
        if coding == "b":
            out += a2b_base64(content).decode()
        else:
            escaped = content.replace("_", " ").replace("%", "%25").replace("=", "%")
            out += bytes.fromhex(
                re.sub(r"%(..)|(.)", lambda m: m[1] or f"{ord(m[2]):02x}", escaped)
            ).decode()
    assert out == text


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("", "a@b.example"),
        ("Ann", "Ann <a@b.example>"),
        ("Ann Bell", "Ann Bell <a@b.example>"),
        ("Bell, Ann", '"Bell, Ann" <a@b.example>'),
        ("J. Bell", '"J. Bell" <a@b.example>'),
        ('a"b\\c', '"a\\"b\\\\c" <a@b.example>'),
        ("a@b.example", '"a@b.example" <a@b.example>'),
        ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <a@b.example>"),
        ("Jörg", "=?utf-8?b?SsO2cmc=?= <a@b.example>"),
        ("Bell,  A", "=?utf-8?q?Bell=2C__A?= <a@b.example>"),
    ],
)
def test_display_names(name, written):
    """Atoms stay, specials are quoted, the rest is encoded."""
    assert line(addresses("To", [Address("a@b.example", name)])) == f"To: {written}"


def test_members_are_kept_whole():
    """Lines break between members as long as one of them fits on a line."""
    members = [Address(f"someone{n}@example.com", f"Some One Number {n}") for n in range(5)]
    lines = line(addresses("Cc", members)).split("\r\n")
    assert len(lines) == 5
    assert all(part.count("@") == 1 for part in lines)


@pytest.mark.parametrize("field", [unstructured, structured, identifier])
@pytest.mark.parametrize("value", ["a\nb", "a\r\n b", "a\r", "\0", "a\u2029", "\ud800", "\x0b"])
def test_line_breaks_are_refused(field, value):
    """No kind of field takes a line break, NUL or a surrogate, however it is disguised."""
    with pytest.raises(BadHeaderError):
        field("X-A", value)
    with pytest.raises(BadHeaderError):
        addresses("To", [Address("a@b.example", value)])
    with pytest.raises(BadHeaderError):
        with_parameters("Content-Disposition", "attachment", [("filename", value)])


@pytest.mark.parametrize(
    "email", ["a@b.example\n", "a@b, c@d", "<a@b>", "a@b>", "a@\x7f", "\ud800@b", "a", "@b", "a@"]
)
def test_addresses_are_looked_at_again(email):
    """What could end an addr-spec early is refused, whoever checked it before."""
    with pytest.raises(AddressError, match="To"):
        addresses("To", [Address(email)])


def test_hostile_address_takes_linear_time():
    """Sizes that would hang a backtracking pattern are answered at once."""
    for email in ('"' + "\\" * 200_001, '"' * 200_000 + "@", "a@[" * 100_000, "a" * 200_000):
        with pytest.raises(AddressError):
            addresses("To", [Address(email)])


def test_address_that_looks_encoded():
    """A local part that some server might decode to another address is refused."""
    for email in ("=?utf-8?q?e=40x.example=3E?=@b.example", "=??Q??=@b.example"):
        with pytest.raises(AddressError, match="encoded word"):
            addresses("To", [Address(email)])
    assert addresses("To", [Address("a=?b@c.example")])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.pdf", 'filename="a.pdf"'),
        ("a b.pdf", 'filename="a b.pdf"'),
        ("50%.pdf", 'filename="50%.pdf"'),
        ('a"b.pdf', "filename*=utf-8''a%22b.pdf"),
        ("a\\b.pdf", "filename*=utf-8''a%5Cb.pdf"),
        ("ä.pdf", "filename*=utf-8''%C3%A4.pdf"),
        (" a", "filename*=utf-8''%20a"),
        ("=?utf-8?q?x?=", "filename*=utf-8''%3D%3Futf-8%3Fq%3Fx%3F%3D"),
    ],
)
def test_file_names(name, written):
    """A name is quoted where every reader understands that, else percent-encoded."""
    field = with_parameters("Content-Disposition", "attachment", [("filename", name)])
    assert line(field).replace("\r\n", "") == f"Content-Disposition: attachment; {written}"


def test_long_file_names_have_sections():
    """A long name is cut into numbered sections, in lines under the limit."""
    field = with_parameters("Content-Disposition", "attachment", [("filename", "n" * 300)])
    lines = line(field).split("\r\n")
    assert max(map(len, lines)) <= 78
    assert lines[1].startswith(" filename*0*=utf-8''nnn")
    assert "".join(re.findall(r"(n+);?$", "\n".join(lines), re.MULTILINE)) == "n" * 300


def test_identifier_is_never_folded():
    """A long Message-ID stays on its line."""
    value = f"<{'a' * 200}@example.com>"
    assert line(identifier("Message-ID", value)) == f"Message-ID: {value}"


def test_structured_folds_at_blanks():
    """A long structured value breaks where blanks are, and nothing in it is encoded."""
    value = "a/b; " + "; ".join(f"p{n}=vvvvvvvvvv" for n in range(10))
    lines = line(structured("Content-Type", value)).split("\r\n")
    assert max(map(len, lines)) <= 78
    assert "".join(lines) == f"Content-Type: {value}"
    with pytest.raises(BadHeaderError):
        structured("Content-Type", "ä")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"A: b\r\n",
        b"\r\n\r\n",
        b"A: b\nB: c\r\n\r\n",
        b"A: b\rB: c\r\n\r\n",
        b"A: b\0\r\n\r\n",
        b"A: b\r\n \r\n\r\n",
        b"A: b\r\n \t\r\nC: d\r\n\r\n",
        b" A: b\r\n\r\n",
        b"A b\r\n\r\n",
        b"A : b\r\n\r\n",
        b"A: b\r\n: c\r\n\r\n",
        b"A: b\r\nno colon here\r\n\r\n",
        b"\xc3\xa4: b\r\n\r\n",
        b"A: " + b"x" * 996 + b"\r\n\r\n",
        b"A: b\r\n\x0bC: d\r\n\r\n",
    ],
)
def test_malformed_blocks_are_refused(raw):
    """Anything but whole header fields in CRLF lines of lawful length is an error."""
    with pytest.raises(BadHeaderError):
        checked_header_names(raw)


def test_names_are_read_from_bytes():
    """Names come in order, folded values and the body are not mistaken for fields."""
    raw = b"A: b\r\n C: no\r\n\tD: no\r\nB:\r\nC:\xc3\xa4\r\n\r\nE: body\r\n\r\n"
    assert checked_header_names(raw) == ["A", "B", "C"]


@pytest.mark.parametrize(
    "fields",
    [
        [("Subject", "Subject: a\r\nBcc: b")],
        [("Subject", "Subject: a\r\n\r\nBcc: b")],
        [("Subject", "Subjekt: a")],
        [("A\r\nB", "A\r\nB: c")],
        [("A", "A: \ud800")],
        [],
    ],
)
def test_block_proves_itself(fields):
    """If a field smuggles in another, or is not what it is called, the block is refused."""
    with pytest.raises(BadHeaderError):
        block(fields)
