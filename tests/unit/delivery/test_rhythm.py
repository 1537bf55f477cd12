"""delivery/rhythm.py: how often an idle sender looks."""

from __future__ import annotations

from flask_deferred_mail.delivery.rhythm import FIRST, LISTENING, POLLING, SHORTEST, Rhythm


def pauses(number: int, due_in: float | None, *, listening: bool) -> list[float]:
    rhythm = Rhythm()
    return [rhythm.pause(due_in, listening=listening) for _ in range(number)]


def test_pauses_double_up_to_a_limit():
    """Thirty looks a minute where it has to ask, two where it is told."""
    assert pauses(6, None, listening=False) == [0.25, 0.5, 1.0, 2.0, POLLING, POLLING]
    assert pauses(9, None, listening=True)[-3:] == [16.0, LISTENING, LISTENING]


def test_it_wakes_when_the_next_mail_is_due():
    """Not sooner and not later."""
    rhythm = Rhythm()
    for _ in range(9):
        rhythm.pause(None, listening=True)
    assert rhythm.pause(7.5, listening=True) == 7.5
    assert rhythm.pause(0.001, listening=True) == SHORTEST


def test_what_is_due_and_cannot_be_taken_is_looked_after_by_asking():
    """Nobody tells of the end of a rest; and it is no reason to spin."""
    assert pauses(6, -5.0, listening=True) == [0.25, 0.5, 1.0, 2.0, POLLING, POLLING]


def test_work_makes_it_attentive_again():
    """After a mail there may be more."""
    rhythm = Rhythm()
    for _ in range(9):
        rhythm.pause(None, listening=True)
    rhythm.worked()
    assert rhythm.pause(None, listening=True) == FIRST
