"""Statements of the hot path: compiled once, run by the database's driver.

SQLAlchemy puts a statement together, looks it up in its cache, and builds a result around the
driver's cursor each time: some 100 microseconds of CPU, half as much again as SQLite needs to
commit the row. What every mail needs is run often enough to leave that out.
The SQL is still SQLAlchemy's own, the connection is one of its pool, and what the driver raises
is raised as SQLAlchemy would raise it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.sql.dml import Insert, UpdateBase

from .dialect import HOST_CLOCK
from .server_text import ServerText

#: Values in one statement at most: SQLite before 3.32 takes no more than 999.
_MOST_VALUES = 900
#: The first SQLite with ``UPDATE ... FROM``.
_UPDATE_FROM = (3, 33)


class Prepared:
    """An INSERT, UPDATE or SELECT, to be run with a value for each parameter.

    The names of the values given decide which columns are written, as with SQLAlchemy. Not for
    parameters that expand (``IN``), nor for types that the driver does not take or give by itself
    (it gives booleans as 0 and 1).
    """

    def __init__(self, statement: UpdateBase | Select[Any]) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, ...], _Text] = {}
        self._for_servers: dict[tuple[str, ...], ServerText] = {}
        #: The same for SQLite with one value for all that it finds.
        self._as_one: Prepared | None = None

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Run it once. Returns the driver's cursor (``rowcount``; of an INSERT ``lastrowid``, or
        on PostgreSQL a row with the number).

        :raises sqlalchemy.exc.DBAPIError: the database refused or failed.
        """
        text: _Text | ServerText
        if connection.dialect.name == "sqlite":
            text = self._prepare(connection, values)
        else:
            text = self._prepare_for_server(connection, values)
        return run_sql(connection, text.sql, text.parameters(values))

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All that a SELECT finds. Raises as :meth:`run`."""
        return self.run(connection, values).fetchall()  # type: ignore[no-any-return]

    def rows_at_once(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """:meth:`rows` of many columns, which must have names, while other threads are at work.

        Python's driver for SQLite lets go of the interpreter's lock for each value of each row,
        and waits for it again behind every thread that wants it; so there all of them come as one
        value. (As JSON, which has no bytes, and tells times to ten microseconds.)
        """
        if connection.dialect.name != "sqlite":
            return self.rows(connection, values)
        if self._as_one is None:
            self._as_one = Prepared(_as_one_value(self._statement))
        try:
            return json.loads(self._as_one.scalar(connection, values))  # type: ignore[no-any-return]
        except OperationalError as error:
            if "json" not in str(error.orig):
                raise
            return self.rows(connection, values)  # a SQLite that was built without it

    def scalar(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The first value that a SELECT finds; ``None`` if there is none. Raises as :meth:`run`."""
        rows = self.rows(connection, values)
        return rows[0][0] if rows else None

    def run_each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each of the rows, which all give the same names; the rows that it changed."""
        if connection.dialect.name != "sqlite":
            return int(connection.execute(self._statement, [dict(row) for row in rows]).rowcount)
        if not rows:
            return 0
        text = self._prepare(connection, rows[0])
        if len(rows) == 1:
            return int(run_sql(connection, text.sql, text.parameters(rows[0])).rowcount)
        if text.for_many is None:
            parameters = [text.parameters(row) for row in rows]
            return int(run_sql_for_each(connection, text.sql, parameters).rowcount)
        changed = 0
        for some in _portions(rows, _MOST_VALUES // text.for_many.values_in_a_row):
            sql, values = text.for_many.of(some)
            changed += run_sql(connection, sql, values).rowcount
        return changed

    def _prepare(self, connection: Connection, values: Mapping[str, Any]) -> _Text:
        names = tuple(values)
        found = self._compiled.get(names)
        if found is None:
            found = self._compiled[names] = self._compile(connection, names)
        return found

    def _prepare_for_server(self, connection: Connection, values: Mapping[str, Any]) -> ServerText:
        key = (connection.dialect.driver, *values)
        found = self._for_servers.get(key)
        if found is None:
            found = self._for_servers[key] = ServerText(self._sql(connection, key[1:]))
        return found

    def _sql(self, connection: Connection, names: tuple[str, ...]) -> Any:
        """The statement as SQLAlchemy puts it together for values of these names."""
        statement, dialect = self._statement, connection.dialect
        if not isinstance(statement, UpdateBase):
            return statement.compile(dialect=dialect)
        columns = {column.key for column in statement.table.columns}
        written = [name for name in names if name in columns]
        return statement.compile(dialect=dialect, column_keys=written)

    def _compile(self, connection: Connection, names: tuple[str, ...]) -> _Text:
        statement, dialect = self._statement, connection.dialect
        text = _Text(self._sql(connection, names))
        if not isinstance(statement, UpdateBase):
            return text
        if isinstance(statement, Insert):
            text.for_many = _ManyInserts(text)
        elif (dialect.server_version_info or ()) >= _UPDATE_FROM:
            text.for_many = _ManyUpdates(text, names)
        return text


def _as_one_value(statement: Any) -> Select[Any]:
    """A SELECT of all that ``statement`` finds, in its order, as one JSON text."""
    found = statement.subquery()
    return select(func.json_group_array(func.json_array(*found.c)))


class _Text:
    """SQL as the driver takes it, and which value stands in which place."""

    def __init__(self, compiled: Any) -> None:
        self.sql = str(compiled)
        self.places: list[str] = compiled.positiontup
        self.tells_time = HOST_CLOCK in self.places
        #: What a parameter is if nobody gives a value.
        self.constants = {
            name: compiled.binds[name].effective_value
            for name in self.places
            if name != HOST_CLOCK and not compiled.binds[name].required
        }
        #: How it is run for many rows in one step, where that is possible.
        self.for_many: _ManyInserts | _ManyUpdates | None = None
        self._pick = picker(self.places)

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values in the order of their places."""
        all_values = {**self.constants, **values}
        if self.tells_time:
            all_values[HOST_CLOCK] = time.time()
        try:
            return self._pick(all_values)  # type: ignore[no-any-return]  # made by picker
        except KeyError:
            missing = [name for name in self.places if name not in all_values]
            raise TypeError(f"no value for {', '.join(missing)}") from None


