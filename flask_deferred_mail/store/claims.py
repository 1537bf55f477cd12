"""The SQL that takes ownership of due mails.

A claim is one transaction: it finds what is due, marks it ``sending`` with a token that nobody
else knows, counts the attempt, and sets the end of the lease. Every later write names the token
and so touches nothing once somebody else has taken the row over. A row whose lease ran out is due
like any other; taking it counts a *death* of its former sender and leaves a line in the attempt
log, so that a mail that kills its senders comes to an end.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Double,
    any_,
    bindparam,
    case,
    select,
    update,
)

from ..job import Job, JobRecipient, JobStatus
from ..letter import Submission
from .database import Database
from .dialect import now
from .limits import Purse
from .payload import FORMAT
from .picking import COLUMNS, Due, Picking, Until, due_times, transports
from .picking import oldest as find_oldest
from .picking import suspects as find_suspects
from .prepared import Prepared
from .rows import recipients_from
from .schema import attempts, jobs


@dataclass(frozen=True, slots=True)
class Lease:
    """How a process takes rows: for how long, and under which name."""

    seconds: float
    #: Host and process id, for people.
    owner: str


class Claim(NamedTuple):
    """A mail that this process has in hand until its lease ends.

    (A tuple, since a frozen dataclass of so many fields takes three times as long to make.)
    """

    job_id: int
    token: str
    #: By this process's monotonic clock: when the lease was asked for (it ends no earlier than
    #: ``Lease.seconds`` after this).
    leased_at: float
    #: By the database's clock: when it was claimed.
    claimed_at: float
    transport: str
    #: Number of this attempt, counted from 1.
    number: int
    #: Attempts that count against the budget, this one included.
    spent: int
    max_attempts: int | None
    #: Attempts in a row that ended without any outcome, before this one.
    deaths: int
    #: The former sender died when the last byte may have been out, and the mail must not be sent
    #: twice.
    died_handing_over: bool
    generation: int
    died_generation: int | None
    on_unknown: str | None
    first_due_at: float
    expires_at: float | None
    size: int
    message_id: str
    recipients: tuple[JobRecipient, ...]
    #: Inserted already leased: nothing has been counted for it yet.
    preleased: bool = False
    tenant: str = ""
    #: Somebody waits for it: it goes to who has unsubscribed, too.
    transactional: bool = False

    def now(self) -> float:
        """The database's time, as far as this process can tell without asking again."""
        return self.claimed_at + (time.monotonic() - self.leased_at)

    def with_recipients(self, recipients: tuple[JobRecipient, ...]) -> Claim:
        return self._replace(recipients=recipients)


_counter = itertools.count()


def new_token() -> str:
    """A name for a claim that no other claim, in any process, has or had."""
    return f"{os.urandom(10).hex()}.{next(_counter)}"


def _no_purse(_transport: str) -> None:
    """It is not limited, or that is not to matter."""


class Claims:
    """Takes due mails out of the store. Every method is one transaction."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self.database = database
        self.lease = lease
        self._picking = Picking()

    def take(
        self,
        transport: str,
        limit: int,
        *,
        due_before: float | None = None,
        suspects: bool = False,
        oldest: bool = False,
        purse: Purse | None = None,
    ) -> list[Claim]:
        """Up to ``limit`` mails of one transport that are due, the most urgent first, and where
        they are equally urgent by turns (:mod:`.picking`).

        ``due_before`` leaves out mails that have become due *again* since; new mail does not wait
        for the end of a pass. Mails whose former sender died are *suspects*: they are left out
        unless asked for, and should then be taken one by one, so that a poisoned mail drags no
        other down with it. ``oldest`` goes by due time alone: a transport in trouble is tried with
        another mail each time, not with the same urgent one. ``purse``: no more than it has
        tokens for, which are taken with the mails.
        """
        token, leased_at = new_token(), time.monotonic()

        def work(connection: Connection) -> tuple[list[Any], float]:
            places = limit if purse is None else purse.open(connection, limit)
            if not places:
                return [], 0.0
            until = _until(connection, due_before)
            if suspects:
                rows = find_suspects(connection, transport, places, until.tried)
            elif oldest:
                rows = find_oldest(connection, transport, places, until)
            else:
                rows = self._picking.pick(connection, transport, places, until)
            # The clock was read when the claim began: asking again would cost a round trip.
            self._seize(connection, rows, token, until.new, purse)
            return rows, until.new

        rows, claimed_at = self.database.write(work)
        # Not before others may write again: on SQLite they wait for this transaction.
        return [_claim(row, token, leased_at, claimed_at) for row in rows]

    def take_one(
        self, job_id: int, purse_of: Callable[[str], Purse | None] = _no_purse
    ) -> Claim | None:
        """This mail, if it is due, nobody has it, and the purse of its transport has a token."""
        token, leased_at = new_token(), time.monotonic()

        def work(connection: Connection) -> Claim | None:
            rows: list[Any] = [Due._make(row) for row in _ONE.rows(connection, {"job_": job_id})]
            purse = purse_of(rows[0].transport) if rows else None
            if not rows or (purse is not None and not purse.open(connection, 1)):
                return None
            claimed_at = _read_now(connection)
            self._seize(connection, rows, token, claimed_at, purse)
            return _claim(rows[0], token, leased_at, claimed_at)

        return self.database.write(work)

    def _seize(
        self,
        connection: Connection,
        rows: Sequence[Any],
        token: str,
        claimed_at: float,
        purse: Purse | None,
    ) -> None:
        """Mark rows as this process's, at this moment by the database's clock."""
        if not rows:
            return
        if purse is not None:
            purse.spend(connection, len(rows))
        dead = [row for row in rows if row.status == JobStatus.SENDING]
        others = [row for row in rows if row.status != JobStatus.SENDING]
        for change, some in ((_SEIZE, others), (_SEIZE_FROM_DEAD, dead)):
            if some:
                values = {
                    "jobs_": [row.id for row in some],
                    "lease_": self.lease.seconds,
                    "lease_token": token,
                    "lease_owner": self.lease.owner,
                }
                change.run(connection, values)
        if dead:
            connection.execute(attempts.insert(), [_obituary(row, claimed_at) for row in dead])

    def now(self) -> float:
        """The database's time: what becomes due later than this is not of this pass."""
        return self.database.read_one(_read_now)

    def transports_with_due(self, due_before: float | None = None) -> list[str]:
        """The names of the transports that have something due, in alphabetical order."""

        def work(connection: Connection) -> list[str]:
            before = _until(connection, due_before).tried
            return [
                name
                for name in transports(connection)
                if any(due_at <= before for due_at in due_times(connection, name))
            ]

        return self.database.read_one(work)


