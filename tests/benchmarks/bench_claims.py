"""How long taking a hundred mails lasts as finished rows pile up."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from tests.benchmarks.measuring import Scope, Series, in_turns, spread, table

_BATCH = 100

_ROWS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO deferred_mail_job (format, status, transport, priority, due_at, first_due_at,
    created_at, ended_at, sent_at, attempts, size, message_id, sender, subject, recipients, payload)
SELECT 1, :status, 'default', 0, :due + n * 0.001, :due + n * 0.001, :due, :ended + n * 0.001,
    :ended + n * 0.001, :attempts, 2300, '<' || hex(randomblob(16)) || '@example.com',
    'shop@example.com', 'Welcome to the shop',
    '[{"a": "ann' || n || '@example.com", "k": "to"}]', :payload
FROM numbers
"""


class _Grown:
    """A database with so many finished and waiting rows."""

    def __init__(self, folder: Path, finished: int, waiting: int) -> None:
        file = folder / f"{finished}-{waiting}.sqlite3"
        self.database = Database(f"sqlite:///{file}")
        self.claims = Claims(self.database, Lease(60, "bench"))
        self.jobs = JobStore(self.database)
        assert self.database.engine is not None  # makes the tables
        with closing(sqlite3.connect(file)) as connection:
            _insert(connection, finished, ended=True)
            _insert(connection, waiting, ended=False)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def claim(self) -> float:
        """Milliseconds that taking a hundred took; they are given back afterwards."""
        started = time.perf_counter()
        taken = self.claims.take("default", _BATCH)
        seconds = time.perf_counter() - started
        assert len(taken) == _BATCH
        self.jobs.give_back(taken)
        return seconds * 1000


def _insert(connection: sqlite3.Connection, count: int, *, ended: bool) -> None:
    then = time.time() - 86_400
    values = {
        "count": count,
        "status": "sent" if ended else "pending",
        "due": then,
        "ended": then if ended else None,
        "attempts": int(ended),
        "payload": "x" * 200,
    }
    statement = _ROWS
    if ended:
        # due_at is NULL in a row that nobody may take.
        statement = statement.replace(":due + n * 0.001", "NULL", 1)
    connection.execute(statement, values)
    connection.commit()


def run(scope: Scope) -> None:
    """Measure and print."""
    sizes = [(1_000, 2_000), (100_000, 2_000), (100_000, 50_000)]
    if not scope.quick:
        sizes.insert(2, (1_000_000, 2_000))
    grown = {_name(*size): _Grown(scope.folder, *size) for size in sizes}
    base = _name(*sizes[0])
    times = Series()
    for one in grown.values():
        one.claim()
    in_turns(scope.of(15, 5), list(grown), lambda name: times.add(name, grown[name].claim()))
    for one in grown.values():
        one.database.close()
    table(
        f"Claiming {_BATCH} mails",
        ("finished rows, waiting rows", "ms", "times the first line"),
        [(name, spread(times.of(name), 1), spread(times.ratios(name, base), 2)) for name in grown],
    )


def _name(finished: int, waiting: int) -> str:
    return f"{finished:,}, {waiting:,}"