# -- many rows in one step ----------------------------------------------------------------------
#
# ``executemany`` lets go of the interpreter's lock twice a row, and waits for it again behind
# every thread that wants it: among sixteen senders, eight rows took 5 ms instead of one half, with
# the database's write lock held.


class _ManyInserts:
    """An INSERT with as many rows of ``VALUES`` as there are to insert."""

    def __init__(self, text: _Text) -> None:
        self._text = text
        start = text.sql.index(" VALUES (") + len(" VALUES ")
        end = _end_of_parentheses(text.sql, start)
        self._head, self._row, self._tail = text.sql[:start], text.sql[start:end], text.sql[end:]
        self.values_in_a_row = len(text.places)

    def of(self, rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
        sql = self._head + ", ".join([self._row] * len(rows)) + self._tail
        return sql, [value for row in rows for value in self._text.parameters(row)]


class _ManyUpdates:
    """``UPDATE ... FROM (VALUES ...)``: what differs from row to row comes from a table of values,
    whose columns SQLite calls ``column1`` and so on."""

    def __init__(self, text: _Text, names: tuple[str, ...]) -> None:
        self._text = text
        self._names = names
        self.values_in_a_row = len(names)
        change, _, condition = text.sql.partition(" WHERE ")
        in_change = change.count("?")
        self._head, self._before = self._from_values(change, text.places[:in_change])
        self._tail, self._after = self._from_values(condition, text.places[in_change:])
        self._row = f"({', '.join('?' * len(names))})"
        self._pick = picker(names)

    def _from_values(self, sql: str, places: Sequence[str]) -> tuple[str, list[str]]:
        """The SQL with given values replaced; and the names of those that stay parameters."""
        pieces = sql.split("?")
        done, same_for_all = pieces[0], []
        for name, piece in zip(places, pieces[1:], strict=True):
            if name in self._names:
                done += f"given.column{self._names.index(name) + 1}{piece}"
            else:
                done += f"?{piece}"
                same_for_all.append(name)
        return done, same_for_all

    def of(self, rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
        table = ", ".join([self._row] * len(rows))
        sql = f"{self._head} FROM (VALUES {table}) AS given WHERE {self._tail}"
        same = self._text.constants
        if self._text.tells_time:
            same = {**same, HOST_CLOCK: time.time()}
        values = [same[name] for name in self._before]
        for row in rows:
            values += self._pick(row)
        return sql, values + [same[name] for name in self._after]


def _end_of_parentheses(sql: str, start: int) -> int:
    """Where the parentheses end that open at ``start``. Ours hold no quoted text."""
    depth, end = 1, start + 1
    while depth:
        depth += (sql[end] == "(") - (sql[end] == ")")
        end += 1
    return end


def _portions(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def picker(names: Sequence[str]) -> Any:
    """A function that takes the values of these names out of a mapping, as a tuple. (In C, unlike
    a comprehension: three times as fast.)"""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])


# -- the driver ---------------------------------------------------------------------------------


def run_sql(
    connection: Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> Any:
    """Run SQL text as the driver takes it. Returns the driver's cursor.

    :raises sqlalchemy.exc.DBAPIError: the database refused or failed. No value is in it.
    """
    cursor = None
    try:
        cursor = _cursor(connection)
        cursor.execute(sql, parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        raise explained(connection, sql, cursor, error) from error
    return cursor


def run_sql_for_each(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> Any:
    """:func:`run_sql` for each row of parameters; the cursor's ``rowcount`` is of all of them."""
    cursor = None
    try:
        cursor = _cursor(connection)
        cursor.executemany(sql, rows)
    except connection.dialect.loaded_dbapi.Error as error:
        raise explained(connection, sql, cursor, error) from error
    return cursor


def _cursor(connection: Connection) -> Any:
    driver: Any = connection.connection.dbapi_connection
    return driver.cursor()


def explained(connection: Connection, sql: str, cursor: Any, error: Any) -> Any:
    """What the driver raised, as SQLAlchemy would raise it."""
    dialect = connection.dialect
    lost = dialect.is_disconnect(error, connection.connection, cursor)
    if lost:
        connection.invalidate(error)
    base = dialect.loaded_dbapi.Error
    return DBAPIError.instance(sql, None, error, base, connection_invalidated=lost, dialect=dialect)
