"""Which signals follow from what delivery tells: one attempt, one end, an old backlog."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from . import signals
from .delivery.attempt import Attempted
from .dispatched import dispatched_message
from .errors import DeferredMailError
from .job import Job, JobStatus
from .tracking import TrackingEvent

log = logging.getLogger("flask_deferred_mail")


class SignalListener:
    """Tells receivers what happened, in a fresh app context; reads the job only if any listens."""

    def __init__(self, send: Callable[..., None], read: Callable[[int], Job]) -> None:
        #: Sends a signal to its receivers, in an app context of their own.
        self._send = send
        #: Reads a job by its number.
        self._read = read

    def attempted(self, event: Attempted) -> None:
        """An attempt has ended and is written down."""
        if not [signal for signal in _OF_ATTEMPTS if signal.receivers]:
            return
        try:
            self._attempted(event)
        except Exception:
            # The outcome is written; whatever breaks now must not make it look otherwise.
            log.exception("mail %d: telling of its attempt broke", event.job_id)

    def _attempted(self, event: Attempted) -> None:
        told = [signals.mail_attempted, *_AFTER.get(event.status, ())]
        if event.accepted:
            told.append(signals.email_dispatched)
        heard = [signal for signal in told if signal.receivers]
        if not heard:
            return
        try:
            job = self._read(event.job_id)
        except DeferredMailError as error:
            log.error("mail %d: no signal of its attempt: %s", event.job_id, error)
            return
        for signal in heard:
            self._send(signal, job=job, **_details(signal, event))

    def gave_up(self, job: Job) -> None:
        """A mail ended without an attempt."""
        self._send(signals.mail_failed, job=job)

    def tracked(self, job: Job, event: TrackingEvent) -> None:
        """A provider's report has found its mail."""
        if signals.mail_tracking.receivers:
            self._send(signals.mail_tracking, job=job, event=event)

    def backlog(self, oldest: Job) -> None:
        """Due mail is old, and nobody sweeps."""
        self._send(signals.mail_backlog, job=oldest)


def _details(signal: Any, event: Attempted) -> dict[str, Any]:
    """What a signal carries besides ``job``."""
    if signal is signals.mail_attempted:
        return {"attempt": event.note}
    if signal is signals.email_dispatched:
        return {"message": event.letter and dispatched_message(event.letter)}
    return {}


_AFTER: Mapping[JobStatus, tuple[Any, ...]] = {
    JobStatus.PENDING: (signals.mail_retry_scheduled,),
    JobStatus.FAILED: (signals.mail_failed,),
    JobStatus.PARTIAL: (signals.mail_failed,),
    JobStatus.EXPIRED: (signals.mail_failed,),
    JobStatus.HELD: (signals.mail_held,),
}

#: All that an attempt can be told by.
_OF_ATTEMPTS = (
    signals.mail_attempted,
    signals.email_dispatched,
    signals.mail_retry_scheduled,
    signals.mail_failed,
    signals.mail_held,
)
