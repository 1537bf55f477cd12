"""How much may leave by a transport: limits as a URL says them, and the arithmetic of their
buckets. Pure: no clock, no database.

A limit counts envelopes: each call to a server or provider is one, whoever it is for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE = re.compile(r"([1-9][0-9]{0,8})/([smhd])")

#: What the option should be, for people.
EXPECTED = "envelopes per second, minute, hour or day, as in 14/s or 600/m,50000/d"


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of a limit, and since when: the state that all processes share.

    ``filled_at`` is in seconds since the epoch by the database's clock.
    """

    tokens: float
    filled_at: float


@dataclass(frozen=True, slots=True)
class Limit:
    """So many envelopes in a window of so many seconds.

    Of seconds and minutes they leave evenly, and never more than a tenth beyond the number in any
    window. Those of hours and days are quotas: they may leave all at once; the window begins with
    the first of them, and ends when its time is over.
    """

    number: float
    seconds: int

    @property
    def is_quota(self) -> bool:
        return self.seconds >= _SECONDS["h"]

    @property
    def room(self) -> float:
        """Most tokens that gather while nobody needs them."""
        return self.number if self.is_quota else 1 + self.number / 10

    def now_in(self, bucket: Bucket | None, now: float) -> Bucket:
        """The bucket as it is at this time; ``None``: nothing has been taken from it yet."""
        if bucket is None:
            return Bucket(self.room, now)
        # A clock that was set back must not keep it empty until it is there again.
        elapsed = max(0.0, now - bucket.filled_at)
        if self.is_quota:
            over = elapsed >= self.seconds or now < bucket.filled_at
            untouched = bucket.tokens >= self.number
            return Bucket(self.number, now) if over or untouched else bucket
        grown = bucket.tokens + elapsed * self.number / self.seconds
        return Bucket(min(self.room, grown), now)

    def wait(self, bucket: Bucket, now: float) -> float:
        """Seconds from ``now`` until the bucket, as of then, has a token; 0: it has one."""
        if bucket.tokens >= 1:
            return 0.0
        if self.is_quota:
            return max(0.0, bucket.filled_at + self.seconds - now)
        return (1 - bucket.tokens) * self.seconds / self.number

    def __str__(self) -> str:
        unit = next(name for name, seconds in _SECONDS.items() if seconds == self.seconds)
        return f"{self.number:g}/{unit}"


def limits_from(text: str) -> tuple[Limit, ...] | None:
    """The limits that ``?rate=`` says, the shortest window first; ``None``: it cannot be read."""
    found: dict[int, Limit] = {}
    for part in text.split(","):
        match = _RATE.fullmatch(part.strip())
        if match is None:
            return None
        seconds = _SECONDS[match[2]]
        if seconds in found:
            return None
        found[seconds] = Limit(float(match[1]), seconds)
    return tuple(found[seconds] for seconds in sorted(found))
