"""Rows in the caller's transaction: written here, committed or rolled back by the caller.

One INSERT, on the caller's connection, and no commit of ours. It goes past the session's unit of
work: nothing of the caller's is flushed by it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from .. import crashpoints
from ..job import Job
from ..letter import Submission
from . import bulk, schema, statements
from .application_database import savepoints_hold
from .caller import Homes, caller, in_transaction
from .connection_watch import ConnectionWatch
from .database import Database
from .fate import Batch, Fate
from .jobs import Added, JobStore
from .session_watch import SessionWatch

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from .caller import Caller

#: A mail as it is written: what was submitted, its row, its attachments by digest.
_Prepared = tuple[Submission, dict[str, Any], dict[str, bytes]]


class Outbox:
    """Records mail in transactions of others."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._database: Database = store.database
        #: The application's engine for our tables, where a session has several (``bind_key=``).
        self.engine: Engine | None = None
        self._homes = Homes(self._database)
        self._lock = threading.Lock()
        self._sessions: weakref.WeakKeyDictionary[Session, SessionWatch] = (
            weakref.WeakKeyDictionary()
        )
        self._connections: weakref.WeakKeyDictionary[Connection, ConnectionWatch] = (
            weakref.WeakKeyDictionary()
        )

    def add(
        self,
        given: Any,
        submissions: Sequence[Submission],
        committed: Callable[[Batch], None],
    ) -> Batch:
        """Record mails in the transaction of a session or connection; all of them, or none.

        ``committed`` is called once they are real, after the commit: what it raises is logged.

        :raises TypeError: ``given`` is neither a session nor a connection.
        :raises StoreError: nothing was recorded. What the database said is its ``__cause__``;
            whether the caller's transaction can go on is the database's own rule.
        """
        whose = caller(given)
        try:
            connection = self._connection_of(whose)
            self._homes.check(connection)
            added = self._insert(connection, [(s, *self._store.written(s)) for s in submissions])
            open_still = in_transaction(connection)
        except SQLAlchemyError as error:
            raise self._database.backend.explain(error) from error
        crashpoints.reached("after-joined-insert")
        batch = Batch(added, committed)
        if open_still:
            self._follow(whose, batch)
        else:
            batch.settle(Fate.COMMITTED)
        return batch

    def savepoints_hold(self) -> bool:
        """See :func:`.application_database.savepoints_hold`; only known of ``db=``.

        :raises StoreError: the application's database cannot be reached.
        """
        try:
            return self.engine is None or savepoints_hold(self.engine)
        except SQLAlchemyError as error:
            raise self._database.backend.explain(error) from error

    def confirm(self) -> None:
        """Believe the commits of connections that have passed: nothing tells of them in time."""
        with self._lock:
            watched = list(self._connections.items())
        for connection, watch in watched:
            if connection.get_transaction() is None:
                watch.confirm()

    # -- whose transaction ------------------------------------------------------------------

    def _connection_of(self, whose: Caller) -> Connection:
        if isinstance(whose, Connection):
            return whose
        # Not execute(), which would flush the caller's objects first.
        if self.engine is not None and whose.bind is None:
            return whose.connection(bind_arguments={"bind": self.engine})
        return whose.connection(bind_arguments={"clause": schema.jobs})

    def _follow(self, whose: Caller, batch: Batch) -> None:
        if not isinstance(whose, Connection):
            with self._lock:
                session = self._sessions.get(whose)
                if session is None:
                    session = self._sessions[whose] = SessionWatch(whose)
            session.add(whose, batch)
        else:
            with self._lock:
                connection = self._connections.get(whose)
                if connection is None:
                    connection = self._connections[whose] = ConnectionWatch(whose)
            connection.add(whose, batch)

    # -- rows -------------------------------------------------------------------------------

    def _insert(self, connection: Connection, prepared: list[_Prepared]) -> list[Added]:
        if len(prepared) > 1 and all(row["key"] is None for _, row, _ in prepared):
            ids = bulk.insert_rows_of_caller(connection, [row for _, row, _ in prepared])
        else:
            ids = [self._insert_one(connection, row) for _, row, _ in prepared]
        for job_id, (_, _, pieces) in zip(ids, prepared, strict=True):
            if job_id is not None and pieces:
                statements.insert_blobs(connection, job_id, pieces)
        return [
            Added(self._same_key(connection, submission, row), created=False)
            if job_id is None
            else Added(statements.fresh_job(job_id, row, submission), created=True)
            for job_id, (submission, row, _) in zip(ids, prepared, strict=True)
        ]

    def _insert_one(self, connection: Connection, row: dict[str, Any]) -> int | None:
        # PostgreSQL above READ COMMITTED can fail over a key, and would take the caller's
        # transaction along: the savepoint keeps that apart.
        guarded = row["key"] is not None and connection.dialect.name == "postgresql"
        try:
            with connection.begin_nested() if guarded else nullcontext():
                return statements.insert_row_of_caller(connection, row)
        except SQLAlchemyError as error:
            code = getattr(getattr(error, "orig", None), "sqlstate", None)
            if guarded and code == _SERIALIZATION_FAILURE:
                return None
            raise

    def _same_key(self, connection: Connection, submission: Submission, row: dict[str, Any]) -> Job:
        """The job that holds the key already, as this transaction or everybody sees it."""
        found = self._store.key_holder(connection, submission, row["fingerprint"])
        # Or it was committed after this transaction's view of the database was taken.
        return found or self._store.same_key(submission, row["fingerprint"])


_SERIALIZATION_FAILURE = "40001"
