"""Reports of providers, from the door to the row and to whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ..job import Job, JobStatus
from ..store.events import Events, Joined, KeptEvent
from ..tracking import TrackingEvent

log = logging.getLogger("flask_deferred_mail.delivery")


class TrackingListener(Protocol):
    """Told after each commit. What it raises is its own business to contain."""

    def tracked(self, job: Job, event: TrackingEvent) -> None:
        """A report has found its mail, and is written down."""

    def gave_up(self, job: Job) -> None:
        """A mail has ended, without an attempt, and not everybody has it."""


class Tracking:
    """Takes reports in, for one app and process. Safe for threads.

    What has to be stored together with a report goes into ``events.hooks``; they run in the same
    transaction.
    """

    def __init__(self, events: Events, listener: TrackingListener) -> None:
        self.events = events
        self.listener = listener

    def take_in(self, transport: str, reported: Sequence[TrackingEvent]) -> None:
        """Store reports, let them have their effect, and tell of those that found their mail.

        ``transport`` is the name under which they came in. A report that is stored already changes
        nothing.

        :raises StoreError: nothing was stored.
        """
        if reported:
            named = [replace(event, transport=transport) for event in reported]
            self._tell(self.events.take_in(named))

    def look_again(self) -> None:
        """Let reports that came too early have their effect, if they can have it now.

        :raises StoreError: the database failed.
        """
        self._tell(self.events.look_again())

    def of(self, job_id: int) -> list[KeptEvent]:
        """The reports of a mail, the oldest first."""
        return self.events.of(job_id)

    def _tell(self, joined: Sequence[Joined]) -> None:
        ended: dict[int, Job] = {}
        for one in joined:
            log.info("mail %d: %s is %s", one.job.id, one.event.recipient, one.event.kind)
            self.listener.tracked(one.job, one.event)
            if one.ended and one.job.status is not JobStatus.SENT:
                ended[one.job.id] = one.job
        for job in ended.values():
            self.listener.gave_up(job)
