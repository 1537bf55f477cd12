"""What is given to the driver for a new row."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flask_deferred_mail.letter import Submission
from flask_deferred_mail.message import Defaults, Message
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore


def _submission(**fields: object) -> Submission:
    message = Message("Hello", ["ann@example.com"], "Hi", sender="shop@example.com")
    for name, value in fields.items():
        setattr(message, name, value)
    return message.check(Defaults(now=1_000_000_000.0))


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("expires_at", [None, 4_000_000_000.0])
@pytest.mark.parametrize("send_at", [None, 3_000_000_000.0])
def test_sqlite_is_given_no_null_and_no_boolean_that_is_false(
    tmp_path: Path, send_at: float | None, expires_at: float | None, transactional: bool
) -> None:
    """They cost its driver more than texts do; the row is the same without them."""
    submission = _submission(send_at=send_at, expires_at=expires_at, transactional=transactional)
    database = Database(f"sqlite:///{tmp_path}/db.sqlite3")
    driver: Any = database.read(lambda c: c.connection.dbapi_connection)
    statements: list[str] = []
    driver.set_trace_callback(statements.append)
    number = JobStore(database).add(submission).job.id
    database.close()
    inserted = next(sql for sql in statements if sql.startswith("INSERT"))
    assert "NULL" not in inserted
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        row = connection.execute(
            "SELECT transactional, expires_at, key, lease_token, max_attempts, due_at, "
            "first_due_at, created_at FROM deferred_mail_job WHERE id = ?",
            [number],
        ).fetchone()
    assert row[:5] == (transactional, expires_at, None, None, None)
    assert row[5] == row[6] == (row[7] if send_at is None else send_at)
