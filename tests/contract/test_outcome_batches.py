"""Outcomes that PostgreSQL writes by one statement: each row by itself, and no transaction around.

What holds for every database is in ``test_outcomes.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, update

from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.outcome import ServerNote
from flask_deferred_mail.store import server_calls
from flask_deferred_mail.store.claims import Claim, Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.outcomes import OUTCOME_PATIENCE, _Entry
from flask_deferred_mail.store.prepared import run_sql
from flask_deferred_mail.store.schema import attempts, jobs, recipients
from flask_deferred_mail.store.statements import AttemptNote, Verdict, log_line, outcome_of
from flask_deferred_mail.suppression import Refusal
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

MAILS = 5
#: An end of every kind: status, delay, what became of the recipient.
ENDS = [
    (JobStatus.SENT, None, RecipientStatus.SENT),
    (JobStatus.PARTIAL, None, RecipientStatus.SENT),
    (JobStatus.PENDING, 600.0, RecipientStatus.PENDING),
    (JobStatus.FAILED, None, RecipientStatus.REJECTED),
    (JobStatus.HELD, None, RecipientStatus.UNKNOWN),
]


class Desk:
    """Mails in hand, and what the database holds of them."""

    def __init__(self, url: str, *, in_thread: bool = False) -> None:
        #: Outcomes are written as a worker's sender threads write them.
        self.in_thread = in_thread
        self.database = Database(url)
        self.database.create()
        self.jobs = JobStore(self.database)
        self.jobs.add_many([Submission(a_letter(f"r{n}@example.net")) for n in range(MAILS)])
        self.claims = Claims(self.database, Lease(60, "host:1")).take("default", MAILS)

    def write(self, verdicts: list[Verdict]) -> list[bool]:
        """Outcomes that wait together, as their leader writes them."""
        batch = [
            _Entry(claim, verdict, *outcome_of(claim, verdict), log_line(claim, verdict.note), 9.0)
            for claim, verdict in zip(self.claims, verdicts, strict=True)
        ]
        writer = self.jobs._outcomes
        self._in_its_thread(lambda: writer._together(batch))
        return [writer._alone(e) if e.written is None else e.written for e in batch]

    def _in_its_thread(self, work: Callable[[], None]) -> None:
        if not self.in_thread:
            work()
            return
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()

    def rows(self) -> list[list[dict[str, Any]]]:
        """The three tables, without what another run of this test would have otherwise."""

        def read(connection: Connection) -> list[list[dict[str, Any]]]:
            return [
                [dict(row._mapping) for row in connection.execute(select(*what).order_by(*what))]
                for what in (_OF_JOB, _OF_ATTEMPT, list(recipients.c))
            ]

        return self.database.read(read)

    def times(self) -> list[tuple[Any, ...]]:
        columns = (jobs.c.due_at, jobs.c.ended_at, jobs.c.sent_at)
        query = select(*columns).order_by(jobs.c.id)
        return self.database.read(lambda c: [tuple(row) for row in c.execute(query)])

    def steal(self, claim: Claim) -> None:
        stolen = update(jobs).where(jobs.c.id == claim.job_id).values(lease_token="another's")
        self.database.write(lambda c: c.execute(stolen))


_VARYING = ("due_at", "first_due_at", "created_at", "ended_at", "sent_at", "message_id", "payload")
_OF_JOB = [c for c in jobs.c if c.key not in (*_VARYING, "lease_token")]
_OF_ATTEMPT = [c for c in attempts.c if c.key != "id"]


def _verdict(claim: Claim, status: JobStatus, delay: float | None, fate: Any, **more: Any) -> Any:
    to = tuple(
        JobRecipient(r.address, r.kind, fate, 'a "reply"\nwith é and \\', f"id-{claim.job_id}")
        for r in claim.recipients
    )
    server = ServerNote(host="mx", address="::1", tls="TLSv1.3", queue_id="4", phases={"dot": 0.25})
    note = AttemptNote(1_234_567.123456, 0.1, "sent", "250 ok", server)
    return Verdict(status, to, note, "☂ tried" if delay else None, delay=delay, **more)


def _verdicts(desk: Desk) -> list[Verdict]:
    return [_verdict(claim, *end) for claim, end in zip(desk.claims, ENDS, strict=True)]


@contextmanager
def _desk(kind: str, folder: Path, *, in_thread: bool = False) -> Iterator[Desk]:
    with fresh_database(kind, folder) as url:
        desk = Desk(url, in_thread=in_thread)
        yield desk
        desk.database.close()


@pytest.fixture(params=[False, True], ids=["main", "thread"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """Used from the main thread, and from another, where libpq itself is asked."""
    with _desk("postgresql", tmp_path, in_thread=request.param) as desk:
        yield desk


@pytest.mark.parametrize("kind", [kind for kind in DATABASES if kind != "sqlite"])
@pytest.mark.parametrize("in_thread", [False, True], ids=["main", "thread"])
def test_every_kind_of_end_is_written_as_elsewhere(
    kind: str, in_thread: bool, tmp_path: Path
) -> None:
    """The rows of one statement are those that SQLite's statements write, one by one."""
    with _desk("sqlite", tmp_path) as expected, _desk(kind, tmp_path, in_thread=in_thread) as desk:
        assert expected.write(_verdicts(expected)) == desk.write(_verdicts(desk)) == [True] * MAILS
        assert desk.rows() == expected.rows()
        for ours, theirs in zip(desk.times(), expected.times(), strict=True):
            assert [value is None for value in ours] == [value is None for value in theirs]
            assert ours == pytest.approx(theirs, abs=60)


