"""A stored mail as the outside sees it, its statuses, and which status may follow which.

The state machine, drawn in ``docs/how-it-works.md`` and held against this module by a test::

    pending ──claim──▶ sending ──▶ sent | partial | failed | held | expired
       ▲  │               │
       │  │               └──retry, give back──▶ pending
       │  └──▶ held, cancelled, expired, failed, sent  (without an attempt)
       └── held (release), and by ``retry``: partial, failed, cancelled, expired
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from .letter import Address, Kind, Recipient


class JobStatus(StrEnum):
    """Where a mail stands. The set is closed: dashboards and scripts rely on it."""

    #: Due, scheduled, or waiting for a retry.
    PENDING = "pending"
    #: Leased: some process has it in hand.
    SENDING = "sending"
    #: Ended: every recipient was accepted.
    SENT = "sent"
    #: Ended: some recipients were accepted, some not.
    PARTIAL = "partial"
    #: Ended: nobody was accepted.
    FAILED = "failed"
    #: Waits for a person.
    HELD = "held"
    #: Ended by a person before anybody was mailed.
    CANCELLED = "cancelled"
    #: Ended by ``expires_at`` before anybody was mailed.
    EXPIRED = "expired"


class RecipientStatus(StrEnum):
    """Where one recipient of a mail stands."""

    PENDING = "pending"
    #: A server took responsibility for it.
    SENT = "sent"
    #: Refused for good by a server.
    REJECTED = "rejected"
    #: Given up, expired, cancelled, or not sendable as configured.
    FAILED = "failed"
    #: Handed over, and no answer came.
    UNKNOWN = "unknown"
    #: On a list of addresses that must not be mailed.
    SUPPRESSED = "suppressed"
    # From webhooks, after acceptance:
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


#: Statuses in which a mail rests for good, unless a person re-opens it.
ENDED = frozenset(
    {
        JobStatus.SENT,
        JobStatus.PARTIAL,
        JobStatus.FAILED,
        JobStatus.CANCELLED,
        JobStatus.EXPIRED,
    }
)

#: Recipient statuses that say "a server took it": such a recipient is never mailed again.
ACCEPTED = frozenset(
    {
        RecipientStatus.SENT,
        RecipientStatus.DELIVERED,
        RecipientStatus.DEFERRED,
        RecipientStatus.BOUNCED,
        RecipientStatus.COMPLAINED,
    }
)

#: Recipient statuses that ``retry`` opens again.
REOPENABLE = frozenset({RecipientStatus.REJECTED, RecipientStatus.FAILED})

#: Which status may follow which.
TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset(
        {
            JobStatus.SENDING,
            JobStatus.HELD,
            JobStatus.CANCELLED,
            JobStatus.EXPIRED,
            JobStatus.SENT,
            JobStatus.PARTIAL,
            JobStatus.FAILED,
        }
    ),
    JobStatus.SENDING: frozenset(
        {
            JobStatus.PENDING,
            JobStatus.SENT,
            JobStatus.PARTIAL,
            JobStatus.FAILED,
            JobStatus.HELD,
            JobStatus.EXPIRED,
        }
    ),
    JobStatus.HELD: frozenset(
        {
            JobStatus.PENDING,
            JobStatus.SENT,
            JobStatus.PARTIAL,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.SENT: frozenset(),
    JobStatus.PARTIAL: frozenset({JobStatus.PENDING}),
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
    JobStatus.CANCELLED: frozenset({JobStatus.PENDING}),
    JobStatus.EXPIRED: frozenset({JobStatus.PENDING}),
}


@dataclass(frozen=True, slots=True)
class JobRecipient:
    """One recipient of a stored mail and what became of it."""

    address: str
    kind: Kind
    status: RecipientStatus = RecipientStatus.PENDING
    #: Words of the server, cleaned and capped.
    detail: str = ""
    provider_message_id: str | None = None
    name: str = ""
    #: How often a call that held this recipient ended without an answer.
    unknowns: int = 0
    #: Idempotency key of the call that ended without an answer, while that is so.
    doubt: str | None = None
    #: When that was, in seconds since the epoch by the database's clock.
    doubted_at: float | None = None
    #: By which member of a combined transport that call went: only there it can be repeated.
    doubted_by: str | None = None

    @property
    def recipient(self) -> Recipient:
        """The same as the letter has it."""
        return Recipient(Address(self.address, self.name), self.kind)


@dataclass(frozen=True, slots=True)
class Job:
    """A recorded mail. Frozen: a change is a new ``Job``, read again from the store."""

    id: int
    status: JobStatus
    message_id: str
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    sent_at: datetime | None
    last_error: str | None
    recipients: tuple[JobRecipient, ...]
    subject: str = ""
    sender: str = ""
    transport: str = "default"
    priority: int = 0
    key: str | None = None
    tenant: str = ""


def moment(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as an aware datetime in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def ended_status(recipients: tuple[JobRecipient, ...]) -> JobStatus:
    """The status of a mail that has nothing left to do.

    A mail with a recipient whose outcome is unknown waits for a person: it never counts as
    failed, since it may be there.
    """
    accepted = 0
    for recipient in recipients:
        if recipient.status is RecipientStatus.UNKNOWN:
            return JobStatus.HELD
        accepted += recipient.status in ACCEPTED
    if accepted == len(recipients):
        return JobStatus.SENT
    return JobStatus.PARTIAL if accepted else JobStatus.FAILED
