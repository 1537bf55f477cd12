"""How each database finds what it is asked for: by an index, whatever lies in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.purge import Purge
from flask_deferred_mail.store.reports import Reports
from tests.support.databases import DATABASES, fresh_database
from tests.support.statements_run import watch_statements
from tests.support.transport_calls import a_letter

_JOB = "deferred_mail_job"
_COPIED = (
    "status, format, transport, tenant, priority, first_due_at, created_at, size, message_id, "
    "sender, subject, recipients, payload"
)
#: Doubles the table with finished mails that ended at different times.
_FINISH = (
    f"INSERT INTO {_JOB} ({_COPIED}, due_at, ended_at, attempts) "
    f"SELECT 'sent', {_COPIED.partition(', ')[2]}, NULL, created_at - id, 1 FROM {_JOB}"
)
_ANALYZE = {
    "sqlite": "ANALYZE",
    "postgresql": f"VACUUM ANALYZE {_JOB}",
    "mariadb": f"ANALYZE TABLE {_JOB}",
}
#: What says that the table itself was gone through, from its beginning to its end.
_WHOLE = {
    "sqlite": lambda line: line.endswith(f"SCAN {_JOB}'"),
    "postgresql": lambda line: f"Seq Scan on {_JOB}" in line,
    "mariadb": lambda line: f"'{_JOB}', 'ALL'" in line,
}
#: What says that rows were put in order, instead of read in order.
_SORTED = {"sqlite": "TEMP B-TREE", "postgresql": "Sort Key", "mariadb": "filesort"}


class Explained:
    """A database with many finished and some waiting mails, which explains what it is asked."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.database = kind, Database(url)
        self.database.create()
        self.claims = Claims(self.database, Lease(60, "host:1"))
        self.jobs = JobStore(self.database)
        self.reports = Reports(self.database)
        self.jobs.add_many([Submission(a_letter(), tenant=f"t{n % 4}") for n in range(250)])
        self.grow(5)
        self._asked: list[tuple[str, Any]] = []
        self.database.close()  # open connections are not watched
        watch_statements(self.database.engine, lambda *asked: self._asked.append(asked))

    def grow(self, times: int) -> None:
        for _ in range(times):
            self.database.write(lambda c: c.execute(text(_FINISH)))
        with self.database.engine.connect() as connection:
            own = connection.execution_options(isolation_level="AUTOCOMMIT")
            own.exec_driver_sql(_ANALYZE[self.kind])

    def plans(self, work: Callable[[], object]) -> list[str]:
        """The lines of the plans of all that ``work`` asks about mails."""
        self._asked.clear()
        work()
        asked = [(sql, values or None) for sql, values in self._asked if _JOB in sql]
        assert asked, "nothing was asked"
        explain = "EXPLAIN QUERY PLAN " if self.kind == "sqlite" else "EXPLAIN "
        found = []
        for sql, values in asked:
            if sql.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
                with self.database.engine.connect() as connection:
                    found += connection.exec_driver_sql(explain + sql, values).all()
        return [repr(tuple(row)).removesuffix(",)").removesuffix(")") for row in found]


@pytest.fixture(scope="module", params=DATABASES)
def explained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Explained]:
    with fresh_database(request.param, tmp_path_factory.mktemp("plans")) as url:
        made = Explained(request.param, url)
        yield made
        made.database.close()


def _assert_indexed(explained: Explained, plans: list[str]) -> None:
    whole = [line for line in plans if _WHOLE[explained.kind](line)]
    assert not whole, whole


def test_claims_read_by_index_and_in_order(explained: Explained) -> None:
    """Every step of a claim is a look into an index; nothing is sorted."""
    plans = explained.plans(lambda: explained.claims.take("default", 8))
    _assert_indexed(explained, plans)
    assert [line for line in plans if f"{_JOB}_claim" in line], plans
    assert not [line for line in plans if _SORTED[explained.kind] in line], plans


def test_finished_rows_change_nothing_about_a_claim(explained: Explained) -> None:
    """Four times as many of them: the same statements, by the same indexes."""

    def used() -> list[str]:
        plans = explained.plans(lambda: explained.claims.take("default", 8))
        _assert_indexed(explained, plans)
        return [name for line in plans for name in (f"{_JOB}_claim", f"{_JOB}_due") if name in line]

    used()
    before = used()
    explained.grow(2)
    assert used() == before


def test_the_newest_mails_are_read_in_order(explained: Explained) -> None:
    """``list`` reads as many rows as it shows, from the end of the primary key."""
    plans = explained.plans(lambda: explained.reports.listing())
    assert not [line for line in plans if _SORTED[explained.kind] in line], plans


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda e: e.claims.take("default", 8, suspects=True), id="suspects"),
        pytest.param(lambda e: e.claims.take_one(200), id="take_one"),
        pytest.param(lambda e: e.claims.transports_with_due(), id="transports_with_due"),
        pytest.param(lambda e: e.reports.next_due_in(), id="next_due_in"),
        pytest.param(lambda e: e.reports.backlog(), id="status"),
        pytest.param(lambda e: e.reports.oldest_due(1), id="oldest_due"),
        pytest.param(lambda e: e.reports.listing(key="k"), id="list-key"),
        pytest.param(lambda e: e.reports.listing(to="eve@example.net"), id="list-to"),
        pytest.param(lambda e: Purge(e.database).older_than(10**10, 100), id="purge"),
        *(
            pytest.param(lambda e, s=status: e.reports.listing(status=s), id=f"list-{status}")
            for status in JobStatus
        ),
    ],
)
def test_looks_use_indexes(explained: Explained, look: Callable[[Explained], object]) -> None:
    """What senders, people and monitors ask goes through no table from end to end."""
    _assert_indexed(explained, explained.plans(lambda: look(explained)))
