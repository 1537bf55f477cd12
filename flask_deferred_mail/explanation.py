"""Why a mail is, or is not, out: every reason that holds now, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from .cleaning import clean
from .cli_output import counted, duration, when
from .job import Job, JobRecipient, JobStatus, RecipientStatus
from .moments import LATEST
from .settings import Settings
from .store.inspection import Standing
from .store.reports import LoggedAttempt, Sighting
from .store.transport_state import TransportState
from .transport_report import TransportReport, words

#: Seconds after which a sweep that was not seen again is missed; cron comes once a minute.
_SWEEP_MISSED = 300.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about one mail and its surroundings, read at one time."""

    standing: Standing
    attempts: list[LoggedAttempt]
    settings: Settings
    #: Of the mail's transport, if anything is or was wrong with it.
    transport: TransportState | None
    #: When a sweep was seen last.
    sweep: Sighting | None
    suppressed: bool
    now: datetime
    #: The mail's transport and, if it combines others, its members.
    ways: tuple[TransportReport, ...] = ()


def explain(evidence: Evidence) -> list[str]:
    """Sentences for a person, the decisive ones first. Fit for a terminal."""
    job = evidence.standing.job
    if evidence.standing.leased:
        return [*_in_hand(evidence), *_company(evidence), *_limits(evidence)]
    if job.status is JobStatus.PENDING:
        return [*_why_not_yet(evidence), *_company(evidence), *_limits(evidence)]
    if job.status is JobStatus.HELD:
        return [*_why_held(evidence), *_company(evidence)]
    return list(_why_ended(evidence))


# -- it has ended -------------------------------------------------------------------------------


def _why_ended(evidence: Evidence) -> Iterator[str]:
    job = evidence.standing.job
    if job.status is JobStatus.SENT:
        yield f"It is out: every recipient was accepted, at {when(job.sent_at)}."
    elif job.status is JobStatus.PARTIAL:
        yield "It is out for some of its recipients, and has ended for the others."
    elif job.status is JobStatus.CANCELLED:
        yield "It was cancelled by a person, or by the application, before anybody got it."
    elif job.status is JobStatus.EXPIRED:
        yield "It expired: its expires_at came before anybody got it."
    else:
        yield f"It failed: {clean(job.last_error or 'no recipient was accepted')}."
    yield from _last_answer(evidence)
    yield from _by_recipient(job)
    if job.status not in (JobStatus.SENT, JobStatus.CANCELLED):
        yield f"To try again those who do not have it: flask mail retry {job.id}"


def _last_answer(evidence: Evidence) -> Iterator[str]:
    if not evidence.attempts:
        return
    last = evidence.attempts[-1]
    place = f" at {clean(last.host)}" if last.host else ""
    queue = f", its queue id there is {clean(last.queue_id)}" if last.queue_id else ""
    words = f": {clean(last.detail)}" if last.detail else ""
    number = counted(len(evidence.attempts), "attempt")
    yield f"{number}; the last one ended {last.outcome!r}{place}{queue}{words}"


def _by_recipient(job: Job) -> Iterator[str]:
    for entry in job.recipients:
        if len(job.recipients) > 1 or entry.status is not RecipientStatus.SENT:
            yield _recipient_words(entry)


def _recipient_words(entry: JobRecipient) -> str:
    detail = f": {clean(entry.detail)}" if entry.detail else ""
    return f"{clean(entry.address, 254)} is {entry.status}{detail}"


# -- it waits for a person ----------------------------------------------------------------------


def _why_held(evidence: Evidence) -> Iterator[str]:
    job = evidence.standing.job
    unknown = [e for e in job.recipients if e.status is RecipientStatus.UNKNOWN]
    if not unknown:
        yield "It is held: a person, or the application, asked for that. Nothing sends it."
        yield f"To let it go: flask mail release {job.id}"
        return
    yield (
        "It is held because nobody can know whether it arrived: everything was handed over, and "
        "no answer came."
    )
    yield from map(_recipient_words, unknown)
    yield from _last_answer(evidence)
    yield f"Look for {clean(job.message_id)} in the log of the mail server, then:"
    yield f"it arrived: flask mail release {job.id} --as-sent"
    yield f"it did not: flask mail release {job.id}"


# -- somebody has it in hand --------------------------------------------------------------------


def _in_hand(evidence: Evidence) -> Iterator[str]:
    standing = evidence.standing
    left, owner = standing.due_in or 0.0, clean(standing.lease_owner or "an unknown process")
    if left <= 0:
        yield (
            f"{owner} had it in hand and has not been heard of: its lease ended "
            f"{duration(-left)} ago. The next sweep takes it over."
        )
        yield from _who_sweeps(evidence)
    elif standing.unstarted:
        yield (
            f"It was recorded by {owner}, which sends it once its response is out; if that "
            f"process dies, others may take it in {duration(left)}."
        )
    else:
        yield (
            f"It is being sent at this moment by {owner}, whose lease goes on for "
            f"{duration(left)} and is renewed as long as that process lives."
        )


