"""Purge and retention on every database: what goes, what stays, and who has to wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select, update

from flask_deferred_mail.errors import IllegalTransition, StoreError
from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.letter import Part, Submission
from flask_deferred_mail.store import purge, statements
from flask_deferred_mail.store.changes import Changes
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.purge import Purge
from flask_deferred_mail.store.reports import Reports
from flask_deferred_mail.store.schema import attempts, blobs, job_blobs, jobs, recipients
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

DAY = 86_400.0
PDF = Part(b"%PDF shared", "application/pdf", "a.pdf")
OWN = Part(b"own", "text/plain", "b.txt")


class Shop:
    """A database with mails that ended long ago."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.create()
        self.jobs = JobStore(self.database)
        self.claims = Claims(self.database, Lease(60, "host:1"))
        self.changes = Changes(self.database)
        self.purge = Purge(self.database)

    def add(self, *parts: Part, **how: Any) -> int:
        return self.jobs.add(Submission(a_letter(parts=parts), **how)).job.id

    def end(self, status: JobStatus = JobStatus.SENT, days_ago: float = 10) -> None:
        """Everything that is due ends, so many days ago."""
        fate = RecipientStatus.SENT if status is JobStatus.SENT else RecipientStatus.FAILED
        for claim in self.claims.take("default", 1_000):
            note = AttemptNote(time.time(), 0.1, "sent", "")
            to = tuple(JobRecipient(r.address, r.kind, fate) for r in claim.recipients)
            assert self.jobs.record(claim, Verdict(status, to, note, None))
            when = jobs.c.ended_at - days_ago * DAY
            self.write(update(jobs).where(jobs.c.id == claim.job_id).values(ended_at=when))

    def write(self, statement: Any) -> None:
        self.database.write(lambda c: c.execute(statement))

    def count(self, table: Any) -> int:
        return self.database.read(lambda c: c.scalar(select(func.count()).select_from(table)) or 0)

    def ids(self) -> list[int]:
        return self.database.read(lambda c: list(c.scalars(select(jobs.c.id).order_by(jobs.c.id))))


@pytest.fixture(params=DATABASES)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    with fresh_database(request.param, tmp_path) as url:
        made = Shop(url)
        yield made
        made.database.close()


