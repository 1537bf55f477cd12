"""Waking a sweep that waits: LISTEN and NOTIFY where there is such a thing, polling elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from flask_deferred_mail.delivery.sweep import Counts, Sweep
from flask_deferred_mail.store import waking
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.waking import Bell, Ear, Waiter, hears, notify
from tests.support.databases import DATABASES, fresh_database
from tests.support.mail_app import MailApp
from tests.support.pgbouncer import PgBouncer
from tests.support.waiting import wait_until


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    with fresh_database("postgresql", tmp_path) as url:
        with closing(Database(url)) as database:
            database.create()
        yield url


@pytest.fixture
def database(postgresql: str) -> Iterator[Database]:
    with closing(Database(postgresql)) as opened:
        yield opened


@pytest.fixture
def other(postgresql: str) -> Iterator[Database]:
    """The same database, as another process sees it."""
    with closing(Database(postgresql)) as opened:
        yield opened


@contextmanager
def listening(database: Database) -> Iterator[Ear]:
    with closing(Ear(database)) as ear:
        yield ear


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """What is run on pooled connections."""
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_bell_is_heard_in_another_process(database: Database, other: Database) -> None:
    """One word for however many rings came together."""
    with listening(other) as ear:
        bell = Bell(database)
        for _ in range(100):
            bell.ring()
        assert ear.words(20) == [""]
        bell.close()


def test_rings_are_coalesced(database: Database) -> None:
    """A storm of mail is a word in 50 ms, not a word for each."""
    bell = Bell(database)
    with statements_of(database) as seen:
        started = time.monotonic()
        while time.monotonic() < started + 0.5:
            bell.ring()
        passed = time.monotonic() - started
        bell.close()
    assert 1 <= len(seen) <= passed / waking.AT_MOST_EVERY + 2


def test_a_ring_never_waits_for_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it fail: the word is said, or not, in a thread of its own."""
    stuck, go = threading.Event(), threading.Event()

    def never(*_args: object) -> None:
        stuck.set()
        go.wait(30)

    monkeypatch.setattr(waking, "notify", never)
    bell = Bell(database)
    bell.ring()
    assert stuck.wait(20)
    bell.ring()
    go.set()
    bell.close()


def test_a_bell_whose_database_is_gone_is_silent(postgresql: str) -> None:
    """What cannot be said is not said; the thread goes on."""
    database = Database(postgresql.rpartition("/")[0] + "/not_there")
    bell = Bell(database)
    bell.ring()
    wait_until(bell._said.is_set)
    bell.ring()
    wait_until(bell._said.is_set)


@pytest.mark.parametrize("kind", [kind for kind in DATABASES if kind != "postgresql"])
def test_where_nobody_listens_a_bell_does_nothing(kind: str, tmp_path: Path) -> None:
    """No thread and no statement."""
    with fresh_database(kind, tmp_path) as url, closing(Database(url)) as database:
        database.create()
        bell = Bell(database)
        bell.ring()
        assert bell._thread is None
        assert hears(database) is None
        with closing(Waiter(database)) as waiter:
            assert not waiter.wait(0.01)
            assert not waiter.listening


def test_a_waiter_is_woken_and_can_be_stopped(database: Database, other: Database) -> None:
    """By a word of somebody else, and for good by ``stop``, from any thread."""
    with closing(Waiter(database)) as waiter, ThreadPoolExecutor() as threads:
        assert not waiter.wait(0.01)
        assert waiter.listening
        waiting = threads.submit(waiter.wait, 60)
        waking.notify(other)
        assert waiting.result(timeout=20) is True
        waiting = threads.submit(waiter.wait, 60)
        waiter.stop()
        assert waiting.result(timeout=20) is False
        assert waiter.wait(60) is False


