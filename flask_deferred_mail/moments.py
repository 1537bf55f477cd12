"""Points in time as a view may write them, as seconds since the epoch."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta

from .characters import shown
from .errors import MessageError

#: The last second of the year 9999: what a datetime, a header and every database can hold.
LATEST = 253_402_300_799.0

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip


def instant(value: object, field: str, *, after: float | None = None) -> float:
    """Seconds since the epoch of an aware ``datetime``, an ISO 8601 text, or such a number.

    :param after: from when on a ``timedelta`` counts; without it, a ``timedelta`` is refused.
    :raises MessageError: a naive datetime (guessing a time zone sends mail at the wrong hour), a
        date out of reach, or something else altogether.
    """
    if isinstance(value, str):
        value = _from_iso(value, field)
    if isinstance(value, datetime):
        return _in_reach(_aware(value, field).timestamp(), field)
    if isinstance(value, timedelta) and after is not None:
        return _in_reach(after + value.total_seconds(), field)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _in_reach(value, field)
    raise MessageError(
        field,
        "must be a datetime with a time zone, an ISO 8601 text or seconds since the epoch, not "
        f"{type(value).__name__}",
    )


def span(value: object, field: str) -> float:
    """Seconds of a ``timedelta`` or a number, zero or more.

    :raises MessageError: it is negative, endless, or something else.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = _finite(value, field)
    else:
        raise MessageError(
            field, f"must be a timedelta or a number of seconds, not {type(value).__name__}"
        )
    if seconds < 0:
        raise MessageError(field, f"must not be negative, it is {seconds:g} s")
    return seconds


def header_date(epoch: float) -> str:
    """The ``Date`` header of that second, in UTC (RFC 5322 section 3.3)."""
    t = time.gmtime(epoch)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon]} {t.tm_year:04} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )


def _from_iso(text: str, field: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise MessageError(
            field, f"{shown(text)} is not an ISO 8601 time such as '2030-01-31T08:30:00Z'"
        ) from None


def _aware(value: datetime, field: str) -> datetime:
    if value.utcoffset() is None:
        raise MessageError(
            field,
            "has no time zone, and guessing one sends mail at the wrong hour; use for instance "
            "datetime.now(timezone.utc) or .replace(tzinfo=...)",
        )
    return value


def _finite(value: float, field: str) -> float:
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise MessageError(field, "must be a finite number of seconds")
    return seconds


def _in_reach(value: float, field: str) -> float:
    seconds = _finite(value, field)
    if not 0 <= seconds <= LATEST:
        raise MessageError(
            field, "lies outside the years 1970 to 9999; numbers are seconds, not milliseconds"
        )
    return seconds
