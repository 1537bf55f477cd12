"""What databases spell differently: the clock, an insert that gives way, an insert that updates.

Statements are built once and compiled per dialect, so everything here is either an SQL construct
with a spelling for each, or chosen by the dialect's name.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Computed, Connection, Double, Table, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

#: Names of SQLAlchemy's dialects for the servers that speak MySQL's language.
MYSQLS = ("mysql", "mariadb")

#: The name of the parameter by which SQLite is told the time. A function of ours, which SQLite
#: would call for each row, would wait each time for the interpreter's lock, while nobody else may
#: write.
HOST_CLOCK = "host_clock_"
# Looked up at each call, so that a test can set the clock.
_TOLD: BindParameter[float] = bindparam(HOST_CLOCK, callable_=lambda: time.time(), type_=Double())


class now(FunctionElement[float]):
    """The database's clock, in seconds since the epoch.

    It moves on inside a transaction, as ``now()`` of PostgreSQL and MariaDB does not. A SQLite
    file belongs to one host (network file systems are refused or warned of), so the host's clock
    is the database's.
    """

    name = "deferred_mail_now"
    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite_now(_element: now, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(_TOLD, **kw))


@compiles(now, "postgresql")
def _postgresql_now(_element: now, _compiler: Any, **_kw: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


@compiles(now, *MYSQLS)
def _mysql_now(_element: now, _compiler: Any, **_kw: Any) -> str:
    # 0E0 makes a double of the decimal. The session's time zone is UTC, so no hour comes twice.
    return "(UNIX_TIMESTAMP(SYSDATE(6)) + 0E0)"


class Derived(Computed):
    """A column whose value follows from others, kept by the database itself.

    Stored in the row where PostgreSQL and MySQL want it so; in SQLite it is only in the indexes,
    so that an upgrade adds such a column without writing every row anew.
    """

    inherit_cache = True

    def __init__(self, sqltext: str) -> None:
        super().__init__(sqltext, persisted=True)


@compiles(Derived, "sqlite")
def _sqlite_derived(element: Derived, _compiler: Any, **_kw: Any) -> str:
    return f"GENERATED ALWAYS AS ({element.sqltext}) VIRTUAL"


_READ_NOW = select(now())


def read_now(connection: Connection) -> float:
    """The database's clock as a number.

    For comparisons that an index is to serve: no index serves a clock that moves on while the
    query runs.
    """
    if connection.dialect.name == "sqlite":
        return time.time()  # the same clock, without asking
    return float(connection.execute(_READ_NOW).scalar_one())


@cache
def insert_or_ignore(table: Table, dialect: str) -> Any:
    """An INSERT that leaves a row with the same key as it is."""
    if dialect in MYSQLS:
        from sqlalchemy.dialects import mysql

        # Not INSERT IGNORE, which would also cut what is too long.
        key = next(iter(table.primary_key.columns))
        return mysql.insert(table).on_duplicate_key_update({key.name: key})
    return _insert(dialect)(table).on_conflict_do_nothing()


@cache
def upsert(table: Table, dialect: str, *changing: str) -> Any:
    """An INSERT that changes the named columns where the primary key is there already."""
    if dialect in MYSQLS:
        from sqlalchemy.dialects import mysql

        new = mysql.insert(table)
        return new.on_duplicate_key_update({name: new.inserted[name] for name in changing})
    statement = _insert(dialect)(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: statement.excluded[name] for name in changing},
    )


def _insert(dialect: str) -> Any:
    # Imported where it is used: a megabyte for each that is not.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert
