"""SQLite, out of the box: WAL with ``synchronous=FULL``, so that a commit survives a power cut.

``BEGIN IMMEDIATE`` for transactions that write, a plain ``BEGIN`` for those that only read.
SQLite's own busy handler sleeps inside C and so freezes every greenlet of a gevent worker; it is
switched off here, and a busy database is waited for in :mod:`.database`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from ..cleaning import clean
from ..errors import SchemaError, StoreError
from .backend import Backend, Setup, Trouble
from .kept import KeptConnections
from .prepared import run_sql
from .upgrading import only_adds, too_old
from .versions import Found

log = logging.getLogger("flask_deferred_mail.store")

#: The first that has generated columns.
_OLDEST = (3, 31)

#: Seconds for which another process may take to make the tables.
_PATIENCE = 5.0

# Connections of a process that this one was forked from, kept for ever.
_inherited: list[KeptConnections] = []


class SqliteBackend(Backend):
    """A file, or (for tests) memory."""

    own_clock = True

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self.in_memory = _is_in_memory(url)
        self.path = None if self.in_memory else _file_of(url)
        self._inode: int | None = None
        self._kept: KeptConnections | None = None
        # Threads of one process take turns at writing, rather than find the file busy and sleep.
        # An in-memory database lives in one connection, which cannot hold two transactions at all.
        self._writer = self.turn = threading.RLock()
        self._reader: AbstractContextManager[Any] = (
            self._writer if self.in_memory else nullcontext()
        )

    def bare_engine(self) -> Engine:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} is too old; Python must be linked with 3.31 or "
                "newer (generated columns), or DEFERRED_MAIL_DATABASE_URI name a database server"
            )
        if self.path is not None:
            self._make_folder(Path(self.path).parent)
            _make_file(self.path)
        return _make_engine(self.url, self.in_memory)

    def open(self) -> Engine:
        engine = self.bare_engine()
        try:
            self._prepare(engine)
        except BaseException:
            engine.dispose()
            raise
        if self.path is not None:
            self._inode = os.stat(self.path).st_ino
            self._keep(engine)
        return engine

    def _keep(self, engine: Engine) -> None:
        if self._kept is not None and not self._kept.is_empty:
            # Inherited over a fork: closing them here would harm the parent.
            _inherited.append(self._kept)
        self._kept = KeptConnections(engine)

    def kept_of(self, engine: Engine) -> KeptConnections | None:
        """The connections that this engine keeps; none if the data lives in a connection, or it
        is an engine of former times."""
        kept = self._kept
        return kept if kept is not None and kept.engine is engine else None

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.shown}: its folder cannot be made ({error.strerror}); create it, or set "
                "DEFERRED_MAIL_DATABASE_URI to a place where this process may write"
            ) from error

    def _prepare(self, engine: Engine) -> None:
        """Switch to WAL and make the tables where they are missing, once per process."""
        give_up_at = time.monotonic() + _PATIENCE
        while True:
            try:
                with engine.connect() as connection:
                    self._use_wal(connection)
                    found = self.find_tables(connection)
                if found is None:
                    self.make_tables(engine)
                elif found.old:
                    self._upgrade(engine, found)
                return
            except DBAPIError as error:
                if self.judge(error) is not Trouble.AGAIN or time.monotonic() > give_up_at:
                    raise
                if self.blocked_by() is not None:
                    raise
                time.sleep(0.005)

    def _upgrade(self, engine: Engine, found: Found) -> None:
        """At first use, unless that would lock out processes of the version that made them."""
        if not only_adds(found):
            raise too_old(found, self.shown)
        version = self.upgrade_tables(engine).after
        log.warning("%s: tables upgraded from version %d to %d", self.shown, found.version, version)

    def _use_wal(self, connection: Connection) -> None:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        if mode not in ("wal", "memory"):
            mode = self._switch_to_wal(connection)
        if mode not in ("wal", "memory"):
            # A network file system, perhaps. A rollback journal with FULL is as durable, only
            # slower.
            log.warning("%s: no write-ahead log to be had here (journal mode %s)", self.shown, mode)
        level = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        if level != 2:
            raise StoreError(
                f"{self.shown}: synchronous is {level}, not FULL; commits would not be durable"
            )

    def _switch_to_wal(self, connection: Connection) -> str:
        try:
            return str(connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar())
        except DBAPIError as error:
            # It takes a moment without any transaction. The application's own file may have none
            # just now, and this thread may be the reason.
            if not self.application_owns or self.judge(error) is not Trouble.AGAIN:
                raise
            return "busy"

    # -- transactions -----------------------------------------------------------------------

    def writing(self, engine: Engine) -> AbstractContextManager[Connection]:
        return _Transaction(self, engine, self._writer, "BEGIN IMMEDIATE")

    def changing(self, engine: Engine) -> AbstractContextManager[Connection]:
        # By an engine of its own, or one that nobody has yet: in memory, too, that is nobody
        # else's connection.
        return _Transaction(self, engine, nullcontext(), "BEGIN IMMEDIATE")

    def reading(self, engine: Engine) -> AbstractContextManager[Connection]:
        return _Transaction(self, engine, self._reader, "BEGIN")

    def single(self, engine: Engine) -> AbstractContextManager[Connection]:
        return _Transaction(self, engine, self._writer)

    def single_read(self, engine: Engine) -> AbstractContextManager[Connection]:
        return _Transaction(self, engine, self._reader)

    # -- errors -----------------------------------------------------------------------------

    def judge(self, error: SQLAlchemyError) -> Trouble:
        return Trouble.AGAIN if _is_busy(error) else Trouble.FINAL

    def explain(self, error: SQLAlchemyError) -> StoreError:
        reason = clean(str(getattr(error, "orig", None) or error))
        if "no such table" in reason or "no such column" in reason:
            return SchemaError(
                f"{self.shown}: {reason}; run `flask mail init-db` (or remove a half-made file)"
            )
        return StoreError(f"{self.shown}: {reason}")

    def setup(self, connection: Connection) -> Setup:
        def ask(statement: str) -> Any:
            return connection.exec_driver_sql(statement).scalar()

        mode = str(ask("PRAGMA journal_mode"))
        weakness = None
        if mode not in ("wal", "memory"):
            weakness = (
                f"journal mode is {mode}, not WAL: slower, and readers wait",
                "put the file on a local disk",
            )
        return Setup(
            product=f"SQLite {ask('SELECT sqlite_version()')}",
            durable=ask("PRAGMA synchronous") in (2, 3),  # FULL, EXTRA
            durability="PRAGMA synchronous = FULL",
            in_memory=mode == "memory",
            weakness=weakness,
        )

    def check_alive(self) -> None:
        """Whether the file was deleted or replaced under us.

        SQLite would go on writing into the deleted file, and every commit would be a promise that
        nobody can keep. Two microseconds a transaction.
        """
        if self.path is None:
            return
        try:
            if os.stat(self.path).st_ino == self._inode:
                return
        except OSError:
            pass
        raise StoreError(
            f"{self.shown}: the database file was moved, replaced or deleted while this process "
            "had it open; nothing was written. The next use opens it anew"
        )


class _Transaction:
    """A connection, and a transaction on it from ``BEGIN`` to ``COMMIT``.

    Without a ``begin`` it is for one statement, which is its own transaction: the two cost as much
    as a small INSERT. (A class, since nested generators cost as much again.)
    """

    __slots__ = ("_begin", "_connection", "_engine", "_kept", "_turn")

    _connection: Connection

    def __init__(
        self,
        backend: SqliteBackend,
        engine: Engine,
        turn: AbstractContextManager[Any],
        begin: str | None = None,
    ) -> None:
        self._engine = engine
        self._kept = backend.kept_of(engine)
        self._turn = turn
        self._begin = begin

    def __enter__(self) -> Connection:
        self._turn.__enter__()
        try:
            kept = self._kept
            self._connection = self._engine.connect() if kept is None else kept.take()
            if self._begin is not None:
                self._start(self._begin)
        except BaseException:
            self._turn.__exit__(None, None, None)
            raise
        return self._connection

    def _start(self, begin: str) -> None:
        try:
            run_sql(self._connection, begin)
        except BaseException as error:
            if _is_busy(error):
                self._give_back()  # nothing is wrong with it
            else:
                self._discard()
            raise

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        try:
            if error is not None:
                if self._begin is None and _is_busy(error):
                    self._give_back()  # the one statement did not begin, as in _start
                else:
                    self._undo()
                return
            if self._begin is not None:
                self._commit()
            self._give_back()
        finally:
            self._turn.__exit__(None, None, None)

    def _commit(self) -> None:
        try:
            run_sql(self._connection, "COMMIT")
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        if self._begin is not None:
            _roll_back(self._connection)
        self._discard()

    def _give_back(self) -> None:
        if self._kept is None:
            self._connection.close()
        else:
            self._kept.give_back(self._connection)

    def _discard(self) -> None:
        """It met an error: nobody shall use it again as it is."""
        if self._kept is None:
            self._connection.close()
        else:
            self._kept.discard(self._connection)


def _is_busy(error: BaseException) -> bool:
    """Whether somebody else holds the lock that was wanted."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_in_memory(url: URL) -> bool:
    names_no_file = url.database in (None, "", ":memory:", "file::memory:")
    return names_no_file or url.query.get("mode") == "memory"


def _file_of(url: URL) -> str:
    database = str(url.database)
    if database.startswith("file:") and url.query.get("uri"):
        # SQLite's own kind of URI, which has options such as mode=ro.
        return unquote(urlsplit(database).path)
    return database


def _make_file(path: str) -> None:
    """Make the file for its owner alone: reset links lie in it. SQLite's further files follow it.

    Whoever wants to share it makes it beforehand, with the rights that he means.
    """
    with suppress(OSError):  # it is there, or SQLite will say better what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _make_engine(url: URL, in_memory: bool) -> Engine:
    pool: dict[str, Any] = (
        {"poolclass": StaticPool}
        if in_memory
        else {"poolclass": QueuePool, "pool_size": 5, "max_overflow": 45, "pool_timeout": 30}
    )
    engine = create_engine(
        url,
        # The driver's own transactions are off: we say BEGIN and COMMIT ourselves.
        connect_args={"timeout": 0, "isolation_level": None, "check_same_thread": False},
        isolation_level="AUTOCOMMIT",
        **pool,
    )
    event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")


def _roll_back(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK")
    except SQLAlchemyError:
        # SQLite rolls back by itself on a full disk; a connection in doubt is not used again.
        connection.invalidate()
