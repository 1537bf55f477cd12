"""Many new rows in few statements: a server takes hundreds of rows in the time of one round trip.

Portions are bounded in bytes, since a statement has to fit into one packet (``max_allowed_packet``
of MariaDB and MySQL), and in rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from .schema import jobs
from .statements import (
    insert_of_caller,
    insert_row,
    insert_row_of_caller,
    is_key_taken,
)

#: Characters of text in one statement, about; escaped and in UTF-8 it can be some times as many
#: bytes. A larger row has a statement of its own.
PORTION = 500_000
#: More of them gain nothing.
_ROWS = 250

Row = dict[str, Any]


def insert_rows(connection: Connection, rows: Sequence[Row]) -> list[int | None]:
    """The numbers of new rows, in their order; ``None`` for each whose key is taken."""
    if not _in_bulk(connection):
        return [insert_row(connection, row) for row in rows]
    numbers: list[int | None] = []
    for portion in _portions(rows):
        if portion[0]["key"] is None:
            numbers += _insert_plain(connection, portion)
        elif connection.dialect.name == "postgresql":
            numbers += _insert_giving_way(connection, portion)
        else:
            numbers += _insert_hoping(connection, portion)
    return numbers


def insert_rows_of_caller(connection: Connection, rows: Sequence[Row]) -> list[int | None]:
    """:func:`insert_rows` on a connection that is not ours, for rows without keys."""
    if not _in_bulk(connection):
        return [insert_row_of_caller(connection, row) for row in rows]
    return [number for some in _portions(rows) for number in _insert_plain(connection, some)]


def _in_bulk(connection: Connection) -> bool:
    dialect = connection.dialect
    # SQLite is in this process: nothing is gained. MySQL does not tell the numbers of many rows.
    return dialect.name != "sqlite" and dialect.insert_executemany_returning_sort_by_parameter_order


def _portions(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Neighbours that go into one statement; all of them have a key, or none has."""
    portion: list[Row] = []
    size = 0
    for row in rows:
        length = len(row["payload"]) + len(row["recipients"]) + len(row["subject"])
        full = size + length > PORTION or len(portion) == _ROWS
        if portion and (full or (portion[0]["key"] is None) != (row["key"] is None)):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += length
    if portion:
        yield portion


def _insert_plain(connection: Connection, rows: list[Row]) -> list[int | None]:
    statement = _telling_numbers(connection.dialect.name)
    return [int(number) for number in connection.scalars(statement, rows)]


def _insert_giving_way(connection: Connection, rows: list[Row]) -> list[int | None]:
    """PostgreSQL: of rows with the same key, the first one is inserted."""
    found = connection.execute(_telling_keys(), rows)
    numbers = {(row.tenant, row.key): int(row.id) for row in found}
    return [numbers.pop((row["tenant"], row["key"]), None) for row in rows]


def _insert_hoping(connection: Connection, rows: list[Row]) -> list[int | None]:
    """MariaDB: a key that is taken undoes the statement, not the transaction around it."""
    try:
        return _insert_plain(connection, rows)
    except IntegrityError as error:
        if not is_key_taken(error):
            raise
    return [insert_row(connection, row) for row in rows]


@cache
def _telling_numbers(dialect: str) -> Any:
    statement = insert_of_caller(dialect, keyed=False)
    return statement.returning(jobs.c.id, sort_by_parameter_order=True)


@cache
def _telling_keys() -> Any:
    statement = insert_of_caller("postgresql", keyed=True)
    return statement.returning(jobs.c.id, jobs.c.tenant, jobs.c.key)
