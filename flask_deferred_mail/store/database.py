"""One database, seen from one process: transactions, waiting for a lock, connections and forks.

Connections never cross a fork: the pool is closed just before one, and a process that finds
itself forked all the same (uWSGI forks in C) opens its own and never touches the inherited ones.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreBusy, StoreError
from .backend import Backend, Trouble
from .versions import Change

T = TypeVar("T")

#: Seconds for which a transaction is tried again while others hold what it needs.
PATIENCE = 5.0
#: Seconds after which a lock is not merely other processes' mail.
SHORT_WAIT = 0.25
#: The same for a change of the tables, which waits for every transaction that uses them.
_UPGRADE_PATIENCE = 30.0

_live: weakref.WeakSet[Database] = weakref.WeakSet()
# Inherited over a fork: kept for ever, since closing them here would harm the parent.
_inherited: list[Engine] = []

Transaction = Callable[[Engine], AbstractContextManager[Connection]]


class Database:
    """Runs functions inside transactions. Safe for threads; used by one process only.

    :raises StoreBusy: when the lock could not be had in time.
    :raises SchemaError: when the tables are missing or newer than this version.
    :raises CommitUnknown: the connection broke while a transaction was being committed.
    :raises StoreError: when the database refuses or fails otherwise.
    """

    def __init__(self, url: str) -> None:
        self.backend = _backend_for(make_url(url))
        self._engine: Engine | None = None
        self._pid = 0
        self._lock = threading.Lock()
        _live.add(self)

    # -- transactions -----------------------------------------------------------------------

    def write(
        self,
        work: Callable[[Connection], T],
        *,
        patience: float = PATIENCE,
        at_once: bool = False,
    ) -> T:
        """Run ``work`` in a transaction that will write, and commit.

        The whole of it is run again when the database is busy, so ``work`` must only touch the
        database. ``patience`` is in seconds. ``at_once``: it is one statement, and whether it was
        run can be read afterwards; so it may be a transaction by itself, and a connection that is
        lost is ``CommitUnknown`` in every case.
        """
        transaction = self.backend.at_once if at_once else self.backend.writing
        return self._run_in_turn(work, transaction, patience)

    def write_one(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Like :meth:`write` for work that is one statement: where that is cheaper, it is its own
        transaction."""
        return self._run_in_turn(work, self.backend.single, patience)

    def read(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Run ``work`` in a transaction that only reads."""
        return self._run(work, self.backend.reading, patience)

    def read_one(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """Like :meth:`read` for one SELECT, or several that need not see one state of the
        database, each read to its end."""
        return self._run(work, self.backend.single_read, patience)

    def _run_in_turn(
        self, work: Callable[[Connection], T], transaction: Transaction, patience: float
    ) -> T:
        """Threads of one process stand in line to write, and only the first of them looks again
        and again whether other processes let it: who came first is served first. When all of them
        looked, each after a pause of its own, those that came later often went ahead."""
        turn = self.backend.turn
        if turn is None:
            return self._run(work, transaction, patience)
        give_up_at = time.monotonic() + patience
        if not turn.acquire(blocking=False):
            # Whoever has the turn may be waiting for this very thread.
            self._refuse_to_wait(Trouble.AGAIN)
            if not turn.acquire(timeout=max(0.0, patience)):
                raise self._given_up(Trouble.AGAIN, patience)
        try:
            return self._run(work, transaction, max(0.0, give_up_at - time.monotonic()))
        finally:
            turn.release()

    def _run(self, work: Callable[[Connection], T], transaction: Transaction, patience: float) -> T:
        def once() -> T:
            with transaction(self.engine) as connection:
                return work(connection)

        return self._patiently(once, patience)

    def _patiently(self, once: Callable[[], T], patience: float = PATIENCE) -> T:
        began = time.monotonic()
        pause = 0.0005
        while True:
            try:
                return once()
            except SQLAlchemyError as error:
                trouble = self.backend.judge(error)
                if trouble is Trouble.FINAL:
                    raise self.backend.explain(error) from error
                self._refuse_to_wait(trouble, error)
                waited = time.monotonic() - began
                if waited + pause > patience:
                    raise self._given_up(trouble, patience, error) from error
            # Steps of about a millisecond: with SQLite's own growing pauses, eight writers met a
            # p99 of 80 to 280 ms.
            time.sleep(pause * random.uniform(0.5, 1.5))
            longest = 0.25 if trouble is Trouble.LOST else 0.01 if waited > SHORT_WAIT else 0.002
            pause = min(pause * 1.5, longest)

    def _refuse_to_wait(self, trouble: Trouble, error: SQLAlchemyError | None = None) -> None:
        """For a lock that this very thread holds: it would be waited for in vain."""
        reason = self.backend.blocked_by() if trouble is Trouble.AGAIN else None
        if reason is not None:
            raise StoreBusy(f"{self.shown}: {reason}; nothing was written") from error

    def _given_up(
        self, trouble: Trouble, patience: float, error: SQLAlchemyError | None = None
    ) -> StoreError:
        if trouble is Trouble.LOST and error is not None:
            return self.backend.explain(error)
        return StoreBusy(
            f"{self.shown}: another process held the lock for more than {patience:g} s; nothing "
            "was written"
        )

    # -- connections ------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """This process's engine; made at first use, with the tables if it is SQLite."""
        engine = self._engine
        if engine is not None and self._pid == os.getpid():
            try:
                self.backend.check_alive()
            except StoreError:
                self.close()
                raise
            return engine
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                self._open()
            assert self._engine is not None
            return self._engine

    def _open(self) -> None:
        if self._engine is not None:
            _inherited.append(self._engine)
        try:
            self._engine, self._pid = self.backend.open(), os.getpid()
        except SQLAlchemyError as error:
            self._refuse_to_wait(self.backend.judge(error), error)
            raise self.backend.explain(error) from error

    def create(self) -> Change:
        """Make the tables if there are none.

        :raises SchemaError: they are of another version, or the application's.
        :raises StoreError: the database cannot be reached or refuses.
        """
        return self._change_tables(self.backend.make_tables)

    def upgrade(self) -> Change:
        """Make the tables, or bring them to this version. Raises as :meth:`create`, but upgrades
        what is older."""
        return self._change_tables(self.backend.upgrade_tables)

    def _change_tables(self, change: Callable[[Engine], Change]) -> Change:
        engine = self.backend.bare_engine()
        try:
            return self._patiently(partial(change, engine), _UPGRADE_PATIENCE)
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close this process's idle connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            elif self._engine is not None:
                _inherited.append(self._engine)
            self._engine = None

    @property
    def shown(self) -> str:
        """The database's address without its password."""
        return self.backend.shown

    @property
    def path(self) -> Path | None:
        """The database file, if it is one."""
        return Path(self.backend.path) if self.backend.path else None

    @property
    def own_clock(self) -> bool:
        """Whether this host's clock is the database's."""
        return self.backend.own_clock

    @property
    def forgets_when_closed(self) -> bool:
        """Whether the data lives in the connection itself: SQLite in memory."""
        return self.backend.in_memory


_SUPPORTED = ("sqlite", "postgresql", "mysql", "mariadb")


def _backend_for(url: URL) -> Backend:
    """The kind of database that a URL means; a server's driver is imported when it is opened."""
    # Imported where it is used: a megabyte for each that is not.
    name = url.get_backend_name()
    if name not in _SUPPORTED:
        raise StoreError(f"{name} is not supported; there are {', '.join(_SUPPORTED)}")
    if name == "sqlite":
        from .sqlite import SqliteBackend

        return SqliteBackend(url)
    from .servers import MysqlBackend, PostgresqlBackend

    return PostgresqlBackend(url) if name == "postgresql" else MysqlBackend(url)


def _close_all_before_fork() -> None:
    for database in list(_live):
        if not database.forgets_when_closed:
            database.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all_before_fork)
