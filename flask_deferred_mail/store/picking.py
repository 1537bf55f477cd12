"""Which due mails a claim takes, when there are more than it has places for.

Priority first. Within a priority nobody's pile makes another wait: tenants take turns, and within
a tenant new mail takes turns with mail that waits for another attempt, each in the order of its
due time. (Postfix takes turns between its incoming and its deferred queue for the same reason.)

Tenants are found by steps through the claim index, one look for each, at most :data:`TENANTS` in a
claim; the next claim goes on where this one stopped. So a claim costs the same whatever lies in
the table, also with thousands of tenants; places that no turn has filled go to whoever is due
first.
"""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Double, Select, bindparam, select

from ..job import JobStatus
from .dialect import MYSQLS
from .payload import FORMAT
from .prepared import Prepared
from .schema import PREFIX, jobs

#: Tenants that one claim looks at, at most.
TENANTS = 16

COLUMNS = (
    jobs.c.id,
    jobs.c.status,
    jobs.c.transport,
    jobs.c.attempts,
    jobs.c.budget_start,
    jobs.c.max_attempts,
    jobs.c.deaths,
    jobs.c.handing_over,
    jobs.c.generation,
    jobs.c.died_generation,
    jobs.c.on_unknown,
    jobs.c.first_due_at,
    jobs.c.expires_at,
    jobs.c.size,
    jobs.c.message_id,
    jobs.c.recipients,
    jobs.c.lease_owner,
    jobs.c.due_at,
    jobs.c.priority,
    jobs.c.tenant,
    jobs.c.transactional,
)

CLAIM_INDEX = f"{PREFIX}job_claim"
DUE_INDEX = f"{PREFIX}job_due"

#: A row as the claim reads it: these columns by their names.
Due = namedtuple("Due", [column.key for column in COLUMNS])  # type: ignore[misc] # the list is above


@dataclass(frozen=True, slots=True)
class Until:
    """Until when mail must have become due, by the database's clock."""

    #: For mail that nobody has tried yet: now.
    new: float
    #: For mail that waits for another attempt: never later.
    tried: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """A tenant of a priority, as the steps through the index show it."""

    tenant: str
    #: Whether there can be new mail, and whether tried.
    new: bool
    tried: bool


# -- steps through the indexes, one look each ---------------------------------------------------

_WAITING = jobs.c.queue == bindparam("transport_")
_OF_PRIORITY = (_WAITING, jobs.c.priority == bindparam("priority_"))

# The next priority with its last tenant, and whether that tenant has tried mail.
_TOP = Prepared(
    select(jobs.c.priority, jobs.c.tenant, jobs.c.tried)
    .where(_WAITING, jobs.c.priority < bindparam("below_"))
    .order_by(jobs.c.priority.desc(), jobs.c.tenant.desc(), jobs.c.tried.desc())
    .limit(1)
)
#: Above every priority that a row can have.
_ABOVE_ALL = 32_767

_TENANT = (
    select(jobs.c.tenant, jobs.c.tried, jobs.c.due_at)
    .where(*_OF_PRIORITY)
    .order_by(jobs.c.tenant, jobs.c.tried, jobs.c.due_at)
    .limit(1)
)
_FIRST_TENANT = Prepared(_TENANT)
_NEXT_TENANT = Prepared(_TENANT.where(jobs.c.tenant > bindparam("after_")))

_NEXT_TRANSPORT = Prepared(
    select(jobs.c.queue).where(jobs.c.queue > bindparam("after_")).order_by(jobs.c.queue).limit(1)
)
_EARLIEST = Prepared(select(jobs.c.due_at).where(*_OF_PRIORITY).order_by(jobs.c.due_at).limit(1))


def transports(connection: Connection) -> Iterator[str]:
    """The transports that somebody has something to do for, now or later, by name."""
    name: str | None = ""
    while name is not None:
        name = _NEXT_TRANSPORT.scalar(connection, {"after_": name})
        if name is not None:
            yield name


def due_times(connection: Connection, transport: str) -> Iterator[float]:
    """When somebody may take the next mail of a transport, for each priority in use."""
    for priority, _, _ in _priorities(connection, transport):
        values = {"transport_": transport, "priority_": priority}
        due_at = _EARLIEST.scalar(connection, values)
        # Another process may have taken the last one since the step.
        if due_at is not None:
            yield due_at


