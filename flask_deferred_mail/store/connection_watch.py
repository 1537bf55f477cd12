"""Follows one connection that somebody else began a transaction on.

SQLAlchemy tells of a COMMIT *before* it is run, and only of errors afterwards. So a commit is first
noted, and believed when the connection is next used, given back, or asked about.
"""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from .fate import Batch, Fate

_INFO = "flask_deferred_mail.watch"
_known: weakref.WeakSet[Engine] = weakref.WeakSet()
_watches: weakref.WeakKeyDictionary[Connection, list[ConnectionWatch]] = weakref.WeakKeyDictionary()


class ConnectionWatch:
    """The batches that wait for the end of a connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        #: Savepoints that are open, and each batch with those that it was written in.
        self._savepoints: list[str] = []
        self._open: list[tuple[frozenset[str], Batch]] = []
        self._committing: list[Batch] = []
        _watches.setdefault(connection, []).append(self)
        for name in _TOLD:
            event.listen(connection, name, getattr(self, f"_{name}"))
        if connection.engine not in _known:
            _known.add(connection.engine)
            event.listen(connection.engine, "checkin", _checked_in)
            event.listen(connection.engine, "handle_error", _failed)

    def add(self, connection: Connection, batch: Batch) -> None:
        """Follow a batch whose rows have just been written."""
        self._open.append((frozenset(self._savepoints), batch))
        connection.info.setdefault(_INFO, []).append(self)

    def confirm(self) -> None:
        """Believe a commit that has passed. Not to be called while it is being run."""
        self._settle_committing(Fate.COMMITTED)

    def commit_failed(self) -> None:
        """If a commit was being run, it has not happened, or nobody knows."""
        self._settle_committing(Fate.ROLLED_BACK)

    def _settle_committing(self, fate: Fate) -> None:
        batches, self._committing = self._committing, []
        for batch in batches:
            batch.settle(fate)

    # -- what the connection tells ----------------------------------------------------------

    def _begin(self, _connection: Connection) -> None:
        self.confirm()

    def _begin_twophase(self, _connection: Connection, _xid: Any) -> None:
        self.confirm()

    def _commit(self, _connection: Connection) -> None:
        self._committing += [batch for _, batch in self._open]
        self._end()

    def _rollback(self, _connection: Connection) -> None:
        for _, batch in self._open:
            batch.settle(Fate.ROLLED_BACK)
        self._end()

    def _end(self) -> None:
        self._open, self._savepoints = [], []

    def _commit_twophase(self, connection: Connection, _xid: Any, _prepared: bool) -> None:
        self._commit(connection)

    def _rollback_twophase(self, connection: Connection, _xid: Any, _prepared: bool) -> None:
        self._rollback(connection)

    def _savepoint(self, _connection: Connection, name: str) -> None:
        self._savepoints.append(name)

    def _release_savepoint(self, _connection: Connection, name: str, _context: None) -> None:
        if name in self._savepoints:
            del self._savepoints[self._savepoints.index(name) :]

    def _rollback_savepoint(self, connection: Connection, name: str, context: None) -> None:
        # One that is older than the watch has all that the watch has seen inside it.
        older = name not in self._savepoints
        for savepoints, batch in self._open:
            if older or name in savepoints:
                batch.settle(Fate.ROLLED_BACK)
        self._open = [(names, batch) for names, batch in self._open if batch.fate is Fate.OPEN]
        self._release_savepoint(connection, name, context)


_TOLD = (
    *("begin", "commit", "rollback"),
    *("begin_twophase", "commit_twophase", "rollback_twophase"),
    *("savepoint", "release_savepoint", "rollback_savepoint"),
)


def _checked_in(_connection: Any, record: Any) -> None:
    for watch in record.info.pop(_INFO, ()):
        watch.confirm()


def _failed(context: ExceptionContext) -> None:
    if context.connection is not None:
        for watch in _watches.get(context.connection, ()):
            watch.commit_failed()
