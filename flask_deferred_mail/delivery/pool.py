"""A bounded pool of daemon threads.

Not :class:`concurrent.futures.ThreadPoolExecutor`: its threads are joined when the interpreter
exits, which holds up a worker that the server wants to recycle. Ours are daemons; what they leave
behind is in the rows.

Items stand in *lanes*, one per transport. A server that keeps silent cannot hold up the
mail of another: each lane that has work has a thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import chain
from typing import Generic, NamedTuple, TypeAlias, TypeVar

log = logging.getLogger("flask_deferred_mail.delivery")

T = TypeVar("T")

#: What waits: its key, its lane, the item, and since when by the monotonic clock.
_Entry: TypeAlias = tuple[Hashable, str, T, float]

#: Seconds for which what a thread has reserved is left to it in a pool without patience. An SMTP
#: connection may have named it to the server already, and is lost when another thread takes it:
#: about as long as it takes to open one is worth waiting.
KEPT = 0.25


class _Watch(NamedTuple):
    """What an observer waits for: fewer than so many items."""

    below: int
    #: In one of these lanes; ``None``: in all of them together.
    lanes: tuple[str, ...] | None = None


def _no_cap(_lane: str) -> None:
    """As many as there are threads."""


class SenderPool(Generic[T]):
    """Threads that take items from lanes. They start when there is work for them.

    :param size: threads that one lane may have. Each further lane that has work at the same time
        has a thread of its own beside them.
    :param cap: most items of a lane that are in work at the same time; ``None``: no cap.
    :param patience: seconds for which an item waits for a thread that is at work in its lane,
        before another one takes it: where items are quick, one thread does them with the fewest
        wake-ups. 0: whoever is free takes it.
    """

    def __init__(
        self,
        size: int,
        work: Callable[[T], None],
        name: str,
        cap: Callable[[str], int | None] = _no_cap,
        patience: float = 0.0,
    ) -> None:
        self.size = size
        self._patience = patience
        #: One of the idle threads looks, after its patience, at what waits behind others.
        self._watched = False
        self._cap = cap
        self._caps: dict[str, int | None] = {}
        self.name = name
        self._work = work
        self._queue: deque[_Entry[T]] = deque()
        self._lock = threading.Lock()
        # Two conditions, so that with hundreds of threads an item wakes one of them.
        self._work_to_do = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._threads = 0
        #: Of these, how many stand still with something that was written off.
        self._stuck = 0
        self._idle = 0
        #: Key -> lane of what is in work; and how many of each lane are in work, or pending at all.
        self._busy: dict[Hashable, str] = {}
        self._busy_in: dict[str, int] = {}
        self._pending_in: dict[str, int] = {}
        #: Thread -> what it takes next, if it has asked to know.
        self._reserved: dict[int, _Entry[T]] = {}
        #: What each observer waits for. Asked here, so that an item that is done wakes nobody who
        #: would only look and wait again.
        self._awaited: list[_Watch] = []
        self._closed = False

    def submit(self, key: Hashable, item: T, lane: str = "", *, patient: bool = True) -> bool:
        """Queue an item under a key of its own. Not ``patient``: whoever is free takes it.

        False: the pool is closed, or no thread can be started.
        """
        with self._lock:
            if self._closed:
                return False
            behind = patient and self._patience > 0 and lane in self._pending_in
            # Behind another it only wants somebody who watches over it.
            wanted = not (behind and self._watched)
            enough = self._idle > (0 if behind else len(self._queue))
            if wanted and not enough and self._may_start(lane) and not self._start():
                return False
            self._queue.append((key, lane, item, time.monotonic() if patient else 0.0))
            _more(self._pending_in, lane)
            if wanted and self._idle:
                self._work_to_do.notify()
            return True

    def _may_start(self, lane: str) -> bool:
        lanes = len(self._pending_in) + (lane not in self._pending_in)
        return self._threads - self._stuck < self.size + lanes - 1

    def _start(self) -> bool:
        thread = threading.Thread(
            target=self._loop, name=f"{self.name}-{self._threads + 1}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("no sender thread can be started (%s); mail is left to the sweep", error)
            return self.has_threads
        self._threads += 1
        return True

    def _loop(self) -> None:
        entry = self._next_entry()
        while entry is not None:
            try:
                self._work(entry[2])
            except BaseException:
                # The threads of a pool outlive any item.
                log.exception("a sender thread met an error; it goes on")
            entry = self._next_entry(entry)

    def _next_entry(self, done: _Entry[T] | None = None) -> _Entry[T] | None:
        """What this thread is to do after that; waits for it. ``None``: the pool is closed."""
        # All in one visit: with many threads, each one may find the lock taken.
        with self._lock:
            if done is not None:
                self._finished(done[0])
            entry = self._take() or self._await_entry()
            if entry is None:
                self._threads -= 1
                return None
            key, lane, _, _ = entry
            self._busy[key] = lane
            _more(self._busy_in, lane)
            self._call_another()
            return entry

    def _await_entry(self) -> _Entry[T] | None:
        self._idle += 1
        while (entry := self._take()) is None and not self._closed:
            self._wait_for_work()
        self._idle -= 1
        return entry

    def _wait_for_work(self) -> None:
        """Wait to be called; or, one thread at a time, until what waits has waited for long."""
        pause = None if self._watched else self._time_until_old()
        if pause is None:
            self._work_to_do.wait()
            return
        self._watched = True
        self._work_to_do.wait(pause)
        self._watched = False

    def _time_until_old(self) -> float | None:
        """Seconds until a free thread may take something for no other reason than that it has
        waited for long; ``None``: that alone lets nobody take anything.

        While no thread is to spare, or all of a lane that may be are in work, it is for those who
        are at work to take what waits, or to call: who looked now and then would wake for nothing.
        """
        if not self._has_spare_thread:
            return None
        waiting = chain(self._queue, self._reserved.values())
        since = [since for _, lane, _, since in waiting if not self._is_full(lane)]
        return max(0.0, min(since) - self._long_ago) if since else None

    def _call_another(self) -> None:
        """Wake a thread for what waits: to take it, or to watch over it."""
        if not (self._queue or self._reserved):
            return
        if not self._idle:
            # Who was to watch has taken something: a pool with patience starts no thread before.
            waiting = self._queue[0] if self._queue else next(iter(self._reserved.values()))
            if self._patience and self._may_start(waiting[1]):
                self._start()
        elif self._next() is not None or (
            # What others have reserved may be taken over, but not at once.
            not self._watched and self._time_until_old() is not None
        ):
            self._work_to_do.notify()

    @property
    def _long_ago(self) -> float:
        """What waits since then waits no longer for those who are at work in its lane."""
        return time.monotonic() - self._patience

    def _finished(self, key: Hashable) -> bool:
        """An item is done, or written off. False: no thread of this pool has it."""
        lane = self._busy.pop(key, None)
        if lane is None:
            return False
        _less(self._busy_in, lane)
        _less(self._pending_in, lane)
        self._tell_observers()
        return True

    def _tell_observers(self) -> None:
        for watch in self._awaited:
            if self._is_there(watch):
                self._progress.notify_all()
                return

    def _is_there(self, watch: _Watch) -> bool:
        if watch.lanes is None:
            return self._all() < watch.below
        for lane in watch.lanes:  # noqa: SIM110 # a generator would cost more than all the rest
            if self._pending_in.get(lane, 0) < watch.below:
                return True
        return False

    def _take(self) -> _Entry[T] | None:
        """What this thread is to do now, out of the queue; ``None``: nothing."""
        entry = self._reserved.pop(threading.get_ident(), None)
        if entry is None and (place := self._next()) is not None:
            entry = self._queue[place]
            del self._queue[place]
        if entry is None and self._reserved and self._has_spare_thread:
            # Nothing waits behind a server that takes its time while a thread has nothing to do,
            # be it for want of work, or since what else there is may not be taken (yet).
            # There is no lane among them without a thread: the one that reserved it is in it.
            old = self._long_ago
            owners = (
                me for me, e in self._reserved.items() if not self._is_full(e[1]) and e[3] <= old
            )
            if (owner := next(owners, None)) is not None:
                entry = self._reserved.pop(owner)
        return entry

    @property
    def _has_spare_thread(self) -> bool:
        """The first thread of a lane is always to be had, the others are shared by all lanes."""
        return len(self._busy) - len(self._busy_in) < self.size - 1

    def _next(self) -> int | None:
        """Place in the queue of what a free thread may take."""
        if not self._queue:
            return None
        spare, old = self._has_spare_thread, self._long_ago
        for place, (_, lane, _, since) in enumerate(self._queue):
            is_free = lane not in self._busy_in or (spare and since <= old)
            if is_free and not self._is_full(lane):
                return place
        return None

    def _is_full(self, lane: str) -> bool:
        """Whether as many of the lane are in work as may be."""
        if lane not in self._caps:
            self._caps[lane] = self._cap(lane)
        cap = self._caps[lane]
        return cap is not None and lane in self._busy_in and self._busy_in[lane] >= cap

    def reserve(self, lane: str) -> T | None:
        """What the calling thread, one of this pool, will do next: the first item of that lane.

        ``None``: nothing waits there. Until the thread begins it, the item counts as waiting:
        :meth:`clear` takes it back, and a thread that has nothing to do takes it over, but not at
        once: after the pool's patience, or :data:`KEPT` seconds where it has none.
        """
        me = threading.get_ident()
        with self._lock:
            entry = self._reserved.get(me)
            if entry is None and not self._closed:
                entry = self._first_of(lane)
                if entry is None:
                    return None
                key, _, item, _ = entry
                # Its time begins anew: what is taken from its thread now has cost a connection.
                since = time.monotonic() + (0.0 if self._patience else KEPT)
                entry = self._reserved[me] = (key, lane, item, since)
                self._call_another()
            return None if entry is None or entry[1] != lane else entry[2]

    def _first_of(self, lane: str) -> _Entry[T] | None:
        """Take the first item of that lane out of the queue."""
        for place, entry in enumerate(self._queue):
            if entry[1] == lane:
                del self._queue[place]
                return entry
        return None

    def write_off(self, key: Hashable) -> bool:
        """The thread with this item stands still: count on it no more, and start another.

        False: no thread of this pool has it.
        """
        with self._lock:
            if not self._finished(key):
                return False
            # Nobody knows which thread it is; what each has reserved is anybody's again.
            self._queue.extendleft(self._reserved.values())
            self._reserved.clear()
            self._stuck += 1
            self._start()
            self._work_to_do.notify_all()
            return True

    @property
    def has_threads(self) -> bool:
        """Whether there is a thread that can come for what waits."""
        return self._threads > self._stuck

    def clear(self) -> list[T]:
        """Take everything out of the queue that no thread has begun."""
        with self._lock:
            entries = [*self._reserved.values(), *self._queue]
            self._queue.clear()
            self._reserved.clear()
            for _, lane, _, _ in entries:
                _less(self._pending_in, lane)
            self._tell_observers()
            return [item for _, _, item, _ in entries]

    def close(self) -> list[T]:
        """Begin nothing more. Returns what was waiting."""
        with self._lock:
            self._closed = True
            self._work_to_do.notify_all()
        return self.clear()

    @property
    def pending(self) -> int:
        """Items waiting or in work."""
        with self._lock:
            return self._all()

    def _all(self) -> int:
        return len(self._queue) + len(self._reserved) + len(self._busy)

    def pending_in(self, lane: str) -> int:
        """Items of one lane that wait or are in work."""
        with self._lock:
            return self._pending_in.get(lane, 0)

    def wait(self, below: int, timeout: float | None) -> bool:
        """Wait until fewer than ``below`` items are pending. False: it took too long."""
        return self._await(_Watch(below), timeout)

    def wait_for_any(self, lanes: Iterable[str], below: int, timeout: float) -> bool:
        """Wait until one of the lanes has fewer than ``below`` items. False: it took too long."""
        return self._await(_Watch(below, tuple(lanes)), timeout)

    def _await(self, watch: _Watch, timeout: float | None) -> bool:
        with self._lock:
            self._awaited.append(watch)
            try:
                return self._progress.wait_for(lambda: self._is_there(watch), timeout)
            finally:
                self._awaited.remove(watch)


# A Counter would run Python of its own at each new lane, and at each one that is gone.
def _more(counts: dict[str, int], lane: str) -> None:
    """One more of that lane."""
    counts[lane] = counts.get(lane, 0) + 1


def _less(counts: dict[str, int], lane: str) -> None:
    """One less of that lane; a lane without any is not in the count."""
    if counts[lane] > 1:
        counts[lane] -= 1
    else:
        del counts[lane]
