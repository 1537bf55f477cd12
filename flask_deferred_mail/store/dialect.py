"""The few things that databases spell differently. SQLite only, for now."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, Float, Table, bindparam
from sqlalchemy.dialects import sqlite


def now() -> ColumnElement[float]:
    """The database's clock, in seconds since the epoch.

    A SQLite file belongs to one host (network file systems are refused or warned of), so the
    host's clock is the database's.
    """
    return bindparam("now", time.time(), type_=Float(), unique=True)


#: The same in statements that are built once and run often: give :func:`clock` with their values.
NOW: ColumnElement[float] = bindparam("now_", type_=Float())


def clock() -> dict[str, float]:
    """What :data:`NOW` needs at execution."""
    return {"now_": time.time()}


def now_seconds() -> float:
    """The same as a number, for values that the caller is told as well."""
    return time.time()


def insert_or_ignore(table: Table) -> Any:
    """An INSERT that leaves a row with the same key as it is."""
    return sqlite.insert(table).on_conflict_do_nothing()


def upsert(table: Table, *changing: str) -> Any:
    """An INSERT that changes the named columns where the primary key is there already."""
    statement = sqlite.insert(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: statement.excluded[name] for name in changing},
    )
