"""One database, seen from one process: connections, transactions, waiting for a lock.

SQLite, out of the box: WAL with ``synchronous=FULL`` (a commit survives a power cut), ``BEGIN
IMMEDIATE`` for transactions that write, a plain ``BEGIN`` for those that only read. SQLite's own
busy handler sleeps inside C and so freezes every greenlet of a gevent worker; it is switched off,
and a busy database is waited for here, in short steps of ``time.sleep``, which gevent patches.

Connections never cross a fork: the pool is closed just before one, and a process that finds
itself forked all the same (uWSGI forks in C) opens its own and never touches the inherited ones.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from ..cleaning import clean
from ..errors import SchemaError, StoreBusy, StoreError
from . import schema
from .prepared import run_sql

log = logging.getLogger("flask_deferred_mail.store")

T = TypeVar("T")

#: Seconds for which a write waits for another process's write.
PATIENCE = 5.0

_live: weakref.WeakSet[Database] = weakref.WeakSet()
# Inherited over a fork: kept for ever, since closing them here would harm the parent.
_inherited: list[Engine] = []


class Database:
    """Runs functions inside transactions. Safe for threads; used by one process only.

    :raises StoreBusy: when the write lock could not be had in time.
    :raises SchemaError: when the tables are missing or newer than this version.
    :raises StoreError: when the database refuses or fails otherwise.
    """

    def __init__(self, url: str) -> None:
        self.url: URL = make_url(url)
        self.in_memory = _is_in_memory(self.url)
        #: The database file, if there is one.
        self.path: Path | None = _file_of(self.url)
        self._file = str(self.path)
        self._engine: Engine | None = None
        self._pid = 0
        self._inode: int | None = None
        self._lock = threading.Lock()
        self._memory_lock = threading.RLock()
        _live.add(self)

    # -- transactions -----------------------------------------------------------------------

    def write(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Run ``work`` in a transaction that holds the write lock from its start, and commit.

        The whole of it is run again when the database is busy, so ``work`` must only touch the
        database. ``patience`` is in seconds.
        """
        return self._run(work, "BEGIN IMMEDIATE", patience)

    def write_one(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Like :meth:`write` for work that is exactly one statement: it is its own transaction.

        Saves the BEGIN and the COMMIT, which cost as much as a small INSERT.
        """
        return self._run(work, None, patience)

    def read(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Run ``work`` in a transaction that sees one state of the database and never blocks."""
        return self._run(work, "BEGIN", patience)

    def read_one(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Like :meth:`read` for work that is exactly one SELECT, read to its end."""
        return self._run(work, None, patience)

    def _run(self, work: Callable[[Connection], T], begin: str | None, patience: float) -> T:
        give_up_at = time.monotonic() + patience
        pause = 0.0005
        while True:
            try:
                return self._once(work, begin)
            except SQLAlchemyError as error:
                if not _is_busy(error):
                    raise self._explained(error) from error
                if time.monotonic() + pause > give_up_at:
                    raise StoreBusy(
                        f"{self.shown}: another process held the write lock for more than "
                        f"{patience:g} s; nothing was written"
                    ) from error
            # Steps of about a millisecond: with SQLite's own growing pauses, eight writers met a
            # p99 of 80 to 280 ms.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 1.5, 0.01)

    def _once(self, work: Callable[[Connection], T], begin: str | None) -> T:
        with self._serialised(), self.engine.connect() as connection:
            if begin is None:
                return work(connection)
            run_sql(connection, begin)
            try:
                result = work(connection)
                run_sql(connection, "COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            return result

    def _serialised(self) -> AbstractContextManager[Any]:
        # An in-memory database lives in one connection, which cannot hold two transactions.
        return self._memory_lock if self.in_memory else nullcontext()

    # -- connections ------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """This process's engine; made at first use, with the tables if it is SQLite."""
        engine = self._engine
        if engine is not None and self._pid == os.getpid() and not self._moved():
            return engine
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                self._open()
            assert self._engine is not None
            return self._engine

    def _open(self) -> None:
        if self._engine is not None:
            _inherited.append(self._engine)
        if self.path is not None:
            self._make_folder()
        engine = _make_engine(self.url)
        try:
            _prepare(engine, self.shown)
        except SQLAlchemyError as error:
            engine.dispose()
            raise self._explained(error) from error
        except BaseException:
            engine.dispose()
            raise
        if self.path is not None:
            self._inode = self.path.stat().st_ino
        self._engine, self._pid = engine, os.getpid()

    def _make_folder(self) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.shown}: its folder cannot be made ({error.strerror}); create it, or set "
                "DEFERRED_MAIL_DATABASE_URI to a place where this process may write"
            ) from error

    def _moved(self) -> bool:
        """Whether the file was deleted or replaced under us.

        SQLite would go on writing into the deleted file, and every commit would be a promise that
        nobody can keep. Two microseconds a transaction.
        """
        if self.path is None:
            return False
        try:
            if os.stat(self._file).st_ino == self._inode:
                return False
        except OSError:
            pass
        self.close()
        raise StoreError(
            f"{self.shown}: the database file was moved, replaced or deleted while this process "
            "had it open; nothing was written. The next use opens it anew"
        )

    def close(self) -> None:
        """Close this process's idle connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            elif self._engine is not None:
                _inherited.append(self._engine)
            self._engine = None

    # -- words ------------------------------------------------------------------------------

    @property
    def shown(self) -> str:
        """The database's address without its password."""
        return self.url.render_as_string(hide_password=True)

    def _explained(self, error: SQLAlchemyError) -> StoreError:
        reason = clean(str(getattr(error, "orig", None) or error))
        if "no such table" in reason or "no such column" in reason:
            return SchemaError(
                f"{self.shown}: {reason}; run `flask mail init-db` (or remove a half-made file)"
            )
        return StoreError(f"{self.shown}: {reason}")


