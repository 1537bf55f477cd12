"""Which characters may stand where: in one line of a header, in an identifier, in a body.

Every piece of text that a view writes passes one of these functions, in the view. The library's
own header classes are no shelter: on some releases of Python 3.11 a subject can add a field.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import NoReturn

from .cleaning import clean
from .errors import BadHeaderError, MessageError, MessageTooLarge

# Control characters but TAB (which RFC 5322 section 2.2.2 allows between words), the two line
# breaks that only Unicode knows, and surrogates, which no charset can carry.
_NOT_IN_A_LINE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Databases cannot keep NUL in text, nor can UTF-8 hold a surrogate; all else can be encoded.
_NOT_IN_TEXT = re.compile("[\x00\ud800-\udfff]")

_BREAKS = {
    "\n": "a line feed",
    "\r": "a carriage return",
    "\v": "a vertical tab, which counts as a line break",
    "\f": "a form feed, which counts as a line break",
    "\x1c": "a file separator, which counts as a line break",
    "\x1d": "a group separator, which counts as a line break",
    "\x1e": "a record separator, which counts as a line break",
    "\x85": "a next-line character, which counts as a line break",
    "\u2028": "a line separator",
    "\u2029": "a paragraph separator",
    "\0": "NUL",
    "\t": "a tab",
}
# What str() would turn into something that nobody wants to mail.
_NO_TEXT = (bytes, bytearray, memoryview, bool, int, float, Mapping, list, tuple, set, frozenset)


def as_text(value: object, field: str) -> str:
    """``value`` as a plain ``str``; a lazy translation or ``Markup`` becomes its text.

    :raises MessageError: bytes, numbers, collections and ``None``: they are mistakes.
    """
    if type(value) is str:
        return value
    if value is None or isinstance(value, _NO_TEXT):
        raise MessageError(field, f"must be text, not {type(value).__name__}")
    return str(value)


def line(value: object, field: str, limit: int | None = None) -> str:
    """Text that may stand in a header: one line without control characters.

    :raises BadHeaderError: line breaks of any kind, NUL, control characters, surrogates.
    :raises MessageTooLarge: more than ``limit`` characters.
    """
    text = value if type(value) is str else as_text(value, field)
    if limit is not None and len(text) > limit:
        raise MessageTooLarge(field, f"has {len(text)} characters, {limit} are allowed")
    if not (text.isascii() and text.isprintable()) and (found := _NOT_IN_A_LINE.search(text)):
        _refuse(text, found.start(), field)
    return text


def label(value: object, field: str, limit: int) -> str:
    """A name that a program compares: one line, not empty, no tabs, no blanks at its ends.

    :raises MessageError: it is empty or has blanks around it; else as :func:`line`.
    """
    text = line(value, field, limit)
    if "\t" in text:
        _refuse(text, text.index("\t"), field)
    if not text or text != text.strip():
        raise MessageError(field, "must not be empty, nor begin or end with a blank")
    return text


def body(value: object, field: str) -> str:
    """Text of any length and number of lines.

    :raises MessageError: it holds NUL or a lone surrogate.
    """
    text = value if type(value) is str else as_text(value, field)
    if "\0" in text or not _has_utf8(text):
        found = _NOT_IN_TEXT.search(text)
        char, position = (found[0], found.start()) if found else ("\0", 0)
        raise MessageError(
            field, f"holds {describe(char)} at position {position}, which no mail can carry"
        )
    return text


def _has_utf8(text: str) -> bool:
    # Several times faster than looking for surrogates with a pattern.
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe(char: str) -> str:
    """A character's name for an error: never the character itself."""
    if "\ud800" <= char <= "\udfff":
        return f"a lone surrogate (U+{ord(char):04X})"
    known = _BREAKS.get(char) or unicodedata.name(char, "a control character")
    return f"{known} (U+{ord(char):04X})"


def shown(value: object) -> str:
    """A value of the caller's for an error's text: cleaned, short, in quotes."""
    return f"'{clean(str(value), 80)}'"


def _refuse(text: str, position: int, field: str) -> NoReturn:
    raise BadHeaderError(
        field,
        f"holds {describe(text[position])} at position {position}; it must be one line of text "
        "without control characters",
    )
