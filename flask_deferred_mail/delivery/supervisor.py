"""A parent that forks worker processes and keeps their number.

It opens nothing that a child must not share: no thread, no engine, no connection. Each child has
two pipes with it. By one the parent orders a stop (a signal may reach a child twice, from a
terminal or a service manager and from the parent); its end tells the child that the parent is
dead. By the other the child says that it is ready, and then now and again that it is alive.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from ..sd_notify import ServiceManager
from ..signal_pipe import BY_SIGNAL, SignalPipe, existing

log = logging.getLogger("flask_deferred_mail.worker")

ORDER_STOP, ORDER_QUICK = b"s", b"q"
READY, BEAT = b"r", b"."

#: Exit code of a child that another one in its place would end with as well: configuration,
#: tables.
FAULT = 3
#: Exit code of a parent that had to kill a child.
KILLED_CHILD = 1

#: Seconds until a child that crashed is replaced: doubling with each crash, up to the second one.
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
#: Seconds after which a child that lives is no longer counted among those that crash.
STEADY_AFTER = 60.0
#: Seconds without a sign of life after which a child stands still. It gives one every 20 s or so,
#: and after a database's longest time-out.
HUNG_AFTER = 300.0
#: Seconds beyond their grace that children have to end.
MARGIN = 5.0
#: Seconds between two looks at clocks, at most.
_LOOK_EVERY = 1.0

_TAKEN = existing("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGCHLD")


@dataclass(frozen=True, slots=True)
class Post:
    """What a child has of its parent. Signals are blocked until it takes them."""

    slot: int
    #: Read end: orders, and the parent's death.
    orders: int
    #: Write end: news of the child.
    news: int

    def unblock(self) -> None:
        """Let signals through; the child's own handlers are there."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN)


@dataclass(slots=True, eq=False)
class _Child:
    slot: int
    pid: int
    orders: int
    news: int
    born: float
    heard: float
    ready: bool = False
    #: It is to be replaced by another.
    stale: bool = False
    #: When it is killed, if it was told to stop.
    kill_at: float | None = None


@dataclass(slots=True)
class _Slot:
    """A place for a child: when there is to be one, and how many crashed in a row."""

    start_at: float = 0.0
    crashes: int = 0


