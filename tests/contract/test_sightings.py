"""Which workers were seen, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.reports import Reports
from flask_deferred_mail.store.schema import sightings
from flask_deferred_mail.store.setback import Longest, Setback
from flask_deferred_mail.store.sightings import Sightings
from tests.support.databases import DATABASES, fresh_database


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with fresh_database(request.param, tmp_path) as url, closing(Database(url)) as opened:
        opened.create()
        yield opened


def age(database: Database, seconds: float) -> None:
    """Let all that was seen be so much longer ago."""
    older = update(sightings).values(seen_at=sightings.c.seen_at - seconds)
    database.write(lambda c: c.execute(older))


def test_a_row_for_each_process_of_each_host(database: Database) -> None:
    """However long the host's name; seen again is the same row; a sweep is none of them."""
    seen, long = Sightings(database), "host." * 50
    for host, pid in (("b", 1), ("a", 2), ("a", 1), (long, 1), ("a", 1)):
        seen.at_work(host, pid)
    Reports(database).seen("sweep", "a", 9)
    assert [(w.host, w.pid) for w in seen.workers()] == [("a", 1), ("a", 2), ("b", 1), (long, 1)]


def test_one_that_ends_is_forgotten_and_one_that_died_is_missed(database: Database) -> None:
    """Its row goes at once, or is no longer counted, and goes later."""
    seen = Sightings(database)
    seen.at_work("a", 1)
    seen.at_work("a", 2)
    seen.gone("a", 1)
    assert [w.pid for w in seen.workers()] == [2]
    age(database, 130)
    assert seen.workers() == []
    Reports(database).seen("sweep", "a", 2)
    age(database, 3600)
    seen.tidy()
    rows = database.read(lambda c: c.execute(sightings.select()).all())
    assert [row.name for row in rows] == ["sweep"]


def test_the_sighting_of_a_dead_worker_is_not_taken_for_a_clock_set_back_twice(
    database: Database,
) -> None:
    """Nobody writes its row any more: what lies in the future is put right with the rest."""
    setback = Setback(database, Longest(300, 120))
    Sightings(database).at_work("a", 1)
    age(database, -3600)
    assert setback.happened()
    setback.shorten()
    assert not setback.happened()
