"""When a provider that keeps mail itself is to deliver it."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from ..letter import Letter

#: Seconds ahead within which a provider is not asked to wait.
_SOON = 30.0


def later_date(letter: Letter, now: float) -> float | None:
    """The date of a letter that is recorded for later (its Date is its ``send_at``), if it is."""
    try:
        moment = parsedate_to_datetime(letter.date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment > now + _SOON else None
