"""Careful looks into what a provider sent: it is signed, and may be of any shape all the same."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..cleaning import clean
from ..reference import NAME

#: Longest address and provider's number that are kept, in characters: those of the columns.
_LONGEST_ADDRESS = 320
_LONGEST_NUMBER = 255

_NUMBERED = re.compile(r"tag[1-9][0-9]{0,2}")
_FRACTION = re.compile(r"\.(\d{6})\d+")


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """A text or a number as text, cleaned; anything else is empty."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return clean(value) if isinstance(value, str) else ""


def words(*values: Any) -> str:
    """The first of several that says something."""
    return next((found for value in values if (found := text(value))), "")


def number(value: Any) -> str | None:
    """A provider's number of a mail. One that is too long for its column is none."""
    found = text(value)
    return found if 0 < len(found) <= _LONGEST_NUMBER else None


def address(value: Any) -> str | None:
    """The bare address in a text such as ``Ann <ann@example.net>``; ``None`` if there is none."""
    found = text(value)
    if found.endswith(">") and "<" in found:
        found = found.rpartition("<")[2].removesuffix(">")
    found = found.strip()
    return found if "@" in found and len(found) <= _LONGEST_ADDRESS else None


def addresses(value: Any) -> tuple[str, ...]:
    """The addresses in an array of texts."""
    return tuple(filter(None, map(address, items(value))))


def seconds(value: Any, unit: float = 1.0) -> float | None:
    """A number of seconds since the epoch (in units of so many seconds), or its text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value) * unit
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and 0 <= found < 1e11 else None


def iso_time(value: Any) -> float | None:
    """An ISO 8601 time, with any number of digits; without a zone it is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r".\1", value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def reference_in(metadata: Any) -> str | None:
    """Our reference in what a provider gives back of our metadata: an object, or JSON text of it.

    Names may have changed their case on the way, and a value may have become a list of one.
    """
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            return None
    for name, value in _pairs(metadata):
        if isinstance(name, str) and name.lower().endswith(NAME):
            value = value[0] if isinstance(value, list) and value else value
            return clean(value, 100) if isinstance(value, str) else None
    return None


def _pairs(metadata: Any) -> Iterator[tuple[Any, Any]]:
    """Name and value of an object, or of an array of ``{"name": ..., "value": ...}``."""
    if isinstance(metadata, Mapping):
        yield from metadata.items()
    for entry in items(metadata):
        if isinstance(entry, Mapping):
            yield entry.get("name"), entry.get("value")


def facts(**given: Any) -> dict[str, Any]:
    """What is kept beside an event: texts and short lists of them, and nothing that is empty."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, list):
            value = [found for item in value[:20] if (found := text(item))]
        elif isinstance(value, Mapping):
            value = {clean(str(k), 100): text(v) for k, v in list(value.items())[:20]}
        else:
            value = text(value)
        if value:
            kept[name] = value
    return kept


def numbered_tags(metadata: Any) -> list[str]:
    """Tags that our adapters send as ``tag1``, ``tag2``, ... where the provider has only pairs."""
    found = {}
    for name, value in _pairs(metadata):
        if isinstance(name, str) and _NUMBERED.fullmatch(name):
            found[int(name[3:])] = words(*items(value), value)
    return [found[place] for place in sorted(found)]