def _priorities(connection: Connection, transport: str) -> Iterator[tuple[int, str, bool]]:
    """The priorities in use, highest first, each with its last tenant."""
    below = _ABOVE_ALL
    while found := _TOP.rows(connection, {"transport_": transport, "below_": below}):
        below, tenant, tried = found[0]
        yield below, tenant, bool(tried)


# -- reading rows -------------------------------------------------------------------------------

_WAS_SENDING = jobs.c.status == JobStatus.SENDING.value
_DUE = (
    select(*COLUMNS)
    .where(
        *_OF_PRIORITY,
        jobs.c.due_at <= bindparam("until_", type_=Double()),
        jobs.c.format <= FORMAT,
    )
    .limit(bindparam("limit_"))
    # What another process is claiming at this moment is its own. (SQLite has one writer anyway.)
    .with_for_update(skip_locked=True)
)


def _by(index: str, statement: Select[Any]) -> Prepared:
    """MySQL takes either index for both orders, and would look through one tenant's import for
    another's mail."""
    for name in MYSQLS:
        statement = statement.with_hint(jobs, f"FORCE INDEX ({index})", name)
    return Prepared(statement)


_UNSUSPECTED = _DUE.where(jobs.c.deaths == 0, ~_WAS_SENDING).order_by(jobs.c.due_at)
_OF_TENANT = _by(
    CLAIM_INDEX,
    _UNSUSPECTED.where(jobs.c.tenant == bindparam("tenant_"), jobs.c.tried == bindparam("tried_")),
)
_OF_ANYBODY = _by(
    DUE_INDEX,
    _UNSUSPECTED.where(
        (jobs.c.tried == 0) | (jobs.c.due_at <= bindparam("tried_until_", type_=Double()))
    ),
)
# A row in hand whose lease ran out is a suspect from now on.
_SUSPECTS = _by(
    DUE_INDEX, _DUE.where((jobs.c.deaths > 0) | _WAS_SENDING).order_by(jobs.c.deaths, jobs.c.due_at)
)


def _read(statement: Prepared, connection: Connection, values: dict[str, Any]) -> list[Any]:
    return [Due._make(row) for row in statement.rows_at_once(connection, values)]


def suspects(connection: Connection, transport: str, limit: int, until: float) -> list[Any]:
    """Due mails whose former sender died.

    Those that killed once more than the others come last: who was merely in hand beside a poisoned
    mail does not wait for its end.
    """
    found: list[Any] = []
    for priority, _, _ in _priorities(connection, transport):
        values = {"transport_": transport, "priority_": priority, "until_": until}
        found += _read(_SUSPECTS, connection, values | {"limit_": limit})
    return sorted(found, key=lambda row: (row.deaths, -row.priority, row.due_at))[:limit]


def oldest(connection: Connection, transport: str, limit: int, until: Until) -> list[Any]:
    """Due mails by their due time alone, whatever their priority."""
    found: list[Any] = []
    for priority, _, _ in _priorities(connection, transport):
        values = {
            "transport_": transport,
            "priority_": priority,
            "until_": until.new,
            "tried_until_": until.tried,
        }
        found += _read(_OF_ANYBODY, connection, values | {"limit_": limit})
    return sorted(found, key=lambda row: float(row.due_at))[:limit]


class Picking:
    """Picks due mails, and remembers whose turn it was. One for each process and transport list."""

    def __init__(self) -> None:
        self._last_tenant: dict[tuple[str, int], str] = {}
        self._calls = itertools.count()

    def pick(self, connection: Connection, transport: str, limit: int, until: Until) -> list[Any]:
        """Up to ``limit`` mails of a transport, the most urgent first; locked until the commit."""
        found: list[Any] = []
        for priority, last_tenant, tried in _priorities(connection, transport):
            shelf = _Shelf(connection, transport, priority, until, next(self._calls) % 2)
            found += self._from(shelf, limit - len(found), last_tenant, tried)
            if len(found) >= limit:
                break
        return found

    def _from(self, shelf: _Shelf, places: int, last_tenant: str, tried: bool) -> list[Any]:
        where = (shelf.transport, shelf.priority)
        before = self._last_tenant.get(where)
        turns, all_seen = shelf.turns(before, places, last_tenant, tried)
        if turns:
            self._last_tenant[where] = turns[-1].tenant
        found = shelf.share(turns, places)
        if len(found) < places and not all_seen:
            found += shelf.of_anybody(places, {row.id for row in found})
        return found


