"""The first TERM or INT asks for a gentle stop, the second one leaves at once.

The handler itself only counts and writes a byte into a pipe. A thread reads it and asks for the
stop: a signal handler runs between two lines of the main thread, which may hold the very lock that
a stop needs.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: What a monitor or a service manager, and what a person at the keyboard sends.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Added to a signal's number it makes the exit code of a process that it ended, as in shells.
BY_SIGNAL = 128

_STOP, _OVER = b"s", b"o"


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first signal, in a thread of its own; end the process at the second.

    Outside the main thread, where Python lets nobody handle signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    asked: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if asked:
            # No clean-up: what is in hand is left to its lease.
            os._exit(BY_SIGNAL + number)
        asked.append(number)
        os.write(write_end, _STOP)

    def watch() -> None:
        if os.read(read_end, 1) == _STOP:
            stop()

    watcher = threading.Thread(target=watch, name="deferred-mail-signals", daemon=True)
    watcher.start()
    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(write_end, _OVER)
        watcher.join()
        os.close(read_end)
        os.close(write_end)