@pytest.fixture(params=[kind for kind in DATABASES if kind != "sqlite"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """On a server, where two transactions can be open at a time."""
    with fresh_database(request.param, tmp_path) as url:
        made = Shop(url)
        yield made
        made.database.close()


@contextmanager
def commits(database: Database) -> Iterator[list[int]]:
    """Counts what each transaction deletes from the table of mails."""
    deleted: list[int] = []

    def note(_c: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("DELETE FROM deferred_mail_job WHERE"):
            deleted.append(cursor.rowcount)

    event.listen(database.engine, "after_cursor_execute", note)
    yield deleted
    event.remove(database.engine, "after_cursor_execute", note)


def test_old_mail_goes_in_bounded_transactions(shop: Shop) -> None:
    """With attempts, addresses and attachments; ``batch`` mails at a time, and nothing else."""
    for _ in range(7):
        shop.add(OWN)
    shop.end()
    for _ in range(2):
        shop.add(OWN)
    shop.end(JobStatus.FAILED)
    shop.add(PDF)
    shop.end(days_ago=1)
    recent, waiting = shop.ids()[-1], shop.add(PDF)
    with commits(shop.database) as deleted:
        assert shop.purge.older_than(5 * DAY, 3) == 9
    assert sorted(deleted) == [1, 2, 3, 3]
    assert shop.ids() == [recent, waiting]
    assert [shop.count(t) for t in (attempts, recipients)] == [1, 1]
    assert [shop.count(t) for t in (blobs, job_blobs)] == [1, 2]


def test_an_attachment_goes_with_the_last_mail_that_has_it(shop: Shop) -> None:
    """Not before, whoever else had it."""
    shop.add(PDF)
    shop.end()
    left = shop.add(PDF)
    shop.purge.older_than(DAY, 100)
    assert shop.ids() == [left]
    claim = shop.claims.take("default", 1)[0]
    assert shop.jobs.load(claim).parts == (PDF,)


def test_attachments_that_a_killed_purge_left_go_with_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mails and attachments go in transactions of their own; the second may never have come."""
    shop.add(PDF)
    shop.end()
    with monkeypatch.context() as broken:
        broken.setattr(Purge, "_drop_unused", lambda self: None)
        shop.purge.older_than(DAY, 100)
    assert (shop.ids(), shop.count(blobs)) == ([], 1)
    assert shop.purge.older_than(DAY, 100) == 0
    assert shop.count(blobs) == 0


def test_content_can_go_before_the_row(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipients, attempts and the row stay; younger and unfinished mail keeps its content."""
    monkeypatch.setattr(purge, "_PAGE", 2)
    old = [shop.add(PDF) for _ in range(5)]
    shop.end()
    shop.add(OWN)
    shop.end(days_ago=1)
    shop.add(PDF)
    assert shop.purge.empty_older_than(5 * DAY, 2) == 5
    assert shop.purge.empty_older_than(5 * DAY, 2) == 0
    assert len(shop.ids()) == 7
    assert [shop.count(t) for t in (attempts, recipients)] == [6, 6]
    assert [shop.count(t) for t in (blobs, job_blobs)] == [2, 2]
    reports = Reports(shop.database)
    assert [reports.emptied(i) for i in shop.ids()] == [True] * 5 + [False] * 2
    assert shop.jobs.get(old[0]).status == "sent"


def test_an_emptied_mail_cannot_be_retried_and_is_told_so(shop: Shop) -> None:
    """Nothing is sent empty: not by its number, not among all that failed, not by us."""
    emptied = shop.add()
    shop.end(JobStatus.FAILED)
    shop.purge.empty_older_than(DAY, 100)
    with pytest.raises(IllegalTransition, match="content was deleted"):
        shop.changes.retry(emptied)
    assert shop.changes.failed_ids() == []
    assert shop.jobs.reopen([emptied]) == 0


@contextmanager
def open_write(shop: Shop) -> Iterator[Connection]:
    """A transaction that is rolled back at the end."""
    with shop.database.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def test_what_somebody_has_in_hand_is_passed_over(served: Shop) -> None:
    """A failed mail that is being retried is not waited for, and not deleted."""
    kept, gone = served.add(), served.add()
    served.end(JobStatus.FAILED)
    with open_write(served) as connection:
        connection.execute(select(jobs.c.id).where(jobs.c.id == kept).with_for_update())
        assert served.purge.older_than(DAY, 100) == 1
        assert served.ids() == [kept]
    assert gone not in served.ids()


def test_an_attachment_that_is_being_recorded_again_stays(served: Shop) -> None:
    """A transaction that refers to it is open while the last other mail with it is purged."""
    served.add(PDF)
    served.end()
    row, pieces = served.jobs.written(Submission(a_letter(parts=(PDF,))))
    with served.database.engine.connect() as connection, connection.begin():
        job_id = statements.insert_row(connection, row)
        assert job_id is not None
        statements.insert_blobs(connection, job_id, pieces)
        assert served.purge.older_than(DAY, 100) == 1
    assert served.count(blobs) == 1
    claim = served.claims.take("default", 1)[0]
    assert served.jobs.load(claim).parts == (PDF,)


def test_an_attachment_that_goes_while_it_is_being_recorded_is_stored_again(
    served: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the recorder looked, and gone when it wanted to refer to it."""
    served.add(PDF)
    served.end()
    look = statements._there
    looks: list[set[str]] = []

    def look_and_wait(connection: Connection, digests: list[str]) -> set[str]:
        found = look(connection, digests)
        if not looks:
            looks.append(found)
            served.purge.older_than(DAY, 100)
        return found

    monkeypatch.setattr(statements, "_there", look_and_wait)
    new = served.add(PDF)
    assert looks == [{PDF.digest}]
    assert served.ids() == [new]
    claim = served.claims.take("default", 1)[0]
    assert served.jobs.load(claim).parts == (PDF,)


def test_two_who_record_one_attachment_do_not_wait_for_each_other(served: Shop) -> None:
    """The lock against purge is shared: an open transaction of one holds up nobody else."""
    served.add(PDF)
    row, pieces = served.jobs.written(Submission(a_letter(parts=(PDF,))))
    with open_write(served) as connection:
        job_id = statements.insert_row(connection, row)
        assert job_id is not None
        statements.insert_blobs(connection, job_id, pieces)
        with ThreadPoolExecutor() as others:
            assert others.submit(served.add, PDF).result(timeout=20) > 0


def test_recording_and_purging_the_same_attachment_all_the_time_loses_none(shop: Shop) -> None:
    """Every mail that was recorded can be loaded, whatever two purges did meanwhile."""
    over = threading.Event()
    faults: list[StoreError] = []

    def keep_purging() -> None:
        while not over.is_set():
            shop.purge.older_than(DAY, 3)

    def record() -> list[int]:
        return [shop.add(PDF, OWN) for _ in range(15)]

    def end_some() -> None:
        while not over.is_set():
            for claim in shop.claims.take("default", 2):
                try:
                    assert shop.jobs.load(claim).parts == (PDF, OWN)
                except StoreError as error:
                    faults.append(error)
                note = AttemptNote(time.time(), 0.1, "sent", "")
                shop.jobs.record(claim, Verdict(JobStatus.SENT, claim.recipients, note, None))
                when = jobs.c.ended_at - 10 * DAY
                shop.write(update(jobs).where(jobs.c.id == claim.job_id).values(ended_at=when))

    work: list[Callable[[], Any]] = [keep_purging, keep_purging, end_some]
    with ThreadPoolExecutor(max_workers=5) as threads:
        helpers = [threads.submit(one) for one in work]
        recorders = [threads.submit(record) for _ in range(2)]
        try:
            assert len({i for one in recorders for i in one.result(timeout=60)}) == 30
        finally:
            over.set()
        for helper in helpers:
            helper.result(timeout=60)
    assert faults == []
    shop.end()
    shop.purge.older_than(DAY, 100)
    assert [shop.count(t) for t in (jobs, blobs, job_blobs)] == [0, 0, 0]
