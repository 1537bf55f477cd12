"""Which worker processes were seen, and when: one row for each, kept up by itself."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, delete, select

from .database import PATIENCE, Database
from .dialect import now, read_now, upsert
from .reports import Sighting
from .schema import sightings

#: Seconds after which a worker that did not say more is taken for gone.
MISSED_AFTER = 120.0
#: Seconds after which its row is deleted.
_FORGOTTEN_AFTER = 3600.0

_KIND = "worker:"
_ARE_WORKERS = sightings.c.name.startswith(_KIND, autoescape=True)


class Sightings:
    """The worker processes of all hosts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def at_work(self, host: str, pid: int) -> None:
        """Note that this worker process is there.

        :raises StoreError: the database failed.
        """

        def work(connection: Connection) -> None:
            statement = upsert(sightings, connection.dialect.name, "host", "pid", "seen_at")
            row = {"name": _name(host, pid), "host": host, "pid": pid}
            connection.execute(statement.values(seen_at=now()), row)

        self.database.write_one(work)

    def gone(self, host: str, pid: int, patience: float = PATIENCE) -> None:
        """Forget a worker process that ends in order.

        :raises StoreError: the database failed.
        """
        statement = delete(sightings).where(sightings.c.name == _name(host, pid))
        self.database.write_one(lambda c: c.execute(statement), patience=patience)

    def tidy(self) -> None:
        """Forget those that died long ago.

        :raises StoreError: the database failed.
        """
        statement = delete(sightings).where(
            _ARE_WORKERS, sightings.c.seen_at < now() - _FORGOTTEN_AFTER
        )
        self.database.write_one(lambda c: c.execute(statement))

    def workers(self) -> list[Sighting]:
        """Those that are at work as far as is known, by host and process id.

        :raises StoreError: the database failed.
        """

        def work(connection: Connection) -> list[Sighting]:
            query = (
                select(sightings)
                .where(_ARE_WORKERS, sightings.c.seen_at >= read_now(connection) - MISSED_AFTER)
                .order_by(sightings.c.host, sightings.c.pid)
            )
            return [Sighting("worker", r.host, r.pid, r.seen_at) for r in connection.execute(query)]

        return self.database.read(work)


def _name(host: str, pid: int) -> str:
    # A host's name may be longer than the column.
    return _KIND + hashlib.sha256(f"{host}:{pid}".encode()).hexdigest()[:32]
