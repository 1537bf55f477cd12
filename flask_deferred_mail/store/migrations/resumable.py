"""Changes of tables that may be begun anew where they were broken off.

MariaDB and MySQL commit after each change of a table. A revision whose third step failed, or waited
too long for a lock, is run again from its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alembic import op
from sqlalchemy import Column, inspect


def drop_index(name: str, table: str) -> None:
    """Drop an index, if it is there."""
    if name in _indexes(table):
        op.drop_index(name, table_name=table)


def create_index(name: str, table: str, columns: Sequence[str], **how: Any) -> None:
    """Make an index, unless one of that name is there."""
    if name not in _indexes(table):
        op.create_index(name, table, list(columns), **how)


def create_table(name: str, *columns: Column[Any], **how: Any) -> None:
    """Make a table, unless it is there."""
    if not inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, **how)


def add_column(table: str, column: Column[Any]) -> None:
    """Add a column, unless it is there."""
    if column.name not in {entry["name"] for entry in inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def _indexes(table: str) -> set[str | None]:
    return {index["name"] for index in inspect(op.get_bind()).get_indexes(table)}
