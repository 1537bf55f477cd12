"""Databases that have grown, on every server that is here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flask_deferred_mail.store.database import Database
from tests.support.bulk_rows import add_sent, add_waiting
from tests.support.databases import DATABASES, fresh_database

#: What keeps the server's statistics right in the long run (autovacuum, on PostgreSQL).
_ANALYZE = {"sqlite": "PRAGMA wal_checkpoint(TRUNCATE)", "postgresql": "VACUUM ANALYZE"}
_ANALYZE["mariadb"] = "ANALYZE TABLE deferred_mail_job"


def kinds(chosen: tuple[str, ...] = ()) -> Iterator[str]:
    """The databases that are here, of those chosen (none: all); of others it is said."""
    for kind in chosen or DATABASES:
        try:
            with fresh_database(kind, Path()):
                yield kind
        except pytest.skip.Exception as reason:
            print(f"\n({reason})")


@contextmanager
def grown(kind: str, folder: Path, sent: int = 0, waiting: int = 0) -> Iterator[Database]:
    """A database with so many mails sent a day ago, and so many that are due."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        database = Database(stack.enter_context(fresh_database(kind, folder)))
        stack.callback(database.close)
        database.create()
        if sent:
            add_sent(database, sent)
        with database.engine.connect() as connection:
            own = connection.execution_options(isolation_level="AUTOCOMMIT")
            own.exec_driver_sql(_ANALYZE[kind])
        # What waits came after the last look at the statistics, as it does when a pile arrives.
        if waiting:
            add_waiting(database, waiting)
        yield database
