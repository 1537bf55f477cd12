"""How much a database goes through for a piece of work, by its own count: no clock is involved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from flask_deferred_mail.store.database import Database

T = TypeVar("T")

_POSTGRESQL = (
    "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) "
    "FROM pg_stat_xact_user_tables"
)
_MARIADB = "SHOW SESSION STATUS LIKE 'Handler_read%%'"
#: SQLite counts instructions; a row that is only looked at takes some three of them.
_INSTRUCTIONS = 10


class RowsRead:
    """Counts what the transactions of a database read, from when it is made.

    ``rows`` are rows read or, on SQLite, tens of instructions: less than a third of the rows
    that were looked at, if anything were gone through.
    """

    def __init__(self, database: Database, monkeypatch: Any) -> None:
        self.rows = 0
        self._write = database.write
        monkeypatch.setattr(database, "write", self._counted)

    def _counted(self, work: Callable[[Connection], T], **how: Any) -> T:
        def counting(connection: Connection) -> T:
            if connection.dialect.name == "sqlite":
                return self._count_instructions(work, connection)
            before = _read_so_far(connection)
            result = work(connection)
            self.rows += _read_so_far(connection) - before
            return result

        return self._write(counting, **how)

    def _count_instructions(self, work: Callable[[Connection], T], connection: Connection) -> T:
        def tick() -> int:
            self.rows += 1
            return 0

        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(tick, _INSTRUCTIONS)
        try:
            return work(connection)
        finally:
            driver.set_progress_handler(None, 0)


def _read_so_far(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        return int(connection.exec_driver_sql(_POSTGRESQL).scalar() or 0)
    return sum(int(row[1]) for row in connection.exec_driver_sql(_MARIADB))
