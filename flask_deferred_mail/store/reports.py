"""What people and monitors ask: counts, the backlog's age, listings. Read only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from ..job import Job, JobStatus
from .database import Database
from .dialect import now, read_now, upsert
from .picking import due_times, transports
from .rows import JOB_COLUMNS, job_from
from .schema import attempts, jobs, sightings
from .schema import recipients as recipient_index

#: Rows of a not yet attempted backlog that ``list --to`` looks through: only an outcome fills the
#: index of addresses.
SCAN_LIMIT = 5_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the queue stands."""

    counts: dict[str, int]
    #: Pending mails whose time has come.
    due: int
    #: Age of the oldest of them, counted from its first due time; ``None`` if there is none.
    oldest_due_seconds: float | None
    sent_last_hour: int
    failed_last_hour: int


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """One line of a mail's attempt log."""

    number: int
    started_at: float
    seconds: float
    transport: str
    host: str | None
    address: str | None
    tls: str | None
    queue_id: str | None
    outcome: str
    detail: str
    phases: dict[str, float]


@dataclass(frozen=True, slots=True)
class Sighting:
    """When a kind of process was seen last."""

    name: str
    host: str
    pid: int
    seen_at: float


# What has not ended has no ``ended_at``; saying so lets the index serve the order as well.
_PENDING = and_(jobs.c.status == JobStatus.PENDING.value, jobs.c.ended_at.is_(None))

_SENDING = jobs.c.status == JobStatus.SENDING.value
# Within one status: the order of the index, from its end.
_LATEST = (jobs.c.ended_at.desc(), jobs.c.first_due_at.desc())


class Reports:
    """Answers from indexes; nothing here takes the write lock but :meth:`seen`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def backlog(self) -> Backlog:
        """Counts of all eight statuses, and how old what is due has become."""
        return self.database.read(_backlog)

    def due(self) -> tuple[int, float | None]:
        """How many mails are due, and the age of the oldest in seconds."""
        return self.database.read(_due)

    def oldest_due(self, age: float) -> Job | None:
        """The mail that has been due the longest, if that is at least ``age`` seconds."""

        def work(connection: Connection) -> Any:
            query = (
                select(*JOB_COLUMNS)
                .where(_PENDING, jobs.c.first_due_at <= read_now(connection) - age)
                .order_by(jobs.c.first_due_at)
                .limit(1)
            )
            return connection.execute(query).one_or_none()

        row = self.database.read(work)
        return None if row is None else job_from(row)

    def next_due_in(self) -> float | None:
        """Seconds until somebody may take the next mail; ``None`` when nothing waits."""

        def work(connection: Connection) -> float | None:
            times = [at for name in transports(connection) for at in due_times(connection, name)]
            return min(times) - read_now(connection) if times else None

        return self.database.read(work)

    def listing(
        self,
        *,
        status: JobStatus | None = None,
        to: str | None = None,
        key: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """The newest mails first; of a status, those that came to it (or are due) last.

        ``to`` is an address, looked up in the index of outcomes and in
        the newest :data:`SCAN_LIMIT` mails that have none yet.
        """
        query = select(*JOB_COLUMNS).limit(limit)
        if key is not None:
            query = query.where(jobs.c.key == key)
        if to is not None:
            if status is not None:
                query = query.where(_shown_as(status))
            return self.database.read(lambda c: _list_to(c, query, to, limit))
        if status is not None:
            return self.database.read(lambda c: _list_status(c, query, status, limit))
        newest = query.order_by(jobs.c.id.desc())
        return self.database.read(lambda c: [job_from(row) for row in c.execute(newest)])

    def attempts(self, job_id: int) -> list[LoggedAttempt]:
        """A mail's attempt log, first attempt first."""
        query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.id)
        rows = self.database.read(lambda c: c.execute(query).all())
        return [_logged(row) for row in rows]

    def emptied(self, job_id: int) -> bool:
        """Whether the mail's content was deleted while its row stayed."""
        query = select(jobs.c.payload.is_(None)).where(jobs.c.id == job_id)
        return bool(self.database.read(lambda c: c.scalar(query)))

    def seen(self, name: str, host: str, pid: int) -> None:
        """Note that a kind of process (``sweep``) is at work."""

        def work(connection: Connection) -> None:
            statement = upsert(sightings, connection.dialect.name, "host", "pid", "seen_at")
            connection.execute(
                statement.values(seen_at=now()), {"name": name, "host": host, "pid": pid}
            )

        self.database.write_one(work)

    def last_seen(self, name: str) -> Sighting | None:
        """When that kind of process was seen last, if ever."""
        row = self.database.read(
            lambda c: c.execute(select(sightings).where(sightings.c.name == name)).one_or_none()
        )
        return None if row is None else Sighting(row.name, row.host, row.pid, row.seen_at)


