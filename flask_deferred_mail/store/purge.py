"""Delete ended mail: the one thing that takes rows away.

The order inside a transaction is from the leaves to the row, so that every state that is ever
committed is whole. Attachments go with the last mail that has them.
"""

from __future__ import annotations

import time
from functools import partial

from sqlalchemy import Connection, delete, select

from ..job import ENDED, JobStatus
from .database import Database
from .dialect import now
from .schema import attempts, blobs, job_blobs, jobs
from .schema import recipients as recipient_index

#: Seconds between two transactions: whoever waits for the write lock gets it there.
_PAUSE = 0.01


class Purge:
    """Deletes from one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def older_than(self, seconds: float, batch: int) -> int:
        """Delete what ended more than ``seconds`` ago, ``batch`` mails per transaction.

        Returns how many there were. Mail that waits, is being sent or is held stays.
        """
        deleted = 0
        for status in sorted(ENDED):
            work = partial(_one, status=status, seconds=seconds, batch=batch)
            while number := self.database.write(work):
                deleted += number
                time.sleep(_PAUSE)
        return deleted


def _one(connection: Connection, *, status: JobStatus, seconds: float, batch: int) -> int:
    oldest = (
        select(jobs.c.id)
        .where(jobs.c.status == status.value, jobs.c.ended_at <= now() - seconds)
        .order_by(jobs.c.ended_at)
        .limit(batch)
    )
    ids = list(connection.scalars(oldest))
    if not ids:
        return 0
    digests = set(connection.scalars(select(job_blobs.c.digest).where(job_blobs.c.job_id.in_(ids))))
    for table in (attempts, recipient_index, job_blobs):
        connection.execute(delete(table).where(table.c.job_id.in_(ids)))
    if digests:
        still_used = select(job_blobs.c.digest).where(job_blobs.c.digest == blobs.c.digest)
        connection.execute(delete(blobs).where(blobs.c.digest.in_(digests), ~still_used.exists()))
    connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return len(ids)
