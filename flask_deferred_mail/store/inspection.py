"""What ``doctor`` and ``explain`` look at: the database itself, and one row with all its reasons.

Apart from :mod:`.reports`, whose answers monitors ask for all the time: this is for people, and
may take a second. Read only, but for :meth:`Inspection.try_writing`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from ..errors import JobNotFound
from ..job import Job, JobStatus
from .backend import Backend, Setup
from .database import Database
from .dialect import now, read_now
from .payload import FORMAT, SEALED
from .rows import JOB_COLUMNS, job_from, require_number
from .schema import SCHEMA_VERSION, jobs, meta
from .sealing import BEGINNING, key_id_of

#: Waiting mails whose encryption key is looked at; each look reads the beginning of a body.
BODIES_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class Condition:
    """How the database stands, as its own words say."""

    setup: Setup
    #: Version of its tables, and of those that this process knows.
    schema_version: int
    known_version: int
    #: Whether the application makes and migrates them (``db=``), not this package.
    application_owns: bool
    #: Seconds by which its clock is ahead of this host's; negative: behind.
    clock_ahead: float


@dataclass(frozen=True, slots=True)
class Ahead:
    """Rows whose times are further away than anything of ours puts them: a clock has jumped."""

    retries: int
    leases: int
    #: Seconds until the furthest of them.
    furthest: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One mail with all that decides when it may leave. Seconds count from now."""

    job: Job
    #: Until somebody may take it: the next attempt, or the end of the lease. Negative: since.
    due_in: float | None
    #: It waits for its first time (``send_at``), not for a retry.
    scheduled: bool
    #: Leased, and by whom (host and process id).
    leased: bool
    lease_owner: str | None
    #: Recorded already leased; the response is not out, or its sender has not begun.
    unstarted: bool
    #: Attempts that count against the budget.
    spent: int
    max_attempts: int | None
    #: Senders in a row that died over it.
    deaths: int
    first_due_ago: float
    expires_in: float | None
    #: Recorded in a format that this version cannot read.
    too_new: bool


class Inspection:
    """Looks at one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def condition(self) -> Condition:
        """The database's own settings.

        :raises StoreError: it cannot be opened, or its tables are not ours to read.
        """
        return self.database.read(partial(_condition, self.database.backend))

    def try_writing(self) -> None:
        """Write for real, without a trace: only that shows a full or read-only disk.

        :raises StoreError: it does not work; the text says why.
        """
        self.database.write(_write_back)

    def ahead(self, retry: float, lease: float) -> Ahead:
        """Rows that wait for more than ``retry`` seconds after an attempt, or are leased for more
        than ``lease`` seconds.
        """
        due_in = jobs.c.due_at - now()
        late_retry = and_(
            jobs.c.status == JobStatus.PENDING.value,
            jobs.c.attempts > 0,
            jobs.c.due_at > now() + retry,
        )
        long_lease = and_(jobs.c.status == JobStatus.SENDING.value, jobs.c.due_at > now() + lease)
        query = (
            select(jobs.c.status, func.count().label("number"), func.max(due_in).label("furthest"))
            .where(jobs.c.due_at.isnot(None), or_(late_retry, long_lease))
            .group_by(jobs.c.status)
        )
        rows = {row.status: row for row in self.database.read(lambda c: c.execute(query).all())}
        return Ahead(
            retries=rows["pending"].number if "pending" in rows else 0,
            leases=rows["sending"].number if "sending" in rows else 0,
            furthest=max((row.furthest for row in rows.values()), default=0.0),
        )

    def waiting_by_transport(self) -> dict[str, int]:
        """How many unfinished mails there are for each transport that has any."""
        query = (
            select(jobs.c.transport, func.count().label("number"))
            .where(jobs.c.due_at.isnot(None))
            .group_by(jobs.c.transport)
            .order_by(jobs.c.transport)
        )
        rows = self.database.read(lambda c: c.execute(query).all())
        return {row.transport: row.number for row in rows}

    def keys_needed(self) -> dict[str, int]:
        """The ids of the encryption keys that waiting mail needs, each with how many mails that
        are, among the first :data:`BODIES_LOOKED_AT`.
        """
        waiting = (
            select(func.substr(jobs.c.payload, 1, BEGINNING).label("beginning"))
            .where(jobs.c.queue.isnot(None), jobs.c.format == SEALED)
            .limit(BODIES_LOOKED_AT)
            .subquery()
        )
        query = select(waiting.c.beginning, func.count().label("number")).group_by(
            waiting.c.beginning
        )
        rows = self.database.read(lambda c: c.execute(query).all())
        found = {key_id_of(row.beginning or ""): row.number for row in rows}
        return {key: number for key, number in found.items() if key is not None}

    def standing(self, job_id: int) -> Standing:
        """All that decides when this mail may leave.

        :raises JobNotFound: there is no such mail.
        """
        require_number(job_id)
        query = select(
            *JOB_COLUMNS,
            (jobs.c.due_at - now()).label("due_in"),
            (now() - jobs.c.first_due_at).label("first_due_ago"),
            (jobs.c.expires_at - now()).label("expires_in"),
            jobs.c.lease_owner,
            jobs.c.budget_start,
            jobs.c.max_attempts,
            jobs.c.deaths,
            jobs.c.format,
        ).where(jobs.c.id == job_id)
        row = self.database.read(lambda c: c.execute(query).one_or_none())
        if row is None:
            raise JobNotFound(f"there is no mail {job_id}")
        return _standing(row)


def _condition(backend: Backend, connection: Connection) -> Condition:
    found = backend.find_tables(connection)
    return Condition(
        setup=backend.setup(connection),
        schema_version=found.version if found is not None else 0,
        known_version=SCHEMA_VERSION,
        application_owns=backend.application_owns,
        clock_ahead=read_now(connection) - time.time(),
    )


def _write_back(connection: Connection) -> None:
    connection.execute(meta.insert().values(name="written by doctor", value="1"))
    connection.execute(meta.delete().where(meta.c.name == "written by doctor"))


def _standing(row: Any) -> Standing:
    leased = row.status == JobStatus.SENDING
    return Standing(
        job=job_from(row),
        due_in=row.due_in,
        scheduled=row.attempts == 0 and row.due_at == row.first_due_at,
        leased=leased,
        lease_owner=row.lease_owner,
        unstarted=leased and row.attempts == 0,
        spent=row.attempts - row.budget_start,
        max_attempts=row.max_attempts,
        deaths=row.deaths,
        first_due_ago=row.first_due_ago,
        expires_in=row.expires_in,
        too_new=row.format > FORMAT,
    )
