"""Recipients whom servers called unknown: who is listed for it, and when that is not believed.

One refusal is noted, in the transaction of the outcome that it belongs to; a second one, of another
mail and a day later, puts the address on the list. But when more than one in twenty recipients of
a transport is refused so within an hour, it is the server that is wrong (a directory that does not
answer), not so many addresses: then nothing is listed, what was listed in that hour is taken off,
and whoever looks after the mail is told. What was refused in such a time never counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from ..job import ACCEPTED, JobStatus
from ..suppression import DAY, Reason, Refusal, Suppression, folded
from .database import Database
from .dialect import read_now, upsert
from .schema import jobs, meta, recipients, refusals, suppressions
from .suppressions import Suppressions, learn

log = logging.getLogger("flask_deferred_mail.store")

#: Seconds between two refusals that put an address on the list: at least, and at most.
APART = DAY
REMEMBERED = 90 * DAY

#: One in so many of a transport's recipients may be refused within :data:`HOUR`, or so few.
ONE_IN = 20
FEWEST = 10
HOUR = 3_600.0

#: Seconds for which a process believes what it found out about a transport.
BELIEVED = 30.0
#: Seconds between two writes of how an alarm goes on.
_NOTED_AGAIN = 60.0

_PREFIX = "refusals:"
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Alarm:
    """More of a transport's recipients were called unknown than can be true.

    Times are seconds since the epoch, by the database's clock.
    """

    transport: str
    since: float
    #: When that was found last.
    until: float
    #: Different addresses that were refused within the hour before, and recipients in all.
    refused: int
    recipients: int
    told_at: float


@dataclass(frozen=True, slots=True)
class Noted:
    """What follows from refusals that were written down."""

    listed: int = 0
    #: To be told now.
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What this process found out about a transport, and when (monotonic)."""

    at: float
    alarmed: bool


class Refusals:
    """Notes refusals, lists addresses for them, raises alarms. Safe for threads."""

    def __init__(self, list_: Suppressions) -> None:
        self.list = list_
        self.database: Database = list_.database
        self._looks: dict[str, _Look] = {}
        self._lock = threading.Lock()

    def note(
        self, connection: Connection, job_id: int, transport: str, refused: Sequence[Refusal]
    ) -> Noted:
        """Note what a mail met, in the transaction of its outcome."""
        moment = read_now(connection)
        rows = [_row(refusal, job_id, transport, moment) for refusal in refused]
        connection.execute(insert(refusals), rows)
        before = _alarm_of(connection, transport)
        look = self._looks.get(transport)
        recent = look is not None and time.monotonic() < look.at + BELIEVED
        if recent and look is not None and look.alarmed:
            return Noted()
        entries = _repeated(connection, rows, before)
        if recent and not entries:
            return Noted()
        return self._judge(connection, transport, moment, entries, before)

    def _judge(
        self,
        connection: Connection,
        transport: str,
        moment: float,
        entries: list[Suppression],
        before: Alarm | None,
    ) -> Noted:
        number, of = _shares(connection, transport, moment - HOUR)
        alarmed = number >= FEWEST and number * ONE_IN > of
        with self._lock:
            self._looks[transport] = _Look(time.monotonic(), alarmed)
        if alarmed:
            _take_back(connection, transport, moment - HOUR)
            return Noted(alarm=_raise_alarm(connection, transport, moment, (number, of), before))
        if entries:
            learn(connection, entries)
        return Noted(listed=len(entries))

    def follow(self, noted: Noted) -> None:
        """After the commit: let the list be asked, and tell whoever looks after the mail."""
        if noted.listed:
            self.list.added_here()
        if noted.alarm is not None:
            log.error(
                "transport %s: its server called %d of %d recipients unknown within an hour, more "
                "than can be true: none of them is put on the suppression list. Look at the "
                "server's directory; `flask mail retry --failed` tries them again",
                noted.alarm.transport,
                noted.alarm.refused,
                noted.alarm.recipients,
            )

    def alarms(self) -> list[Alarm]:
        """The last alarm of each transport that had one."""
        query = select(meta.c.value).where(meta.c.name.like(f"{_PREFIX}%")).order_by(meta.c.name)
        return [_alarm(v) for v in self.database.read(lambda c: c.scalars(query).all())]

    def forget_old(self) -> int:
        """Delete refusals that count for nothing any more, in small transactions."""
        before, dropped = self.database.read(read_now) - REMEMBERED, 0
        old = (
            select(refusals.c.id)
            .where(refusals.c.refused_at < before)
            .order_by(refusals.c.id)
            .limit(_AT_ONCE)
        )
        while ids := self.database.read(lambda c: list(c.scalars(old))):
            gone = delete(refusals).where(refusals.c.id.in_(ids))
            self.database.write(lambda c, gone=gone: c.execute(gone))  # type: ignore[misc]
            dropped += len(ids)
        return dropped


def _row(refusal: Refusal, job_id: int, transport: str, moment: float) -> dict[str, Any]:
    return {
        "address": folded(refusal.address),
        "domain": refusal.domain,
        "tenant": refusal.tenant,
        "transport": transport,
        "job_id": job_id,
        "refused_at": moment,
        "detail": refusal.detail,
    }


# -- who is listed ------------------------------------------------------------------------------


