"""``send_many`` on every database: few statements, none too large, and everybody's own number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from flask_deferred_mail.letter import Part, Submission
from flask_deferred_mail.store import bulk
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import Added, JobStore
from flask_deferred_mail.store.outbox import Outbox
from flask_deferred_mail.store.schema import job_blobs, jobs
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

MANY = 1_000


@dataclass
class Post:
    """A database, and how many INSERTs of mails it was sent."""

    kind: str
    database: Database

    def __post_init__(self) -> None:
        self.jobs = JobStore(self.database)
        self.inserts = 0
        event.listen(self.database.engine, "before_cursor_execute", self._count)

    def _count(self, _c: Any, _cursor: Any, sql: str, *_rest: Any) -> None:
        self.inserts += sql.startswith(f"INSERT INTO {jobs.name} ")

    def add(self, *subjects: str, key: bool = False, **how: Any) -> list[Added]:
        return self.jobs.add_many([a_mail(s, key=s if key else None, **how) for s in subjects])

    def stored(self, column: Any = jobs.c.subject) -> dict[int, Any]:
        return dict(self.database.read(lambda c: c.execute(select(jobs.c.id, column)).all()))


def a_mail(subject: str, key: str | None = None, **how: Any) -> Submission:
    return Submission(a_letter(subject=subject, **how), key=key)


@pytest.fixture(params=DATABASES)
def post(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Post]:
    with fresh_database(request.param, tmp_path) as url:
        database = Database(url)
        database.create()
        yield Post(request.param, database)
        database.close()


@pytest.mark.parametrize("key", [False, True], ids=["no keys", "keys"])
def test_many_mails_travel_together(post: Post, key: bool) -> None:
    """A server is sent a thousand rows in a few statements; each mail learns its own number."""
    subjects = [f"number {n}" for n in range(MANY)]
    added = post.add(*subjects, key=key)
    assert {one.job.id: one.job.subject for one in added} == post.stored()
    assert [one.job.subject for one in added] == subjects
    if post.kind != "sqlite":
        assert post.inserts < MANY / 100


def test_a_joined_transaction_gets_them_together_as_well(post: Post) -> None:
    """In the caller's transaction too the numbers are right and the statements few."""
    mails = [a_mail(f"number {n}") for n in range(MANY)]
    with post.database.engine.connect() as connection:
        connection.begin()
        batch = Outbox(post.jobs).add(connection, mails, lambda batch: None)
        connection.commit()
    assert {one.job.id: one.job.subject for one in batch.added} == post.stored()
    if post.kind != "sqlite":
        assert post.inserts < MANY / 100


def test_a_statement_stays_smaller_than_a_packet(post: Post) -> None:
    """Mails that are too large for a packet together are recorded; MariaDB takes 16 MiB in one."""
    post.add(*[f"number {n}" for n in range(40)], text="x" * bulk.PORTION)
    assert sum(post.stored(jobs.c.size).values()) > 16 * 2**20
    if post.kind != "sqlite":
        assert post.inserts == 40


@pytest.mark.parametrize("before", [(), ("b",)], ids=["none there", "one there"])
def test_a_key_that_is_taken_gives_its_mail_back(post: Post, before: tuple[str, ...]) -> None:
    """Keys that are there already, and twice in one call: the first mail has it, the others go."""
    first = post.add(*before, key=True)
    added = post.add("a", "b", "a", "c", key=True)
    assert [one.created for one in added] == [True, not before, False, True]
    assert added[2].job.id == added[0].job.id
    if before:
        assert added[1].job.id == first[0].job.id
    assert sorted(post.stored().values()) == ["a", "b", "c"]


def test_mails_with_and_without_keys_mix(post: Post) -> None:
    """Order and numbers stay right where only some of the mails have a key."""
    mails = [a_mail(str(n), key=str(n // 2) if n % 3 else None) for n in range(12)]
    added = post.jobs.add_many(mails)
    stored = post.stored()
    for number, one in enumerate(added):
        if one.created:
            assert stored[one.job.id] == str(number)
        else:
            assert mails[number].key == one.job.key
    assert sum(one.created for one in added) == len(stored)
    assert [n for n, one in enumerate(added) if not one.created] == [5, 11]


def test_attachments_are_with_their_mail(post: Post) -> None:
    """Of mails recorded together, each has the files that it was given."""
    pdf = Part(b"%PDF", "application/pdf", "a.pdf")
    mails = [a_mail(str(n), parts=(pdf,) if n % 2 else ()) for n in range(6)]
    added = post.jobs.add_many(mails)
    found = post.database.read(lambda c: set(c.scalars(select(job_blobs.c.job_id))))
    assert found == {one.job.id for n, one in enumerate(added) if n % 2}
