"""A clock that was set back, on every database: what waits too long for it is put right. And the
room that is made for an outcome before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update

from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.inspection import Inspection
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.reports import Reports
from flask_deferred_mail.store.schema import blobs, jobs, sightings, transports
from flask_deferred_mail.store.setback import Longest, Setback
from flask_deferred_mail.store.transport_state import TransportStates
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

HOUR = 3600.0
RETRY, LEASE = 300.0, 120.0


class Queue:
    """A database whose clock can be set back: all that its rows say is moved ahead instead."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = JobStore(database)
        self.claims = Claims(database, Lease(60, "host:1"))
        self.setback = Setback(database, Longest(RETRY, LEASE))

    def add(self, **how: Any) -> int:
        """Record a mail; its number."""
        return self.jobs.add(Submission(a_letter(), **how)).job.id

    def set_clock_back(self, seconds: float) -> None:
        def work(connection: Any) -> None:
            for table, names in (
                (jobs, ("created_at", "first_due_at", "due_at")),
                (sightings, ("seen_at",)),
                (transports, ("since", "resting_until", "probe_until")),
            ):
                ahead = {name: table.c[name] + seconds for name in names}
                connection.execute(update(table).values(ahead))

        self.database.write(work)

    def due_in(self, job_id: int) -> float:
        found = Inspection(self.database).standing(job_id).due_in
        assert found is not None
        return found


@pytest.fixture(params=DATABASES)
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
    with fresh_database(request.param, tmp_path) as url:
        database = Database(url)
        database.create()
        yield Queue(database)
        database.close()


def test_a_clock_that_goes_on_is_not_taken_for_one_set_back(queue: Queue) -> None:
    """Neither in an empty table, nor with mail, nor with a sighting."""
    assert not queue.setback.happened()
    queue.add()
    assert not queue.setback.happened()
    Reports(queue.database).seen("sweep", "host", 1)
    assert not queue.setback.happened()
    queue.set_clock_back(2)
    assert not queue.setback.happened()


@pytest.mark.parametrize("seen", [True, False])
def test_a_clock_that_was_set_back_is_noticed(queue: Queue, seen: bool) -> None:
    """By the last sighting, or without one by the newest mail."""
    queue.add()
    if seen:
        Reports(queue.database).seen("sweep", "host", 1)
    queue.set_clock_back(HOUR)
    assert queue.setback.happened()


def test_nothing_waits_longer_than_it_ever_would(queue: Queue) -> None:
    """New mail is due now, a retry and a dead lease in their longest time; what a view has
    scheduled stays, and so does what nobody has to wait for."""
    fresh, retried, leased = queue.add(), queue.add(), queue.add()
    planned = queue.add(send_at=queue.claims.now() + 10 * HOUR)
    for job_id in (retried, leased):
        assert queue.claims.take_one(job_id) is not None
    later = {"status": "pending", "lease_token": None, "due_at": jobs.c.due_at + 30}
    queue.database.write(
        lambda c: c.execute(update(jobs).where(jobs.c.id == retried).values(later))
    )
    queue.set_clock_back(HOUR)
    assert queue.claims.take("default", 10) == []

    assert queue.setback.shorten() == 3
    assert queue.due_in(fresh) <= 0
    assert RETRY - 60 < queue.due_in(retried) <= RETRY
    assert LEASE - 60 < queue.due_in(leased) <= LEASE
    assert 11 * HOUR - 60 < queue.due_in(planned) <= 11 * HOUR
    assert [claim.job_id for claim in queue.claims.take("default", 10)] == [fresh]
    assert queue.setback.shorten() == 0


def test_a_rest_that_began_in_the_future_is_over(queue: Queue) -> None:
    """One mail may find out whether the transport works; no dead prober stands in its way."""
    states = TransportStates(queue.database)
    states.rest("default", "unreachable", "refused", {1: 60.0})
    queue.database.write(
        lambda c: c.execute(
            update(transports).values(probe_token="dead", probe_until=queue.claims.now())
        )
    )
    queue.set_clock_back(HOUR)
    assert states.all()["default"].rests_for > HOUR / 2
    queue.setback.shorten()
    assert states.all()["default"].rests_for <= 0
    assert states.try_probe("default", "somebody", 60)


def test_room_for_an_outcome_is_written_and_taken_back(queue: Queue) -> None:
    """As many bytes as an outcome to so many takes are committed, in full; nothing stays."""
    sizes: list[int] = []
    other = Database(queue.database.engine.url.render_as_string(hide_password=False))
    written = select(func.length(blobs.c.data))

    def look(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE"):
            sizes.append(other.read(lambda c: c.scalar(written)) or 0)

    event.listen(queue.database.engine, "before_cursor_execute", look)
    for recipients in (1, 1000):
        queue.jobs.make_room(recipients)
    assert len(sizes) == 2
    assert sizes[0] > 10_000
    assert sizes[1] - sizes[0] == 999 * 1024
    assert other.read(lambda c: c.scalar(written)) is None
    other.close()


def test_room_that_a_dead_process_left_is_no_obstacle(queue: Queue) -> None:
    """It died between the two transactions: the next one takes that away, too."""
    queue.database.write(
        lambda c: c.execute(
            text(
                "INSERT INTO deferred_mail_blob (digest, size, created_at, data) "
                "VALUES ('room for an outcome', 1, 0, :data)"
            ),
            {"data": b"x"},
        )
    )
    queue.jobs.make_room(1)
    assert queue.database.read(lambda c: c.execute(select(blobs.c.digest)).all()) == []
