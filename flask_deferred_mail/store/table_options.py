"""What only one kind of database has: partial indexes, storage engines, texts of any length.

To name such an option where a table is declared makes SQLAlchemy import that database's part: four
megabytes for each process, of which hardly one ever makes a table. So the tables are declared
without, and whoever makes them, or shows them to an application's migrations, completes them first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import LargeBinary, MetaData, Table, Text

from .dialect import MYSQLS

#: All kinds of databases.
EVERY = ("sqlite", "postgresql", *MYSQLS)

#: Types of columns for long values. MySQL's TEXT ends at 64 kB, and would cut what is longer.
LONG = Text()
DATA = LargeBinary()

#: In the ``info`` of an index: the condition for what it holds, where it need not hold all rows.
HOLDS = "holds"
#: In the ``info`` of a table: a row's id is never given out again, not even after ``purge``.
NEVER_AGAIN = "never_again"

# Full UTF-8, compared byte by byte: two keys that differ in case are two keys, as elsewhere.
_MYSQL_TABLE = {
    "engine": "InnoDB",
    "charset": "utf8mb4",
    "collate": "utf8mb4_bin",
    "row_format": "DYNAMIC",
}


def complete(metadata: MetaData, *dialects: str) -> None:
    """Add what these kinds of databases have of their own to tables and indexes; once is enough."""
    for table in metadata.tables.values():
        for dialect in dialects:
            _complete(table, dialect)


def _complete(table: Table, dialect: str) -> None:
    if dialect in MYSQLS:
        _complete_for_mysql(table, dialect)
        return
    if dialect == "sqlite" and NEVER_AGAIN in table.info:
        table.dialect_kwargs["sqlite_autoincrement"] = True
    for index in table.indexes:
        if HOLDS in index.info:
            index.dialect_kwargs[f"{dialect}_where"] = index.info[HOLDS]


def _complete_for_mysql(table: Table, dialect: str) -> None:
    from sqlalchemy.dialects import mysql

    for option, value in _MYSQL_TABLE.items():
        table.dialect_kwargs[f"{dialect}_{option}"] = value
    longer: dict[int, Any] = {id(LONG): mysql.LONGTEXT(), id(DATA): mysql.LONGBLOB()}
    for column in table.columns:
        if id(column.type) in longer:
            column.type = column.type.with_variant(longer[id(column.type)], *MYSQLS)