def _repeated(
    connection: Connection, rows: Sequence[dict[str, Any]], alarm: Alarm | None
) -> list[Suppression]:
    """Entries for those who were refused before, by another mail and at least a day ago, and got
    nothing since."""
    first = _first_refusals(connection, rows, alarm)
    if not first:
        return []
    reached = _reached_since(connection, first)
    return [
        Suppression(
            address=row["address"],
            reason=Reason.UNKNOWN_USER,
            domain=row["domain"],
            tenant=row["tenant"],
            source=row["transport"],
            detail=row["detail"],
        )
        for row in rows
        if _who(row) in first and row["address"] not in reached
    ]


def _who(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["address"], row["domain"], row["tenant"]


def _first_refusals(
    connection: Connection, rows: Sequence[dict[str, Any]], alarm: Alarm | None
) -> dict[tuple[str, str, str], int]:
    """Address and scope -> the mail that was refused last before, at least a day ago."""
    moment, job_id = rows[0]["refused_at"], rows[0]["job_id"]
    found: dict[tuple[str, str, str], int] = {}
    addresses = [row["address"] for row in rows]
    for start in range(0, len(addresses), _AT_ONCE):
        query = (
            select(refusals)
            .where(
                refusals.c.address.in_(addresses[start : start + _AT_ONCE]),
                refusals.c.refused_at.between(moment - REMEMBERED, moment - APART),
                refusals.c.job_id != job_id,
            )
            .order_by(refusals.c.refused_at)
        )
        for row in connection.execute(query).mappings():
            if not _doubtful(row, alarm):
                found[row["address"], row["domain"], row["tenant"]] = row["job_id"]
    return found


def _doubtful(row: Any, alarm: Alarm | None) -> bool:
    """Whether somebody was refused while too many were."""
    return (
        alarm is not None
        and row["transport"] == alarm.transport
        and alarm.since - HOUR <= row["refused_at"] <= alarm.until
    )


def _reached_since(connection: Connection, first: dict[tuple[str, str, str], int]) -> set[str]:
    """Whose server took a later mail than the one it refused first."""
    since: dict[str, int] = {}
    for (address, _, _), job_id in first.items():
        since[address] = max(job_id, since.get(address, 0))
    reached: set[str] = set()
    addresses = list(since)
    for start in range(0, len(addresses), _AT_ONCE):
        query = select(recipients.c.address, recipients.c.job_id).where(
            recipients.c.address.in_(addresses[start : start + _AT_ONCE]),
            recipients.c.status.in_(sorted(status.value for status in ACCEPTED)),
        )
        reached |= {
            row.address for row in connection.execute(query) if row.job_id > since[row.address]
        }
    return reached


# -- when that is not believed ------------------------------------------------------------------


def _shares(connection: Connection, transport: str, since: float) -> tuple[int, int]:
    """Different addresses refused since then, and the recipients of mails that ended since then;
    those are counted only as far as it matters."""
    refused = int(
        connection.scalar(
            select(func.count(refusals.c.address.distinct())).where(
                refusals.c.transport == transport, refusals.c.refused_at > since
            )
        )
        or 0
    )
    if refused < FEWEST:
        return refused, 0
    ended = [JobStatus.SENT.value, JobStatus.PARTIAL.value, JobStatus.FAILED.value]
    some = (
        select(recipients.c.job_id)
        .join(jobs, jobs.c.id == recipients.c.job_id)
        .where(jobs.c.status.in_(ended), jobs.c.ended_at > since, jobs.c.transport == transport)
        .limit(refused * ONE_IN)
        .subquery()
    )
    return refused, int(connection.scalar(select(func.count()).select_from(some)) or 0)


def _take_back(connection: Connection, transport: str, since: float) -> None:
    """Take off the list whom this hour's refusals put there."""
    query = (
        select(refusals.c.address)
        .where(refusals.c.transport == transport, refusals.c.refused_at > since)
        .distinct()
    )
    addresses = sorted(connection.scalars(query))
    for start in range(0, len(addresses), _AT_ONCE):
        connection.execute(
            delete(suppressions).where(
                suppressions.c.address.in_(addresses[start : start + _AT_ONCE]),
                suppressions.c.reason == Reason.UNKNOWN_USER.value,
                suppressions.c.source == transport,
                suppressions.c.created_at > since,
            )
        )


def _name(transport: str) -> str:
    return _PREFIX + hashlib.sha256(transport.encode()).hexdigest()[:32]


def _alarm(text: str) -> Alarm:
    name, since, until, refused, of, told_at = json.loads(text)
    return Alarm(name, since, until, refused, of, told_at)


def _alarm_of(connection: Connection, transport: str) -> Alarm | None:
    text = connection.scalar(select(meta.c.value).where(meta.c.name == _name(transport)))
    return None if text is None else _alarm(text)


def _raise_alarm(
    connection: Connection,
    transport: str,
    moment: float,
    shares: tuple[int, int],
    before: Alarm | None,
) -> Alarm | None:
    """Write the alarm down, for all processes. Returned: it is to be told, once an hour."""
    goes_on = before is not None and moment - before.until < HOUR
    since = before.since if before is not None and goes_on else moment
    tell = before is None or moment - before.told_at >= HOUR
    if before is not None and goes_on and not tell and moment - before.until < _NOTED_AGAIN:
        return None
    told_at = moment if before is None or tell else before.told_at
    refused, of = shares
    value = json.dumps([transport, since, moment, refused, of, told_at], ensure_ascii=False)
    row = {"name": _name(transport), "value": value}
    connection.execute(upsert(meta, connection.dialect.name, "value"), row)
    return Alarm(transport, since, moment, refused, of, told_at) if tell else None
