"""Rows as values, and the other way round."""

from __future__ import annotations

import json
from typing import Any

from ..errors import JobNotFound
from ..job import Job, JobRecipient, JobStatus, RecipientStatus, moment
from ..letter import Recipient
from .schema import jobs

# Made once: json.dumps would make one per call.
_encode = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder().decode

#: What a :class:`~flask_deferred_mail.job.Job` is made from; never the payload.
JOB_COLUMNS = (
    jobs.c.id,
    jobs.c.status,
    jobs.c.message_id,
    jobs.c.attempts,
    jobs.c.due_at,
    jobs.c.first_due_at,
    jobs.c.created_at,
    jobs.c.sent_at,
    jobs.c.last_error,
    jobs.c.recipients,
    jobs.c.subject,
    jobs.c.sender,
    jobs.c.transport,
    jobs.c.priority,
    jobs.c.key,
    jobs.c.tenant,
)


def require_number(job_id: int) -> None:
    """Look up only what a row can have as its number: SQLite's driver raises at the rest.

    :raises JobNotFound: no mail can have it.
    """
    if isinstance(job_id, int) and job_id >= 2**63:
        raise JobNotFound(f"there is no mail {job_id}")


def job_from(row: Any) -> Job:
    """A row (with :data:`JOB_COLUMNS`) as the outside sees it.

    A row that was inserted already leased, and whose first attempt has no outcome yet, reads as
    ``pending``: nobody has claimed it since.
    """
    status = JobStatus(row.status)
    unstarted = status is JobStatus.SENDING and row.attempts == 0
    due_at = row.first_due_at if unstarted else row.due_at
    return Job(
        id=row.id,
        status=JobStatus.PENDING if unstarted else status,
        message_id=row.message_id,
        attempts=row.attempts,
        next_attempt_at=None if status is JobStatus.SENDING and not unstarted else moment(due_at),
        created_at=moment(row.created_at),  # type: ignore[arg-type] # never NULL
        sent_at=moment(row.sent_at),
        last_error=row.last_error,
        recipients=recipients_from(row.recipients),
        subject=row.subject,
        sender=row.sender,
        transport=row.transport,
        priority=row.priority,
        key=row.key,
        tenant=row.tenant,
    )


def fresh_recipients(recipients: tuple[Recipient, ...]) -> tuple[JobRecipient, ...]:
    """The recipients of a letter before anything has happened to them."""
    return tuple([JobRecipient(r.address.email, r.kind, name=r.address.name) for r in recipients])


def recipients_json(recipients: tuple[JobRecipient, ...]) -> str:
    """Recipients as stored: short keys, and nothing that says nothing."""
    return _encode([_recipient_entry(r) for r in recipients])


def fresh_recipients_json(recipients: tuple[Recipient, ...]) -> str:
    """:func:`recipients_json` of :func:`fresh_recipients`, in one step: for each mail recorded."""
    entries = []
    for recipient in recipients:
        address = recipient.address
        entry = {"a": address.email, "k": recipient.kind}
        if address.name:
            entry["n"] = address.name
        entries.append(entry)
    return _encode(entries)


def _recipient_entry(recipient: JobRecipient) -> dict[str, Any]:
    entry: dict[str, Any] = {"a": recipient.address, "k": recipient.kind}
    if recipient.name:
        entry["n"] = recipient.name
    if recipient.status is not RecipientStatus.PENDING:
        entry["s"] = recipient.status
    if recipient.detail:
        entry["d"] = recipient.detail
    if recipient.provider_message_id:
        entry["p"] = recipient.provider_message_id
    if recipient.unknowns:
        entry["u"] = recipient.unknowns
    if recipient.doubt:
        entry["c"] = recipient.doubt
    if recipient.doubted_at:
        entry["t"] = recipient.doubted_at
    if recipient.doubted_by:
        entry["m"] = recipient.doubted_by
    return entry


def recipients_from(text: str) -> tuple[JobRecipient, ...]:
    """The other way round."""
    return tuple([_recipient(entry) for entry in _decode(text)])


def _recipient(entry: dict[str, Any]) -> JobRecipient:
    if len(entry) == 2:  # nothing has happened to it: most that are read are like that
        return JobRecipient(entry["a"], entry["k"])
    return JobRecipient(
        address=entry["a"],
        kind=entry["k"],
        name=entry.get("n", ""),
        status=RecipientStatus(entry.get("s", "pending")),
        detail=entry.get("d", ""),
        provider_message_id=entry.get("p"),
        unknowns=entry.get("u", 0),
        doubt=entry.get("c"),
        doubted_at=entry.get("t"),
        doubted_by=entry.get("m"),
    )