def _shown_as(status: JobStatus) -> ColumnElement[bool]:
    """Condition: :func:`job_from` gives this status. Leased from the start reads as pending."""
    unstarted = and_(jobs.c.status == JobStatus.SENDING.value, jobs.c.attempts == 0)
    if status is JobStatus.PENDING:
        return or_(jobs.c.status == status.value, unstarted)
    if status is JobStatus.SENDING:
        return and_(jobs.c.status == status.value, jobs.c.attempts > 0)
    return jobs.c.status == status.value


def _list_status(
    connection: Connection, query: Select[Any], status: JobStatus, limit: int
) -> list[Job]:
    latest = query.order_by(*_LATEST)
    # One stored status at a time: then the index has them in order.
    stored = [jobs.c.status == status.value]
    if status is JobStatus.SENDING:
        stored = [and_(_SENDING, jobs.c.attempts > 0)]
    elif status is JobStatus.PENDING:
        stored = [_PENDING, and_(_SENDING, jobs.c.attempts == 0)]
    rows = [row for one in stored for row in connection.execute(latest.where(one))]
    return [job_from(row) for row in rows[:limit]]


def _backlog(connection: Connection) -> Backlog:
    counts = dict.fromkeys((status.value for status in JobStatus), 0)
    for status, number in connection.execute(
        select(jobs.c.status, func.count()).group_by(jobs.c.status)
    ):
        counts[status] = number
    unstarted = connection.scalar(
        select(func.count()).where(jobs.c.status == "sending", jobs.c.attempts == 0)
    )
    counts["sending"] -= unstarted or 0
    counts["pending"] += unstarted or 0
    due, oldest = _due(connection)
    hour_ago = read_now(connection) - 3600
    ended: dict[str, int] = {}
    for status, number in connection.execute(
        select(jobs.c.status, func.count())
        .where(jobs.c.status.in_(["sent", "partial", "failed"]), jobs.c.ended_at >= hour_ago)
        .group_by(jobs.c.status)
    ):
        ended[status] = number
    return Backlog(
        counts=counts,
        due=due,
        oldest_due_seconds=oldest,
        sent_last_hour=ended.get("sent", 0) + ended.get("partial", 0),
        failed_last_hour=ended.get("failed", 0),
    )


def _due(connection: Connection) -> tuple[int, float | None]:
    moment = read_now(connection)
    waiting = select(func.count()).where(jobs.c.queue.isnot(None), jobs.c.due_at <= moment)
    due = connection.scalar(waiting) or 0
    # From the first due time, and retries included: neither they nor a resting transport are to
    # hide an outage.
    oldest = connection.scalar(
        select(func.min(jobs.c.first_due_at)).where(_PENDING, jobs.c.first_due_at <= moment)
    )
    return due, None if oldest is None else moment - oldest


def _list_to(connection: Connection, query: Select[Any], to: str, limit: int) -> list[Job]:
    indexed = (
        query.join(recipient_index, recipient_index.c.job_id == jobs.c.id)
        .where(recipient_index.c.address == to)
        .order_by(recipient_index.c.job_id.desc())
        # An address may stand in a mail as each of to, cc and bcc.
        .limit(limit * 3)
    )
    found = {row.id: job_from(row) for row in connection.execute(indexed)}
    left = SCAN_LIMIT
    for status in ("pending", "sending", "held", "cancelled", "expired"):
        latest = query.where(jobs.c.status == status).order_by(*_LATEST).limit(left)
        rows = connection.execute(latest).all()
        left -= len(rows)
        found |= {job.id: job for job in map(job_from, rows) if _is_to(job, to)}
    return [found[job_id] for job_id in sorted(found, reverse=True)][:limit]


def _is_to(job: Job, address: str) -> bool:
    return any(entry.address == address for entry in job.recipients)


def _logged(row: Any) -> LoggedAttempt:
    return LoggedAttempt(
        number=row.number,
        started_at=row.started_at,
        seconds=row.seconds,
        transport=row.transport,
        host=row.host,
        address=row.address,
        tls=row.tls,
        queue_id=row.queue_id,
        outcome=row.outcome,
        detail=row.detail,
        phases=json.loads(row.phases) if row.phases else {},
    )
