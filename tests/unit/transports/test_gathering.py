"""Who goes with whom, who leads, and that everybody wakes up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

import pytest

from flask_deferred_mail.outcome import Fate, Outcome
from flask_deferred_mail.transports.gathering import Gathering, Seat
from tests.support.transport_calls import a_call, a_letter
from tests.support.waiting import wait_until

#: So long that only a full group goes.
FOR_EVER = 600.0


def count(seats: list[Seat]) -> None:
    for seat in seats:
        seat.outcome = Outcome.for_all(seat.call.recipients, Fate.DEFERRED, str(len(seats)))


def in_threads(
    gathering: Gathering, lanes: Iterable[tuple[str, int]]
) -> tuple[list[threading.Thread], list[Seat]]:
    """A thread for each lane and weight, started one after the other, and the seats they get."""
    seats: list[Seat] = []

    def one(lane: str, weight: int) -> None:
        with contextlib.suppress(SystemExit):
            seats.append(gathering.send(a_call(), lane, weight))

    threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in lanes]
    for thread in threads:
        thread.start()
    return threads, seats


def company(threads: list[threading.Thread], seats: list[Seat]) -> list[str]:
    """With how many each of them went, ``alone`` if with nobody."""
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return sorted(seat.outcome.detail if seat.outcome else "alone" for seat in seats)


def test_a_full_group_goes_at_once():
    """Nobody waits for the window to end when there is nobody else to wait for."""
    found = in_threads(Gathering(3, 100, FOR_EVER, count), [("a", 1)] * 6)
    assert company(*found) == ["3"] * 6


def test_whoever_finds_nobody_goes_alone_when_the_window_ends():
    """One call is no group: it takes the ordinary way."""
    called: list[list[Seat]] = []
    seat = Gathering(3, 100, 0.0, called.append).send(a_call(), "a", 1)
    assert called == []
    assert not seat.settled


def test_lanes_are_not_mixed():
    """Two of each lane make two groups, never one of four."""
    gathering = Gathering(2, 100, FOR_EVER, count)
    assert company(*in_threads(gathering, [("a", 1), ("b", 1), ("a", 1), ("b", 1)])) == ["2"] * 4


def test_a_group_that_is_too_heavy_goes_without_the_next():
    """Who does not fit begins a new group."""
    gathering = Gathering(4, 10, FOR_EVER, count)
    threads, seats = in_threads(gathering, [("a", 5), ("a", 5)])
    wait_until(lambda: len(gathering._open["a"].seats) == 2)
    more, others = in_threads(gathering, [("a", 6), ("a", 1), ("a", 1), ("a", 1)])
    assert company(threads, seats) == ["2", "2"]
    assert company(more, others) == ["4"] * 4


def test_followers_wake_up_when_their_leader_is_torn_away():
    """Its end is its own; the others go alone."""
    ended = threading.Event()

    def torn(seats: list[Seat]) -> None:
        ended.set()
        raise SystemExit

    threads, seats = in_threads(Gathering(3, 100, FOR_EVER, torn), [("a", 1)] * 3)
    assert company(threads, seats) == ["alone"] * 2
    assert ended.is_set()


@pytest.mark.parametrize("settled", [Outcome(()), ValueError("no")])
def test_a_seat_is_settled_by_an_outcome_or_by_an_error(settled: Outcome | ValueError):
    """With neither, the call has yet to be made."""
    seat = Seat(a_call(a_letter()))
    assert not seat.settled
    if isinstance(settled, Outcome):
        seat.outcome = settled
    else:
        seat.error = settled
    assert seat.settled