def _company(evidence: Evidence) -> Iterator[str]:
    """What ``?batch=`` costs: one lost answer is a doubt about several mails."""
    for way in evidence.ways:
        if way.batch is not None:
            yield (
                f"By {clean(way.name)!r} it may share a request with up to {way.batch - 1} other "
                "mails. If the answer to that is lost, all of them are in doubt, and each may "
                "arrive twice."
            )


# -- it waits -----------------------------------------------------------------------------------


def _why_not_yet(evidence: Evidence) -> Iterator[str]:
    reasons = [*_its_own_time(evidence), *_surroundings(evidence)]
    yield from reasons
    if not reasons:
        yield "It is due, and nothing is in its way: the next sweep sends it."
    if (evidence.standing.due_in or 0.0) <= 0:
        yield from _who_sweeps(evidence)


def _its_own_time(evidence: Evidence) -> Iterator[str]:
    standing, job = evidence.standing, evidence.standing.job
    left = standing.due_in or 0.0
    if left > 0:
        at = f"{when(job.next_attempt_at)}, in {duration(left)}"
        if standing.scheduled:
            yield f"It is for later: it leaves from {at}."
        else:
            yield f"It waits for its next attempt at {at}."
    if job.last_error:
        yield f"The last attempt did not get through: {clean(job.last_error)}"
    if standing.deaths:
        yield (
            f"{counted(standing.deaths, 'sender')} died over it, so it is tried alone, at the end "
            f"of a sweep; after {evidence.settings.max_sender_deaths} it is given up."
        )


def _surroundings(evidence: Evidence) -> Iterator[str]:
    job, state = evidence.standing.job, evidence.transport
    if evidence.suppressed:
        yield "Sending is suppressed (MAIL_SUPPRESS_SEND, or TESTING): nothing leaves."
    if evidence.standing.too_new:
        yield "It was recorded by a newer flask-deferred-mail than this one, which leaves it alone."
    if job.transport not in evidence.settings.transports:
        yield f"Its transport {clean(job.transport)!r} is not configured here."
    if state is not None and state.failures:
        rest = (
            f"rests for {duration(state.rests_for)} more"
            if state.rests_for > 0
            else "has rested, and one mail at a time tries it"
        )
        yield (
            f"Its transport {clean(job.transport)!r} {rest} ({state.kind}, "
            f"{counted(state.failures, 'fault')} in a row): {clean(state.reason or '')}"
        )
    yield from map(_about_way, filter(_is_in_the_way, evidence.ways))


def _is_in_the_way(way: TransportReport) -> bool:
    # Faults of the transport itself are told above.
    troubled = way.standing == "paused" or (way.member_of is not None and way.standing != "well")
    return troubled or any(left < 1 for left in way.limits.values())


def _about_way(way: TransportReport) -> str:
    name = clean(way.name)
    if way.standing == "paused":
        return f"Its way by {name!r} is {words(way)}. To let it go on: {_resume(name)}"
    if way.standing != "well":
        return f"Its way by {name!r} is left out: {words(way)}"
    reached = ", ".join(limit for limit, left in way.limits.items() if left < 1)
    return f"The limit of {name!r} is reached ({reached}): it leaves as soon as that lets it."


def _resume(name: str) -> str:
    return f"flask mail transports resume {name}"


def _who_sweeps(evidence: Evidence) -> Iterator[str]:
    seen = evidence.sweep
    if seen is None:
        yield (
            "No sweep has ever been seen here: is the cron line `flask mail sweep` there, or a "
            "`flask mail worker`?"
        )
        return
    age = max(0.0, evidence.now.timestamp() - seen.seen_at)
    if age > _SWEEP_MISSED:
        yield (
            f"No sweep has been seen for {duration(age)}: is the cron line `flask mail sweep` "
            "there, or a `flask mail worker`?"
        )
    else:
        yield f"The last sweep was seen {duration(age)} ago."


def _limits(evidence: Evidence) -> Iterator[str]:
    standing, settings = evidence.standing, evidence.settings
    most = standing.max_attempts or settings.max_attempts
    ends = settings.give_up_after - standing.first_due_ago
    # A mail for the year 9999 is given up after the last day that there is.
    at = when(datetime.fromtimestamp(min(evidence.now.timestamp() + ends, LATEST), UTC))
    yield f"{standing.spent} of {most} attempts are used; it is given up at {at} at the latest."
    if standing.expires_in is not None:
        yield f"It expires in {duration(standing.expires_in)}."
