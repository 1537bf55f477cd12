"""What providers report, kept, and what it does to the mail that it is about.

A row that a sender has in hand is not changed: its outcome would write over the change. Then the
report stays *open*, and is looked at again with the next report of that mail, by every sweep
before it claims anything, and when a person looks. The same goes for a report whose mail is not
known yet. So nothing on the way of a mail pays for reports.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ..errors import StoreError
from ..job import ENDED, Job, JobRecipient, JobStatus, RecipientStatus, ended_status
from ..tracking import TrackingEvent, after_event
from .database import Database
from .dialect import now, read_now
from .event_rows import (
    AT_ONCE,
    Entry,
    entry_of,
    find_owners,
    is_of_another_database,
    row_of,
    unknown_ones,
)
from .rows import JOB_COLUMNS, job_from, recipients_from, recipients_json
from .schema import events, jobs
from .statements import index_recipients

#: Seconds for which the mail of a report is looked for; an outcome is written within minutes.
_LOOKED_FOR = 86_400.0
#: Seconds for which a report waits for a row that is in hand, again and again.
_WAITS = 7 * 86_400.0
#: Open reports that one look goes through, and those of one transaction.
_LOOKED_AT = 2_000
_TOGETHER = 200
#: More reports without a mail than this are somebody else's: so many are looked for with pauses, in
#: all not more than one part in so many of the time.
_CROWD, _PART = 100, 20

#: Called in the transaction that stores a report, with the mail that it is about; ``None``: that
#: is not known. Then it is called once more if the mail is found later.
Hook = Callable[[Connection, TrackingEvent, Job | None], None]


@dataclass(frozen=True, slots=True)
class Joined:
    """A report whose mail was found, in the transaction that found it."""

    event: TrackingEvent
    #: As it is after all reports of that transaction.
    job: Job
    #: The mail came to its end by it: an outcome was unknown.
    ended: bool


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """A report as ``show`` has it."""

    event: TrackingEvent
    received_at: float


class Events:
    """Keeps the reports of one database. Safe for threads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.hooks: list[Hook] = []
        #: Until when reports without a mail are not looked at once more (monotonic).
        self._rests_until = 0.0

    def take_in(self, reported: Sequence[TrackingEvent]) -> list[Joined]:
        """Store what is new, and let it have its effect, in one transaction.

        Returns the reports that found their mail, also those of that mail that waited for it.

        :raises StoreError: nothing was stored; the provider is to try again.
        """
        for _ in range(2):
            try:
                return self.database.write(lambda c: self._take_in(c, reported))
            except StoreError as error:
                # The same report at the same time, twice: the other one was faster.
                if not isinstance(error.__cause__, IntegrityError):
                    raise
        return self.database.write(lambda c: self._take_in(c, reported))

    def look_again(self) -> list[Joined]:
        """Look whether open reports find their mail now, or may change it now.

        One statement if there are none. Returns those that were joined to their mail just now.

        :raises StoreError: the database failed.
        """
        began = time.monotonic()
        strangers = began >= self._rests_until
        ready, crowd = self.database.read(lambda c: _ready(c, strangers))
        if crowd > _CROWD:
            self._rests_until = time.monotonic() + _PART * (time.monotonic() - began)
        joined: list[Joined] = []
        for start in range(0, len(ready), _TOGETHER):
            ids = ready[start : start + _TOGETHER]
            joined += self.database.write(lambda c, ids=ids: self._again(c, ids))  # type: ignore[misc]
        return joined

    def of(self, job_id: int) -> list[KeptEvent]:
        """The reports of a mail, in the order in which they came in."""
        query = select(events).where(events.c.job_id == job_id).order_by(events.c.id)
        rows = self.database.read(lambda c: c.execute(query).all())
        return [KeptEvent(entry.event, entry.received_at) for entry in map(entry_of, rows)]

    # -- inside a transaction ---------------------------------------------------------------

    def _take_in(self, connection: Connection, reported: Sequence[TrackingEvent]) -> list[Joined]:
        moment = read_now(connection)
        fresh = [Entry(event, moment) for event in unknown_ones(connection, reported)]
        if not fresh:
            return []
        entries = find_owners(connection, fresh)
        rows = _lock(connection, entries)
        waiting = _waiting_for(connection, rows, moment)
        return self._have_effect(connection, rows, [*waiting, *entries], moment)

    def _again(self, connection: Connection, ids: Sequence[int]) -> list[Joined]:
        moment = read_now(connection)
        query = select(events).where(events.c.id.in_(ids), events.c.open_until > moment)
        found = connection.execute(query.order_by(events.c.id).with_for_update()).all()
        entries = find_owners(connection, [entry_of(row) for row in found])
        rows = _lock(connection, entries)
        known = [entry for entry in entries if entry.job_id in rows]
        return self._have_effect(connection, rows, known, moment)

    def _have_effect(
        self,
        connection: Connection,
        rows: Rows,
        entries: Sequence[Entry],
        moment: float,
    ) -> list[Joined]:
        whose = {job_id: recipients_from(row.recipients) for job_id, row in rows.items()}
        entries = [e.about(whose[e.job_id]) if e.job_id in whose else e for e in entries]
        in_hand = {job_id for job_id, row in rows.items() if _in_hand(row, moment)}
        ended = set()
        for job_id in rows.keys() - in_hand:
            row = rows[job_id]
            about = [entry for entry in entries if entry.job_id == job_id]
            if values := _change(connection, row, about):
                connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
                if "status" in values:
                    ended.add(job_id)
        _keep(connection, entries, rows.keys(), in_hand, moment)
        after = _jobs(connection, rows.keys())
        joined = []
        for entry in entries:
            if entry.announced:
                continue
            job = None if entry.job_id is None else after.get(entry.job_id)
            for hook in self.hooks:
                hook(connection, entry.event, job)
            if job is not None:
                joined.append(Joined(entry.event, job, job.id in ended))
        return joined


