"""Signals of the operating system as entries of a pipe, for whoever reads it when it has time.

A signal handler runs between two lines of the main thread, which may hold any lock; so ours does
nothing but write the signal's number down.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

#: Added to a signal's number it makes the exit code of a process that it ended, as in shells.
BY_SIGNAL = 128


def existing(*names: str) -> tuple[signal.Signals, ...]:
    """The signals of these names that this operating system has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


class SignalPipe:
    """Takes these signals while its ``with`` lasts. For the main thread.

    :param numbers: what is taken.
    :param ignored: what is neither taken nor does what it would do by itself.
    :param at_once: called inside the handler, before the number is written down.
    """

    def __init__(
        self,
        numbers: Iterable[signal.Signals],
        ignored: Iterable[signal.Signals] = (),
        at_once: Callable[[int], None] | None = None,
    ) -> None:
        self._handlers: dict[signal.Signals, Any] = {
            **dict.fromkeys(ignored, signal.SIG_IGN),
            **dict.fromkeys(numbers, self._take),
        }
        self._at_once = at_once
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalPipe:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        for number, handler in self._handlers.items():
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read_end)
        os.close(self._write_end)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._at_once is not None:
            self._at_once(number)
        with suppress(BlockingIOError):  # thousands wait already, unread
            os.write(self._write_end, bytes([number]))

    def fileno(self) -> int:
        """Readable while there is something to read."""
        return self._read_end

    def wake(self) -> None:
        """Let whoever waits for :meth:`fileno` look up; it reads nothing. From any thread."""
        with suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    def read(self) -> list[int]:
        """The signals since the last look, in their order."""
        try:
            return [number for number in os.read(self._read_end, 512) if number]
        except BlockingIOError:
            return []
