"""Calls of several threads brought together: the first one waits a moment for others, and acts
for all.

Whoever comes while nobody waits leads: it waits until its group is full, or for a few
milliseconds. Whoever comes meanwhile follows: it sleeps until the leader has acted for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..outcome import Outcome
from .base import Call


@dataclass(slots=True, eq=False)
class Seat:
    """One call in a group, and what the leader has found out about it."""

    call: Call
    #: With neither outcome nor error nothing of the call was handed over, and it is to go alone.
    outcome: Outcome | None = None
    #: To be raised in the call's own thread.
    error: Exception | None = None
    #: It once had leave to hand over.
    granted: bool = False
    #: Released when the leader has acted.
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settled(self) -> bool:
        return self.outcome is not None or self.error is not None


class _Group:
    """Calls that may go together."""

    def __init__(self, seat: Seat, weight: int) -> None:
        self.seats = [seat]
        self.weight = weight
        #: No more may join.
        self.closed = threading.Event()


class Gathering:
    """Groups that wait for more calls. Belongs to one process; safe for threads.

    :param most: calls of one group.
    :param heaviest: the most that its calls may weigh together.
    :param window: seconds that a leader waits for others.
    :param act: called in the leader's thread with all seats of a group of two or more. What it
        leaves unsettled goes alone.
    """

    def __init__(
        self, most: int, heaviest: int, window: float, act: Callable[[list[Seat]], None]
    ) -> None:
        self.most = most
        self.heaviest = heaviest
        self.window = window
        self._act = act
        self._lock = threading.Lock()
        self._open: dict[Hashable, _Group] = {}

    def send(self, call: Call, lane: Hashable, weight: int) -> Seat:
        """Let a call go with others of its lane, if there are any."""
        seat = Seat(call)
        group = self._join(seat, lane, weight)
        if group is None:
            seat.turn.acquire()
        else:
            self._lead(group, lane)
        return seat

    def _join(self, seat: Seat, lane: Hashable, weight: int) -> _Group | None:
        """The group to lead; ``None``: somebody else leads."""
        with self._lock:
            group = self._open.get(lane)
            if group is not None and group.weight + weight > self.heaviest:
                self._close(group, lane)
                group = None
            if group is None:
                group = self._open[lane] = _Group(seat, weight)
                return group
            seat.turn.acquire()
            group.seats.append(seat)
            group.weight += weight
            if len(group.seats) >= self.most:
                self._close(group, lane)
            return None

    def _close(self, group: _Group, lane: Hashable) -> None:
        if self._open.get(lane) is group:
            del self._open[lane]
        group.closed.set()

    def _lead(self, group: _Group, lane: Hashable) -> None:
        """Wait for others, act, and wake them: also if this thread is torn away meanwhile."""
        try:
            group.closed.wait(self.window)
            with self._lock:
                self._close(group, lane)
            if len(group.seats) > 1:
                self._act(group.seats)
        finally:
            with self._lock:
                self._close(group, lane)
            for seat in group.seats[1:]:
                seat.turn.release()
