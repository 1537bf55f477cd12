"""What a person may do to a mail: cancel, hold, release, retry.

Each is one transaction that reads the row, checks the status and writes, so that a sender in
another process either has the mail or does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select, update

from ..cleaning import clean
from ..errors import IllegalTransition, JobNotFound
from ..job import (
    ACCEPTED,
    ENDED,
    REOPENABLE,
    Job,
    JobRecipient,
    JobStatus,
    RecipientStatus,
    ended_status,
)
from .database import Database
from .dialect import now, read_now
from .rows import JOB_COLUMNS, job_from, recipients_from, recipients_json, require_number
from .schema import jobs
from .statements import overdue
from .waking import Bell

Change = dict[str, Any]

#: Whoever is still on the list of suppressed addresses is left out of the next attempt as well.
_REOPENED = REOPENABLE | {RecipientStatus.SUPPRESSED}


class Changes:
    """Changes by a person. Every method returns the job as it is afterwards.

    :raises JobNotFound: there is no such mail.
    :raises IllegalTransition: its status does not allow it; the text says why.
    """

    def __init__(self, database: Database, bell: Bell | None = None) -> None:
        self.database = database
        self._bell = bell

    def cancel(self, job_id: int) -> Job:
        """End a mail that has not been sent. What was accepted already stays so."""
        return self._change(job_id, _cancelled)

    def hold(self, job_id: int) -> Job:
        """Keep a mail until somebody releases it."""
        return self._change(job_id, _held)

    def release(self, job_id: int, *, as_sent: bool = False) -> Job:
        """Let a held mail go, or with ``as_sent`` end it as sent, without sending."""
        return self._change(job_id, _ended_as_sent if as_sent else _released)

    def retry(self, job_id: int) -> Job:
        """Open rejected, failed and suppressed recipients again, with a fresh budget."""
        return self._change(job_id, _retried)

    def failed_ids(self) -> list[int]:
        """The ended mails that ``retry`` could open again, oldest first."""
        wanted = (JobStatus.FAILED.value, JobStatus.PARTIAL.value)
        query = (
            select(jobs.c.id)
            .where(jobs.c.status.in_(wanted), jobs.c.payload.isnot(None))
            .order_by(jobs.c.id)
        )
        return self.database.read(lambda c: list(c.scalars(query)))

    def end_overdue(self, transport: str, give_up_after: float) -> list[tuple[Job, bool]]:
        """End the waiting mails of a resting transport whose time is over.

        Returns them, each with whether it expired (else it was given up).
        """

        def work(connection: Connection) -> list[tuple[Job, bool]]:
            moment = read_now(connection)
            query = (
                select(*JOB_COLUMNS, jobs.c.expires_at, (jobs.c.expires_at <= moment).label("late"))
                .where(
                    jobs.c.transport == transport,
                    jobs.c.due_at <= moment,
                    jobs.c.status == JobStatus.PENDING.value,
                    overdue(moment, give_up_after),
                )
                .limit(500)
                .with_for_update(skip_locked=True)
            )
            ended = []
            for row in connection.execute(query).all():
                reason = row.last_error or f"transport {transport!r} was resting"
                change = _given_up(row, bool(row.late), reason)
                connection.execute(update(jobs).where(jobs.c.id == row.id).values(change))
                ended.append((_read(connection, row.id), bool(row.late)))
            return ended

        return self.database.write(work)

    def _change(self, job_id: int, change: Callable[[Any], Change]) -> Job:
        require_number(job_id)

        def work(connection: Connection) -> Job:
            row = connection.execute(
                select(
                    *JOB_COLUMNS,
                    jobs.c.lease_owner,
                    jobs.c.expires_at,
                    now().label("moment"),
                    jobs.c.payload.is_(None).label("emptied"),
                )
                .where(jobs.c.id == job_id)
                .with_for_update()
            ).one_or_none()
            if row is None:
                raise JobNotFound(f"there is no mail {job_id}")
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(change(row)))
            return _read(connection, job_id)

        job = self.database.write(work)
        if job.status is JobStatus.PENDING and self._bell is not None:
            self._bell.ring()
        return job


def _read(connection: Connection, job_id: int) -> Job:
    return job_from(connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one())


def _settle(row: Any, status: RecipientStatus, detail: str) -> tuple[JobRecipient, ...]:
    """Everybody who is still open becomes ``status``."""
    return tuple(
        replace(entry, status=status, detail=entry.detail or detail)
        if entry.status is RecipientStatus.PENDING
        else entry
        for entry in recipients_from(row.recipients)
    )


def _end(recipients: tuple[JobRecipient, ...], if_nobody: JobStatus) -> Change:
    status = ended_status(recipients)
    if status is JobStatus.FAILED:
        status = if_nobody
    return {
        "status": status.value,
        "due_at": None,
        "ended_at": now() if status in ENDED else None,
        "recipients": recipients_json(recipients),
    }


def _cancelled(row: Any) -> Change:
    _require(row, "cancel", JobStatus.PENDING, JobStatus.HELD)
    if any(e.status is RecipientStatus.UNKNOWN for e in recipients_from(row.recipients)):
        raise IllegalTransition(
            f"mail {row.id} may have been sent (an outcome is unknown); end it with "
            "`release --as-sent`, or let it go with `release`"
        )
    return _end(_settle(row, RecipientStatus.FAILED, "cancelled"), JobStatus.CANCELLED)


def _held(row: Any) -> Change:
    _require(row, "hold", JobStatus.PENDING)
    return {"status": JobStatus.HELD.value, "due_at": None}


def _released(row: Any) -> Change:
    _require(row, "release", JobStatus.HELD)
    recipients = tuple(
        replace(entry, status=RecipientStatus.PENDING, unknowns=0)
        if entry.status is RecipientStatus.UNKNOWN
        else entry
        for entry in recipients_from(row.recipients)
    )
    if not any(entry.status is RecipientStatus.PENDING for entry in recipients):
        return _end(recipients, JobStatus.FAILED)
    # A mail that was scheduled keeps its time.
    due_at = max(float(row.moment), row.first_due_at)
    return {
        "status": JobStatus.PENDING.value,
        "due_at": due_at,
        "first_due_at": due_at,
        "budget_start": row.attempts,
        "deaths": 0,
        "handing_over": False,
        "recipients": recipients_json(recipients),
    }


def _ended_as_sent(row: Any) -> Change:
    _require(row, "release --as-sent", JobStatus.HELD)
    recipients = tuple(
        replace(entry, status=RecipientStatus.SENT, doubt=None, detail="ended as sent by hand")
        if entry.status in (RecipientStatus.UNKNOWN, RecipientStatus.PENDING)
        else entry
        for entry in recipients_from(row.recipients)
    )
    return _end(recipients, JobStatus.FAILED) | {"sent_at": now()}


def _retried(row: Any) -> Change:
    _require(
        row, "retry", JobStatus.FAILED, JobStatus.PARTIAL, JobStatus.CANCELLED, JobStatus.EXPIRED
    )
    if row.emptied:
        raise IllegalTransition(
            f"mail {row.id} cannot be sent again: its content was deleted by "
            "`purge --bodies-days`; record it anew"
        )
    entries = recipients_from(row.recipients)
    if not any(entry.status in _REOPENED for entry in entries):
        raise IllegalTransition(
            f"mail {row.id} has no rejected, failed or suppressed recipient to open again"
        )
    recipients = tuple(
        replace(entry, status=RecipientStatus.PENDING, detail="", unknowns=0, doubt=None)
        if entry.status in _REOPENED
        else entry
        for entry in entries
    )
    return {
        "status": JobStatus.PENDING.value,
        "due_at": now(),
        "first_due_at": now(),
        "ended_at": None,
        "budget_start": row.attempts,
        "deaths": 0,
        "handing_over": False,
        "generation": jobs.c.generation + 1,
        "died_generation": None,
        # A person who asks for it wants it sent, however late it is.
        "expires_at": None,
        "recipients": recipients_json(recipients),
    }


def _given_up(row: Any, expired: bool, reason: str) -> Change:
    detail = "expired" if expired else f"given up: {reason}"
    recipients = _settle(row, RecipientStatus.FAILED, detail)
    change = _end(recipients, JobStatus.EXPIRED if expired else JobStatus.FAILED)
    return change | {"last_error": detail}


def _require(row: Any, what: str, *allowed: JobStatus) -> None:
    status = JobStatus(row.status)
    if status in allowed:
        return
    if status is JobStatus.SENDING and not row.attempts:
        owner = clean(row.lease_owner or "a process")
        reason = f"it is about to be sent by {owner}; try again in a moment"
    elif status is JobStatus.SENDING:
        reason = "it is being sent at this moment"
    elif status in ENDED:
        reason = f"it has ended as {status}"
        if status is JobStatus.SENT or _everybody_has_it(row):
            reason += " and everybody has it"
    else:
        reason = f"it is {status}"
    raise IllegalTransition(f"mail {row.id} cannot be changed by {what}: {reason}")


def _everybody_has_it(row: Any) -> bool:
    return all(entry.status in ACCEPTED for entry in recipients_from(row.recipients))
