"""What a limited transport may still send, for all processes on all hosts together.

Tokens are taken in the transaction of the claim that they are for: the row of the bucket is locked
before mail is looked for, and written with what was found. So no token costs a commit of its own,
and none is taken for mail that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from ..rates import Bucket, Limit
from .database import Database
from .dialect import insert_or_ignore, read_now
from .schema import limits as table


@dataclass(slots=True)
class Purse:
    """Tokens of some transports, for one transaction; made anew for each try of it."""

    #: Name -> its limits. All of these may be used for the same mail.
    limits: Mapping[str, Sequence[Limit]]
    #: Name -> tokens that the transaction has taken; what counts once it has committed.
    taken: dict[str, int] = field(default_factory=dict)
    #: Name -> seconds until there may be a token again, of those that have none left.
    waits: dict[str, float] = field(default_factory=dict)
    _found: dict[str, dict[int, Bucket]] = field(default_factory=dict)
    _moment: float = 0.0

    def open(self, connection: Connection, wanted: int) -> int:
        """For how many envelopes there are tokens, up to ``wanted``. Locks the buckets."""
        self.taken, self.waits, self._found = {}, {}, {}
        # In one order, so that two who want the same ones do not wait for each other in a circle.
        for name in sorted(self.limits):
            self._found[name] = _locked(connection, name, self.limits[name])
        self._moment = read_now(connection)
        for name, limits in self.limits.items():
            buckets = self._found[name]
            self._found[name] = {
                limit.seconds: limit.now_in(buckets.get(limit.seconds), self._moment)
                for limit in limits
            }
            if any(bucket.filled_at > self._moment for bucket in buckets.values()):
                # The clock was set back. Noted also if nothing is taken: it fills as from now.
                self._write(connection, name, 0)
        for name in self.limits:
            self._note_wait(name, 0)
        return min(wanted, sum(map(self._there, self.limits)))

    def spend(self, connection: Connection, number: int) -> None:
        """Take the tokens for so many envelopes."""
        left = number
        for name in sorted(self.limits, key=self._there, reverse=True):
            mine = min(left, self._there(name))
            if mine:
                self.taken[name] = mine
                left -= mine
            self._write(connection, name, mine)
            self._note_wait(name, mine)

    def _there(self, name: str) -> int:
        return max(0, int(min(bucket.tokens for bucket in self._found[name].values())))

    def _note_wait(self, name: str, taken: int) -> None:
        """Until there is one again, if there is none left."""
        if self._there(name) <= taken:
            self.waits[name] = max(
                limit.wait(Bucket(bucket.tokens - taken, bucket.filled_at), self._moment)
                for limit, bucket in self._pairs(name)
            )

    def _pairs(self, name: str) -> list[tuple[Limit, Bucket]]:
        return [(limit, self._found[name][limit.seconds]) for limit in self.limits[name]]

    def _write(self, connection: Connection, name: str, number: int) -> None:
        for limit, bucket in self._pairs(name):
            values = {
                "transport_": name,
                "seconds_": limit.seconds,
                "tokens": bucket.tokens - number,
                "filled_at": bucket.filled_at,
            }
            connection.execute(_FILL, values)


def _locked(connection: Connection, name: str, limits: Sequence[Limit]) -> dict[int, Bucket]:
    """The buckets as they were last written, each of which nobody else may write now."""
    found = _read(connection, name)
    missing = [limit for limit in limits if limit.seconds not in found]
    if missing:
        moment = read_now(connection)
        for limit in missing:
            row = {
                "transport": name,
                "seconds": limit.seconds,
                "tokens": limit.room,
                "filled_at": moment,
            }
            connection.execute(insert_or_ignore(table, connection.dialect.name), row)
        found = _read(connection, name)
    return found


def _read(connection: Connection, name: str) -> dict[int, Bucket]:
    rows = connection.execute(_LOCK, {"transport_": name}).all()
    return {row.seconds: Bucket(row.tokens, row.filled_at) for row in rows}


_OF = table.c.transport == bindparam("transport_")
_LOCK = (
    select(table.c.seconds, table.c.tokens, table.c.filled_at)
    .where(_OF)
    .order_by(table.c.seconds)
    .with_for_update()
)
_FILL = update(table).where(_OF, table.c.seconds == bindparam("seconds_"))
_RETURN = update(table).where(_OF).values(tokens=table.c.tokens + bindparam("number_"))


class Limits:
    """Buckets of tokens, apart from claims. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def take(self, purse: Purse, wanted: int) -> None:
        """Take up to so many tokens, as ``purse.taken`` and ``purse.waits`` then say."""

        def work(connection: Connection) -> None:
            if found := purse.open(connection, wanted):
                purse.spend(connection, found)

        self.database.write(work)

    def give_back(self, tokens: Mapping[str, int]) -> None:
        """Return tokens that nothing was sent for, by name."""

        def work(connection: Connection) -> None:
            for name in sorted(tokens):
                connection.execute(_RETURN, {"transport_": name, "number_": tokens[name]})

        self.database.write(work)

    def left(self, limits: Mapping[str, Sequence[Limit]]) -> dict[str, dict[str, float]]:
        """What is left of each limit now, by name and by the limit as it is written."""

        def work(connection: Connection) -> dict[str, dict[str, float]]:
            rows: Any = connection.execute(select(table)).all()
            found = {
                (row.transport, row.seconds): Bucket(row.tokens, row.filled_at) for row in rows
            }
            moment = read_now(connection)
            return {
                name: {
                    str(limit): limit.now_in(found.get((name, limit.seconds)), moment).tokens
                    for limit in some
                }
                for name, some in limits.items()
            }

        return self.database.read(work)
