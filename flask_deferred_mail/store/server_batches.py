"""Many outcomes in one statement, on a server that can write several tables by one (PostgreSQL).

BEGIN, an UPDATE and two INSERT for each mail, and COMMIT: the server parses and plans each of them
anew, and each waits for the network. Here all of it travels once, as JSON that the server takes
apart, and the statement is its own transaction. A row is changed if its lease is still there,
whatever becomes of the others, and the server says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    Column,
    Connection,
    Double,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    false,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)

from ..job import ENDED, JobStatus
from .dialect import now, upsert
from .schema import attempts, jobs, recipients
from .server_calls import CallText

# Made once: json.dumps would make one per call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

#: Of :func:`.statements.outcome_of`, but for the fence and the delay.
_WRITTEN = (jobs.c.status, jobs.c.attempts, jobs.c.generation, jobs.c.recipients, jobs.c.last_error)
_LOGGED = tuple(column for column in attempts.c if not column.primary_key)
_INDEXED = tuple(recipients.c)
_ARRIVED = (JobStatus.SENT, JobStatus.PARTIAL)


def write_outcomes(
    connection: Connection,
    rows: Sequence[Mapping[str, Any]],
    indexed: Sequence[Mapping[str, Any]],
) -> set[int]:
    """Write rows, attempt log and index of addresses; the ``n`` of those that were written, which
    are the ones whose lease was not lost.

    Each of the rows holds the values of an outcome's statement, of its line in the log, its status
    and a number of its own, ``n``; each of ``indexed`` a line of the index, and the ``n`` of its
    mail.

    :raises sqlalchemy.exc.DBAPIError: nothing is written, or the connection was lost.
    """
    text = _text_for(connection)
    values = {"rows_": _encode(rows), "indexed_": _encode(indexed), "count_": len(rows)}
    return text.numbers(connection, values)


def _given(parameter: str, name: str, *columns: Any) -> Any:
    """A table that comes as JSON."""
    text = cast(bindparam(parameter, type_=Text()), JSON)
    named = [Column(column.key, column.type) for column in columns]
    table = func.json_to_recordset(text).table_valued(Column("n", Integer), *named)
    return table.render_derived(name, with_types=True)


def _held(given: Any) -> CTE:
    """Those whose lease is still there, locked in the order of their rows: so no two processes
    wait for each other."""
    # The server would expect a hundred rows, whatever comes, and go through a small table for one.
    given = select(given).limit(bindparam("count_")).subquery("given")
    fence = (jobs.c.id == given.c.job_) & (jobs.c.lease_token == given.c.token_)
    rows = select(given).join(jobs, fence).order_by(jobs.c.id).with_for_update(of=jobs)
    return rows.cte("held")


def _changed(held: CTE) -> CTE:
    """See :func:`.statements.outcome_of`, here for every status at once."""
    status = held.c.status
    values: dict[Any, Any] = {column.key: held.c[column.key] for column in _WRITTEN}
    values |= {
        "due_at": now() + held.c.delay_,
        "ended_at": case((status.in_(_spelled(*ENDED)), now())),
        "sent_at": case((status.in_(_spelled(*_ARRIVED)), now()), else_=jobs.c.sent_at),
        "deaths": literal_column("0"),
        "handing_over": false(),
        "lease_token": null(),
        "lease_owner": null(),
    }
    logged = [held.c[column.key] for column in _LOGGED if column.key in held.c]
    change = update(jobs).where(jobs.c.id == held.c.job_).values(values)
    return change.returning(held.c.n, *logged).cte("changed")


def _spelled(*statuses: JobStatus) -> list[Any]:
    return [literal_column(f"'{status.value}'") for status in sorted(statuses)]


def _statement() -> Any:
    fence = (Column("job_", jobs.c.id.type), Column("token_", jobs.c.lease_token.type))
    delay = Column("delay_", Double)
    rows = _given("rows_", "outcome", *fence, delay, *_WRITTEN, *_LOGGED)
    changed = _changed(_held(rows))
    lines = select(*(changed.c[column.key] for column in _LOGGED))
    logged = insert(attempts).from_select([column.key for column in _LOGGED], lines)
    index = _given("indexed_", "entry", *_INDEXED)
    entries = select(*(index.c[column.key] for column in _INDEXED)).join(
        changed, changed.c.n == index.c.n
    )
    indexed = upsert(recipients, "postgresql", "status", "provider_message_id").from_select(
        [column.key for column in _INDEXED], entries
    )
    return select(changed.c.n).add_cte(logged.cte("logged"), indexed.cte("indexed"))


_texts: dict[str, CallText] = {}


def _text_for(connection: Connection) -> CallText:
    """The statement, put together once for each driver."""
    dialect = connection.dialect
    if dialect.driver not in _texts:
        _texts[dialect.driver] = CallText(_statement().compile(dialect=dialect))
    return _texts[dialect.driver]
