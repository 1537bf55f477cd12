"""Threads in lanes: bounded, fair to every lane, and gone with the process."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from flask_deferred_mail.delivery import pool as pool_module
from flask_deferred_mail.delivery.pool import SenderPool
from tests.support.waiting import wait_until


class Work:
    """What the threads do: they stand still until they are let go."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.gate = threading.Event()

    def __call__(self, item: str) -> None:
        self.started.append(item)
        assert self.gate.wait(20)

    def wait_for(self, *items: str) -> None:
        wait_until(lambda: sorted(self.started) == sorted(items), message=f"{self.started}")


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.gate.set()


def fill(pool: SenderPool[str], lane: str, number: int) -> None:
    for n in range(number):
        assert pool.submit(f"{lane}{n}", f"{lane}{n}", lane)


def test_a_lane_has_as_many_threads_as_the_pool_is_large(work: Work) -> None:
    """Three of five items are in work, in their order; the rest waits."""
    pool = SenderPool(3, work, "test")
    fill(pool, "a", 5)
    work.wait_for("a0", "a1", "a2")
    assert (pool.pending, pool.pending_in("a"), pool.pending_in("b")) == (5, 5, 0)
    assert not pool.wait(5, 0.01)
    work.gate.set()
    assert pool.wait(1, 20)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_lane_that_stands_still_does_not_hold_up_the_others(work: Work, size: int) -> None:
    """However many wait in the first lane, each later one has its first thread at once."""
    pool = SenderPool(size, work, "test")
    fill(pool, "a", 10)
    fill(pool, "b", 3)
    fill(pool, "c", 3)
    work.wait_for(*(f"a{n}" for n in range(size)), "b0", "c0")
    work.gate.set()
    assert pool.wait(1, 20)


def test_the_thread_that_another_lane_brought_does_not_fall_to_the_first(work: Work) -> None:
    """It is there when that lane has work again, while the first still stands still."""

    def only_a_stands_still(item: str) -> None:
        if item.startswith("a"):
            work(item)
        else:
            work.started.append(item)

    pool = SenderPool(2, only_a_stands_still, "test")
    fill(pool, "a", 6)
    fill(pool, "b", 1)
    work.wait_for("a0", "a1", "b0")
    assert pool.wait_for_any(["a", "b"], 1, 20)
    assert pool.submit("b1", "b1", "b")
    work.wait_for("a0", "a1", "b0", "b1")
    assert not pool.wait_for_any(["a"], 3, 0.01)


def test_an_item_that_was_written_off_costs_no_thread(work: Work) -> None:
    """Its thread stands still for ever; another takes its place."""
    pool = SenderPool(1, work, "test")
    fill(pool, "a", 2)
    work.wait_for("a0")
    assert not pool.write_off("a1")  # no thread has it yet
    assert pool.write_off("a0")
    assert not pool.write_off("a0")
    work.wait_for("a0", "a1")


def test_a_closed_pool_takes_nothing_and_gives_back_what_waits(work: Work) -> None:
    """Nothing begins after the end; threads end."""
    pool = SenderPool(1, work, "test")
    fill(pool, "a", 3)
    work.wait_for("a0")
    assert pool.close() == ["a1", "a2"]
    assert not pool.submit("a3", "a3", "a")
    work.gate.set()
    assert pool.wait(1, 20)
    assert work.started == ["a0"]


def test_an_item_that_raises_does_not_end_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Not even with ``SystemExit``: the next one is done, by the same thread."""
    threads = []

    def work(item: str) -> None:
        threads.append(threading.get_ident())
        if item == "a0":
            raise SystemExit(1)

    pool = SenderPool(1, work, "test")
    fill(pool, "a", 2)
    assert pool.wait(1, 20)
    assert len(threads) == 2
    assert len(set(threads)) == 1
    assert "a sender thread met an error" in caplog.text


def test_a_lane_has_no_more_in_work_than_its_cap() -> None:
    """However many threads are free; another lane's items pass those that wait."""
    begun: list[str] = []
    most: Counter[str] = Counter()
    running: Counter[str] = Counter()
    lock, release = threading.Lock(), threading.Event()

    def work(lane: str) -> None:
        with lock:
            begun.append(lane)
            running[lane] += 1
            most[lane] = max(most[lane], running[lane])
        release.wait(10)
        with lock:
            running[lane] -= 1

    pool: SenderPool[str] = SenderPool(6, work, "capped", {"slow": 2, "fast": None}.get)
    for number in range(5):
        pool.submit(number, "slow", "slow")
    for number in range(5, 8):
        pool.submit(number, "fast", "fast")
    wait_until(lambda: begun.count("fast") == 3 and begun.count("slow") == 2)
    release.set()
    assert pool.wait(1, 10)
    assert begun.count("slow") == 5
    assert most["slow"] == 2
    pool.close()


