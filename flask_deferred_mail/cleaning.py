"""Make text from outside safe to keep and to show.

A server's reply can hold terminal escapes, NUL, markup, or a megabyte of it. Nothing of that goes
into a row, a log or a terminal as it came.
"""

from __future__ import annotations

import unicodedata

#: Longest text of a server or provider that is kept, in characters.
MAX_TEXT = 500

# Control, format (bidi overrides, zero width), surrogate, private use, unassigned.
_UNSHOWABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str | bytes, limit: int = MAX_TEXT) -> str:
    """One line of printable text, at most ``limit`` characters long.

    Bytes are read as UTF-8, with U+FFFD for what is not. White space of any kind becomes one
    blank; other control and format characters become U+FFFD. HTML is *not* escaped here: whoever
    shows the text in a page escapes it there.
    """
    if isinstance(text, bytes):
        text = text[: limit * 8].decode("utf-8", "replace")
    else:
        text = text[: limit * 8]
    # Nearly every text that a server sends is printable as it is.
    shown = text if text.isprintable() else "".join(map(_printable, text))
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _printable(char: str) -> str:
    if char == " " or unicodedata.category(char) not in _UNSHOWABLE:
        return char
    return " " if char.isspace() else "�"
