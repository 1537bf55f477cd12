"""Connections that stay open between two transactions, for a database that is a file.

SQLAlchemy's pool takes some 50 microseconds to hand out a connection and to take it back: a third
of what recording a mail costs beside the INSERT itself. A connection that is its holder's own until
it is put back needs nothing of that.
"""

from __future__ import annotations

from collections import deque

from sqlalchemy import Connection, Engine, event


class KeptConnections:
    """Idle connections of one engine; each belongs to one user at a time."""

    #: Idle connections kept at most; more are given back to the pool.
    most = 16

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # append and pop of a deque need no lock, so a fork cannot copy a locked one.
        self._idle: deque[Connection] = deque()
        self._closed = False
        event.listen(engine, "engine_disposed", self._close)

    def take(self) -> Connection:
        """An open connection that is in no transaction; it is the caller's now."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _open(self) -> Connection:
        return self.engine.connect()

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next one, if it is fit for that."""
        if connection.in_transaction():
            # SQLAlchemy's notion of one: the driver is in AUTOCOMMIT.
            connection.rollback()
        if self._closed or connection.invalidated or len(self._idle) >= self.most:
            connection.close()
        else:
            self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """It met an error: nobody shall use it again as it is."""
        connection.close()

    @property
    def is_empty(self) -> bool:
        """Whether no idle connection is open."""
        return not self._idle

    def _close(self, _engine: Engine) -> None:
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            # Back in a pool that was emptied just now, it would stay open.
            connection.detach()
            connection.close()
