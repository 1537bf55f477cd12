"""A bounded pool of daemon threads.

Not :class:`concurrent.futures.ThreadPoolExecutor`: its threads are joined when the interpreter
exits, which holds up a worker that the server wants to recycle. Ours are daemons; what they leave
behind is in the rows.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

log = logging.getLogger("flask_deferred_mail.delivery")

T = TypeVar("T")


class SenderPool(Generic[T]):
    """Threads that take items from one queue. They start when there is work for them."""

    def __init__(self, size: int, work: Callable[[T], None], name: str) -> None:
        self.size = size
        self.name = name
        self._work = work
        self._queue: deque[tuple[Hashable, T]] = deque()
        self._condition = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._busy: set[Hashable] = set()
        self._closed = False

    def submit(self, key: Hashable, item: T) -> bool:
        """Queue an item under a key of its own.

        False: the pool is closed, or no thread can be started.
        """
        with self._condition:
            if self._closed:
                return False
            if self._idle <= len(self._queue) and self._threads < self.size and not self._start():
                return False
            self._queue.append((key, item))
            self._condition.notify()
            return True

    def _start(self) -> bool:
        thread = threading.Thread(
            target=self._loop, name=f"{self.name}-{self._threads + 1}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("no sender thread can be started (%s); mail is left to the sweep", error)
            return self._threads > 0
        self._threads += 1
        return True

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._idle += 1
                while not self._queue and not self._closed:
                    self._condition.wait()
                self._idle -= 1
                if not self._queue:
                    self._threads -= 1
                    return
                key, item = self._queue.popleft()
                self._busy.add(key)
            try:
                self._work(item)
            except BaseException:
                # The threads of a pool outlive any item.
                log.exception("a sender thread met an error; it goes on")
            finally:
                with self._condition:
                    self._busy.discard(key)
                    self._condition.notify_all()

    def write_off(self, key: Hashable) -> bool:
        """The thread with this item stands still: count on it no more, and start another.

        False: no thread of this pool has it.
        """
        with self._condition:
            if key not in self._busy:
                return False
            self._busy.discard(key)
            if self._start():
                self.size += 1
            self._condition.notify_all()
            return True

    def clear(self) -> list[T]:
        """Take everything out of the queue that no thread has begun."""
        with self._condition:
            items = [item for _, item in self._queue]
            self._queue.clear()
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
            return len(self._queue) + len(self._busy)

    def wait(self, below: int, timeout: float | None) -> bool:
        """Wait until fewer than ``below`` items are pending. False: it took too long."""
        with self._condition:
            return self._condition.wait_for(
                lambda: len(self._queue) + len(self._busy) < below, timeout
            )