class _Seizing:
    """An UPDATE of many rows: on PostgreSQL their numbers are one value, an array. Put together
    anew for each number of rows, it took SQLAlchemy as long as all else that a claim does."""

    def __init__(self, **values: Any) -> None:
        change = update(jobs).values(status=JobStatus.SENDING.value, due_at=_LEASED, **values)
        self._change = change.where(jobs.c.id.in_(bindparam("jobs_", expanding=True)))
        numbers = bindparam("jobs_", type_=ARRAY(BigInteger))
        self._of_array = Prepared(change.where(jobs.c.id == any_(numbers)))

    def run(self, connection: Connection, values: dict[str, Any]) -> None:
        if connection.dialect.name == "postgresql":
            self._of_array.run(connection, values)
        else:
            connection.execute(self._change, values)


_LEASED: Any = now() + bindparam("lease_", type_=Double())
_SEIZE = _Seizing(attempts=jobs.c.attempts + 1)
#: The same for rows whose sender died. A row inserted already leased whose sender died has spent
#: that attempt as well. (Two statements, since MySQL would judge by the new status.)
_SEIZE_FROM_DEAD = _Seizing(
    attempts=jobs.c.attempts + case((jobs.c.attempts == 0, 2), else_=1),
    deaths=jobs.c.deaths + 1,
    died_generation=jobs.c.generation,
)
_ONE = Prepared(
    select(*COLUMNS)
    .where(jobs.c.id == bindparam("job_"), jobs.c.due_at <= now(), jobs.c.format <= FORMAT)
    .with_for_update(skip_locked=True)
)


_NOW = Prepared(select(now().label("now")))


def _read_now(connection: Connection) -> float:
    """:func:`.dialect.read_now`, without SQLAlchemy's share: each claim asks twice."""
    own_clock = connection.dialect.name == "sqlite"
    return time.time() if own_clock else float(_NOW.scalar(connection, {}))


def _until(connection: Connection, due_before: float | None) -> Until:
    """Until when mails must have become due: never later than now, however the clock was set."""
    moment = _read_now(connection)
    return Until(new=moment, tried=moment if due_before is None else min(due_before, moment))


def _claim(row: Any, token: str, leased_at: float, claimed_at: float) -> Claim:
    died = row.status == JobStatus.SENDING
    number = row.attempts + (2 if died and row.attempts == 0 else 1)
    return Claim(
        job_id=row.id,
        token=token,
        leased_at=leased_at,
        claimed_at=claimed_at,
        transport=row.transport,
        number=number,
        spent=number - row.budget_start,
        max_attempts=row.max_attempts,
        deaths=row.deaths + died,
        died_handing_over=bool(row.handing_over),
        generation=row.generation,
        died_generation=row.generation if died else row.died_generation,
        on_unknown=row.on_unknown,
        first_due_at=row.first_due_at,
        expires_at=row.expires_at,
        size=row.size,
        message_id=row.message_id,
        recipients=recipients_from(row.recipients),
        tenant=row.tenant,
        transactional=bool(row.transactional),
    )


def _obituary(row: Any, ended: float) -> dict[str, Any]:
    """The attempt-log line of a sender that went without leaving one."""
    return {
        "job_id": row.id,
        "number": max(row.attempts, 1),
        "started_at": min(row.due_at, ended),
        "seconds": 0.0,
        "transport": row.transport,
        "outcome": "unknown",
        "detail": f"the lease of {row.lease_owner} ended without an outcome: its process died, "
        "or stood still for too long",
    }


def preleased(job: Job, submission: Submission, size: int, token: str, leased_at: float) -> Claim:
    """The claim on a row that was inserted already leased to this process.

    :param job: its mail, as nothing has happened to it yet.
    """
    claimed_at = time.time()
    return Claim(
        job_id=job.id,
        token=token,
        leased_at=leased_at,
        claimed_at=claimed_at,
        transport=submission.transport,
        number=1,
        spent=1,
        max_attempts=submission.max_attempts,
        deaths=0,
        died_handing_over=False,
        generation=0,
        died_generation=None,
        on_unknown=submission.on_unknown,
        first_due_at=claimed_at,
        expires_at=submission.expires_at,
        size=size,
        message_id=job.message_id,
        recipients=job.recipients,
        preleased=True,
        tenant=submission.tenant,
        transactional=submission.transactional,
    )
