"""What all processes know about a transport: whether it rests, and who may try it again.

A transport that nothing is wrong with has no row, or one with ``failures = 0``. After a fault it
rests; when the rest is over, one sender at a time may take one mail as a probe. Nothing else is
claimed for it until a probe has come through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, or_, select, update

from .database import Database
from .dialect import insert_or_ignore, now, read_now
from .schema import transports


@dataclass(frozen=True, slots=True)
class TransportState:
    """A transport's trouble, as the database has it."""

    name: str
    failures: int
    kind: str | None
    reason: str | None
    since: float | None
    #: Seconds from now; zero or less when the rest is over.
    rests_for: float
    #: Something is noted that an accepted mail would clear.
    has_streak: bool
    #: Seconds for which one sender has leave to try it; zero or less: nobody has.
    probed_for: float = 0.0
    #: Since when, and by whom, it is kept from sending.
    paused_at: float | None = None
    paused_by: str | None = None
    #: Seconds since it came back after an outage; ``None``: it had none, or it lasts.
    back_for: float | None = None


class TransportStates:
    """Reads and changes the shared state. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def all(self) -> dict[str, TransportState]:
        """Every transport that something is, or was, wrong with."""
        query = select(
            transports.c.name,
            transports.c.failures,
            transports.c.kind,
            transports.c.reason,
            transports.c.since,
            (transports.c.resting_until - now()).label("rests_for"),
            transports.c.config_jobs,
            transports.c.wide_reply,
            (transports.c.probe_until - now()).label("probed_for"),
            transports.c.paused_at,
            transports.c.paused_by,
            (now() - transports.c.ramp_at).label("back_for"),
        )
        rows = self.database.read(lambda c: c.execute(query).all())
        return {
            row.name: TransportState(
                name=row.name,
                failures=row.failures,
                kind=row.kind,
                reason=row.reason,
                since=row.since,
                rests_for=row.rests_for or 0.0,
                has_streak=bool(row.config_jobs or row.wide_reply),
                probed_for=row.probed_for or 0.0,
                paused_at=row.paused_at,
                paused_by=row.paused_by,
                back_for=row.back_for,
            )
            for row in rows
        }

    def rest(self, name: str, kind: str, reason: str, seconds: dict[int, float]) -> int | None:
        """Let the transport rest, unless it does already. Returns the faults in a row.

        ``seconds`` says how long, by number of the fault in a row (the highest key serves all
        beyond it). Many senders may meet the same outage at once: it counts once.
        """

        def work(connection: Connection) -> int | None:
            row = _row(connection, name)
            if row.failures and (row.resting_until or 0.0) > read_now(connection):
                return None
            failures: int = row.failures + 1
            pause = seconds[min(failures, max(seconds))]
            values: dict[str, Any] = {
                "failures": failures,
                "kind": kind,
                "reason": reason,
                "resting_until": now() + pause,
                "probe_token": None,
                "probe_until": None,
                "ramp_at": None,
            }
            if not row.failures:
                values["since"] = now()
            _change(connection, name, values)
            return failures

        return self.database.write(work)

    def try_probe(self, name: str, token: str, seconds: float) -> bool:
        """Become the one sender that may try the transport for the next ``seconds``."""
        statement = (
            update(transports)
            .where(
                transports.c.name == name,
                transports.c.failures > 0,
                transports.c.resting_until <= now(),
                or_(transports.c.probe_until.is_(None), transports.c.probe_until <= now()),
            )
            .values(probe_token=token, probe_until=now() + seconds)
        )
        return self.database.write_one(lambda c: c.execute(statement).rowcount == 1)

    def drop_probe(self, name: str, token: str) -> None:
        """The probe was not used (there was nothing to send): others may try."""
        statement = (
            update(transports)
            .where(transports.c.name == name, transports.c.probe_token == token)
            .values(probe_token=None, probe_until=None)
        )
        self.database.write_one(lambda c: c.execute(statement))

    def recovered(self, name: str, *, keep_streaks: bool, after_outage: bool = True) -> bool:
        """It answers again. ``keep_streaks``: it has not accepted anything yet, though.
        ``after_outage``: it is loaded again little by little. False: somebody said so before, and
        nothing was written, since all senders that had a mail there hear it at once."""
        well = _WELL if keep_streaks else _WELL | _NO_STREAKS
        statement = update(transports).where(transports.c.name == name)
        if after_outage:
            well = well | {"ramp_at": now()}
            statement = statement.where(transports.c.failures > 0)
        statement = statement.values(well)
        return self.database.write_one(lambda c: c.execute(statement).rowcount == 1)

    def pause(self, name: str, by: str) -> bool:
        """Keep everybody from sending by it. False: it is paused already."""

        def work(connection: Connection) -> bool:
            if _row(connection, name).paused_at is not None:
                return False
            _change(connection, name, {"paused_at": now(), "paused_by": by})
            return True

        return self.database.write(work)

    def resume(self, name: str) -> bool:
        """Let it send again, if nothing else is wrong with it. False: it was not paused."""
        statement = (
            update(transports)
            .where(transports.c.name == name, transports.c.paused_at.isnot(None))
            .values(paused_at=None, paused_by=None)
        )
        return self.database.write_one(lambda c: c.execute(statement).rowcount == 1)

    def server_wide(self, name: str, job_id: int, reply: str) -> bool:
        """Note a server-wide reply that a mail met. True: another mail met the same words."""

        def work(connection: Connection) -> bool:
            row = _row(connection, name)
            same = row.wide_reply == reply and row.wide_job not in (None, job_id)
            _change(connection, name, {"wide_reply": reply, "wide_job": job_id})
            return same

        return self.database.write(work)

    def message_config(self, name: str, job_id: int, threshold: int = 5) -> list[int]:
        """Note a mail that failed as wrongly configured.

        Returns the ids once ``threshold`` different mails have done so in a row (and starts
        anew): then it was the account's fault, and they deserve another try. Else nothing.
        """

        def work(connection: Connection) -> list[int]:
            row = _row(connection, name)
            streak: list[int] = json.loads(row.config_jobs or "[]")
            if job_id not in streak:
                streak.append(job_id)
            complete = len(streak) >= threshold
            left = None if complete else json.dumps(streak)
            _change(connection, name, {"config_jobs": left})
            return streak if complete else []

        return self.database.write(work)


_WELL: dict[str, Any] = dict.fromkeys(
    (
        "kind",
        "reason",
        "since",
        "resting_until",
        "probe_token",
        "probe_until",
    )
) | {"failures": 0}
_NO_STREAKS: dict[str, Any] = dict.fromkeys(("wide_reply", "wide_job", "config_jobs"))


def _row(connection: Connection, name: str) -> Any:
    connection.execute(
        insert_or_ignore(transports, connection.dialect.name), {"name": name, "failures": 0}
    )
    query = select(transports).where(transports.c.name == name).with_for_update()
    return connection.execute(query).one()


def _change(connection: Connection, name: str, values: dict[str, Any]) -> None:
    connection.execute(update(transports).where(transports.c.name == name).values(values))
