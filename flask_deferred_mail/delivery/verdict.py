"""What an attempt means for the row. Pure: no database, no clock, no network.

Read top to bottom this is the policy of the project: who pays for a failure, when a mail ends,
what becomes of an unknown outcome.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..cleaning import clean
from ..job import JobRecipient, JobStatus, RecipientStatus, ended_status
from ..outcome import Fate, RecipientResult, ServerNote
from ..retry import backoff, unknown_delay
from ..store.claims import Claim
from ..store.statements import AttemptNote, Verdict


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient we are with a mail. All times in seconds."""

    backoff: Sequence[float]
    max_attempts: int
    give_up_after: float
    max_sender_deaths: int
    #: ``retry`` or ``hold``.
    on_unknown: str

    def gives_up_at(self, claim: Claim) -> float:
        """When the mail's time is over, whatever kept it waiting."""
        return claim.first_due_at + self.give_up_after

    def holds_unknown(self, claim: Claim) -> bool:
        """Whether the mail must not be sent twice."""
        return (claim.on_unknown or self.on_unknown) == "hold"

    def budget(self, claim: Claim) -> int:
        return claim.max_attempts or self.max_attempts


_NO_SERVER = ServerNote()


# Not frozen, like everything here that is made once per mail and stays inside: a frozen one costs
# three times as much to make.
@dataclass(slots=True)
class Course:
    """What is known of an attempt before anybody has judged it."""

    #: By the wall clock.
    started_at: float
    seconds: float
    server: ServerNote = _NO_SERVER
    #: Of a combined transport: the member that had the last call.
    member: str | None = None

    def note(self, outcome: str, detail: str) -> AttemptNote:
        """The line of the attempt log."""
        return AttemptNote(self.started_at, self.seconds, outcome, detail, self.server, self.member)


_STATUS_OF = {
    Fate.ACCEPTED: RecipientStatus.SENT,
    Fate.REFUSED: RecipientStatus.REJECTED,
    Fate.FAILED: RecipientStatus.FAILED,
    Fate.SUPPRESSED: RecipientStatus.SUPPRESSED,
    Fate.DEFERRED: RecipientStatus.PENDING,
    Fate.UNTRIED: RecipientStatus.PENDING,
    Fate.UNKNOWN: RecipientStatus.UNKNOWN,
}


def still_open(recipients: Iterable[JobRecipient], hold_unknown: bool) -> list[JobRecipient]:
    """Whom this attempt is for: nobody that is decided, and an unknown one only once more."""
    return [
        r
        for r in recipients
        if r.status is RecipientStatus.PENDING
        or (r.status is RecipientStatus.UNKNOWN and not hold_unknown and r.unknowns < 2)
    ]


def apply(
    recipients: tuple[JobRecipient, ...],
    results: Iterable[RecipientResult],
    call_key: str,
    answered: bool,
    doubted_at: float,
    member: str | None = None,
) -> tuple[JobRecipient, ...]:
    """The recipients after one call.

    ``call_key`` is the idempotency key that the call had; ``answered`` says that the other side
    answered at all (else the key may be used again: it has not seen it, or not said so).
    ``doubted_at`` is the database's time; ``member`` the one of a combined transport that had it.
    """
    by_address = {result.address: result for result in results}
    return tuple(
        [
            _after(entry, by_address[entry.address], call_key, answered, doubted_at, member)
            if entry.address in by_address
            else entry
            for entry in recipients
        ]
    )


def _after(
    entry: JobRecipient,
    result: RecipientResult,
    call_key: str,
    answered: bool,
    doubted_at: float,
    member: str | None,
) -> JobRecipient:
    decided = entry.status not in (RecipientStatus.PENDING, RecipientStatus.UNKNOWN)
    if decided or result.fate is Fate.UNTRIED:
        return entry
    unknown = result.fate is Fate.UNKNOWN
    # A transport of another package may hand on what a server said as it came.
    detail, number = _kept(result.detail), _kept(result.provider_message_id or "")
    if result.fate is Fate.DEFERRED and entry.status is RecipientStatus.UNKNOWN:
        # This try did not reach anybody, but the one before may have: the status stays. The key
        # stays too, unless an answer said "not sent" to it.
        return replace(entry, detail=detail, doubt=None if answered else entry.doubt)
    return JobRecipient(
        entry.address,
        entry.kind,
        _STATUS_OF[result.fate],
        detail,
        number or entry.provider_message_id,
        entry.name,
        unknowns=entry.unknowns + unknown,
        doubt=call_key if unknown else None,
        doubted_at=doubted_at if unknown else None,
        doubted_by=member if unknown else None,
    )


def _kept(text: str) -> str:
    """Text that any database takes: of NUL or half a character, some would keep the whole outcome
    from being written, and the mail would be sent again."""
    return text if text.isprintable() else clean(text)


def without_late_doubts(
    recipients: tuple[JobRecipient, ...], window: float | None, now: float
) -> tuple[JobRecipient, ...]:
    """Who cannot be tried again without a second copy: the provider has forgotten the key.

    An unknown outcome is retried inside the provider's idempotency ``window`` (seconds) where it
    has one; what comes later than that waits for a person. Without a window nothing changes.
    """
    if window is None:
        return recipients
    return tuple(
        replace(entry, unknowns=2, detail=_TOO_LATE)
        if entry.doubt and entry.doubted_at is not None and now - entry.doubted_at > window
        else entry
        for entry in recipients
    )