class Supervisor:
    """Keeps so many children at work.

    :param grace: seconds that a child has for its mail in hand when it is told to stop.
    """

    def __init__(self, processes: int, grace: float, manager: ServiceManager) -> None:
        self.processes = processes
        self.grace = grace
        self.manager = manager
        self._slots = [_Slot() for _ in range(processes)]
        self._children: dict[int, _Child] = {}
        self._stopping = False
        self._said_ready = False
        self._asked = 0
        self._exit_code = 0
        self._looked_at = time.monotonic()

    def run(self) -> Post | int:
        """In the parent: an exit code, when all is over. In each child, as ``os.fork`` does: its
        post, and it is the caller's to be a worker."""
        gc.collect()
        gc.freeze()  # what is there now is not touched again, so its pages stay shared
        with SignalPipe(_TAKEN) as signals, selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            while True:
                post = self._fill(selector)
                if post is not None:
                    return post
                if self._stopping and not self._children:
                    return self._exit_code
                for key, _ in selector.select(self._timeout()):
                    if isinstance(key.data, _Child):
                        self._listen(key.data, selector)
                for number in signals.read():
                    self._on_signal(signal.Signals(number))
                self._reap(selector)
                self._look()

    # -- births -----------------------------------------------------------------------------

    def _fill(self, selector: selectors.BaseSelector) -> Post | None:
        """Fork where a child is missing. The post, in a child."""
        filled = {child.slot for child in self._children.values()}
        for number, slot in enumerate(self._slots):
            if self._stopping or number in filled or slot.start_at > time.monotonic():
                continue
            try:
                post = self._fork(number, selector)
            except OSError as error:
                log.error("no process can be started: %s", error)
                self._delay(slot)
                continue
            if post is not None:
                return post
        return None

    def _fork(self, number: int, selector: selectors.BaseSelector) -> Post | None:
        orders_read, orders_write = os.pipe()
        news_read, news_write = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or none at all
                stream.flush()
        # A signal to the child must not run the parent's handler, which writes into its pipe.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
        try:
            pid = os.fork()
        except OSError:
            for end in (orders_read, orders_write, news_read, news_write):
                os.close(end)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN)
            raise
        if pid == 0:
            for end in (orders_write, news_read, *self._parents_ends()):
                os.close(end)
            os.set_blocking(news_write, False)
            return Post(number, orders_read, news_write)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN)
        os.close(orders_read)
        os.close(news_write)
        now = time.monotonic()
        child = _Child(number, pid, orders_write, news_read, born=now, heard=now)
        self._children[pid] = child
        selector.register(news_read, selectors.EVENT_READ, child)
        log.info("process %d started", pid)
        return None

    def _parents_ends(self) -> list[int]:
        """Of the pipes of all children: with one of them open elsewhere, no child would hear of
        its parent's death."""
        return [end for child in self._children.values() for end in (child.orders, child.news)]

    # -- deaths -----------------------------------------------------------------------------

    def _reap(self, selector: selectors.BaseSelector) -> None:
        for child in list(self._children.values()):
            # One by one: the application may have children of its own.
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            with suppress(KeyError):
                selector.unregister(child.news)
            os.close(child.news)
            os.close(child.orders)
            del self._children[pid]
            self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        slot = self._slots[child.slot]
        if code == 0:
            slot.crashes, slot.start_at = 0, 0.0
            log.info("process %d ended", child.pid)
        elif self._stopping:
            log.warning("process %d %s", child.pid, _how(code))
        elif code == FAULT:
            log.error("process %d met a fault that another would meet as well", child.pid)
            self._stop(FAULT, ORDER_STOP, self.grace)
        else:
            if time.monotonic() - child.born >= STEADY_AFTER:
                slot.crashes = 0
            self._delay(slot)
            wait = slot.start_at - time.monotonic()
            log.error(
                "process %d %s; another one starts in %.1f s", child.pid, _how(code), max(0.0, wait)
            )

    @staticmethod
    def _delay(slot: _Slot) -> None:
        slot.crashes += 1
        delay = min(FIRST_DELAY * 2 ** min(slot.crashes - 1, 16), LONGEST_DELAY)
        slot.start_at = time.monotonic() + delay

    # -- news and orders --------------------------------------------------------------------

    def _listen(self, child: _Child, selector: selectors.BaseSelector) -> None:
        news = os.read(child.news, 4096)
        if not news:
            selector.unregister(child.news)
            return
        child.heard = time.monotonic()
        if READY in news:
            child.ready = True
            self._is_ready()

    def _is_ready(self) -> None:
        """Tell the service manager, once all children are and none is to be replaced."""
        children = self._children.values()
        if self._stopping or self._said_ready or len(children) < self.processes:
            return
        if all(child.ready and not child.stale for child in children):
            self._said_ready = True
            log.info("all %d processes are ready", self.processes)
            self.manager.ready(f"{self.processes} processes at work")

    @staticmethod
    def _order(child: _Child, order: bytes, seconds: float) -> None:
        child.kill_at = time.monotonic() + seconds
        with suppress(OSError):  # it has just ended
            os.write(child.orders, order)

    def _on_signal(self, number: signal.Signals) -> None:
        if number.name == "SIGHUP":
            self._renew()
        elif number.name == "SIGQUIT":
            log.info("told to stop at once (%s)", number.name)
            self._stop(0, ORDER_QUICK, 0.0)
        elif number.name != "SIGCHLD":
            self._asked += 1
            if self._asked > 1:
                self._kill_all(BY_SIGNAL + number)
            else:
                log.info("told to stop (%s)", number.name)
                self._stop(0, ORDER_STOP, self.grace)

    def _stop(self, code: int, order: bytes, grace: float) -> None:
        if not self._stopping:
            self.manager.stopping("finishing the mail in hand")
        self._stopping = True
        self._exit_code = self._exit_code or code
        for child in self._children.values():
            self._order(child, order, grace + MARGIN)

    def _kill_all(self, code: int) -> None:
        log.warning("told to stop again: leaving at once")
        self._exit_code = code
        for child in self._children.values():
            _kill(child)

    def _renew(self) -> None:
        if self._stopping:
            return
        log.info("told to replace all processes (SIGHUP)")
        self.manager.reloading()
        self._said_ready = False
        for child in self._children.values():
            child.stale = True

    # -- clocks -----------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > HUNG_AFTER / 2:  # this very process was stopped
            for child in self._children.values():
                child.heard = now
        self._looked_at = now
        self.manager.alive()
        for child in self._children.values():
            self._watch(child, now)
        self._replace_next()

    def _watch(self, child: _Child, now: float) -> None:
        if child.kill_at is not None:
            if now >= child.kill_at:
                log.error("process %d did not end in time: killed", child.pid)
                self._exit_code = self._exit_code or (KILLED_CHILD if self._stopping else 0)
                _kill(child)
        elif now - child.heard >= HUNG_AFTER:
            log.error("process %d has stood still for %.0f s: killed", child.pid, HUNG_AFTER)
            _kill(child)

    def _replace_next(self) -> None:
        """Replace children one by one: the next when all others are at work."""
        children = self._children.values()
        if self._stopping or len(children) < self.processes:
            return
        stale = [child for child in children if child.stale]
        others_work = all(child.ready for child in children if not child.stale)
        if stale and others_work and all(child.kill_at is None for child in children):
            self._order(stale[0], ORDER_STOP, self.grace + MARGIN)

    def _timeout(self) -> float:
        filled = {child.slot for child in self._children.values()}
        waiting = [s.start_at for n, s in enumerate(self._slots) if n not in filled]
        soonest = min(waiting, default=float("inf")) - time.monotonic()
        return max(0.0, min(_LOOK_EVERY, soonest)) if not self._stopping else _LOOK_EVERY


def _kill(child: _Child) -> None:
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    child.kill_at = float("inf")


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
