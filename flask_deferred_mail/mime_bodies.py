"""Content as it goes over the wire: always 7-bit safe, always in CRLF lines of a lawful length.

Text arrives equal, line by line, whatever relays on the way do to blanks at line ends, to lines
that begin with ``From``, or to dots. Files arrive equal octet by octet.
"""

from __future__ import annotations

import codecs
import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from .errors import BadHeaderError
from .mime_headers import MAX_LINE

# Longest line that is sent plainly. RFC 5322 allows 998, but gateways that break lines at 990
# exist, and a broken line is a changed text (and a broken signature).
_MAX_PLAIN_LINE = 900
# RFC 2045 sections 6.7 and 6.8: both encodings have lines of at most 76 characters.
_ENCODED_LINE = 76

_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\n"

# What relays change about lines: "From " gets a mark, a lone dot ends a mail, blanks at a line's
# end get lost. One search that jumps from line end to line end takes a third of one for each.
_HARMED = re.compile(rb"\n(?:From |\.(?:\n|\Z)|(?<=[ \t]\n))")

# Base64 is made in steps of this many lines, so that a large file never stands in memory twice
# more than it must; cutting lines by one compiled format is the fastest way that Python has.
_LINES = 1024
_STEP = 57 * _LINES
_CUT = Struct("76s" * _LINES)

# Charsets that mail programs know, by the name that Python gives them. All of them hold ASCII as
# it is: UTF-16, for instance, may not be used in text parts (RFC 2781 section 4).
_MAIL_CHARSETS = {
    "ascii": "us-ascii",
    "utf-8": "utf-8",
    **{f"iso8859-{number}": f"iso-8859-{number}" for number in (*range(1, 11), 13, 14, 15, 16)},
    **{f"cp{number}": f"windows-{number}" for number in range(1250, 1259)},
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "gb2312": "gb2312",
    "gbk": "gbk",
    "gb18030": "gb18030",
    "big5": "big5",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
    "iso2022_jp": "iso-2022-jp",
    "shift_jis": "shift_jis",
}


class Body(NamedTuple):
    """Content in its wire form."""

    #: The value of ``Content-Transfer-Encoding``.
    encoding: str
    data: bytes
    #: What the text is labelled with; empty for content that is no text.
    charset: str = ""


def text_body(text: str, charset: str = "utf-8") -> Body:
    """Text with its line ends normalised, in the plainest encoding that is safe.

    ``charset`` is used if mail programs know it and it can hold the text; else UTF-8 is.

    :raises BadHeaderError: the text holds a surrogate, which no charset can carry.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    label, data = _encode(text, charset)
    odd = len(data.translate(None, _PRINTABLE))
    if not odd and _travels_unharmed(data):
        return Body("7bit", data.replace(b"\n", b"\r\n"), label)
    # Quoted-printable makes three octets of an odd one, base64 four of any three.
    if (odd + data.count(b"=")) * 6 > len(data):
        crlf = text.replace("\n", "\r\n").encode(label)
        return Body("base64", b"".join(base64_lines(crlf)), label)
    return Body("quoted-printable", _quoted_printable(data), label)


def message_body(data: bytes) -> Body | None:
    """A whole message as content, or ``None`` if it cannot be.

    RFC 2046 section 5.2.1 forbids to encode it, so it must be 7-bit as it is. Its line ends are
    made CRLF: that is what they stand for in a message that was read from a file.
    """
    lines = data.replace(b"\r\n", b"\n")
    if not lines.isascii() or b"\r" in lines or b"\0" in lines or lines.startswith(b"From "):
        return None
    if max(map(len, lines.split(b"\n"))) > MAX_LINE:
        return None
    return Body("7bit", lines.replace(b"\n", b"\r\n"))


def base64_lines(data: bytes) -> Iterator[bytes]:
    """Octets as base64 in lines of 76 characters, CRLF after each; some 80 kB at a time."""
    view = memoryview(data)
    whole = len(data) - len(data) % _STEP
    for start in range(0, whole, _STEP):
        coded = b2a_base64(view[start : start + _STEP], newline=False)
        yield b"\r\n".join(_CUT.unpack(coded)) + b"\r\n"
    if whole < len(data):
        coded = b2a_base64(view[whole:], newline=False)
        cuts = range(0, len(coded), _ENCODED_LINE)
        yield b"\r\n".join([coded[cut : cut + _ENCODED_LINE] for cut in cuts]) + b"\r\n"


def _travels_unharmed(data: bytes) -> bool:
    """Whether printable ASCII text survives relays without being encoded."""
    return not (
        _HARMED.search(data)
        or data == b"."
        or data.startswith((b"From ", b".\n"))
        or data.endswith((b" ", b"\t"))
        or _has_long_line(data)
    )


def _has_long_line(data: bytes) -> bool:
    """Whether a line is too long to be sent plainly; looks only where one may not be over yet."""
    start = 0
    most = len(data) - _MAX_PLAIN_LINE
    while start < most:
        end = data.rfind(b"\n", start, start + _MAX_PLAIN_LINE + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def _quoted_printable(data: bytes) -> bytes:
    """LF text as quoted-printable in CRLF lines.

    The standard library's encoder is exact, but it leaves ``From`` alone, and a blank at a line's
    end can make it write 78 characters in a line.
    """
    coded = b2a_qp(data)
    if coded.startswith(b"From "):
        coded = b"=46" + coded[1:]
    coded = coded.replace(b"\nFrom ", b"\n=46rom ")
    if b"=20\n" in coded or b"=09\n" in coded or b"=46rom " in coded or coded[-3:-1] in _LAST:
        coded = b"\n".join([_shortened(line) for line in coded.split(b"\n")])
    return coded.replace(b"\n", b"\r\n")


_LAST = (b"=2", b"=0")


def _shortened(line: bytes) -> bytes:
    """A line of at most 80 characters with a soft break in it, if it is over 76."""
    if len(line) <= _ENCODED_LINE:
        return line
    cut = _ENCODED_LINE - 1
    # Never between "=" and its two digits.
    if line[cut - 1] == ord("="):
        cut -= 1
    elif line[cut - 2] == ord("="):
        cut -= 2
    return line[:cut] + b"=\n" + line[cut:]


def _encode(text: str, charset: str) -> tuple[str, bytes]:
    """The charset's name in mail and the text in it; UTF-8 where the charset will not do."""
    label = _mail_charset(charset)
    if label != "utf-8":
        try:
            data = text.encode(label)
        except UnicodeEncodeError:
            pass
        else:
            # Some codecs write a look-alike for what they do not have (yen for backslash).
            if data.decode(label) == text:
                return label, data
    try:
        return "utf-8", text.encode()
    except UnicodeEncodeError:
        raise BadHeaderError("body", "holds half of a surrogate pair, which is no text") from None


@lru_cache(maxsize=64)
def _mail_charset(charset: str) -> str:
    try:
        return _MAIL_CHARSETS.get(codecs.lookup(charset).name, "utf-8")
    except (LookupError, ValueError):
        return "utf-8"
