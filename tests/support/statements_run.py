"""Which statements reach the driver of a database, whoever sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

#: Takes the SQL and its parameters; SQLite tells no parameters, its SQL has them already.
Note = Callable[[str, Any], object]


def watch_statements(engine: Engine, note: Note) -> None:
    """Tell of each statement that connections run which this engine hands out from now on.

    Of BEGIN and COMMIT only SQLite tells: for a server they are the driver's own.
    """

    def trace(connection: Any, *_rest: object) -> None:
        connection.set_trace_callback(lambda sql: note(sql, None))

    def watch(connection: Any, *_rest: object) -> None:
        factory = "cursor_factory" if hasattr(connection, "cursor_factory") else "cursorclass"
        cursor = getattr(connection, factory)
        if not hasattr(cursor, "told"):
            setattr(connection, factory, _noting(cursor, note))

    event.listen(engine, "checkout", trace if engine.dialect.name == "sqlite" else watch)


def _noting(cursor: Any, note: Note) -> Any:
    """A class of cursors that tells what it runs; ``executemany`` tells of the first row."""

    class Noting(cursor):  # type: ignore[misc]
        def execute(self, sql: str, parameters: Any = None, **how: Any) -> Any:
            if not self.told:
                note(sql, parameters)
            return super().execute(sql, parameters, **how)

        def executemany(self, sql: str, rows: Any, **how: Any) -> Any:
            note(sql, rows[0])
            self.told = True  # PyMySQL runs the rows one by one
            try:
                return super().executemany(sql, rows, **how)
            finally:
                self.told = False

        told = False

    return Noting
