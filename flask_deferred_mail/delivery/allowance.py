"""What this process may send by limited transports: tokens in hand, and when there are more.

Tokens come out of the database with the claim of the mails that they are for. They belong to no
mail: what one does not need, the next one has. A transport without a limit is never asked about.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from ..errors import StoreError
from ..rates import Limit
from ..store.limits import Limits, Purse
from ..transports.base import Transport
from .pacing import Pacing

log = logging.getLogger("flask_deferred_mail.delivery")

#: Seconds after which tokens that nothing was sent for are not used any more, but returned: what
#: they were taken from has filled up since, and both together would be too much.
KEPT = 5.0

#: Shortest wait between two looks into an empty bucket, in seconds.
_SHORTEST = 0.005


@dataclass(slots=True)
class _Stock:
    """Tokens in hand, and by the monotonic clock, when the youngest of them came."""

    number: int = 0
    since: float = 0.0
    #: Those that have become too old to be used.
    old: int = 0


class Allowance:
    """The tokens of one process. Safe for threads."""

    def __init__(self, limits: Limits, pacing: Pacing) -> None:
        self.limits = limits
        self.pacing = pacing
        self._stock: dict[str, _Stock] = {}
        #: Name -> when there may be tokens again, by the monotonic clock.
        self._empty_until: dict[str, float] = {}
        self._lock = threading.Lock()

    def limits_of(self, transport: Transport) -> tuple[Limit, ...]:
        """What holds for it now: its own limits, and for a short time after an outage one more."""
        ramp = self.pacing.ramp(transport.name)
        if ramp is None:
            return transport.limits
        same = [limit for limit in transport.limits if limit.seconds == ramp.seconds]
        others = [limit for limit in transport.limits if limit.seconds != ramp.seconds]
        return (min([ramp, *same], key=lambda limit: limit.number), *others)

    def wait(self, name: str) -> float:
        """Seconds until more may be taken, as far as this process knows; 0: there may be some."""
        return max(0.0, self._empty_until.get(name, 0.0) - time.monotonic())

    def purse(self, transports: list[Transport]) -> Purse | None:
        """For a claim of mail that any of these may send; ``None``: one of them has no limit."""
        limits = {transport.name: self.limits_of(transport) for transport in transports}
        return Purse(limits) if limits and all(limits.values()) else None

    def put_in(self, purse: Purse) -> None:
        """Its transaction has committed: what it took is in hand."""
        now = time.monotonic()
        with self._lock:
            for name, number in purse.taken.items():
                stock = self._fresh(name, now)
                stock.number += number
                stock.since = now
            for name, wait in purse.waits.items():
                self._empty_until[name] = now + max(wait, _SHORTEST)

    def take(self, transport: Transport, wanted: int, *, begins: bool) -> float:
        """Take a token for one envelope: 0, or the seconds until there may be one.

        Out of the database if none is in hand, up to ``wanted`` for those that follow. ``begins``:
        it is the first of its mail; what has begun is not held up because of an outage before.

        :raises StoreError: it cannot be asked.
        """
        name = transport.name
        if name in self._stock and self._take_out(name):
            return 0.0
        limits = self.limits_of(transport) if begins else transport.limits
        if not limits:
            return 0.0
        if (wait := self.wait(name)) > 0:
            return wait
        purse = Purse({name: limits})
        self.limits.take(purse, wanted)
        self.put_in(purse)
        return 0.0 if self._take_out(name) else max(self.wait(name), _SHORTEST)

    def give_back(self) -> None:
        """Return what is in hand: nothing more is sent here for now."""
        with self._lock:
            tokens = {name: stock.number + stock.old for name, stock in self._stock.items()}
            self._stock.clear()
        tokens = {name: number for name, number in tokens.items() if number}
        try:
            if tokens:
                self.limits.give_back(tokens)
        except StoreError as error:
            log.warning("could not give back what was not sent of a limit: %s", error)

    def _take_out(self, name: str) -> bool:
        with self._lock:
            stock = self._fresh(name, time.monotonic())
            if not stock.number:
                return False
            stock.number -= 1
            return True

    def _fresh(self, name: str, now: float) -> _Stock:
        stock = self._stock.setdefault(name, _Stock())
        if now - stock.since > KEPT:
            stock.old += stock.number
            stock.number = 0
        return stock