Rows = dict[int, Any]


def _lock(connection: Connection, entries: Sequence[Entry]) -> Rows:
    """The rows of the entries' mails by their numbers, locked in one order for everybody."""
    numbers = sorted({entry.job_id for entry in entries if entry.job_id is not None})
    query = (
        select(*JOB_COLUMNS, jobs.c.budget_start)
        .where(jobs.c.id.in_(numbers))
        .order_by(jobs.c.id)
        .with_for_update(of=jobs)
    )
    return {row.id: row for row in connection.execute(query)} if numbers else {}


def _in_hand(row: Any, moment: float) -> bool:
    """Whether a sender has it, and is alive as far as its lease says."""
    return bool(row.status == JobStatus.SENDING and row.due_at > moment)


def _waiting_for(connection: Connection, rows: Rows, moment: float) -> list[Entry]:
    """The open reports of these mails, which were too early."""
    if not rows:
        return []
    numbers = {
        entry.provider_message_id
        for row in rows.values()
        for entry in recipients_from(row.recipients)
        if entry.provider_message_id
    }
    query = (
        select(events)
        .where(
            events.c.open_until > moment,
            or_(
                events.c.job_id.in_(rows),
                events.c.provider_message_id.in_(sorted(numbers)[:_LOOKED_AT]),
            ),
        )
        .order_by(events.c.id)
        .limit(_LOOKED_AT)
        .with_for_update()
    )
    entries = [entry_of(row) for row in connection.execute(query)]
    return [entry for entry in find_owners(connection, entries) if entry.job_id in rows]


def _change(connection: Connection, row: Any, entries: Sequence[Entry]) -> dict[str, Any]:
    """What these reports change in a row that nobody has in hand; empty if nothing."""
    before = recipients = recipients_from(row.recipients)
    for entry in entries:
        recipients = after_event(recipients, entry.event, entry.moment, _let_go_again(row))
    if recipients == before:
        return {}
    index_recipients(connection, [(row.id, recipients)])
    values: dict[str, Any] = {"recipients": recipients_json(recipients)}
    if JobStatus(row.status) in ENDED or any(_undecided(entry) for entry in recipients):
        return values
    return values | _end(ended_status(recipients))


def _let_go_again(row: Any) -> float:
    """When a person let a mail go once more; 0: nobody has, so every report is of these copies,
    whatever the provider's clock says. Most of those clocks show whole seconds."""
    return float(math.floor(row.first_due_at)) if row.budget_start else 0.0


def _undecided(entry: JobRecipient) -> bool:
    return entry.status in (RecipientStatus.PENDING, RecipientStatus.UNKNOWN)


def _end(status: JobStatus) -> dict[str, Any]:
    """Nothing is left to do: it waited for a person or another try, or its sender is gone."""
    values: dict[str, Any] = {
        "status": status.value,
        "due_at": None,
        "ended_at": now(),
        "lease_token": None,
        "lease_owner": None,
        "handing_over": False,
        "deaths": 0,
    }
    if status is JobStatus.SENT:
        values["last_error"] = None
    if status in (JobStatus.SENT, JobStatus.PARTIAL):
        values["sent_at"] = now()
    return values


def _keep(
    connection: Connection,
    entries: Sequence[Entry],
    known: Collection[int],
    in_hand: Collection[int],
    moment: float,
) -> None:
    """Store new reports, and note of the others that they have found their mail."""
    new = []
    for entry in entries:
        job_id = entry.job_id if entry.job_id in known else None
        open_until = None
        if job_id in in_hand:
            open_until = moment + _WAITS
        elif job_id is None and not is_of_another_database(entry):
            open_until = moment + _LOOKED_FOR
        if entry.id is None:
            new.append(row_of(entry.of(job_id), open_until))
        elif not entry.announced or open_until is None:
            values = {"job_id": job_id, "open_until": open_until, "address": entry.event.recipient}
            connection.execute(update(events).where(events.c.id == entry.id).values(values))
    if new:
        connection.execute(insert(events), new)


def _jobs(connection: Connection, numbers: Collection[int]) -> dict[int, Job]:
    if not numbers:
        return {}
    query = select(*JOB_COLUMNS).where(jobs.c.id.in_(sorted(numbers)))
    return {row.id: job_from(row) for row in connection.execute(query)}


def _ready(connection: Connection, strangers: bool) -> tuple[list[int], int]:
    """The open reports that may have an effect now, by what can be seen without a lock; and how
    many were looked at whose mail was not found before, if these ``strangers`` were to be."""
    moment = read_now(connection)
    query = (
        select(events)
        .where(events.c.open_until > moment)
        .order_by(events.c.open_until.desc())
        .limit(_LOOKED_AT)
    )
    if not strangers:
        query = query.where(events.c.job_id.is_not(None))
    found = [entry_of(row) for row in connection.execute(query)]
    entries = [e for e in find_owners(connection, found) if e.job_id is not None] if found else []
    numbers = sorted({entry.job_id for entry in entries if entry.job_id is not None})
    busy: set[int] = set()
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        in_hand = select(jobs.c.id).where(
            jobs.c.id.in_(some), jobs.c.status == JobStatus.SENDING.value, jobs.c.due_at > moment
        )
        busy |= set(connection.scalars(in_hand))
    ready = sorted(e.id for e in entries if e.id is not None and e.job_id not in busy)
    return ready, sum(not entry.announced for entry in found)
