"""One call of libpq for one statement, instead of a dozen.

psycopg sends, flushes, waits, reads and asks for each result by a call of its own, and each lets go
of the interpreter's lock and waits for it again behind every thread that wants it: 11 times a
statement, half of all that a worker of sixteen senders let go of. ``PQexecParams`` does the whole
of it without the lock, once.

It cannot be broken off, as psycopg's waiting can: so not in the main thread, where a signal is to
be heard while the server is silent.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from .prepared import explained, run_sql
from .server_text import ServerText


class CallText(ServerText):
    """A statement of whose results only the first column is wanted, for psycopg and for libpq."""

    def __init__(self, compiled: Any) -> None:
        super().__init__(compiled)
        #: Whose value ``$1`` is, and so on. (Of their type the statement tells.)
        self._places = tuple(compiled.params)
        self._numbered = (self.sql % {n: f"${i}" for i, n in enumerate(self._places, 1)}).encode()

    def numbers(self, connection: Connection, values: Mapping[str, Any]) -> set[int]:
        """Run it; what its only column holds. ``connection`` is of psycopg.

        :raises sqlalchemy.exc.DBAPIError: the server refused or failed, or the connection was lost.
        :raises UnicodeEncodeError: the connection's encoding has no such character.
        """
        driver: Any = connection.connection.dbapi_connection
        psycopg: Any = connection.dialect.loaded_dbapi
        if not _fits(psycopg, driver):
            rows = run_sql(connection, self.sql, self.parameters(values)).fetchall()
            return {number for (number,) in rows}
        encoding = driver.info.encoding
        given = [str(values[name]).encode(encoding) for name in self._places]
        try:
            result = driver.pgconn.exec_params(self._numbered, given)
            if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
                raise _error_of(psycopg, driver, result, encoding)
        except psycopg.Error as error:
            raise explained(connection, self.sql, None, error) from error
        return {int(result.get_value(row, 0)) for row in range(result.ntuples)}


def _fits(psycopg: Any, driver: Any) -> bool:
    """Whether this connection may be asked past psycopg.

    Not if psycopg would have something to do first: BEGIN, or to prepare the statement as the URL
    asks for it. Nor where waiting is to let others run (gevent), which psycopg knows.
    """
    return (
        driver.autocommit
        and driver.prepare_threshold is None
        and psycopg.waiting.wait is getattr(psycopg.waiting, "wait_c", None)
        and threading.current_thread() is not threading.main_thread()
    )


def _error_of(psycopg: Any, driver: Any, result: Any, encoding: str) -> Any:
    """What psycopg would have raised."""
    error = psycopg.errors.error_from_result(result, encoding)
    return psycopg.OperationalError(str(error)) if driver.closed else error
