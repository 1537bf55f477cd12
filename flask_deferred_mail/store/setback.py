"""What a clock that was set back leaves behind, and putting it right.

Every time in a row was written by the clock as it was then. If it is set back (a machine that
came up with a wrong date, and then asked the network), what was due "in a minute" is due in a
minute and an hour, or a year. Nothing can be taken too early by that; but nothing must wait
longer than it would after an ordinary failure.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, or_, select, update

from ..job import JobStatus
from .database import Database
from .dialect import now
from .schema import jobs, sightings, transports

#: Seconds by which a clock may be corrected without anybody taking notice.
TOLERANCE = 5.0


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest waits that there can be while the clock runs on, in seconds."""

    #: Until the next attempt, jitter included; the rest of a transport as well.
    retry: float
    #: Until a lease ends. A living owner of a longer one renews it by itself.
    lease: float


class Setback:
    """Finds out that the clock was set back, and shortens what waits too long for it."""

    def __init__(self, database: Database, longest: Longest) -> None:
        self.database = database
        self.longest = longest

    def happened(self) -> bool:
        """Whether the last sighting, or with none the newest mail, lies in the future.

        Costs two looks into indexes.
        """
        newest = select(jobs.c.created_at).order_by(jobs.c.id.desc()).limit(1).scalar_subquery()
        last = select(func.max(sightings.c.seen_at)).scalar_subquery()
        query = select(func.coalesce(last, newest) > now() + TOLERANCE)
        return bool(self.database.read(lambda c: c.scalar(query)))

    def shorten(self) -> int:
        """Let nothing wait longer than it ever would; how many mails that concerned.

        Mail that a view has scheduled for later is left as it is.
        """

        def work(connection: Connection) -> int:
            _free_transports(connection, self.longest)
            # Those of the dead are never written again, and would say so for ever.
            later = sightings.c.seen_at > now()
            connection.execute(update(sightings).where(later).values(seen_at=now()))
            return _due_now(connection) + _due_in_time(connection, self.longest)

        return self.database.write(work)


_PENDING = jobs.c.status == JobStatus.PENDING.value
_SENDING = jobs.c.status == JobStatus.SENDING.value


def _due_now(connection: Connection) -> int:
    """Mails "of the future" that were to leave at once, and that no attempt has been spent on."""
    statement = (
        update(jobs)
        .where(
            _PENDING,
            jobs.c.attempts == 0,
            jobs.c.created_at > now(),
            jobs.c.first_due_at <= jobs.c.created_at,
        )
        .values(due_at=now(), first_due_at=now())
    )
    return connection.execute(statement).rowcount


def _due_in_time(connection: Connection, longest: Longest) -> int:
    """Retries (later than first due: not scheduled), and what a dead process has left behind."""
    late_retry = and_(
        _PENDING, jobs.c.due_at > jobs.c.first_due_at, jobs.c.due_at > now() + longest.retry
    )
    long_lease = and_(_SENDING, jobs.c.due_at > now() + longest.lease)
    changed = 0
    for condition, wait in ((late_retry, longest.retry), (long_lease, longest.lease)):
        statement = update(jobs).where(condition).values(due_at=now() + wait)
        changed += connection.execute(statement).rowcount
    return changed


def _free_transports(connection: Connection, longest: Longest) -> None:
    """A rest that began in the future is over; one mail will find out whether it should be."""
    since_then = or_(transports.c.since > now(), transports.c.resting_until > now() + longest.retry)
    connection.execute(update(transports).where(since_then).values(resting_until=now()))
    connection.execute(
        update(transports)
        .where(transports.c.probe_until > now() + longest.lease)
        .values(probe_token=None, probe_until=None)
    )
