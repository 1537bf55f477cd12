"""When a provider's window of calls ends, by the headers that are not ``Retry-After``."""

from __future__ import annotations

import re

from .http_api import MAX_RETRY_AFTER

# What is above it cannot be a number of seconds to wait: it is a time since the epoch (2001).
_A_MOMENT = 1_000_000_000


def seconds_until(value: str | None, now: float) -> float | None:
    """Seconds until the window ends, capped like ``Retry-After``.

    ``value`` is a number of seconds, or a moment in seconds since the epoch, as ``now`` is;
    ``None`` is the answer if it is neither, or past.
    """
    text = (value or "").strip()
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return None
    number = float(text)
    seconds = number - now if number > _A_MOMENT else number
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None
