"""Everything that one app has in one process, made at first use.

Engine, threads, locks and connections must not cross a fork (gunicorn's preload, uWSGI): whoever
holds a runtime compares its process id and makes a new one in a child.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from ..deadline import Deadline
from ..job import Job
from ..letter import Submission
from ..rerouting import Rerouting
from ..retry import JITTER, LONGEST_REST
from ..settings import Settings
from ..store.changes import Changes
from ..store.claims import Claims, Lease
from ..store.database import Database
from ..store.events import Events
from ..store.jobs import Added, JobStore
from ..store.limits import Limits
from ..store.outbox import Outbox
from ..store.reports import Reports
from ..store.sealing import Seals
from ..store.setback import Longest, Setback
from ..store.transport_state import TransportStates
from ..store.waking import Bell, Waiter
from ..transports import registry
from ..transports.base import Transport
from .allowance import Allowance
from .attempt import Delivered, Deliverer, Listener
from .dispatcher import Dispatcher
from .handover import Dispatch, HandOver
from .learning import Learner
from .leases import LeaseKeeper, Phase
from .ledger import Timing, Tools
from .pacing import Leave, Pacing
from .routes import Routes
from .suppressing import Suppressing
from .sweep import Sweep
from .tracking import Tracking, TrackingListener
from .verdict import Policy

log = logging.getLogger("flask_deferred_mail.delivery")

#: Seconds that a process which ends waits for the mail in hand (measured to be respected by
#: gunicorn's sync, gthread and gevent workers).
DRAIN_AT_EXIT = 1.5

#: Seconds that ``inline`` may use inside ``close()``, all mails of a request together; well below
#: the 30 s after which gunicorn gives up on a sync worker.
INLINE_BUDGET = 10.0

#: Seconds after which due mail is old, and a sweeper has not been seen for too long.
OLD_BACKLOG = 300.0
SWEEPER_MISSING = 900.0
_BACKLOG_CHECK = 60.0


class AppListener(Listener, TrackingListener, Protocol):
    """What the extension is told beyond single attempts."""

    def backlog(self, oldest: Job) -> None:
        """Due mail is old and no sweeper has been seen."""


class Runtime:
    """The parts that deliver an app's mail, joined. For this process only."""

    def __init__(
        self,
        settings: Settings,
        context: Callable[[], AbstractContextManager[object]],
        listener: AppListener,
        database: Database | None = None,
    ) -> None:
        self.pid = os.getpid()
        self.settings = settings
        self.listener = listener
        self.host = socket.gethostname()
        self.database = database or Database(settings.database_uri)
        self.bell = Bell(self.database)
        self.jobs = JobStore(self.database, Seals(settings.encryption_keys), self.bell)
        self.suppressions = self.jobs.suppressions
        self.outbox = Outbox(self.jobs)
        self.changes = Changes(self.database, self.bell)
        self.reports = Reports(self.database)
        self.tracking = Tracking(Events(self.database), listener)
        self.tracking.events.hooks.append(Learner(self.suppressions).hook)
        self.states = TransportStates(self.database)
        longest_retry = max(*settings.backoff, LONGEST_REST) * (1 + JITTER)
        self.setback = Setback(self.database, Longest(longest_retry, settings.lease * 2))
        self.lease = Lease(settings.lease, f"{self.host}:{self.pid}")
        self.claims = Claims(self.database, self.lease)
        self.leases = LeaseKeeper(self.jobs, settings.lease)
        rng = random.Random()  # seeded by the system, in each process anew
        self.pacing = Pacing(self.states, settings.backoff, settings.lease, rng)
        self.allowance = Allowance(Limits(self.database), self.pacing)
        self.routes = Routes(self.transport, self.pacing, self.allowance)
        policy = Policy(
            backoff=settings.backoff,
            max_attempts=settings.max_attempts,
            give_up_after=settings.give_up_after,
            max_sender_deaths=settings.max_sender_deaths,
            on_unknown=settings.on_unknown,
        )
        timing = Timing(settings.attempt_deadline, settings.final_reply_deadline)
        tools = Tools(
            self.jobs,
            self.transport,
            self.pacing,
            self.routes,
            policy,
            timing,
            Suppressing(
                self.suppressions,
                Rerouting(settings.override_recipients, settings.allowed_recipients),
            ),
        )
        self.deliverer = Deliverer(tools, self.leases, listener, context, rng)
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._dispatcher_lock = threading.Lock()
        #: Where mail is handed over to somebody else's queue.
        self.handover: HandOver | None = None
        self._next_backlog_check = time.monotonic() + _BACKLOG_CHECK

    def transport(self, name: str) -> Transport:
        """The configured transport of that name, made at first use.

        :raises ConfigurationError: there is none, or its URL is wrong.
        """
        found = self._transports.get(name)
        if found is not None:
            return found  # without the lock: asked several times a mail by every sender thread
        with self._lock:
            if name not in self._transports:
                spec = self.settings.require_transport(name)
                self._transports[name] = registry.build(name, spec, timeout=spec.timeout)
            return self._transports[name]

    @property
    def dispatcher(self) -> Dispatcher:
        """The sender threads of this process; they start with the first mail."""
        # A second one would be a second pool, with threads and places of its own.
        if self._dispatcher is None:
            usable = _threads_run()
            with self._dispatcher_lock:
                if self._dispatcher is None:
                    self._dispatcher = self._new_dispatcher(usable)
        return self._dispatcher

    def _new_dispatcher(self, usable: bool) -> Dispatcher:
        dispatcher = Dispatcher(
            self.settings.sender_threads,
            self.lease,
            self.claims,
            self.leases,
            self.deliverer,
            self._after_each,
            usable=usable,
        )
        atexit.register(self._at_exit, dispatcher)
        return dispatcher

    def hand_over_by(self, dispatch: Dispatch, release: Callable[[], None]) -> None:
        """From now on, an engine is told which mail is due."""
        self.handover = HandOver(dispatch, release, usable=_threads_run())
        atexit.register(self._at_exit, self.handover)

    def sweep(
        self,
        concurrency: int = 4,
        limit: int | None = None,
        on_result: Callable[[Delivered], None] | None = None,
    ) -> Sweep:
        """A pass over what is due, to be run by the caller."""
        return Sweep(
            claims=self.claims,
            changes=self.changes,
            reports=self.reports,
            leases=self.leases,
            deliverer=self.deliverer,
            pacing=self.pacing,
            routes=self.routes,
            setback=self.setback,
            waiter=Waiter(self.database),
            seen=lambda: self.reports.seen("sweep", self.host, self.pid),
            reported=self.tracking.look_again,
            concurrency=concurrency,
            limit=limit,
            on_result=on_result,
        )

    def record(self, submission: Submission, lease: Lease | None) -> Added:
        """Record one mail, already this process's if there is a lease, and its transport may send.

        :raises StoreError: nothing was recorded.
        """
        purse = self.routes.purse(submission.transport) if lease is not None else None
        added = self.jobs.add(submission, lease, purse)
        if purse is not None:
            self.allowance.put_in(purse)
        return added

    def take_back(self, job_id: int) -> None:
        """Give a mail back that waits here, for the end of its response or for a thread.

        Its row reads as ``pending``, so a person may change it.
        """
        waiting = (Phase.RESERVED, Phase.QUEUED)
        found = [
            holding
            for holding in self.leases.in_hand()
            if holding.claim.job_id == job_id and holding.phase in waiting
        ]
        # One that a thread begins at this moment is stopped before its last byte, or not at all.
        self.leases.give_back(found, "somebody wants to change it")

    def deliver_now(
        self, job_id: int, budget: Deadline | None = None, *, cleared: bool = False
    ) -> Delivered | None:
        """Attempt one mail in the caller; ``None``: it is not due, or somebody has it.

        ``cleared``: also while its transport rests, because a person wants to know.

        :raises StoreError: the database failed.
        """
        take_one = self.claims.take_one if cleared else partial(self.routes.take_one, self.claims)
        claim = take_one(job_id)
        if claim is None:
            return None
        if cleared:
            # Only a rest that is known here can be ended by a mail that gets through.
            self.pacing.known()
        holding = self.leases.hold(claim)
        leave = Leave(claim.transport, forced=True) if cleared else None
        return self.deliverer.deliver(holding, leave=leave, contain=False, budget=budget)

    def deliver_inline(self, job_ids: list[int]) -> None:
        """Attempt a request's mails one after the other, inside ``close()``, within a budget."""
        budget = Deadline.after(INLINE_BUDGET)
        for job_id in job_ids:
            if budget.left() <= 0:
                log.warning("mail %d and what follows it: no time left, left to the sweep", job_id)
                return
            self.deliver_now(job_id, budget)
        self._after_each()

    def deliver_handed(self, job_ids: list[int]) -> None:
        """Attempt mails that an engine was told of, as far as they are due and nobody's.

        :raises StoreError: the database failed.
        """
        for job_id in job_ids:
            self.deliver_now(job_id)
        self._after_each()

    def close(self) -> None:
        """End the threads and let go of connections; for tests and scripts that make many apps."""
        for ending in (self._dispatcher, self.handover):
            if ending is not None:
                ending.shut_down(DRAIN_AT_EXIT)
        atexit.unregister(self._at_exit)
        self.leases.stop()
        self.allowance.give_back()
        self.close_transports()
        self.bell.close()
        self.database.close()

    def close_transports(self) -> None:
        """Take leave of the servers that idle connections lead to; the next mail connects anew."""
        for transport in list(self._transports.values()):
            transport.close()

    def _after_each(self) -> None:
        """Now and then, look whether anybody sweeps: people forget the cron line."""
        if time.monotonic() < self._next_backlog_check:
            return
        self._next_backlog_check = time.monotonic() + _BACKLOG_CHECK
        seen = self.reports.last_seen("sweep")
        if seen is not None and time.time() - seen.seen_at < SWEEPER_MISSING:
            return
        oldest = self.reports.oldest_due(OLD_BACKLOG)
        if oldest is not None:
            log.error(
                "mail %d has been due for more than %.0f s and no sweep has been seen%s: is the "
                "cron line `flask mail sweep` there?",
                oldest.id,
                OLD_BACKLOG,
                f" since {time.time() - seen.seen_at:.0f} s" if seen else "",
            )
            self.listener.backlog(oldest)

    def _at_exit(self, ending: Dispatcher | HandOver) -> None:
        if os.getpid() == self.pid:
            ending.shut_down(DRAIN_AT_EXIT)


def _threads_run() -> bool:
    """Whether threads run here: uWSGI without ``--enable-threads`` freezes them while it waits."""
    try:
        import uwsgi
    except ImportError:
        return True
    if getattr(uwsgi, "has_threads", 1):
        return True
    log.warning(
        "uWSGI runs without threads, so nothing is sent after the response: start it with "
        "--enable-threads, or rely on `flask mail sweep`"
    )
    return False
