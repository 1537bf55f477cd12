"""Delete ended mail, or only its content: the one thing that takes rows away.

All of it in small transactions, with a pause between them as long as they took, so that whoever
records or sends gets the database for half of the time at least. Rows that somebody has locked
(``retry`` has a failed mail in hand) are passed over: nobody waits for a purge, nor it for anybody.

Attachments are shared, so they go by a rule of their own. Whoever records a mail locks the rows of
the attachments that are there already before it refers to them (:func:`.statements.insert_blobs`);
here an attachment's row is locked first, and only then looked whether any mail refers to it. So
either the mail is seen here, or its recorder finds the attachment gone and stores it anew. That
comes in a transaction after the one that took the last mail away: of two purges at once, the one
that finishes last sees what both have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, and_, delete, or_, select, update

from ..job import ENDED
from .database import Database
from .dialect import read_now
from .schema import attempts, blobs, events, job_blobs, jobs
from .schema import recipients as recipient_index

#: Seconds between two transactions, at least and at most.
_PAUSES = (0.01, 0.5)
#: Attachments are large: so many per transaction.
_BLOBS_AT_ONCE = 20
#: Rows per look for those that still have content.
_PAGE = 2_000

T = TypeVar("T")


class Purge:
    """Deletes from one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def older_than(self, seconds: float, batch: int) -> int:
        """Delete mails that ended more than ``seconds`` ago, ``batch`` of them per transaction.

        Returns how many there were. Mail that waits, is being sent or is held stays.
        """
        before, deleted = self._before(seconds), 0
        for status in sorted(ENDED):
            since: float | None = 0.0
            while since is not None:
                number, since = self._gently(_delete_some(status, since, before, batch))
                deleted += number
        self._drop_unused()
        while self._gently(_drop_lost_reports(before, batch)):
            pass
        return deleted

    def empty_older_than(self, seconds: float, batch: int) -> int:
        """Delete body and attachments of mails that ended more than ``seconds`` ago.

        Row, recipients and attempts stay. Returns of how many mails something was deleted.
        """
        before, emptied = self._before(seconds), 0
        for status in sorted(ENDED):
            page = self.database.read(_ended(status, (0.0, 0), before))
            while page:
                full = [row.id for row in page if row.full]
                for start in range(0, len(full), batch):
                    emptied += self._gently(_empty_some(full[start : start + batch], before))
                page = self.database.read(_ended(status, (page[-1].ended_at, page[-1].id), before))
        self._drop_unused()
        return emptied

    def _before(self, seconds: float) -> float:
        return self.database.read(read_now) - seconds

    def _drop_unused(self) -> None:
        """Delete attachments that no mail has any more, also those that a killed purge left."""
        after = ""
        while digests := self.database.read(_unused(after)):
            self._gently(_drop_some(digests))
            after = digests[-1]

    def _gently(self, work: Callable[[Connection], T]) -> T:
        started = time.monotonic()
        result = self.database.write(work)
        shortest, longest = _PAUSES
        time.sleep(min(max(time.monotonic() - started, shortest), longest))
        return result


def _delete_some(
    status: str, since: float, before: float, batch: int
) -> Callable[[Connection], tuple[int, float | None]]:
    """Delete the oldest; how many, and from when on to look further (``None``: that was all).

    Looking on from there spares the database the way over what was just deleted.
    """
    oldest = (
        select(jobs.c.id, jobs.c.ended_at)
        .where(jobs.c.status == status, jobs.c.ended_at.between(since, before))
        .order_by(jobs.c.ended_at)
        .limit(batch)
        .with_for_update(skip_locked=True)
    )

    def work(connection: Connection) -> tuple[int, float | None]:
        rows = connection.execute(oldest).all()
        if not rows:
            return 0, None
        ids = [row.id for row in rows]
        # From the leaves to the row, as the foreign keys want it.
        for table in (events, attempts, recipient_index, job_blobs):
            connection.execute(delete(table).where(table.c.job_id.in_(ids)))
        connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        return len(ids), rows[-1].ended_at

    return work


def _drop_lost_reports(before: float, batch: int) -> Callable[[Connection], int]:
    """Delete old reports of providers that never found their mail; how many there were."""
    oldest = (
        select(events.c.id)
        .where(events.c.received_at <= before, events.c.job_id.is_(None))
        .limit(batch)
        .with_for_update(skip_locked=True)
    )

    def work(connection: Connection) -> int:
        ids = list(connection.scalars(oldest))
        if ids:
            connection.execute(delete(events).where(events.c.id.in_(ids)))
        return len(ids)

    return work


def _ended(
    status: str, after: tuple[float, int], before: float
) -> Callable[[Connection], Sequence[Any]]:
    """A page of ended mails in the order of their end, each with whether it has content."""
    moment, job_id = after
    query = (
        select(jobs.c.id, jobs.c.ended_at, jobs.c.payload.isnot(None).label("full"))
        .where(
            jobs.c.status == status,
            jobs.c.ended_at.between(moment, before),
            or_(jobs.c.ended_at > moment, and_(jobs.c.ended_at == moment, jobs.c.id > job_id)),
        )
        .order_by(jobs.c.ended_at, jobs.c.id)
        .limit(_PAGE)
    )
    return lambda connection: connection.execute(query).all()


def _empty_some(ids: list[int], before: float) -> Callable[[Connection], int]:
    # Who has opened one of them again meanwhile needs its content.
    still = (
        select(jobs.c.id)
        .where(jobs.c.id.in_(ids), jobs.c.status.in_(sorted(ENDED)), jobs.c.ended_at <= before)
        .with_for_update(skip_locked=True)
    )

    def work(connection: Connection) -> int:
        ours = list(connection.scalars(still))
        if ours:
            connection.execute(update(jobs).where(jobs.c.id.in_(ours)).values(payload=None))
            connection.execute(delete(job_blobs).where(job_blobs.c.job_id.in_(ours)))
        return len(ours)

    return work


def _unused(after: str) -> Callable[[Connection], list[str]]:
    """The next attachments that no mail has, by what can be seen without a lock."""
    uses = select(job_blobs.c.digest).where(job_blobs.c.digest == blobs.c.digest)
    query = (
        select(blobs.c.digest)
        .where(blobs.c.digest > after, ~uses.exists())
        .order_by(blobs.c.digest)
        .limit(_BLOBS_AT_ONCE)
    )
    return lambda connection: list(connection.scalars(query))


def _drop_some(digests: list[str]) -> Callable[[Connection], int]:
    lock = (
        select(blobs.c.digest)
        .where(blobs.c.digest.in_(digests))
        .order_by(blobs.c.digest)
        .with_for_update(skip_locked=True)
    )

    def work(connection: Connection) -> int:
        locked = set(connection.scalars(lock))
        # A statement of its own, which sees what was committed before the lock was had.
        uses = select(job_blobs.c.digest).where(job_blobs.c.digest.in_(locked))
        unused = locked - set(connection.scalars(uses))
        return connection.execute(delete(blobs).where(blobs.c.digest.in_(unused))).rowcount

    return work
