"""Tokens of limited transports on every database: shared by all, and paid with the claim."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.rates import Limit
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.limits import Limits, Purse
from flask_deferred_mail.store.schema import limits, transports
from flask_deferred_mail.store.transport_state import TransportStates
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

DAY = 86_400
LEASE = Lease(60, "host:1")


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind, with its tables."""
    with fresh_database(request.param, tmp_path) as url:
        database = Database(url)
        database.create()
        yield database
        database.close()


def add(database: Database, number: int = 1) -> list[int]:
    """Record mails; their numbers."""
    store = JobStore(database)
    return [store.add(Submission(a_letter(message_id=f"<{n}@x>"))).job.id for n in range(number)]


def purse(number: int, seconds: int = DAY, name: str = "default") -> Purse:
    return Purse({name: [Limit(number, seconds)]})


def left(database: Database, number: int, seconds: int = DAY, name: str = "default") -> float:
    limit = Limit(number, seconds)
    return Limits(database).left({name: [limit]})[name][str(limit)]


def age(database: Database, seconds: float) -> None:
    """Let so many seconds pass, for limits."""

    def work(connection: Any) -> None:
        connection.execute(update(limits).values(filled_at=limits.c.filled_at - seconds))

    database.write(work)


def test_a_claim_takes_no_more_mails_than_there_are_tokens(database: Database) -> None:
    """And says when there are more."""
    add(database, 5)
    claims, three = Claims(database, LEASE), purse(3)
    assert len(claims.take("default", 10, purse=three)) == 3
    assert three.taken == {"default": 3}
    assert 86_000 < three.waits["default"] <= DAY
    again = purse(3)
    assert claims.take("default", 10, purse=again) == []
    assert again.taken == {}


def test_a_claim_takes_no_more_tokens_than_there_are_mails(database: Database) -> None:
    """Nothing is taken for mail that is not there."""
    add(database, 2)
    assert len(Claims(database, LEASE).take("default", 10, purse=purse(100))) == 2
    assert left(database, 100) == 98
    assert Claims(database, LEASE).take("default", 10, purse=purse(100)) == []
    assert left(database, 100) == 98


def test_the_scarcest_of_several_limits_holds(database: Database) -> None:
    """All of them pay."""
    add(database, 5)
    both = Purse({"default": [Limit(10, 3600), Limit(2, DAY)]})
    assert len(Claims(database, LEASE).take("default", 10, purse=both)) == 2
    assert left(database, 10, 3600) == 8


def test_a_mail_is_not_claimed_alone_without_a_token(database: Database) -> None:
    """It stays pending, and no attempt is counted."""
    first, second = add(database, 2)
    claims, made = Claims(database, LEASE), [purse(1), purse(1)]
    purses = iter(made)
    assert claims.take_one(first, lambda _: next(purses)) is not None
    assert claims.take_one(second, lambda _: next(purses)) is None
    assert made[1].waits["default"] > 0
    job = JobStore(database).get(second)
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


def test_a_row_is_inserted_leased_only_with_a_token(database: Database) -> None:
    """The others wait like any mail; each is one commit."""
    store = JobStore(database)
    first = store.add(Submission(a_letter()), LEASE, purse(1))
    second = store.add(Submission(a_letter()), LEASE, purse(1))
    assert first.claim is not None
    assert second.claim is None
    assert Claims(database, LEASE).take("default", 10)[0].job_id == second.job.id


def test_many_at_once_take_no_token_twice(database: Database) -> None:
    """Eight threads on one bucket: exactly as many as it holds."""
    store, found, errors = Limits(database), [], []

    def take() -> None:
        try:
            for _ in range(10):
                mine = purse(50)
                store.take(mine, 1)
                found.append(mine.taken.get("default", 0))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sum(found) == 50
    assert left(database, 50) == 0


