"""How often a sender that has nothing to do looks whether there is something.

Soon after it has sent something, then ever more seldom. A look is one query. Where the database
wakes the sender, a look is only for what nobody told of.
"""

from __future__ import annotations

#: Seconds until the first look, and at most between two: when it must ask, when it is woken.
FIRST = 0.25
POLLING = 2.0
LISTENING = 30.0

#: Seconds for which a sender sleeps at least, whatever is due.
SHORTEST = 0.05


class Rhythm:
    """Pauses that double while nothing happens."""

    def __init__(self) -> None:
        self._pause = FIRST

    def worked(self) -> None:
        """Something was sent: more may follow."""
        self._pause = FIRST

    def pause(self, due_in: float | None, *, listening: bool) -> float:
        """Seconds until the next look, where the next mail is due in ``due_in`` seconds.

        What is due already, and could not be taken (its transport rests, somebody else has it),
        is no reason to look sooner, but one to look, since nobody tells of the end of that.
        """
        stuck = due_in is not None and due_in <= 0
        longest = LISTENING if listening and not stuck else POLLING
        pause = min(self._pause, longest)
        self._pause = min(self._pause * 2, longest)
        if due_in is not None and not stuck:
            pause = min(pause, due_in)
        return max(pause, SHORTEST)