@dataclass(slots=True)
class _Shelf:
    """The waiting mails of one transport and priority, in one transaction."""

    connection: Connection
    transport: str
    priority: int
    until: Until
    #: 0 or 1: who has the odd place this time, new mail or tried.
    odd: int

    def _values(self, **more: Any) -> dict[str, Any]:
        return {"transport_": self.transport, "priority_": self.priority, **more}

    def turns(
        self, after: str | None, places: int, last_tenant: str, last_tried: bool
    ) -> tuple[list[_Turn], bool]:
        """Whose turn it is, at most one for each place; and whether that is everybody."""
        turns: list[_Turn] = []
        for number, (tenant, tried, due_at) in enumerate(self._tenants(after, last_tenant)):
            if len(turns) == places or number == TENANTS:
                return turns, False
            is_due = due_at <= (self.until.tried if tried else self.until.new)
            turn = _Turn(
                tenant,
                new=is_due and not tried,
                tried=is_due if tried else tenant != last_tenant or last_tried,
            )
            if turn.new or turn.tried:
                turns.append(turn)
        return turns, True

    def _tenants(self, after: str | None, last: str) -> Iterator[tuple[str, int, float]]:
        """Every tenant once, beginning with the one after ``after``.

        Only compared for equality here: their order is that of the database's collation.
        """
        first: str | None = None
        tenant = None if after == last else after
        wrapped = tenant is None
        while True:
            found = self._step(tenant)
            if not found:
                if wrapped:
                    return
                wrapped, tenant = True, None
                continue
            tenant = found[0][0]
            if tenant == first:
                return
            first = tenant if first is None else first
            yield found[0]
            if tenant == last:
                if wrapped:
                    return
                wrapped, tenant = True, None

    def _step(self, after: str | None) -> list[tuple[Any, ...]]:
        if after is None:
            return _FIRST_TENANT.rows(self.connection, self._values())
        return _NEXT_TENANT.rows(self.connection, self._values(after_=after))

    def share(self, turns: Sequence[_Turn], places: int) -> list[Any]:
        """The mails of the tenants by turns, everybody's first, then everybody's second, and so on.

        What one tenant has no use for, the others get.
        """
        hands: list[list[Any]] = []
        quotas: list[int] = []
        left = places
        for number, turn in enumerate(turns):
            quotas.append(-(-left // (len(turns) - number)))
            hands.append(self._of_tenant(turn, quotas[-1]))
            left -= len(hands[-1])
        for number, turn in enumerate(turns[:-1]):
            if left and len(hands[number]) == quotas[number]:
                had = len(hands[number])
                hands[number] = self._of_tenant(turn, had + left)
                left -= len(hands[number]) - had
        return _by_turns(hands)

    def _of_tenant(self, turn: _Turn, quota: int) -> list[Any]:
        """New and tried mail by turns; what one kind leaves free, the other gets."""
        wanted = (quota + self.odd) // 2 if turn.new else quota
        tried = self._lane(turn, 1, wanted) if turn.tried and wanted else []
        new = self._lane(turn, 0, quota - len(tried)) if turn.new else []
        if turn.tried and len(tried) == wanted and len(tried) + len(new) < quota:
            tried = self._lane(turn, 1, quota - len(new))
        return _by_turns([tried, new] if self.odd else [new, tried])

    def _lane(self, turn: _Turn, tried: int, limit: int) -> list[Any]:
        until = self.until.tried if tried else self.until.new
        values = self._values(tenant_=turn.tenant, tried_=tried, until_=until, limit_=limit)
        return _read(_OF_TENANT, self.connection, values)

    def of_anybody(self, limit: int, without: set[int]) -> list[Any]:
        """Whatever has been due the longest, for places that no turn has filled."""
        values = self._values(until_=self.until.new, tried_until_=self.until.tried, limit_=limit)
        found = _read(_OF_ANYBODY, self.connection, values)
        return [row for row in found if row.id not in without][: limit - len(without)]


def _by_turns(hands: Sequence[list[Any]]) -> list[Any]:
    rounds = itertools.zip_longest(*hands)
    return [row for one_round in rounds for row in one_round if row is not None]
