"""One worker process: passes over what is due until it is told to stop, or has done its share.

The main thread sweeps, by the same :class:`~.sweep.Sweep` that cron's command uses. A thread beside
it, the control, reads signals and what a parent orders, and watches age, memory and the time that
a stop may take; so a stop is heard whatever the sweep waits for.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import SchemaError, StoreError
from ..sd_notify import ServiceManager
from ..signal_pipe import BY_SIGNAL, SignalPipe, existing
from ..store.sightings import Sightings
from .memory import resident_bytes, share_heaps
from .runtime import Runtime
from .supervisor import BEAT, ORDER_QUICK, ORDER_STOP, READY, Post
from .sweep import Sweep

log = logging.getLogger("flask_deferred_mail.worker")

#: Seconds between two looks at age, memory and the time left.
_LOOK_EVERY = 1.0
#: Seconds until the database is asked again after it failed: doubling, up to the second figure.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: Seconds between two looks whether sending is still suppressed.
_SUPPRESSED_PAUSE = 5.0
#: Seconds to give mail back with when there is no time left.
_LAST_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """After what a process has done its share; ``None``: never."""

    #: Mails that it takes.
    jobs: int | None = None
    #: Age in seconds.
    seconds: float | None = None
    #: Resident bytes, once it has taken a mail: one that starts larger would do nothing else.
    memory: int | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.jobs, self.seconds, self.memory))


@dataclass(frozen=True, slots=True)
class Duty:
    """How a worker process works."""

    #: Mails that it sends at the same time.
    concurrency: int
    #: Seconds for the mail in hand, once it is to stop.
    grace: float
    #: Whether mail is recorded and not sent, as of now.
    suppressed: Callable[[], bool]
    limits: Limits = Limits()


class Worker:
    """One process. ``post`` is what it has of the parent that forked it, if one did."""

    def __init__(
        self,
        runtime: Runtime,
        duty: Duty,
        manager: ServiceManager | None = None,
        post: Post | None = None,
    ) -> None:
        self.runtime = runtime
        self.duty = duty
        self._manager = manager
        self._post = post
        self._sightings = Sightings(runtime.database)
        self._born = time.monotonic()
        self._lock = threading.Lock()
        self._sweep: Sweep | None = None
        self._taken = 0
        #: Set when nothing more is to be begun: told to stop, or has done its share.
        self._ending = threading.Event()
        self._renewing = False
        self._leave_at = math.inf
        self._over = False
        self._asked = 0
        self._is_ready = False

    def run(self) -> None:
        """Send until told to stop. For the main thread.

        :raises SchemaError: the tables are missing, or do not fit this version.
        """
        if "MALLOC_ARENA_MAX" not in os.environ:  # whoever set that has decided
            share_heaps()
        with self._signals() as signals:
            if self._post is not None:
                self._post.unblock()  # in this thread, which would else sleep on at a signal
            control = threading.Thread(
                target=self._control, args=(signals,), name="deferred-mail-control", daemon=True
            )
            control.start()
            try:
                self._work()
            finally:
                self._over = True
                signals.wake()
                control.join()
                with suppress(StoreError):
                    self._gone()
                self.runtime.close_transports()
        log.info("process %d ends after %d mails", os.getpid(), self._taken)

    # -- the main thread --------------------------------------------------------------------

    def _work(self) -> None:
        self._alive()
        pause = _FIRST_PAUSE
        while not self._ending.is_set():
            if self.duty.suppressed():
                self._wait_while_suppressed()
                continue
            sweep = self._next_sweep()
            if sweep is None:
                return
            try:
                sweep.run(math.inf)
                pause = _FIRST_PAUSE
            except SchemaError:
                raise
            except StoreError as error:
                log.error("the database failed, another try in %.1f s: %s", pause, error)
                self._alive()
                self._ending.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE) if not sweep.counts.claimed else _FIRST_PAUSE
            finally:
                self._taken += sweep.counts.claimed
            self._after()

    def _next_sweep(self) -> Sweep | None:
        """Passes for what is left of this process's share; ``None``: it is to stop."""
        limit = self.duty.limits.jobs
        sweep = self.runtime.sweep(
            self.duty.concurrency, None if limit is None else limit - self._taken
        )
        sweep.seen = self._seen
        with self._lock:
            if self._ending.is_set():
                sweep.waiter.close()
                return None
            self._sweep = sweep
        return sweep

    def _after(self) -> None:
        with self._lock:
            self._sweep, renewing = None, self._renewing
            self._renewing = False
        limit = self.duty.limits.jobs
        if renewing and not self._ending.is_set():
            self.runtime.close_transports()
            self.runtime.database.close()
            log.info("connections are closed, and opened anew as they are needed")
        elif limit is not None and self._taken >= limit:
            self._end(f"has taken {self._taken} mails")

    def _wait_while_suppressed(self) -> None:
        log.warning("sending is suppressed (MAIL_SUPPRESS_SEND, or TESTING): nothing is sent")
        while self.duty.suppressed() and not self._ending.is_set():
            self._alive()
            self._ready()
            self._ending.wait(_SUPPRESSED_PAUSE)

    def _seen(self) -> None:
        """Every 20 s in the main thread: let people see that somebody sends."""
        runtime = self.runtime
        runtime.reports.seen("sweep", runtime.host, runtime.pid)
        self._sightings.at_work(runtime.host, runtime.pid)
        self._alive()
        self._ready()

    def _ready(self) -> None:
        if self._is_ready:
            return
        self._is_ready = True
        self._tell(READY)
        if self._manager is not None:
            self._manager.ready(f"one process, at most {self.duty.concurrency} mails at a time")
        self._tidy()

    def _tidy(self) -> None:
        try:
            self._sightings.tidy()
        except StoreError as error:
            log.debug("old sightings stay: %s", error)

    def _alive(self) -> None:
        self._tell(BEAT)

    def _tell(self, word: bytes) -> None:
        if self._post is not None:
            with suppress(OSError):  # the parent is gone, or has much to read
                os.write(self._post.news, word)

    def _gone(self) -> None:
        self._sightings.gone(self.runtime.host, self.runtime.pid, _LAST_PATIENCE)

    # -- the control ------------------------------------------------------------------------

    def _signals(self) -> SignalPipe:
        if self._post is None:
            numbers, ignored = existing("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"), existing()
        else:
            # A terminal sends these to the whole group; the parent passes them on in order.
            numbers, ignored = existing("SIGTERM", "SIGQUIT"), existing("SIGINT", "SIGHUP")
        return SignalPipe(numbers, ignored, self._at_once)

    def _at_once(self, number: int) -> None:
        if number in existing("SIGTERM", "SIGINT"):
            self._asked += 1
            if self._asked > 1:
                # No clean-up: what is in hand is left to its lease.
                os._exit(BY_SIGNAL + number)

    def _control(self, signals: SignalPipe) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ, self._on_signals)
            if self._post is not None:
                selector.register(self._post.orders, selectors.EVENT_READ, self._on_orders)
            while not self._over:
                for key, _ in selector.select(_LOOK_EVERY):
                    try:
                        key.data(signals, selector)
                    except Exception:
                        log.exception("the control of this worker met an error; it goes on")
                self._look()

    def _on_signals(self, signals: SignalPipe, _selector: object) -> None:
        for number in signals.read():
            name = signal.Signals(number).name
            if name == "SIGHUP":
                self._renew()
            elif name == "SIGQUIT":
                self._stop_quickly(name)
            else:
                self._end(f"was told to stop ({name})")

    def _on_orders(self, _signals: object, selector: selectors.BaseSelector) -> None:
        assert self._post is not None
        orders = os.read(self._post.orders, 64)
        if not orders:
            selector.unregister(self._post.orders)
            self._end("has lost its parent")
        elif ORDER_QUICK in orders:
            self._stop_quickly("by its parent")
        elif ORDER_STOP in orders:
            self._end("was told to stop")

    def _end(self, why: str) -> None:
        """Take nothing more, finish what is in hand, give the rest back."""
        with self._lock:
            if self._ending.is_set():
                return
            self._ending.set()
            sweep = self._sweep
            self._leave_at = time.monotonic() + self.duty.grace
        log.info(
            "process %d %s: the mail in hand is finished, the rest is given back", os.getpid(), why
        )
        if self._manager is not None:
            self._manager.stopping("finishing the mail in hand")
        if sweep is not None:
            sweep.stop()

    def _stop_quickly(self, by: str) -> None:
        self._end(f"was told to stop at once ({by})")
        self._leave()

    def _renew(self) -> None:
        """As a new process: finish what is in hand, and connect anew."""
        if self._manager is not None:
            self._manager.reloading()
        with self._lock:
            self._renewing, self._is_ready = True, False
            sweep = self._sweep
        if sweep is not None:
            sweep.stop()

    def _look(self) -> None:
        if self._manager is not None:
            self._manager.alive()
        now, limits = time.monotonic(), self.duty.limits
        if now >= self._leave_at:
            log.warning("the time to stop in is over")
            self._leave()
        elif self._ending.is_set():
            return
        elif limits.seconds is not None and now - self._born >= limits.seconds:
            self._end(f"is {now - self._born:.0f} s old")
        elif limits.memory is not None and self._has_taken():
            used = resident_bytes()
            if used > limits.memory:
                self._end(f"holds {used / 2**20:.0f} MiB of memory")

    def _has_taken(self) -> bool:
        sweep = self._sweep
        return self._taken > 0 or (sweep is not None and sweep.counts.claimed > 0)

    def _leave(self) -> None:
        """End this process now. What has not been handed over is given back; what has, is in
        doubt and left to its lease."""
        leases = self.runtime.leases
        leases.give_back(leases.in_hand(), "the worker was told to stop", _LAST_PATIENCE)
        if left := leases.count():
            log.warning("%d mails were handed over and not answered: left to their leases", left)
        with suppress(StoreError):
            self._gone()
        logging.shutdown()
        os._exit(0)