def _is_in_memory(url: URL) -> bool:
    names_no_file = url.database in (None, "", ":memory:", "file::memory:")
    return url.get_backend_name() == "sqlite" and (
        names_no_file or url.query.get("mode") == "memory"
    )


def _file_of(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or _is_in_memory(url) or not url.database:
        return None
    if url.database.startswith("file:") and url.query.get("uri"):
        # SQLite's own kind of URI, which has options such as mode=ro.
        return Path(unquote(urlsplit(url.database).path))
    return Path(url.database)


def _make_engine(url: URL) -> Engine:
    in_memory = _is_in_memory(url)
    engine = create_engine(
        url,
        poolclass=StaticPool if in_memory else QueuePool,
        # The driver's own transactions are off: we say BEGIN and COMMIT ourselves.
        connect_args={"timeout": 0, "isolation_level": None, "check_same_thread": False},
        isolation_level="AUTOCOMMIT",
        **({} if in_memory else {"pool_size": 5, "max_overflow": 45, "pool_timeout": 30}),
    )
    event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")


def _prepare(engine: Engine, shown: str) -> None:
    """Switch to WAL and make the tables where they are missing, once per process."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            with engine.connect() as connection:
                _use_wal(connection, shown)
                _make_tables(connection, shown)
            return
        except DBAPIError as error:
            if not _is_busy(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(0.005)


def _use_wal(connection: Connection, shown: str) -> None:
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    if mode not in ("wal", "memory"):
        mode = connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar()
    if mode not in ("wal", "memory"):
        # A network file system, perhaps. A rollback journal with FULL is as durable, only slower.
        log.warning("%s: no write-ahead log to be had here (journal mode %s)", shown, mode)
    level = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    if level != 2:
        raise StoreError(f"{shown}: synchronous is {level}, not FULL; commits would not be durable")


def _make_tables(connection: Connection, shown: str) -> None:
    if _schema_version(connection, shown) is not None:
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        if _schema_version(connection, shown) is None:
            schema.metadata.create_all(connection)
            connection.execute(
                schema.meta.insert().values(name="schema", value=str(schema.SCHEMA_VERSION))
            )
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _schema_version(connection: Connection, shown: str) -> int | None:
    """The version of the tables there, ``None`` if there are none.

    :raises SchemaError: when they were made by a newer version: they are left alone.
    """
    if not inspect(connection).has_table(schema.meta.name):
        return None
    found = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "schema"))
    version = int(found or 0)
    if version > schema.SCHEMA_VERSION:
        raise SchemaError(
            f"{shown}: the tables are of version {version}, this process knows version "
            f"{schema.SCHEMA_VERSION}. Upgrade flask-deferred-mail here; nothing was touched"
        )
    return version


def _roll_back(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK")
    except SQLAlchemyError:
        # SQLite rolls back by itself on a full disk; a connection in doubt is not used again.
        connection.invalidate()


def _is_busy(error: SQLAlchemyError) -> bool:
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _close_all_before_fork() -> None:
    for database in list(_live):
        if not database.in_memory:
            database.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all_before_fork)
