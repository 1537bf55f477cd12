"""Header fields that an application adds: their names, their values, and those it may not add."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .address import parse_address
from .characters import line, shown
from .errors import BadHeaderError, MessageError, MessageTooLarge

#: Most header fields that a message may add.
MAX_FIELDS = 100
#: Longest value of one field, in characters; folded, that is some hundred lines.
MAX_VALUE = 8 * 998
#: Longest Message-ID, with its brackets.
MAX_MESSAGE_ID = 255

_MAX_NAME = 76

# RFC 5322 section 3.6.8: printable ASCII but for the colon.
_FTEXT = re.compile(r"[!-9;-~]+")
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_DOT_ATOM = rf"{_ATEXT}(?:\.{_ATEXT})*"
# RFC 5322 section 3.6.4, without the obsolete forms; a domain literal may stand on the right.
_MESSAGE_ID = re.compile(rf"<{_DOT_ATOM}@(?:{_DOT_ATOM}|\[[!-Z^-~]+\])>")

#: Fields that the message writes itself -> what to use instead.
_WRITTEN_BY_US = {
    "from": "sender",
    "to": "recipients",
    "cc": "cc",
    "bcc": "bcc",
    "resent-bcc": "bcc",
    "subject": "subject",
    "reply-to": "reply_to",
    "date": "date or send_at",
    "return-path": "envelope_sender",
}
_ONLY_ONCE = frozenset({"message-id", "sender", "in-reply-to", "references"})


def pairs(headers: object, field: str) -> Iterable[tuple[object, object]]:
    """The (name, value) pairs of a mapping or of a sequence of pairs; ``None`` has none.

    :raises MessageError: it is neither.
    """
    if headers is None:
        return ()
    if isinstance(headers, Mapping):
        return headers.items()
    try:
        return [(name, value) for name, value in headers]  # type: ignore[attr-defined]  # checked
    except (TypeError, ValueError):
        raise MessageError(field, "must be a mapping or a list of (name, value) pairs") from None


def header_name(value: object, field: str) -> str:
    """A field name that cannot end its line.

    :raises BadHeaderError: anything but printable ASCII without a colon.
    """
    name = line(value, field, _MAX_NAME)
    if not _FTEXT.fullmatch(name):
        raise BadHeaderError(
            field, f"{shown(name)} is no header name: printable ASCII without blanks and colons"
        )
    return name


def header_value(name: str, value: object, field: str) -> str:
    """One line of text, not empty, without blanks at its ends.

    :raises BadHeaderError: line breaks, NUL, control characters or surrogates.
    :raises MessageTooLarge: more than :data:`MAX_VALUE` characters.
    :raises MessageError: it is empty.
    """
    text = line(value, f"{field}, {name}", MAX_VALUE).strip(" \t")
    if not text:
        raise MessageError(field, f"{name} has no value; leave it out instead")
    return text


def extra_fields(headers: object, field: str) -> tuple[tuple[str, str], ...]:
    """The header fields that an application adds, in its order.

    :raises MessageError: a field that the message writes itself; its text names what to use.
    :raises BadHeaderError: a name or a value that would not stay in its line.
    :raises MessageTooLarge: more than :data:`MAX_FIELDS`.
    """
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    for given_name, given_value in pairs(headers, field):
        name = header_name(given_name, field)
        lower = name.lower()
        _refuse_structural(name, lower, field)
        if lower in seen and lower in _ONLY_ONCE:
            raise MessageError(field, f"{name} may stand in a mail only once")
        seen.add(lower)
        value = header_value(name, given_value, field)
        if lower in _ONLY_ONCE:
            value = _singular(lower, name, value, field)
        found.append((name, value))
    if len(found) > MAX_FIELDS:
        raise MessageTooLarge(field, f"{len(found)} header fields, {MAX_FIELDS} are allowed")
    return tuple(found)


def _refuse_structural(name: str, lower: str, field: str) -> None:
    if (instead := _WRITTEN_BY_US.get(lower)) is not None:
        raise MessageError(field, f"{name} is written for you; use the field {instead}")
    if lower.startswith("content-") or lower == "mime-version":
        raise MessageError(
            field, f"{name} is written for you; use body, html, alts, attach() or inline()"
        )


def _singular(lower: str, name: str, value: str, field: str) -> str:
    if lower == "message-id":
        return message_id(value, field)
    if lower == "sender":
        # The field is structured: its display name could not be encoded like free text.
        if not value.isascii():
            raise MessageError(field, f"{name} must be ASCII; leave the name out")
        parse_address(value, f"{field}, {name}")
    return value


def message_id(value: str, field: str) -> str:
    """A Message-ID that every program reads the same way.

    :raises MessageError: it is not ``<left@right>`` with nothing around it.
    """
    if len(value) > MAX_MESSAGE_ID or not _MESSAGE_ID.fullmatch(value):
        raise MessageError(
            field, f"Message-ID {shown(value)} does not read as <unique-part@domain>"
        )
    return value