def test_what_is_behind_a_quick_item_waits_for_its_thread(work: Work) -> None:
    """With patience, one thread does the items of a lane; another lane has its own at once."""
    pool = SenderPool(4, work, "test", patience=600)
    fill(pool, "a", 3)
    fill(pool, "b", 2)
    work.wait_for("a0", "b0")
    work.gate.set()
    assert pool.wait(1, 20)
    assert [item for item in work.started if item[0] == "a"] == ["a0", "a1", "a2"]


def test_what_waits_for_too_long_is_taken_by_another_thread(work: Work) -> None:
    """Behind an item that stands still, the others begin once their patience is at an end."""
    pool = SenderPool(3, work, "test", patience=0.01)
    fill(pool, "a", 5)
    work.wait_for("a0", "a1", "a2")
    work.gate.set()
    assert pool.wait(1, 20)


@pytest.mark.parametrize("patience", [0.0, 0.01])
def test_an_item_that_a_thread_takes_next_is_not_kept_by_it_for_long(patience: float) -> None:
    """What one thread has reserved falls to another that has nothing to do, in the end."""
    begun: list[str] = []
    gate = threading.Event()

    def work(item: str) -> None:
        begun.append(item)
        if item == "a0":
            wait_until(lambda: pool.reserve("a") == "a1")
            assert gate.wait(20)

    pool = SenderPool(2, work, "test", patience=patience)
    fill(pool, "a", 2)
    wait_until(lambda: begun == ["a0", "a1"])
    gate.set()
    assert pool.wait(1, 20)


def test_an_item_that_a_thread_takes_next_is_left_to_it_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that becomes free meanwhile does not take it at once, and is called for others."""
    monkeypatch.setattr(pool_module, "KEPT", 600.0)
    begun: dict[str, int] = {}
    reserved, gate = threading.Event(), threading.Event()

    def work(item: str) -> None:
        begun[item] = threading.get_ident()
        if item == "a0":
            wait_until(lambda: "a1" in begun)
            assert pool.reserve("a") == "a2"
            reserved.set()
            assert gate.wait(20)
        elif item == "a1":
            assert reserved.wait(20)

    pool = Watched(2, work, "test")
    fill(pool, "a", 3)
    wait_until(lambda: any(seconds is not None for seconds in pool.waits))  # it watches over a2
    assert pool.submit("a3", "a3", "a")
    assert pool.wait(3, 20)
    assert begun["a3"] == begun["a1"]
    gate.set()
    assert pool.wait(1, 20)
    assert begun["a2"] == begun["a0"]
    pool.close()


def test_what_is_reserved_is_watched_over_when_the_watcher_has_taken_something_else() -> None:
    """While threads may be started, one is there for what another has reserved."""
    begun: list[str] = []
    queued, reserved, gate = threading.Event(), threading.Event(), threading.Event()

    def work(item: str) -> None:
        begun.append(item)
        if item == "a0":
            assert queued.wait(20)
            assert pool.reserve("a") == "a1"
            reserved.set()
        if item != "c0":
            assert gate.wait(20)

    def threads() -> int:
        return sum(thread.name.startswith("watched-") for thread in threading.enumerate())

    pool = SenderPool(4, work, "watched", patience=600)
    fill(pool, "a", 1)
    wait_until(lambda: begun == ["a0"])
    fill(pool, "c", 1)
    assert pool.wait(2, 20)  # the second thread is idle, and will watch over what comes next
    assert pool.submit("a1", "a1", "a")
    queued.set()
    assert reserved.wait(20)
    fill(pool, "b", 1)
    wait_until(lambda: "b0" in begun and threads() == 3)
    gate.set()
    assert pool.wait(1, 20)
    pool.close()


@pytest.mark.parametrize("patience", [0.0, 0.001])
def test_what_is_reserved_is_taken_over_though_a_full_lane_has_more_that_waits(
    patience: float, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cap keeps back does not keep a free thread from what waits behind another's server."""
    monkeypatch.setattr(pool_module, "KEPT", 0.001)
    queued, reserved = threading.Event(), threading.Event()

    def until_reserved(item: str) -> None:
        if item == "b0":
            assert queued.wait(20)
            assert pool.reserve("b") == "b1"
            reserved.set()
        if item == "c1":
            work.started.append(item)
            assert reserved.wait(20)
        else:
            work(item)

    pool = SenderPool(2, until_reserved, "test", {"a": 1}.get, patience)
    fill(pool, "a", 2)
    fill(pool, "c", 2)
    work.wait_for("a0", "c0", "c1")  # while c has two, no other lane has a second thread
    fill(pool, "b", 2)
    queued.set()
    work.wait_for("a0", "c0", "c1", "b0", "b1")
    work.gate.set()
    assert pool.wait(1, 20)


