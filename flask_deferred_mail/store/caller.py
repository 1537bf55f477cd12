"""Whose transaction a mail is to join, and whether our tables are in it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine

from ..errors import StoreError
from . import schema
from .database import Database
from .dialect import MYSQLS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    Caller = Session | Connection


def caller(given: Any) -> Caller:
    """The session or connection that was given as ``session=``.

    :raises TypeError: it is something else; says what to give.
    """
    # Imported by who gives one; five megabytes in every other process.
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(given, scoped_session):
        given = given()
    if isinstance(given, Session | Connection):
        return given
    if any(kind.__module__.startswith("sqlalchemy.ext.asyncio") for kind in type(given).__mro__):
        raise TypeError(
            f"session= got an {type(given).__name__}, which cannot be used from here: inside "
            "`await async_session.run_sync(...)`, give its .sync_session (of an AsyncConnection "
            "its .sync_connection)"
        )
    raise TypeError(
        f"session= takes an SQLAlchemy Session, scoped_session or Connection, not "
        f"{type(given).__name__}; False or None means a transaction of its own"
    )


class Homes:
    """Which engines lead to the database that our tables are in. Asked once for each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: weakref.WeakSet[Engine] = weakref.WeakSet()

    def check(self, connection: Connection) -> None:
        """Whether a row written here is one that our senders will find.

        :raises StoreError: it is another database, or the connection would damage the text.
        """
        if connection.engine in self._seen:
            return
        family = _family(connection.dialect.name)
        ours = _family(self._database.backend.url.get_backend_name())
        if family != ours or not self._same(connection, family):
            raise StoreError(
                f"session= leads to another database than ours ({self._database.shown}): a mail "
                "recorded there would never be sent. Use DeferredMail(app, db=db), or set "
                "DEFERRED_MAIL_DATABASE_URI to the session's database; or leave session= out"
            )
        if family == "mysql":
            _keeps_text(connection)
        self._seen.add(connection.engine)

    def _same(self, connection: Connection, family: str) -> bool:
        if family == "sqlite":
            return self._same_file(connection)
        identify = _IDENTITIES[family]
        theirs = identify(connection)
        return theirs == self._database.read(identify)

    def _same_file(self, connection: Connection) -> bool:
        ours = self._database.path
        if ours is None:
            raise StoreError(
                "session= cannot be used with an in-memory database: it lives in one connection, "
                "which has one transaction at a time. Name a file"
            )
        theirs = _main_file(connection)
        if not self._database.backend.application_owns and _is_new(ours):
            # Tables of our own are made at first use, and this is it.
            _ = self._database.engine
        return bool(theirs) and ours.exists() and os.path.samefile(theirs, ours)


def _family(name: str) -> str:
    return "mysql" if name in MYSQLS else name


def _main_file(connection: Connection) -> str:
    """The file of an SQLite connection; empty: it is in memory."""
    rows = connection.exec_driver_sql("PRAGMA database_list").all()
    return next((str(row[2] or "") for row in rows if row[1] == "main"), "")


def _is_new(file: Path) -> bool:
    return not file.exists() or file.stat().st_size == 0


def _postgresql(connection: Connection) -> tuple[Any, ...]:
    # The table's own number says more than a URL: names of hosts, poolers and search_path differ.
    row = connection.exec_driver_sql(
        "SELECT pg_postmaster_start_time(), current_database(), "
        f"to_regclass('{schema.jobs.name}')::oid"
    ).one()
    return tuple(row)


def _mysql(connection: Connection) -> tuple[Any, ...]:
    row = connection.exec_driver_sql("SELECT @@hostname, @@port, @@datadir, DATABASE()").one()
    return tuple(row)


_IDENTITIES: dict[str, Callable[[Connection], tuple[Any, ...]]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
}


def _keeps_text(connection: Connection) -> None:
    """Whether MySQL would refuse text that does not fit, rather than cut it."""
    mode, charset = connection.exec_driver_sql("SELECT @@sql_mode, @@character_set_client").one()
    if "STRICT_" not in str(mode) or str(charset) != "utf8mb4":
        raise StoreError(
            f"session= has a connection with sql_mode {mode!r} and character set {charset}, which "
            "cuts or replaces text silently: use STRICT_TRANS_TABLES and ?charset=utf8mb4"
        )


def in_transaction(connection: Connection) -> bool:
    """Whether what was written on a connection still waits for a commit. False: autocommit."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        return bool(getattr(driver, "in_transaction", True))
    if connection.dialect.name in MYSQLS:
        autocommit = getattr(driver, "get_autocommit", None)
        return not (callable(autocommit) and autocommit() is True)
    return getattr(driver, "autocommit", False) is not True
