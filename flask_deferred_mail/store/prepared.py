"""Statements of the hot path: compiled once, run by the database's driver.

SQLAlchemy puts a statement together, looks it up in its cache, and builds a result around the
driver's cursor each time: some 100 microseconds of CPU, half as much again as SQLite needs to
commit the row. What every mail needs is run often enough to leave that out.
The SQL is still SQLAlchemy's own, the connection is one of its pool, and what the driver raises
is raised as SQLAlchemy would raise it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import UpdateBase

#: Where the value of a parameter comes from: its name, and what it is if nobody gives one.
_Places = tuple[tuple[str, Any], ...]

_REQUIRED = object()


class Prepared:
    """An INSERT, UPDATE or SELECT, to be run with a value for each parameter.

    The names of the values given decide which columns are written, as with SQLAlchemy. Not for
    parameters that expand (``IN``), nor for types that the driver does not take or give by itself
    (it gives booleans as 0 and 1).
    """

    def __init__(self, statement: UpdateBase | Select[Any]) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, ...], tuple[str, _Places]] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Run it once. Returns the driver's cursor (``rowcount``, ``lastrowid``), or SQLAlchemy's
        result where a round trip to a server costs more than what is saved here.

        :raises sqlalchemy.exc.DBAPIError: the database refused or failed.
        """
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, dict(values))
        sql, places = self._prepare(connection, values)
        return run_sql(connection, sql, _parameters(places, values))

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All that a SELECT finds. Raises as :meth:`run`."""
        return [tuple(row) for row in self.run(connection, values).fetchall()]

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
        sql, places = self._prepare(connection, rows[0])
        cursor = run_sql_for_each(connection, sql, [_parameters(places, row) for row in rows])
        return int(cursor.rowcount)

    def _prepare(self, connection: Connection, values: Mapping[str, Any]) -> tuple[str, _Places]:
        names = tuple(values)
        found = self._compiled.get(names)
        if found is None:
            found = self._compiled[names] = self._compile(connection, names)
        return found

    def _compile(self, connection: Connection, names: tuple[str, ...]) -> tuple[str, _Places]:
        written = None
        if isinstance(self._statement, UpdateBase):
            columns = {column.key for column in self._statement.table.columns}
            written = [name for name in names if name in columns]
        compiled: Any = self._statement.compile(dialect=connection.dialect, column_keys=written)
        places = tuple((name, _default(compiled.binds[name])) for name in compiled.positiontup)
        return str(compiled), places


def run_sql(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """Run SQL text as the driver takes it. Returns the driver's cursor.

    :raises sqlalchemy.exc.DBAPIError: the database refused or failed. No value is in it.
    """
    cursor = connection.connection.cursor()
    return _run(connection, sql, cursor, cursor.execute, parameters)


def run_sql_for_each(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> Any:
    """:func:`run_sql` for each row of parameters; the cursor's ``rowcount`` is of all of them."""
    cursor = connection.connection.cursor()
    return _run(connection, sql, cursor, cursor.executemany, rows)


def _run(
    connection: Connection, sql: str, cursor: Any, run: Callable[..., Any], parameters: Any
) -> Any:
    try:
        run(sql, parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        if connection.dialect.is_disconnect(error, connection.connection, cursor):
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, connection.dialect.loaded_dbapi.Error, dialect=connection.dialect
        ) from error
    return cursor


def _default(parameter: Any) -> Any:
    return _REQUIRED if parameter.required else parameter.effective_value


def _parameters(places: _Places, values: Mapping[str, Any]) -> list[Any]:
    found = [values.get(name, default) for name, default in places]
    if _REQUIRED in found:
        missing = [name for name, default in places if name not in values and default is _REQUIRED]
        raise TypeError(f"no value for {', '.join(missing)}")
    return found
