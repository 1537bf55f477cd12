"""The statements and values of the outbox, apart from the transactions that run them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Double, bindparam, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ..job import ENDED, Job, JobRecipient, JobStatus, moment
from ..letter import Submission
from ..outcome import ServerNote
from ..suppression import Refusal
from . import payload
from .claims import Claim, Lease
from .dialect import MYSQLS, insert_or_ignore, now, upsert
from .prepared import Prepared
from .rows import fresh_recipients, fresh_recipients_json, recipients_json
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
    #: Of a combined transport: the member that had the last call.
    member: str | None = None


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
    #: Of the next idempotency keys.
    generation: int = 0
    #: Recipients whose server knows no such mailbox.
    refusals: tuple[Refusal, ...] = ()


# -- building rows ------------------------------------------------------------------------------

#: How a row stands that nobody has leased.
NOT_LEASED: dict[str, Any] = {
    "status": JobStatus.PENDING.value,
    "lease_": 0.0,
    "lease_token": None,
    "lease_owner": None,
}


def new_row(submission: Submission, own_clock: bool) -> dict[str, Any]:
    """The values of a new row, but for its payload.

    ``own_clock``: this host's clock is the database's.
    """
    letter = submission.letter
    here_and_now = time.time()
    waits = submission.send_at is not None and submission.send_at > here_and_now
    return {
        "format": payload.PLAIN,
        "transport": submission.transport,
        "tenant": submission.tenant,
        "key": submission.key,
        "priority": submission.priority,
        # The host's clock is SQLite's too; a server has its own.
        "now_": here_and_now if own_clock else None,
        "send_at_": submission.send_at if waits else None,
        "expires_at": submission.expires_at,
        "max_attempts": submission.max_attempts,
        "on_unknown": submission.on_unknown,
        "transactional": submission.transactional,
        "size": letter.size,
        "message_id": letter.message_id,
        "sender": letter.sender.email,
        "subject": letter.subject,
        "fingerprint": payload.fingerprint(letter, letter.recipients) if submission.key else None,
        "recipients": fresh_recipients_json(letter.recipients),
        **NOT_LEASED,
    }


def leased(lease: Lease, token: str) -> dict[str, Any]:
    """What differs in a row that is this process's from the start."""
    return {
        "status": JobStatus.SENDING.value,
        "lease_": lease.seconds,
        "lease_token": token,
        "lease_owner": lease.owner,
    }


def insert_row(connection: Connection, row: dict[str, Any]) -> int | None:
    """The new row's number; ``None`` when its key is taken."""
    dialect = connection.dialect.name
    statement = INSERT_JOB if row["key"] is None else _insert_with_key(dialect)
    values = _for_sqlite(row) if dialect == "sqlite" else row
    cursor = _unless_key_is_taken(row, lambda: statement.run(connection, values))
    if cursor is None or not cursor.rowcount:
        return None
    return int(cursor.fetchone()[0] if dialect == "postgresql" else cursor.lastrowid)


