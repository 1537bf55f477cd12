"""Thousands or millions of rows by SQL alone, in seconds, for tests and benchmarks of growth.

A row is what recording, or sending, one mail with a short body leaves behind; its recipient's
address has the row's number in it. The database counts: no value travels but the first and the
last number.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    String,
    Table,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
)

from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.store import payload
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.rows import fresh_recipients, recipients_json
from flask_deferred_mail.store.schema import attempts, jobs, recipients
from tests.support.transport_calls import a_letter

#: Rows per transaction: some hundred megabytes of log at most.
_AT_ONCE = 500_000

_MARK = "NUMBER"
_ADDRESS = f"ann{_MARK}@example.net"
_LETTER = a_letter(_ADDRESS, text="Hello Ann\n" * 15)


def add_waiting(database: Database, count: int, **columns: Any) -> None:
    """Mails that have been due for an hour, a millisecond apart. ``columns`` change what is given
    for ``priority``, ``tenant`` and the like."""
    then = time.time() - 3_600
    _add(database, count, _job(JobStatus.PENDING, then, due_at=_after(then)) | _literals(columns))


def add_sent(database: Database, count: int, *, seconds_ago: float = 86_400.0) -> None:
    """Mails that were sent so long ago, a millisecond apart, each with its attempt and its line in
    the index of addresses."""
    then = time.time() - seconds_ago
    first = 1 + (database.read(lambda c: c.scalar(select(func.max(jobs.c.id)))) or 0)
    values = _job(JobStatus.SENT, then, ended_at=_after(then), sent_at=_after(then))
    values |= {"id": _NUMBER, "attempts": literal(1)}
    log = {
        "job_id": _NUMBER,
        "number": literal(1),
        "started_at": _after(then),
        "seconds": literal(0.1),
        "transport": literal("default"),
        "outcome": literal("sent"),
        "detail": literal("250 2.0.0 Ok: queued"),
    }
    index = {
        "job_id": _NUMBER,
        "position": literal(0),
        "address": _numbered(_ADDRESS),
        "kind": literal("to"),
        "status": literal("sent"),
    }
    for table, columns in ((jobs, values), (attempts, log), (recipients, index)):
        _add(database, count, columns, table, first)
    if database.backend.url.get_backend_name() == "postgresql":
        # Numbers given by hand leave its sequence behind.
        name = f"'{jobs.name}', 'id'"
        database.write(
            lambda c: c.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence({name}), {first + count - 1})"
            )
        )


_N = select(bindparam("first_", type_=Integer).label("n")).cte("numbers", recursive=True)
_N = _N.union_all(select(_N.c.n + 1).where(_N.c.n < bindparam("last_", type_=Integer)))
_NUMBER: ColumnElement[Any] = _N.c.n


def _add(
    database: Database,
    count: int,
    columns: dict[str, ColumnElement[Any]],
    table: Table = jobs,
    first: int = 1,
) -> None:
    rows = select(*columns.values()).select_from(_N)
    statement = insert(table).from_select(list(columns), rows)
    for start in range(first, first + count, _AT_ONCE):
        values = {"first_": start, "last_": min(start + _AT_ONCE, first + count) - 1}

        def work(connection: Connection, values: dict[str, int] = values) -> None:
            if connection.dialect.name == "mariadb":
                connection.exec_driver_sql(f"SET SESSION max_recursive_iterations = {_AT_ONCE}")
            connection.execute(statement, values)

        database.write(work)


def _job(status: JobStatus, then: float, **columns: Any) -> dict[str, ColumnElement[Any]]:
    people = fresh_recipients(_LETTER.recipients)
    if status is JobStatus.SENT:
        people = tuple(JobRecipient(p.address, p.kind, RecipientStatus.SENT) for p in people)
    given: dict[str, Any] = {
        "format": payload.PLAIN,
        "status": status.value,
        "transport": "default",
        "priority": 0,
        "first_due_at": _after(then),
        "created_at": _after(then),
        "attempts": 0,
        "size": _LETTER.size,
        "message_id": _numbered(f"<{_MARK}.bulk@example.com>"),
        "sender": _LETTER.sender.email,
        "subject": _LETTER.subject,
        "recipients": _numbered(recipients_json(people)),
        "payload": payload.dump(_LETTER)[0],
    }
    return _literals(given | columns)


def _literals(columns: dict[str, Any]) -> dict[str, ColumnElement[Any]]:
    return {
        name: value if isinstance(value, ColumnElement) else literal(value)
        for name, value in columns.items()
    }


def _after(then: float) -> ColumnElement[float]:
    """One millisecond later for each row."""
    return literal(then) + _NUMBER * 0.001


def _numbered(text: str) -> ColumnElement[str]:
    before, _, after = text.partition(_MARK)
    return literal(before) + cast(_NUMBER, String(12)) + literal(after)
