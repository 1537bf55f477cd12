"""Outcomes of several threads share a commit, and none of them pays for another's trouble."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from flask_deferred_mail.errors import CommitUnknown, StoreBusy, StoreError
from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store import outcomes as writing
from flask_deferred_mail.store.claims import Claim, Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.schema import attempts, jobs, recipients
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter
from tests.support.waiting import wait_until

MAILS = 12


class Desk:
    """A database whose writes can be held up, and mails whose outcomes wait to be written."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.create()
        self.jobs = JobStore(self.database)
        self.jobs.add_many([Submission(a_letter(f"r{n}@example.net")) for n in range(MAILS)])
        self.claims = Claims(self.database, Lease(60, "host:1")).take("default", MAILS)
        self.gate = threading.Event()
        self.entered = threading.Event()
        #: Whether writes are held up before they begin, rather than before they commit.
        self.held_before = False
        #: What each write raises instead of its work, one by one; ``None``: it does its work.
        self.failures: list[Any] = []
        self.writes = 0
        self._write: Callable[..., Any] = self.database.write
        self.database.write = self._gated  # type: ignore[method-assign]

    def _gated(self, work: Callable[..., Any], **how: Any) -> Any:
        self.writes += 1
        failure = self.failures.pop(0) if self.failures else None
        if self.held_before or failure is not None:
            self._hold()
        if failure is not None:
            if isinstance(failure, CommitUnknown) or failure.args == ("after the commit",):
                self._write(work, **how)
            raise failure
        return self._write(self._held(work), **how)

    def _held(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Work whose transaction is held up before the commit: nobody joins it any more."""

        def held(connection: Any) -> Any:
            result = work(connection)
            self._hold()
            return result

        return held

    def _hold(self) -> None:
        self.entered.set()
        assert self.gate.wait(30)

    def write_all(self, pool: ThreadPoolExecutor) -> list[Future[bool]]:
        """Every outcome, each by a thread of its own; the first one holds the others up."""
        first = pool.submit(self.record, self.claims[0])
        assert self.entered.wait(30)
        others = [pool.submit(self.record, claim) for claim in self.claims[1:]]
        wait_until(lambda: len(self.jobs._outcomes._waiting) == MAILS - 1)
        self.gate.set()
        return [first, *others]

    def write_all_with(self, failures: list[Any], pool: ThreadPoolExecutor) -> list[Future[bool]]:
        """:meth:`write_all`, where the first writes fail like this."""
        self.failures = failures
        return self.write_all(pool)

    def record(self, claim: Claim) -> bool:
        to = tuple(JobRecipient(r.address, r.kind, RecipientStatus.SENT) for r in claim.recipients)
        note = AttemptNote(time.time(), 0.1, "sent", "")
        return self.jobs.record(claim, Verdict(JobStatus.SENT, to, note, None))

    def sent(self) -> list[int]:
        """The number of mails, attempts and recipients that are written down as sent."""
        queries = [
            select(func.count()).select_from(jobs).where(jobs.c.status == "sent"),
            select(func.count()).select_from(attempts),
            select(func.count()).select_from(recipients).where(recipients.c.status == "sent"),
        ]
        return self.database.read(lambda c: [c.scalar(query) for query in queries])


@pytest.fixture(params=DATABASES)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with fresh_database(request.param, tmp_path) as url:
        desk = Desk(url)
        yield desk
        desk.gate.set()
        desk.database.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MAILS) as pool:
        yield pool


def test_those_who_wait_share_one_commit(desk: Desk, pool: ThreadPoolExecutor) -> None:
    """Twelve threads, two transactions: the first one's, and one for all who came meanwhile."""
    assert [future.result(30) for future in desk.write_all(pool)] == [True] * MAILS
    assert desk.writes == 2
    assert desk.sent() == [MAILS, MAILS, MAILS]


def test_who_comes_while_another_waits_for_the_database_is_taken_along(
    desk: Desk, pool: ThreadPoolExecutor
) -> None:
    """One transaction for twelve threads, where what it holds need not be known beforehand."""
    desk.held_before = True
    assert [future.result(30) for future in desk.write_all(pool)] == [True] * MAILS
    assert desk.writes == (2 if desk.database.backend.writes_batches else 1)
    assert desk.sent() == [MAILS, MAILS, MAILS]


def test_a_lost_lease_costs_only_its_own_mail(desk: Desk, pool: ThreadPoolExecutor) -> None:
    """One of those in the shared transaction is another's by now; the others are written."""
    stolen = update(jobs).where(jobs.c.id == desk.claims[5].job_id).values(lease_token="another's")
    desk._write(lambda connection: connection.execute(stolen))
    results = [future.result(30) for future in desk.write_all(pool)]
    assert results == [n != 5 for n in range(MAILS)]
    assert desk.sent() == [MAILS - 1, MAILS - 1, MAILS - 1]


def test_after_a_failure_each_writes_its_own(desk: Desk, pool: ThreadPoolExecutor) -> None:
    """The shared transaction cannot be had: nobody is told that his outcome is in before it is."""
    pending = desk.write_all_with([None, StoreBusy("all of them")], pool)
    assert [future.result(30) for future in pending] == [True] * MAILS
    assert desk.sent() == [MAILS, MAILS, MAILS]


def test_a_value_that_the_driver_refuses_costs_only_its_own_mail(
    desk: Desk, pool: ThreadPoolExecutor
) -> None:
    """Half of a surrogate pair in one of them: whoever leads writes his own all the same."""
    strange = desk.claims[5]
    (recipient,) = strange.recipients
    desk.claims[5] = strange.with_recipients((replace(recipient, address="\ud800"),))
    pending = desk.write_all(pool)
    with pytest.raises(UnicodeEncodeError):
        pending.pop(5).result(30)
    assert [future.result(30) for future in pending] == [True] * (MAILS - 1)
    assert desk.sent() == [MAILS - 1, MAILS - 1, MAILS - 1]


def test_an_error_that_stays_is_everybodys_own(desk: Desk, pool: ThreadPoolExecutor) -> None:
    """Every thread hears of it; the rows still say that the mails are being sent."""
    pending = desk.write_all_with([StoreError("disk full") for _ in range(3 * MAILS)], pool)
    for future in pending:
        with pytest.raises(StoreError, match="disk full"):
            future.result(30)
    desk.failures.clear()
    assert desk.sent() == [0, 0, 0]


def test_a_shared_commit_whose_answer_was_lost_is_looked_up(
    desk: Desk, pool: ThreadPoolExecutor
) -> None:
    """It happened, as each row says by itself: nothing is written twice."""
    pending = desk.write_all_with([None, CommitUnknown("gone")], pool)
    assert [future.result(30) for future in pending] == [True] * MAILS
    assert desk.sent() == [MAILS, MAILS, MAILS]
    assert desk.writes == 2


def test_a_thread_that_is_told_to_stop_leaves_the_others_to_themselves(
    desk: Desk, pool: ThreadPoolExecutor
) -> None:
    """``SystemExit`` in the one who writes for all: the others write, each for itself."""
    pending = desk.write_all_with([None, SystemExit()], pool)
    results = []
    for future in pending:
        try:
            results.append(future.result(30))
        except SystemExit:
            results.append(None)
    assert results.count(None) == 1
    assert results.count(True) == MAILS - 1
    assert desk.sent() == [MAILS - 1] * 3


def test_a_commit_that_an_exit_hides_is_looked_up_by_the_others(
    desk: Desk, pool: ThreadPoolExecutor
) -> None:
    """``SystemExit`` right after the shared commit: it happened, and nobody's lease was lost."""
    pending = desk.write_all_with([None, SystemExit("after the commit")], pool)
    results = []
    for future in pending:
        try:
            results.append(future.result(30))
        except SystemExit:
            results.append(None)
    assert sorted(results, key=str) == [None] + [True] * (MAILS - 1)
    assert desk.sent() == [MAILS, MAILS, MAILS]


class _Interrupted:
    """A turn whose owner is told to stop while he waits for it."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.asked = 0

    def acquire(self) -> None:
        self.asked += 1
        if self.asked > 1:  # the first is its own, taken to wait for it
            assert self.stopped.wait(30)
            raise KeyboardInterrupt

    def release(self) -> None:
        self.stopped.set()


def _with_turn(turn: Any, entry: Any) -> Any:
    entry.turn = turn
    return entry


@pytest.mark.parametrize("first", [True, False])
def test_who_stops_waiting_keeps_nobody_from_writing(
    desk: Desk, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Ctrl-C in a thread that waits for its turn, or has just been given it."""
    outcomes, turn, made = desk.jobs._outcomes, _Interrupted(), writing._Entry
    leading = pool.submit(desk.record, desk.claims[0])
    assert desk.entered.wait(30)
    with monkeypatch.context() as patched:
        patched.setattr(writing, "_Entry", lambda *what: _with_turn(turn, made(*what)))
        stopped = pool.submit(desk.record, desk.claims[1])
        wait_until(lambda: len(outcomes._waiting) == 1)
    others = [pool.submit(desk.record, claim) for claim in desk.claims[2:]]
    wait_until(lambda: len(outcomes._waiting) == MAILS - 1)
    if not first:
        turn.release()
        with pytest.raises(KeyboardInterrupt):
            stopped.result(30)
    desk.gate.set()
    assert leading.result(30) is True
    assert [future.result(30) for future in others] == [True] * (MAILS - 2)
    with pytest.raises(KeyboardInterrupt):
        stopped.result(30)
    assert desk.sent() == [MAILS - 1] * 3