@pytest.mark.parametrize(
    ("in_thread", "asked", "itself"),
    [(True, "", True), (False, "", False), (True, "?prepare_threshold=5", False)],
)
def test_only_who_may_wait_for_good_asks_libpq_itself(
    in_thread: bool, asked: str, itself: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the main thread, which has signals to hear, nor whoever wants prepared statements."""
    by_psycopg: list[str] = []

    def run(connection: Connection, sql: str, parameters: Any) -> Any:
        by_psycopg.append(sql)
        return run_sql(connection, sql, parameters)

    monkeypatch.setattr(server_calls, "run_sql", run)
    with fresh_database("postgresql", tmp_path) as url:
        desk = Desk(url + asked, in_thread=in_thread)
        assert desk.write(_verdicts(desk)) == [True] * MAILS
        desk.database.close()
    assert bool(by_psycopg) is not itself


@pytest.mark.parametrize("in_thread", [False, True], ids=["main", "thread"])
@pytest.mark.parametrize("asked", ["", "?client_encoding=latin1"])
def test_no_setting_keeps_a_reply_from_being_written(
    in_thread: bool, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoding that lacks its characters, from the environment or the URL, is not used: a mail
    whose outcome can never be written is sent again and again."""
    with fresh_database("postgresql", tmp_path) as url, monkeypatch.context() as patch:
        patch.setenv("PGCLIENTENCODING", "latin1")
        desk = Desk(url + asked, in_thread=in_thread)
        assert desk.write(_verdicts(desk)) == [True] * MAILS
        assert [row["last_error"] for row in desk.rows()[0]].count("☂ tried") == 1
        desk.database.close()


def test_one_lost_lease_keeps_no_other_from_being_written(desk: Desk) -> None:
    """One statement: all the others are in, and nothing of that one."""
    desk.steal(desk.claims[2])
    statements = _transactions(desk)
    assert desk.write(_verdicts(desk)) == [n != 2 for n in range(MAILS)]
    assert statements == []
    rows = desk.rows()
    stolen = desk.claims[2].job_id
    assert [row["status"] for row in rows[0] if row["id"] == stolen] == ["sending"]
    written = [claim.job_id for claim in desk.claims if claim.job_id != stolen]
    assert sorted(row["job_id"] for row in rows[1]) == sorted(written)
    assert sorted(row["job_id"] for row in rows[2]) == sorted(written)


def _transactions(desk: Desk) -> list[str]:
    """A word for each transaction that is begun from now on."""
    begun: list[str] = []
    event.listen(desk.database.engine, "begin", lambda _connection: begun.append("BEGIN"))
    return begun


def test_a_single_outcome_needs_no_transaction_around_it(desk: Desk) -> None:
    """One statement, which commits itself."""
    begun = _transactions(desk)
    claim = desk.claims[0]
    assert desk.jobs.record(claim, _verdict(claim, *ENDS[0]), OUTCOME_PATIENCE)
    assert begun == []
    assert desk.jobs.get(claim.job_id).status == "sent"


def test_refusals_are_noted_in_the_same_transaction(desk: Desk) -> None:
    """What follows from a refusal is written with the outcome, or not at all."""
    verdicts = _verdicts(desk)
    refused = (Refusal("r3@example.net", "example.net", "", "550 5.1.1"),)
    verdicts[3] = _verdict(desk.claims[3], *ENDS[3], refusals=refused)
    begun = _transactions(desk)
    assert desk.write(verdicts) == [True] * MAILS
    assert begun == ["BEGIN"]


class _BreaksOnce:
    """Ends the first connection that a batch is written on, before or after its statement."""

    def __init__(self, database: Database, after: bool) -> None:
        self.database, self.after, self.times = database, after, 0
        self._at_once: Callable[[Engine], AbstractContextManager[Connection]] = (
            database.backend.at_once
        )
        database.backend.at_once = self.at_once  # type: ignore[method-assign]

    @contextmanager
    def at_once(self, engine: Engine) -> Iterator[Connection]:
        with self._at_once(engine) as connection:
            self.times += 1
            if self.times > 1 or self.after:
                yield connection
            if self.times == 1:
                self._end(connection)
                if self.after:
                    run_sql(connection, "SELECT 1")
                else:
                    yield connection

    def _end(self, connection: Connection) -> None:
        number = run_sql(connection, "SELECT pg_backend_pid()").fetchone()[0]
        self.database.write(lambda c: c.exec_driver_sql(f"SELECT pg_terminate_backend({number})"))


@pytest.mark.parametrize("after", [True, False])
def test_a_connection_that_breaks_leaves_each_written_once(desk: Desk, after: bool) -> None:
    """Whether the batch was committed is read from the rows; nothing is written twice."""
    breaks = _BreaksOnce(desk.database, after)
    assert desk.write(_verdicts(desk)) == [True] * MAILS
    assert breaks.times == (1 if after else 1 + MAILS)
    rows = desk.rows()
    assert [row["status"] for row in rows[0]] == [status for status, _, _ in ENDS]
    assert sorted(row["job_id"] for row in rows[1]) == [claim.job_id for claim in desk.claims]
    assert sorted(row["job_id"] for row in rows[2]) == [claim.job_id for claim in desk.claims]


def test_an_idle_connection_that_is_gone_is_replaced_unnoticed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the kept connection is looked at before it is trusted with outcomes."""
    first, second = desk.claims[:2]
    assert desk.jobs.record(first, _verdict(first, *ENDS[0]))
    end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
    ours = f"{end_all} AND datname = current_database()"
    desk.database.write(lambda c: c.exec_driver_sql(ours))
    monkeypatch.setattr("flask_deferred_mail.store.servers.IDLE_WITHOUT_LOOK", 0.0)
    writes: list[float] = []
    monkeypatch.setattr(desk.jobs._outcomes, "_alone", lambda _entry: writes.append(time.time()))
    assert desk.jobs.record(second, _verdict(second, *ENDS[0]))
    assert writes == []