_TOO_LATE = "no answer came, and the provider does not recognise a repeat any more"


def before_attempt(claim: Claim, policy: Policy, now: float, course: Course) -> Verdict | None:
    """The end of a mail that must not be tried any more; ``None``: go on."""
    if claim.died_handing_over and policy.holds_unknown(claim):
        return _doubtful_death(claim, course)
    if claim.expires_at is not None and claim.expires_at <= now:
        return _end(claim, course, "expired before it could be sent", JobStatus.EXPIRED)
    if claim.deaths >= policy.max_sender_deaths:
        return _end(claim, course, f"sender died {claim.deaths} times", JobStatus.FAILED)
    if policy.gives_up_at(claim) <= now:
        why = _last_words(claim) or "no attempt succeeded"
        return _end(claim, course, f"given up: {why}", JobStatus.FAILED)
    if claim.spent > policy.budget(claim):
        return _end(claim, course, f"sender died {claim.deaths} times", JobStatus.FAILED)
    return None


def _last_words(claim: Claim) -> str:
    return next((r.detail for r in claim.recipients if r.detail), "")


def _doubtful_death(claim: Claim, course: Course) -> Verdict:
    detail = "the sender died while handing over; the mail may have been sent"
    recipients = tuple(
        replace(entry, status=RecipientStatus.UNKNOWN, detail=detail, unknowns=entry.unknowns + 1)
        if entry.status is RecipientStatus.PENDING
        else entry
        for entry in claim.recipients
    )
    return Verdict(
        JobStatus.HELD,
        recipients,
        course.note("unknown", detail),
        last_error=detail,
        refund=True,
    )


def _end(claim: Claim, course: Course, detail: str, if_nobody: JobStatus) -> Verdict:
    """End the mail without an attempt: who is open has failed, who is in doubt stays so."""
    recipients = _given_up(claim.recipients, detail)
    status = ended_status(recipients)
    if status is JobStatus.FAILED:
        status = if_nobody
    return Verdict(
        status,
        recipients,
        course.note("failed", detail),
        last_error=detail,
        refund=True,
    )


def _given_up(recipients: tuple[JobRecipient, ...], detail: str) -> tuple[JobRecipient, ...]:
    return tuple(
        replace(entry, status=RecipientStatus.FAILED, detail=entry.detail or detail)
        if entry.status is RecipientStatus.PENDING
        else entry
        for entry in recipients
    )


@dataclass(slots=True)
class Tally:
    """What the calls of one attempt came to, together."""

    recipients: tuple[JobRecipient, ...]
    #: False: the transport was to blame and nobody was decided, so the mail does not pay.
    costs_attempt: bool
    #: The transport asks to be left alone for this many seconds (or it rests already).
    rests_for: float | None
    #: The clock ran out between two calls, after some had come to something: go on at once.
    interrupted: bool
    #: This attempt left somebody without an answer.
    unknown: bool
    #: Of the next idempotency keys: it has advanced with every answer.
    generation: int
    detail: str
    #: Seconds for which the provider recognises a repeated key.
    idempotency_window: float | None = None


def after_attempt(
    claim: Claim, policy: Policy, tally: Tally, now: float, course: Course, rng: random.Random
) -> Verdict:
    """What the row says after an attempt."""
    recipients = tally.recipients
    if not still_open(recipients, policy.holds_unknown(claim)):
        return _finished(recipients, course, tally)
    refund = not tally.costs_attempt or tally.interrupted
    if not refund and claim.spent >= policy.budget(claim):
        # Somebody in doubt is not tried again either: the mail is held, not failed.
        detail = f"given up after {claim.spent} attempts: {tally.detail}"
        return _finished(_given_up(recipients, detail), course, replace(tally, detail=detail))
    delay = _delay(claim, policy, tally, rng)
    last_moment = policy.gives_up_at(claim)
    if claim.expires_at is not None:
        last_moment = min(last_moment, claim.expires_at)
    # Due again at the very end as well, so that the mail ends when its time is over.
    delay = max(0.0, min(delay, last_moment - now))
    return Verdict(
        JobStatus.PENDING,
        recipients,
        course.note(_log_word(tally, refund), tally.detail),
        last_error=tally.detail or None,
        delay=delay,
        refund=refund,
        generation=tally.generation,
    )


def _delay(claim: Claim, policy: Policy, tally: Tally, rng: random.Random) -> float:
    if tally.interrupted:
        return 0.0
    if tally.rests_for is not None:
        return tally.rests_for
    if tally.unknown:
        return unknown_delay(policy.backoff, tally.idempotency_window)
    return backoff(claim.spent, policy.backoff, rng)


def _log_word(tally: Tally, refund: bool) -> str:
    if tally.unknown:
        return "unknown"
    return "returned" if refund else "retry"


def _finished(recipients: tuple[JobRecipient, ...], course: Course, tally: Tally) -> Verdict:
    status = ended_status(recipients)
    word = "unknown" if status is JobStatus.HELD else str(status)
    return Verdict(
        status,
        recipients,
        course.note(word, tally.detail),
        last_error=tally.detail if status is not JobStatus.SENT and tally.detail else None,
        generation=tally.generation,
    )
