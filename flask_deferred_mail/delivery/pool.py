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
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger("flask_deferred_mail.delivery")

T = TypeVar("T")


class SenderPool(Generic[T]):
    """Threads that take items from lanes. They start when there is work for them.

    :param size: threads that one lane may have. Each further lane that has work at the same time
        has a thread of its own beside them.
    """

    def __init__(self, size: int, work: Callable[[T], None], name: str) -> None:
        self.size = size
        self.name = name
        self._work = work
        self._queue: deque[tuple[Hashable, str, T]] = deque()
        self._condition = threading.Condition()
        self._threads = 0
        #: Of these, how many stand still with something that was written off.
        self._stuck = 0
        self._idle = 0
        #: Key -> lane of what is in work.
        self._busy: dict[Hashable, str] = {}
        #: Thread -> what it takes next, if it has asked to know.
        self._reserved: dict[int, tuple[Hashable, str, T]] = {}
        self._closed = False

    def submit(self, key: Hashable, item: T, lane: str = "") -> bool:
        """Queue an item under a key of its own.

        False: the pool is closed, or no thread can be started.
        """
        with self._condition:
            if self._closed:
                return False
            if self._idle <= len(self._queue) and self._may_start(lane) and not self._start():
                return False
            self._queue.append((key, lane, item))
            self._condition.notify_all()
            return True

    def _may_start(self, lane: str) -> bool:
        lanes = {lane, *self._busy.values(), *(entry[1] for entry in self._queue)}
        return self._threads - self._stuck < self.size + len(lanes) - 1

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
        while True:
            with self._condition:
                self._idle += 1
                while (entry := self._take()) is None and not self._closed:
                    self._condition.wait()
                self._idle -= 1
                if entry is None:
                    self._threads -= 1
                    return
                key, lane, item = entry
                self._busy[key] = lane
            try:
                self._work(item)
            except BaseException:
                # The threads of a pool outlive any item.
                log.exception("a sender thread met an error; it goes on")
            finally:
                with self._condition:
                    self._busy.pop(key, None)
                    self._condition.notify_all()

    def _take(self) -> tuple[Hashable, str, T] | None:
        """What this thread is to do now, out of the queue; ``None``: nothing."""
        entry = self._reserved.pop(threading.get_ident(), None)
        if entry is None and (place := self._next()) is not None:
            entry = self._queue[place]
            del self._queue[place]
        if entry is None and not self._queue and self._reserved:
            # Nothing waits behind a server that takes its time while a thread has nothing to do.
            # There is no lane among them without a thread: the one that reserved it is in it.
            other = next(iter(self._reserved))
            if len(self._busy) - len(set(self._busy.values())) < self.size - 1:
                entry = self._reserved.pop(other)
        return entry

    def reserve(self, lane: str) -> T | None:
        """What the calling thread, one of this pool, will do next: the first item of that lane.

        ``None``: nothing waits there. Until the thread begins it, the item counts as waiting:
        :meth:`clear` takes it back, and a thread that would be idle takes it over.
        """
        me = threading.get_ident()
        with self._condition:
            entry = self._reserved.get(me)
            if entry is None and not self._closed:
                entry = next((e for e in self._queue if e[1] == lane), None)
                if entry is None:
                    return None
                self._queue.remove(entry)
                self._reserved[me] = entry
                if self._idle:
                    self._condition.notify_all()
            return None if entry is None or entry[1] != lane else entry[2]

    def _next(self) -> int | None:
        """Place in the queue of what a free thread may take: the first thread of a lane is always
        to be had, the others are shared by all lanes."""
        if not self._queue:
            return None
        lanes = set(self._busy.values())
        if len(self._busy) - len(lanes) < self.size - 1:
            return 0
        return next((n for n, entry in enumerate(self._queue) if entry[1] not in lanes), None)

    def write_off(self, key: Hashable) -> bool:
        """The thread with this item stands still: count on it no more, and start another.

        False: no thread of this pool has it.
        """
        with self._condition:
            if self._busy.pop(key, None) is None:
                return False
            # Nobody knows which thread it is; what each has reserved is anybody's again.
            self._queue.extendleft(self._reserved.values())
            self._reserved.clear()
            self._stuck += 1
            self._start()
            self._condition.notify_all()
            return True

    @property
    def has_threads(self) -> bool:
        """Whether there is a thread that can come for what waits."""
        return self._threads > self._stuck

    def clear(self) -> list[T]:
        """Take everything out of the queue that no thread has begun."""
        with self._condition:
            items = [item for _, _, item in (*self._reserved.values(), *self._queue)]
            self._queue.clear()
            self._reserved.clear()
            self._condition.notify_all()
            return items

    def close(self) -> list[T]:
        """Begin nothing more. Returns what was waiting."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        return self.clear()

    @property
    def pending(self) -> int:
        """Items waiting or in work."""
        with self._condition:
            return self._all()

    def _all(self) -> int:
        return len(self._queue) + len(self._reserved) + len(self._busy)

    def pending_in(self, lane: str) -> int:
        """Items of one lane that wait or are in work."""
        with self._condition:
            return self._count(lane)

    def _count(self, lane: str) -> int:
        waiting = sum(entry[1] == lane for entry in (*self._queue, *self._reserved.values()))
        return waiting + sum(busy == lane for busy in self._busy.values())

    def wait(self, below: int, timeout: float | None) -> bool:
        """Wait until fewer than ``below`` items are pending. False: it took too long."""
        with self._condition:
            return self._condition.wait_for(lambda: self._all() < below, timeout)

    def wait_for_any(self, lanes: Iterable[str], below: int, timeout: float) -> bool:
        """Wait until one of the lanes has fewer than ``below`` items. False: it took too long."""
        watched = list(lanes)
        with self._condition:
            return self._condition.wait_for(
                lambda: any(self._count(lane) < below for lane in watched), timeout
            )