def _for_sqlite(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what its columns hold by themselves, NULL and false: the driver looks for an
    adapter for each of these values, which takes it five times as long as a text."""
    values = {name: v for name, v in row.items() if v is not None and v is not False}
    return {"send_at_": row["now_"], **values}


def insert_row_of_caller(connection: Connection, row: dict[str, Any]) -> int | None:
    """:func:`insert_row` on a connection that is not ours, by SQLAlchemy's own ways."""
    dialect = connection.dialect.name
    statement = insert_of_caller(dialect, keyed=row["key"] is not None)
    result = _unless_key_is_taken(row, lambda: connection.execute(statement, row))
    if result is None:
        return None
    if dialect == "sqlite":
        return int(result.lastrowid) if result.rowcount else None
    inserted = result.inserted_primary_key
    return int(inserted[0]) if inserted is not None else None


def _unless_key_is_taken(row: dict[str, Any], insert_it: Callable[[], Any]) -> Any:
    """What inserting comes to; ``None`` if another row has the key."""
    try:
        return insert_it()
    except IntegrityError as error:
        # MySQL: the statement is undone, the transaction around it goes on. (Its own giving-way
        # INSERT does not tell whether it gave way.)
        if row["key"] is None or not is_key_taken(error):
            raise
        return None


def is_key_taken(error: IntegrityError) -> bool:
    """Whether MariaDB or MySQL says with this error that there is such a key."""
    return error.orig is not None and error.orig.args[:1] == (_DUPLICATE_ENTRY,)


#: MySQL's ER_DUP_ENTRY.
_DUPLICATE_ENTRY = 1062


def insert_blobs(connection: Connection, job_id: int, pieces: dict[str, bytes]) -> None:
    """Store attachments that are not there yet, and note that this mail has them."""
    dialect = connection.dialect.name
    # In one order, so that two who have the same ones do not wait for each other in a circle.
    missing = sorted(pieces)
    while missing:
        there = _there(connection, missing)
        for digest in missing:
            if digest not in there:
                _insert_blob(connection, digest, pieces[digest])
        missing = _gone(connection, missing)
    connection.execute(
        insert_or_ignore(job_blobs, dialect),
        [{"job_id": job_id, "digest": digest} for digest in sorted(pieces)],
    )


def _there(connection: Connection, digests: list[str]) -> set[str]:
    """Those that need not travel to the server again."""
    if connection.dialect.name == "sqlite":
        return set()  # no way to travel
    return set(connection.scalars(_DIGESTS, {"digests_": digests}))


def _insert_blob(connection: Connection, digest: str, data: bytes) -> None:
    # One by one: many at once would have to fit into one packet together.
    dialect = connection.dialect.name
    # A caller's SQLite connection does not know our clock function; the host's clock is the same.
    created_at = time.time() if dialect == "sqlite" else now()
    connection.execute(
        insert_or_ignore(blobs, dialect).values(created_at=created_at),
        {"digest": digest, "size": len(data), "data": data},
    )


def _gone(connection: Connection, digests: list[str]) -> list[str]:
    """Lock these attachments against ``purge`` until the transaction ends; what it was faster at.

    The lock is shared: any number of transactions may record mail with one attachment at a time.
    """
    if connection.dialect.name == "sqlite":
        return []  # one writer, and that is this transaction
    locked = set(connection.scalars(_LOCK_DIGESTS, {"digests_": digests}))
    return [digest for digest in digests if digest not in locked]


_DIGESTS = select(blobs.c.digest).where(blobs.c.digest.in_(bindparam("digests_", expanding=True)))
#: ``FOR KEY SHARE`` on PostgreSQL, ``LOCK IN SHARE MODE`` on MariaDB and MySQL.
_LOCK_DIGESTS = _DIGESTS.order_by(blobs.c.digest).with_for_update(read=True, key_share=True)


def fresh_job(job_id: int, row: dict[str, Any], submission: Submission) -> Job:
    """The job as a reader would find it, without reading it."""
    created_at = moment(row["now_"]) or datetime.now(UTC)
    return Job(
        id=job_id,
        status=JobStatus.PENDING,
        message_id=row["message_id"],
        attempts=0,
        next_attempt_at=created_at if row["send_at_"] is None else moment(row["send_at_"]),
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
GIVE_BACK = Prepared(
    _FENCED.values(
        status=JobStatus.PENDING.value,
        due_at=now(),
        # Whoever gives it back has not sent the last byte, whatever was about to be.
        handing_over=False,
        **_FREE,
    )
)
RENEW = (
    update(jobs)
    .where(
        jobs.c.id.in_(bindparam("jobs_", expanding=True)),
        jobs.c.lease_token.in_(bindparam("tokens_", expanding=True)),
    )
    .values(due_at=now() + bindparam("seconds_", type_=Double()))
)
#: Which of them are still ours.
OWNED = select(jobs.c.id, jobs.c.lease_token).where(
    jobs.c.id.in_(bindparam("jobs_", expanding=True)),
    jobs.c.lease_token.in_(bindparam("tokens_", expanding=True)),
)
RENEW_AND_TELL = RENEW.returning(jobs.c.id, jobs.c.lease_token)
LOG_ATTEMPT = Prepared(insert(attempts))
#: Values: those of :func:`new_row`. The database's clock says when the mail is due, unless the
#: mail does.
_NOW: Any = func.coalesce(bindparam("now_", type_=Double()), now())
_FIRST_DUE: Any = func.coalesce(bindparam("send_at_", type_=Double()), _NOW)


def _times(created_at: Any, due_at: Any) -> dict[str, Any]:
    return {
        "created_at": created_at,
        "first_due_at": due_at,
        "due_at": due_at + bindparam("lease_", type_=Double()),
    }


_TIMES = _times(_NOW, _FIRST_DUE)
INSERT_JOB = Prepared(insert(jobs).values(_TIMES))


@cache
def _insert_with_key(dialect: str) -> Prepared:
    if dialect in MYSQLS:
        return INSERT_JOB
    return Prepared(insert_or_ignore(jobs, dialect).values(_TIMES))


@cache
def insert_of_caller(dialect: str, *, keyed: bool) -> Any:
    """The INSERT of a row as SQLAlchemy runs it, for values of :func:`new_row`."""
    times = _TIMES
    if dialect == "sqlite":
        # Its connections do not know our clock function, and ``now_`` is always given.
        given: Any = bindparam("now_", type_=Double())
        due: Any = func.coalesce(bindparam("send_at_", type_=Double()), given)
        times = _times(given, due)
    insert_it = insert_or_ignore(jobs, dialect) if keyed and dialect not in MYSQLS else insert(jobs)
    return insert_it.values(times)


@cache
def _index_recipients(dialect: str) -> Prepared:
    return Prepared(upsert(recipient_index, dialect, "status", "provider_message_id"))


def fence(claim: Claim) -> dict[str, Any]:
    """Which row a fenced statement changes, if its token is still there."""
    return {"job_": claim.job_id, "token_": claim.token}


def give_back(claim: Claim) -> dict[str, Any]:
    """Values of :data:`GIVE_BACK`: the attempt is refunded."""
    return fence(claim) | {"attempts": claim.number - 1}


@cache
def _outcome(status: JobStatus) -> Prepared:
    if status is JobStatus.PENDING:
        times: dict[str, Any] = {"due_at": now() + bindparam("delay_", type_=Double())}
    else:
        times = {"due_at": None, "ended_at": now() if status in ENDED else None}
    if status in (JobStatus.SENT, JobStatus.PARTIAL):
        times["sent_at"] = now()
    return Prepared(
        _FENCED.values(status=status.value, deaths=0, handing_over=False, **times, **_FREE)
    )


def outcome_of(claim: Claim, verdict: Verdict) -> tuple[Prepared, dict[str, Any]]:
    """The statement that writes an outcome into its row, and its values."""
    values = fence(claim) | {
        "attempts": claim.number - verdict.refund,
        "generation": max(claim.generation, verdict.generation),
        "recipients": recipients_json(verdict.recipients),
        "last_error": verdict.last_error,
    }
    if verdict.status is JobStatus.PENDING:
        values["delay_"] = verdict.delay or 0.0
    return _outcome(verdict.status), values


def log_line(claim: Claim, note: AttemptNote) -> dict[str, Any]:
    server = note.server
    return {
        "job_id": claim.job_id,
        "number": claim.number,
        "started_at": note.started_at,
        "seconds": note.seconds,
        "transport": note.member or claim.transport,
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
    connection: Connection, settled: Iterable[tuple[int, tuple[JobRecipient, ...]]]
) -> None:
    """Note whom mails went to: pairs of a mail's number and its recipients."""
    _index_recipients(connection.dialect.name).run_each(
        connection, [line for mail in settled for line in index_lines(*mail)]
    )


def index_lines(job_id: int, recipients: tuple[JobRecipient, ...]) -> list[dict[str, Any]]:
    """A mail's lines in the index of addresses."""
    return [
        {
            "job_id": job_id,
            "position": position,
            "address": entry.address,
            "kind": entry.kind,
            "status": entry.status.value,
            "provider_message_id": entry.provider_message_id,
        }
        for position, entry in enumerate(recipients)
    ]


def overdue(now_expression: Any, give_up_after: float) -> Any:
    """Condition: the mail's time is over, whatever kept it waiting."""
    return or_(
        jobs.c.expires_at <= now_expression,
        jobs.c.first_due_at <= now_expression - give_up_after,
    )