class Watched(SenderPool[str]):
    """Notes for how long its idle threads mean to wait, each time that they do."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.waits: list[float | None] = []
        wait = self._work_to_do.wait

        def noted(timeout: float | None = None) -> bool:
            self.waits.append(timeout)
            return wait(timeout)

        self._work_to_do.wait = noted  # type: ignore[method-assign]


def test_nobody_looks_now_and_then_at_what_a_full_lane_keeps_back(work: Work) -> None:
    """A thread that is free waits to be called, not for a time, and then it is."""
    pool = Watched(3, work, "test", {"a": 1}.get, patience=0.001)
    fill(pool, "a", 3)
    work.wait_for("a0")
    wait_until(lambda: len(pool.waits) > 0)
    assert pool.submit("b0", "b0", "b")  # another lane's is taken meanwhile
    work.wait_for("a0", "b0")
    assert set(pool.waits) == {None}
    assert len(pool.waits) <= 4  # one for each that came
    work.gate.set()
    assert pool.wait(1, 20)
    assert work.started == ["a0", "b0", "a1", "a2"]


def test_nobody_looks_now_and_then_while_no_thread_is_to_spare(work: Work) -> None:
    """What waits behind all threads of its lane is theirs, though another lane's thread is idle."""

    def a_stands_still(item: str) -> None:
        if item.startswith("a"):
            work(item)
        else:
            work.started.append(item)

    pool = Watched(2, a_stands_still, "test", patience=0.001)
    fill(pool, "a", 2)
    work.wait_for("a0", "a1")
    fill(pool, "b", 1)
    assert pool.wait(3, 20)
    fill(pool, "c", 1)  # as what follows, it wakes the thread that has done b's
    assert pool.wait(3, 20)
    assert pool.submit("a2", "a2", "a")
    assert pool.submit("a3", "a3", "a")
    wait_until(lambda: len(pool.waits) > 1 and pool.waits[-1] is None)
    seen = len(pool.waits)
    fill(pool, "d", 1)
    assert pool.wait(5, 20)
    wait_until(lambda: len(pool.waits) > seen and pool.waits[-1] is None)
    work.gate.set()
    assert pool.wait(1, 20)
    assert sorted(work.started) == ["a0", "a1", "a2", "a3", "b0", "c0", "d0"]


@pytest.mark.parametrize("patience", [0.0, 0.0005, 600.0])
def test_nothing_is_left_that_can_be_taken(patience: float) -> None:
    """Lanes with caps, items that are reserved, written off, or come while others stand still:
    all of them are done, whoever waits for whom."""
    chance = random.Random(7)
    done: list[int] = []

    def work(item: int) -> None:
        if item % 5 == 0:
            pool.reserve("abc"[item % 3])
        if item % 11 == 0:
            sum(range(50_000))  # longer than the patience, for others to come in between
        done.append(item)

    pool: SenderPool[int] = SenderPool(3, work, "test", {"a": 1, "b": 2}.get, patience)
    for item in range(1_000):
        assert pool.submit(item, item, "abc"[item % 3], patient=chance.random() < 0.9)
        if chance.random() < 0.02:
            assert pool.wait(chance.randrange(1, 5), 20)
    assert pool.wait(1, 20)
    assert sorted(done) == list(range(1_000))
    pool.close()


def test_items_one_after_the_other_are_all_done(work: Work) -> None:
    """No wake-up is lost between threads that take turns at two lanes."""
    work.gate.set()
    pool = SenderPool(2, work, "test", patience=600)
    for n in range(300):
        assert pool.submit(n, f"{n}", "ab"[n % 3 == 0])
        if n % 7 == 0:
            assert pool.wait(1, 20)
    assert pool.wait(1, 20)
    assert len(work.started) == 300


def test_what_is_not_patient_waits_for_nobody(work: Work) -> None:
    """Items that several threads are to do together are begun at once, as many as may be."""
    pool = SenderPool(3, work, "test", patience=600)
    for n in range(5):
        assert pool.submit(n, f"a{n}", "a", patient=False)
    work.wait_for("a0", "a1", "a2")
    work.gate.set()
    assert pool.wait(1, 20)
