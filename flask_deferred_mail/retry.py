"""After how long to try again: pure arithmetic over seconds, without a clock of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from .outcome import FaultKind

#: Longest that a server's ``Retry-After`` (RFC 9110 10.2.3) or our own growth can ask for.
LONGEST_REST = 3600.0

#: Waits are lengthened by up to this part of themselves.
JITTER = 0.25

#: First rest of a transport after a fault of that kind, and what doubling may grow it to.
_RESTS = {
    FaultKind.UNREACHABLE: (5.0, 300.0),
    FaultKind.ACCOUNT: (60.0, LONGEST_REST),
    FaultKind.RATE_LIMITED: (30.0, LONGEST_REST),
    FaultKind.QUOTA: (LONGEST_REST, LONGEST_REST),
}

#: Faults that nobody but the other side's own recovery ends: a short ``DEFERRED_MAIL_BACKOFF``
#: says how eagerly the operator wants to look again. A rate or a quota is the provider's to say.
_BOUNDED_BY_SCHEDULE = frozenset({FaultKind.UNREACHABLE, FaultKind.ACCOUNT})


class Random(Protocol):
    """Where jitter comes from: a :class:`random.Random`, or the module :mod:`random`."""

    def random(self) -> float:
        """A number in ``[0, 1)``."""


def jittered(seconds: float, rng: Random) -> float:
    """``seconds``, lengthened by up to a quarter, so that a crowd does not come back at once."""
    return seconds * (1 + rng.random() * JITTER)


def backoff(attempts: int, schedule: Sequence[float], rng: Random) -> float:
    """Seconds until the next attempt of a mail whose attempt number ``attempts`` (from 1) failed.

    The last entry of ``schedule`` repeats. Jitter only lengthens: greylisting and polite servers
    count on the delay being at least what was configured.
    """
    return jittered(schedule[min(max(attempts, 1), len(schedule)) - 1], rng)


def rest(
    failures: int,
    kind: FaultKind,
    retry_after: float | None,
    schedule: Sequence[float],
    rng: Random,
) -> float:
    """Seconds for which a transport is left alone after its fault number ``failures`` in a row.

    What the server asked for goes before our own growth, whichever is longer, but never for more
    than an hour: an absurd ``Retry-After`` must not silence a transport for a year. Without one,
    rests double with each failure; those of an unreachable server or a broken account are never
    longer than the longest entry of ``schedule``.
    """
    asked = _plausible(retry_after)
    return jittered(asked if asked is not None else _grown(failures, kind, schedule), rng)


def unknown_delay(schedule: Sequence[float], window: float | None) -> float:
    """Seconds until a mail whose outcome is unknown is handed over once more.

    Inside the provider's idempotency ``window`` (seconds) where it has one: the repeat must reach
    it while it still recognises the key. Half of the window leaves room for a late sweep.
    """
    return schedule[0] if window is None else min(schedule[0], window / 2)


def _plausible(retry_after: float | None) -> float | None:
    """The server's wish, capped; ``None`` for none, and for what cannot be waited for."""
    if retry_after is None or math.isnan(retry_after) or retry_after <= 0:
        return None
    return min(retry_after, LONGEST_REST)


def _grown(failures: int, kind: FaultKind, schedule: Sequence[float]) -> float:
    first, longest = _RESTS[kind]
    if kind in _BOUNDED_BY_SCHEDULE:
        longest = min(longest, max(schedule))
    # The exponent is bounded so that a year of failures stays a float.
    doubled = first * 2.0 ** min(max(failures, 1) - 1, 20)
    return min(doubled, longest)
