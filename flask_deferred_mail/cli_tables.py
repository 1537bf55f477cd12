"""Commands that make the tables, and bring them to a new version."""

from __future__ import annotations

from collections.abc import Callable

from .app_mail import AppMail
from .cleaning import clean
from .cli_command import command, say
from .store.database import Database
from .store.versions import Change


@command("init-db")
def init_db(mail: AppMail) -> None:
    """Make the tables where they are missing. Does no harm when they are there.

    PostgreSQL, MariaDB and MySQL need this once. SQLite's tables are made at first use anyhow; this
    shows at deployment whether that works. Tables of an older version are left to `upgrade-db`.
    Where the tables belong to the application (DeferredMail(db=db)), it says so and does nothing.

    \b
    Example:
      flask --app myapp mail init-db
    """
    _change_tables(mail.runtime.database, Database.create)


@command("upgrade-db")
def upgrade_db(mail: AppMail) -> None:
    """Make the tables, or bring them to this version.

    Run it at each deployment, before the new processes start; those of the old version may go on
    meanwhile, unless the changelog says otherwise. There is no way back. SQLite's tables are
    upgraded at first use, where nothing speaks against it. Where the tables belong to the
    application (DeferredMail(db=db)), it says so and does nothing.

    \b
    Example:
      flask --app myapp mail upgrade-db
    """
    _change_tables(mail.runtime.database, Database.upgrade)


def _change_tables(database: Database, change: Callable[[Database], Change]) -> None:
    if database.backend.application_owns:
        say(_foreign(database.shown))
    else:
        say(_done(change(database), database.shown))


def _done(change: Change, shown: str) -> str:
    place = clean(shown)
    if change.before is None:
        return f"made tables of version {change.after} in {place}"
    if change.before != change.after:
        return f"upgraded tables of version {change.before} to version {change.after} in {place}"
    did = "noted their revision" if change.adopted else "nothing to do"
    return f"tables of version {change.after} are in {place}: {did}"


def _foreign(shown: str) -> str:
    return (
        f"the tables in {clean(shown)} belong to the application (db=): nothing was done. Make "
        "or migrate them with it: db.create_all(), or flask db migrate and flask db upgrade"
    )