def test_tokens_come_back_and_never_beyond_the_limit(database: Database) -> None:
    """What was not sent may be sent later."""
    store, mine = Limits(database), purse(10)
    store.take(mine, 4)
    store.give_back(mine.taken)
    assert left(database, 10) == 10
    store.give_back({"default": 7})
    later = purse(10)
    store.take(later, 100)
    assert later.taken == {"default": 10}


def test_a_quota_is_whole_again_when_its_window_is_over(database: Database) -> None:
    """By the database's clock."""
    store = Limits(database)
    store.take(purse(5), 5)

    age(database, DAY)
    mine = purse(5)
    store.take(mine, 9)
    assert mine.taken == {"default": 5}


def test_a_limit_goes_on_when_the_clock_was_set_back(database: Database) -> None:
    """From the next look on, though that finds nothing; not when the old time has come again."""
    store = Limits(database)
    store.take(purse(1, 1), 1)
    age(database, -3600)
    mine = purse(1, 1)
    store.take(mine, 1)
    assert mine.taken == {}
    assert mine.waits["default"] <= 1
    age(database, 2)
    store.take(mine, 1)
    assert mine.taken == {"default": 1}


def test_tokens_of_several_members_serve_one_claim(database: Database) -> None:
    """Together as many as all of them have."""
    add(database, 9)
    both = Purse({"default/a": [Limit(2, DAY)], "default/b": [Limit(4, DAY)]})
    assert len(Claims(database, LEASE).take("default", 10, purse=both)) == 6
    assert both.taken == {"default/a": 2, "default/b": 4}


def commits_of(database: Database) -> list[object]:
    """Grows by one with each commit."""
    found: list[object] = []
    if not database.own_clock:
        event.listen(database.engine, "commit", found.append)
        return found

    def note(statement: str) -> None:
        if statement == "COMMIT":
            found.append(statement)

    # SQLite's transactions are begun and ended past SQLAlchemy. Open connections are not watched.
    database.close()
    event.listen(
        database.engine, "checkout", lambda connection, *_: connection.set_trace_callback(note)
    )
    return found


def test_a_token_costs_no_commit_of_its_own(database: Database) -> None:
    """One for the claim, with a limit as without one."""
    add(database, 4)
    claims, commits = Claims(database, LEASE), commits_of(database)
    claims.take("default", 2)
    assert len(commits) == 1
    claims.take("default", 2, purse=purse(100))
    assert len(commits) == 2


def test_no_bucket_is_made_without_a_limit(database: Database) -> None:
    """Such transports pay nothing."""
    add(database, 1)
    Claims(database, LEASE).take("default", 2)
    assert database.read(lambda c: c.scalar(select(func.count()).select_from(limits))) == 0


def test_the_first_who_hears_that_it_is_back_says_when_it_was(database: Database) -> None:
    """All senders hear it at once: the slow start counts from the first, the rest write nothing."""
    states = TransportStates(database)
    states.rest("default", "unreachable", "gone", {1: 5.0})

    def start() -> Any:
        return database.read(lambda c: c.scalar(select(transports.c.ramp_at)))

    said = [states.recovered("default", keep_streaks=False)]
    first = start()
    said += [states.recovered("default", keep_streaks=False) for _ in range(3)]
    assert (said, start()) == ([True, False, False, False], first)


def test_a_pause_is_seen_by_all_and_outlives_a_recovery(database: Database) -> None:
    """Who paused it and since when; only ``resume`` ends it."""
    states = TransportStates(database)
    assert states.pause("default", "ann@desk") is True
    assert states.pause("default", "bob@desk") is False
    states.rest("default", "unreachable", "gone", {1: 5.0})
    states.recovered("default", keep_streaks=False)
    state = states.all()["default"]
    assert (state.paused_by, state.failures) == ("ann@desk", 0)
    assert state.back_for is not None
    assert states.resume("default") is True
    assert states.resume("default") is False
    assert states.all()["default"].paused_at is None
