"""The statements and values of the outbox, apart from the transactions that run them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Connection, Float, bindparam, insert, or_, update

from ..job import ENDED, Job, JobRecipient, JobStatus, moment
from ..letter import Submission
from ..outcome import ServerNote
from . import payload
from .claims import Claim, Lease
from .dialect import NOW, clock, insert_or_ignore, now_seconds, upsert
from .prepared import Prepared
from .rows import fresh_recipients, recipients_json
from .schema import attempts, blobs, job_blobs, jobs
from .schema import recipients as recipient_index


@dataclass(frozen=True, slots=True)
class AttemptNote:
    """One line of the attempt log."""

    started_at: float
    seconds: float
    #: ``sent|partial|retry|failed|unknown|returned``
    outcome: str
    detail: str
    server: ServerNote = field(default_factory=ServerNote)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the row says after an attempt. Delays are in seconds from the database's now."""

    status: JobStatus
    recipients: tuple[JobRecipient, ...]
    note: AttemptNote
    last_error: str | None
    #: Until the next attempt; only with ``pending``.
    delay: float | None = None
    #: The attempt is given back to the mail: it was not its fault.
    refund: bool = False
    #: What was answered says "not sent": the next idempotency keys are new ones.
    next_generation: bool = True


# -- building rows ------------------------------------------------------------------------------


def new_row(submission: Submission) -> dict[str, Any]:
    letter = submission.letter
    created_at = now_seconds()
    first_due_at = max(submission.send_at or created_at, created_at)
    return {
        "format": payload.FORMAT,
        "status": JobStatus.PENDING.value,
        "transport": submission.transport,
        "tenant": submission.tenant,
        "key": submission.key,
        "priority": submission.priority,
        "due_at": first_due_at,
        "first_due_at": first_due_at,
        "created_at": created_at,
        "expires_at": submission.expires_at,
        "max_attempts": submission.max_attempts,
        "on_unknown": submission.on_unknown,
        "transactional": submission.transactional,
        "size": letter.size,
        "message_id": letter.message_id,
        "sender": letter.sender.email,
        "subject": letter.subject,
        "fingerprint": payload.fingerprint(letter, letter.recipients) if submission.key else None,
        "recipients": recipients_json(fresh_recipients(letter.recipients)),
        "lease_token": None,
        "lease_owner": None,
    }


def leased(row: dict[str, Any], lease: Lease, token: str) -> dict[str, Any]:
    return {
        "status": JobStatus.SENDING.value,
        "due_at": row["created_at"] + lease.seconds,
        "lease_token": token,
        "lease_owner": lease.owner,
    }


def insert_row(connection: Connection, row: dict[str, Any]) -> int | None:
    """The new row's number; ``None`` when its key is taken."""
    statement = INSERT_JOB if row["key"] is None else INSERT_JOB_WITH_KEY
    cursor = statement.run(connection, row)
    return int(cursor.lastrowid) if cursor.rowcount else None


def insert_blobs(connection: Connection, job_id: int, pieces: dict[str, bytes]) -> None:
    created_at = now_seconds()
    connection.execute(
        INSERT_BLOB,
        [
            {"digest": digest, "size": len(data), "created_at": created_at, "data": data}
            for digest, data in pieces.items()
        ],
    )
    connection.execute(INSERT_JOB_BLOB, [{"job_id": job_id, "digest": digest} for digest in pieces])


def fresh_job(job_id: int, row: dict[str, Any], submission: Submission) -> Job:
    """The job as a reader would find it, without reading it."""
    created_at = moment(row["created_at"])
    assert created_at is not None
    return Job(
        id=job_id,
        status=JobStatus.PENDING,
        message_id=row["message_id"],
        attempts=0,
        next_attempt_at=moment(row["first_due_at"]),
        created_at=created_at,
        sent_at=None,
        last_error=None,
        recipients=fresh_recipients(submission.letter.recipients),
        subject=row["subject"],
        sender=row["sender"],
        transport=row["transport"],
        priority=row["priority"],
        key=row["key"],
        tenant=row["tenant"],
    )


# -- statements ---------------------------------------------------------------------------------

