"""A point on the monotonic clock that waiting must not pass."""

from __future__ import annotations

import time


class DeadlinePassed(TimeoutError):
    """The time allowed for something is used up."""


class Deadline:
    """A moment on the monotonic clock; setting the wall clock does not move it.

    A socket's own timeout is *per read*: a server that sends one byte a second never meets it
    (measured: ``timeout=2`` lasted 53 s). Set the socket's timeout to :meth:`remaining` before
    each read instead, and the whole conversation ends in time.
    """

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline that is ``seconds`` away from now."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.monotonic()

    def remaining(self) -> float:
        """Seconds left, always above zero.

        :raises DeadlinePassed: when none are left (a socket would take 0 for "do not block").
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlinePassed("the time allowed for this attempt is used up")
        return left

    def sooner(self, seconds: float) -> Deadline:
        """This deadline, or the one ``seconds`` from now if that comes first."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def __repr__(self) -> str:
        return f"<Deadline in {self.left():.3f} s>"
