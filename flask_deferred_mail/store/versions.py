"""Which version the tables are of, and whether this process may use them.

Two rows of the meta table say it: ``schema``, the version, and ``compatible``, the oldest version
of the code that may use such tables. A revision that only adds leaves ``compatible`` as it was, so
processes of the old version go on, and may be started, beside those of the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    inspect,
    select,
)

from ..errors import SchemaError
from . import schema
from .table_options import complete

#: Where Alembic notes the revision. Not among the tables that an application may own: then its own
#: Alembic has such a table, and this one is not there.
version_table = Table(
    f"{schema.PREFIX}alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{schema.PREFIX}alembic_version_pkc"),
)

_ROWS = ("schema", "compatible")


@dataclass(frozen=True, slots=True)
class Found:
    """What a database says of its tables."""

    #: Version of the tables.
    version: int
    #: The oldest version of the code that may use them.
    compatible: int

    @property
    def old(self) -> bool:
        """A newer version than theirs runs here."""
        return self.version < schema.SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to the tables."""

    #: Version before; ``None``: there were none.
    before: int | None
    after: int
    #: They were there without a revision, and have one now.
    adopted: bool = False


def revision_of(version: int) -> str:
    """The revision that leads to a version of the tables."""
    return f"{version:04d}"


def read(connection: Connection) -> Found | None:
    """The version of the tables there; ``None`` if there are none, or no version was noted."""
    if not inspect(connection).has_table(schema.meta.name):
        return None
    query = select(schema.meta.c.name, schema.meta.c.value).where(schema.meta.c.name.in_(_ROWS))
    said = {row.name: row.value for row in connection.execute(query)}
    if "schema" not in said:
        return None
    version = int(said["schema"])
    # "3:1" speaks of version 3 only: to whoever noted another version, and no more, nothing fits.
    of, _, compatible = said.get("compatible", "").partition(":")
    return Found(version, int(compatible) if of == said["schema"] else version)


def check(found: Found, shown: str) -> None:
    """Whether this process may use the tables, as far as they are not too old.

    :raises SchemaError: they are of a newer version that it does not fit.
    """
    known = schema.SCHEMA_VERSION
    if found.version > known and found.compatible > known:
        raise SchemaError(
            f"{shown}: the tables are of version {found.version}, this process knows version "
            f"{known}. Upgrade flask-deferred-mail here; nothing was touched"
        )


def missing(connection: Connection) -> list[str]:
    """Tables (``table``) and columns (``table.column``) that are not there."""
    inspector = inspect(connection)
    absent = []
    for table in schema.metadata.sorted_tables:
        if not inspector.has_table(table.name):
            absent.append(table.name)
            continue
        there = {column["name"] for column in inspector.get_columns(table.name)}
        absent += [f"{table.name}.{c.name}" for c in table.columns if c.name not in there]
    return absent


def make(connection: Connection, shown: str) -> None:
    """Make the tables as this version knows them, and note version and revision.

    Where a database cannot take back half of it (MariaDB, MySQL), a second run makes the rest.

    :raises SchemaError: tables of that name are there, of nobody knows which version.
    """
    complete(schema.metadata, connection.dialect.name)
    schema.metadata.create_all(connection)
    for table in schema.metadata.sorted_tables:
        _make_indexes(connection, table)
    if absent := missing(connection):
        raise SchemaError(
            f"{shown}: there are tables of ours whose version is not noted, and which lack "
            f"{', '.join(absent)}; nothing was changed in them"
        )
    note(connection, schema.SCHEMA_VERSION, schema.SCHEMA_VERSION)
    stamp(connection, schema.SCHEMA_VERSION)


def _make_indexes(connection: Connection, table: Table) -> None:
    there = {index["name"] for index in inspect(connection).get_indexes(table.name)}
    for index in table.indexes:
        if index.name not in there:
            index.create(connection)


def note(connection: Connection, version: int, compatible: int) -> None:
    """Note the version of the tables, and the oldest version of the code that may use them."""
    connection.execute(schema.meta.delete().where(schema.meta.c.name.in_(_ROWS)))
    rows = zip(_ROWS, (str(version), f"{version}:{compatible}"), strict=True)
    connection.execute(
        schema.meta.insert(), [{"name": name, "value": value} for name, value in rows]
    )


def stamped(connection: Connection) -> bool:
    """Whether a revision is noted."""
    if not inspect(connection).has_table(version_table.name):
        return False
    return connection.scalar(select(version_table.c.version_num)) is not None


def stamp(connection: Connection, version: int) -> None:
    """Note the revision, so that later ones find where to begin."""
    complete(version_table.metadata, connection.dialect.name)
    version_table.create(connection, checkfirst=True)
    connection.execute(version_table.delete())
    connection.execute(version_table.insert(), {"version_num": revision_of(version)})


def take_in(connection: Connection, found: Found) -> Change:
    """Note the revision of tables that were made before revisions were, and change nothing else."""
    adopt = found.version <= schema.SCHEMA_VERSION and not stamped(connection)
    if adopt:
        stamp(connection, found.version)
    return Change(found.version, found.version, adopted=adopt)