# Built once: putting an UPDATE together costs SQLAlchemy more than SQLite takes to run it.

_FREE = {"lease_token": None, "lease_owner": None}
_FENCED = update(jobs).where(
    jobs.c.id == bindparam("job_"), jobs.c.lease_token == bindparam("token_")
)
#: Values: ``recipients`` or ``handing_over``.
FENCED_CHANGE = Prepared(_FENCED)
GIVE_BACK = Prepared(_FENCED.values(status=JobStatus.PENDING.value, due_at=NOW, **_FREE))
RENEW = (
    update(jobs)
    .where(
        jobs.c.id.in_(bindparam("jobs_", expanding=True)),
        jobs.c.lease_token.in_(bindparam("tokens_", expanding=True)),
    )
    .values(due_at=NOW + bindparam("seconds_", type_=Float()))
    .returning(jobs.c.id, jobs.c.lease_token)
)
LOG_ATTEMPT = Prepared(insert(attempts))
INDEX_RECIPIENTS = Prepared(upsert(recipient_index, "status", "provider_message_id"))
INSERT_JOB = Prepared(insert(jobs))
INSERT_JOB_WITH_KEY = Prepared(insert_or_ignore(jobs))
INSERT_BLOB = insert_or_ignore(blobs)
INSERT_JOB_BLOB = insert_or_ignore(job_blobs)


def fence(claim: Claim) -> dict[str, Any]:
    """Which row a fenced statement changes, if its token is still there."""
    return {"job_": claim.job_id, "token_": claim.token}


def give_back(claim: Claim) -> dict[str, Any]:
    """Values of :data:`GIVE_BACK`: the attempt is refunded."""
    return fence(claim) | clock() | {"attempts": claim.number - 1}


@cache
def _outcome(status: JobStatus) -> Prepared:
    if status is JobStatus.PENDING:
        times: dict[str, Any] = {"due_at": NOW + bindparam("delay_", type_=Float())}
    else:
        times = {"due_at": None, "ended_at": NOW if status in ENDED else None}
    if status in (JobStatus.SENT, JobStatus.PARTIAL):
        times["sent_at"] = NOW
    return Prepared(
        _FENCED.values(status=status.value, deaths=0, handing_over=False, **times, **_FREE)
    )


def outcome_of(claim: Claim, verdict: Verdict) -> tuple[Prepared, dict[str, Any]]:
    """The statement that writes an outcome into its row, and its values."""
    values = fence(claim) | {
        "attempts": claim.number - verdict.refund,
        "generation": claim.generation + verdict.next_generation,
        "recipients": recipients_json(verdict.recipients),
        "last_error": verdict.last_error,
    }
    if verdict.status is JobStatus.PENDING:
        values |= clock() | {"delay_": verdict.delay or 0.0}
    elif verdict.status in ENDED:
        values |= clock()
    return _outcome(verdict.status), values


def log_line(claim: Claim, note: AttemptNote) -> dict[str, Any]:
    server = note.server
    return {
        "job_id": claim.job_id,
        "number": claim.number,
        "started_at": note.started_at,
        "seconds": note.seconds,
        "transport": claim.transport,
        "host": server.host,
        "address": server.address,
        "tls": server.tls,
        "queue_id": server.queue_id,
        "outcome": note.outcome,
        "detail": note.detail,
        "phases": json.dumps({k: round(v, 4) for k, v in server.phases.items()})
        if server.phases
        else None,
    }


def index_recipients(
    connection: Connection, job_id: int, recipients: tuple[JobRecipient, ...]
) -> None:
    INDEX_RECIPIENTS.run_each(
        connection,
        [
            {
                "job_id": job_id,
                "position": position,
                "address": entry.address,
                "kind": entry.kind,
                "status": entry.status.value,
                "provider_message_id": entry.provider_message_id,
            }
            for position, entry in enumerate(recipients)
        ],
    )


def overdue(now_expression: Any, give_up_after: float) -> Any:
    """Condition: the mail's time is over, whatever kept it waiting."""
    return or_(
        jobs.c.expires_at <= now_expression,
        jobs.c.first_due_at <= now_expression - give_up_after,
    )