def test_a_lost_connection_ends_listening_and_not_the_wait(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep looks at once, for what it may have missed, and listens again later."""
    with closing(Waiter(database)) as waiter:
        waiter.wait(0.01)
        assert waiter.listening
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        other.write(lambda c: c.execute(text(kill)))
        assert waiter.wait(60) is True
        assert not waiter.listening
        waiter._listen_at = 0.0
        waiter.wait(0.01)
        assert waiter.listening


def test_what_is_no_word_does_not_end_the_wait(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends a connection says why before it closes it: two things come, no word."""
    with closing(Waiter(database)) as waiter:
        waiter.wait(0.01)
        ear = waiter._ear
        assert ear is not None
        pending, came = ear._pending, iter([[], []])
        monkeypatch.setattr(
            ear, "_pending", lambda: pending() if (words := next(came, None)) is None else words
        )
        notify(other, "x")
        assert ear.words(60) == ["x"]


def test_listening_that_hears_nothing_is_not_relied_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler: LISTEN succeeds, and the word to oneself never arrives."""
    monkeypatch.setattr(waking, "_SELF_TEST", 0.2)
    notify = waking.notify
    monkeypatch.setattr(waking, "notify", lambda database, word="": None)
    assert hears(database) is False
    with closing(Waiter(database)) as waiter:
        waiter.wait(0.01)
        assert not waiter.listening
    monkeypatch.setattr(waking, "notify", notify)
    assert hears(database) is True


def test_through_a_pooler_of_transactions_the_sweep_polls(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real PgBouncer: LISTEN is of no use there, and mail is sent all the same."""
    with PgBouncer(postgresql, tmp_path) as pooler, closing(Database(pooler.url)) as database:
        assert hears(database) is False
        with closing(Waiter(database)) as waiter:
            waiter.wait(0.01)
            assert not waiter.listening


Make = Callable[..., MailApp]


def _sweep_until(sweep: Sweep, sent: int) -> Counts:
    """Let a waiting sweep go on until it has sent so many."""
    with ThreadPoolExecutor() as threads:
        running: Future[Counts] = threads.submit(sweep.run, 60)
        try:
            wait_until(lambda: sweep.counts.sent >= sent, timeout=30)
        finally:
            sweep.stop()
        return running.result(timeout=30)


@pytest.mark.parametrize("kind", DATABASES)
def test_a_waiting_sweep_sends_what_comes_meanwhile(
    kind: str, tmp_path: Path, make_app: Make
) -> None:
    """Recorded by another process while the sweep is idle: sent, on every database."""
    with fresh_database(kind, tmp_path) as url:
        app = make_app("null:", DEFERRED_MAIL_DATABASE_URI=url)
        app.runtime.database.create()
        web = make_app("null:", DEFERRED_MAIL_DATABASE_URI=url)
        sweep = app.runtime.sweep()
        with ThreadPoolExecutor() as threads:
            going = threads.submit(_sweep_until, sweep, 2)
            web.send()
            wait_until(lambda: sweep.counts.sent == 1, timeout=30)
            web.send()
            assert going.result(timeout=60).sent == 2


@pytest.mark.parametrize("kind", DATABASES)
def test_an_idle_sweep_asks_seldom(kind: str, tmp_path: Path, make_app: Make) -> None:
    """While nothing is due, a look is a handful of index entries, and there are few of them."""
    with fresh_database(kind, tmp_path) as url:
        app = make_app("null:", DEFERRED_MAIL_DATABASE_URI=url)
        app.runtime.database.create()
        app.send(delay=3_600)
        sweep = app.runtime.sweep()
        looks = []
        with statements_of(app.runtime.database) as seen:
            real = sweep.reports.next_due_in

            def look() -> float | None:
                looks.append(len(seen))
                return real()

            sweep.reports.next_due_in = look  # type: ignore[method-assign]
            counts = sweep.run(wait=5)
        assert counts.claimed == 0
        assert 2 <= len(looks) <= 8
        assert looks[-1] - looks[-2] <= 8


def test_what_cannot_be_taken_does_not_make_a_sweep_spin(tmp_path: Path, make_app: Make) -> None:
    """Due mail of a resting transport is left alone for as long as nothing changes."""
    app = make_app("smtp://127.0.0.1:9?tls=none", DEFERRED_MAIL_BACKOFF=[600])
    for _ in range(3):
        app.send()
    sweep = app.runtime.sweep()
    passes: list[float] = []
    one_pass = sweep._one_pass

    def counted() -> None:
        passes.append(time.monotonic())
        one_pass()

    sweep._one_pass = counted  # type: ignore[method-assign]
    sweep.run(wait=4)
    assert len(passes) <= 10
