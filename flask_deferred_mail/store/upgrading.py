"""Makes tables of an older version into those of this one.

Alembic runs the revisions. It is imported only when there is something to do: a process whose
tables fit, or are made anew, starts without it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from ..errors import SchemaError
from . import schema
from .versions import Change, Found, check, make, read, revision_of, take_in

if TYPE_CHECKING:
    from alembic.config import Config

#: The revisions, and what runs them.
SCRIPTS = Path(__file__).with_name("migrations")

# Alembic's ``op`` and ``context`` are one for the whole process.
_one_at_a_time = threading.Lock()


def make_if_missing(connection: Connection, shown: str) -> Change:
    """Make the tables if there are none; tables that are there keep their version.

    :raises SchemaError: they are older than this version, or newer and do not fit.
    """
    found = read(connection)
    if found is None:
        make(connection, shown)
        return Change(None, schema.SCHEMA_VERSION)
    check(found, shown)
    if found.old:
        raise too_old(found, shown)
    return take_in(connection, found)


def make_or_upgrade(connection: Connection, shown: str) -> Change:
    """Make the tables, or run the revisions that they lack. Tables that fit are left alone.

    :raises SchemaError: they are newer than this version and do not fit.
    """
    found = read(connection)
    if found is None or not found.old:
        return make_if_missing(connection, shown)
    adopted = take_in(connection, found).adopted
    with _one_at_a_time:
        run_revisions(connection, schema.SCHEMA_VERSION)
    return Change(found.version, schema.SCHEMA_VERSION, adopted)


def only_adds(found: Found) -> bool:
    """Whether processes that fit the tables as they are will fit those of this version too."""
    from alembic.script import ScriptDirectory  # see the top: loaded when it is needed

    with _one_at_a_time:
        scripts = ScriptDirectory.from_config(_configuration())
        ahead = scripts.get_revision(revision_of(schema.SCHEMA_VERSION))
        return bool(ahead.module.compatible <= found.version)


def too_old(found: Found, shown: str) -> SchemaError:
    """What to say of tables that have to be upgraded first."""
    return SchemaError(
        f"{shown}: the tables are of version {found.version}, this process needs version "
        f"{schema.SCHEMA_VERSION}; run `flask mail upgrade-db` once"
    )


def run_revisions(connection: Connection, version: int) -> None:
    """Bring the tables to this version, revision by revision, inside the caller's transaction."""
    from alembic import command  # see the top: loaded when it is needed

    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, revision_of(version))


def _configuration() -> Config:
    from alembic.config import Config  # see the top: loaded when it is needed

    configuration = Config()
    # A percent sign in a path would be taken for a reference to another option.
    configuration.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return configuration
