"""Leases under strain: slow servers, databases that cannot be written, processes that stood still
(fault table, B1 and B2)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from flask_deferred_mail.delivery import attempt
from flask_deferred_mail.outcome import Outcome
from flask_deferred_mail.signals import mail_retry_scheduled
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.transports.base import Call
from tests.support.background import Background
from tests.support.databases import DATABASES, fresh_database
from tests.support.fault_site import FaultSite, answered
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import ScriptedTransport, accept
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]
MakeSite = Callable[..., FaultSite]

#: A lease that ends while the test looks on, and deadlines that do not.
SHORT_LEASE = {
    "DEFERRED_MAIL_LEASE": 1,
    "DEFERRED_MAIL_ATTEMPT_DEADLINE": 60,
    "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 60,
}


class Held:
    """An answer of the mail server that waits for the test; the first one only."""

    def __init__(self) -> None:
        self._asked, self._gate = threading.Event(), threading.Event()

    def __call__(self, _turn: object) -> None:
        if not self._asked.is_set():
            self._asked.set()
            assert self._gate.wait(60)

    def wait(self) -> None:
        """Wait until the answer is due."""
        assert self._asked.wait(20)

    def release(self) -> None:
        """Let it go: the usual answer."""
        self._gate.set()


@pytest.fixture(params=DATABASES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings that name a database of each kind."""
    with fresh_database(request.param, tmp_path) as url:
        with closing(Database(url)) as database:
            database.create()
        yield {"DEFERRED_MAIL_DATABASE_URI": url}


@pytest.fixture
def make_app(make_app: Make, home: dict[str, str]) -> Make:
    return partial(make_app, **home)


@pytest.fixture
def make_site(make_site: MakeSite, home: dict[str, str]) -> MakeSite:
    return partial(make_site, **home)


_LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "LOCK TABLE deferred_mail_job IN EXCLUSIVE MODE",
    "mysql": "SELECT id FROM deferred_mail_job FOR UPDATE",
    "mariadb": "SELECT id FROM deferred_mail_job FOR UPDATE",
}


@contextmanager
def locked(app: MailApp) -> Iterator[None]:
    """Another connection keeps every row from being written."""
    engine = create_engine(app.app.config["DEFERRED_MAIL_DATABASE_URI"])
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(_LOCK[engine.dialect.name])
            yield
            connection.rollback()
    finally:
        engine.dispose()


def lease_end(app: MailApp) -> float:
    """When the first of the leases ends, as the row says."""
    rows = app.sql("SELECT min(due_at) FROM deferred_mail_job WHERE status = 'sending'")
    return float(rows[0][0] or 0)


# -- B1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["banner", "rcpt", "dot"])
def test_b1_a_slow_server_outlasts_the_lease_and_nobody_takes_over(
    make_site: MakeSite, stage: str
) -> None:
    """Held for several leases at any stage: renewed, sent once, while another process sweeps."""
    site = make_site(DEFERRED_MAIL_LEASE=1)
    job = site.rows.send()
    site.smtp.hold(stage)
    sweep = Background(site.rows)
    site.smtp.wait_held(stage)
    other = site.sweep("--wait", "4")
    first = lease_end(site.rows)
    wait_until(lambda: lease_end(site.rows) > first + 3, 20, "the lease was not renewed")
    assert other.counts()["claimed"] == 0
    site.smtp.release(stage)
    assert sweep.end().sent == 1
    assert len(site.smtp.messages) == 1
    assert site.rows.outcomes(job) == ["sent"]
    assert site.rows.job(job).attempts == 1


def test_b1_a_hundred_mails_claimed_at_once_are_renewed_while_they_wait(
    make_site: MakeSite,
) -> None:
    """One connection, a mail every 50 ms, leases of a second: all are sent once, by the first."""
    site = make_site(DEFERRED_MAIL_LEASE=1)
    for _ in range(100):
        site.rows.send()
    claims = site.rows.runtime.claims.take("default", 100)
    holdings = [site.rows.runtime.leases.hold(claim) for claim in claims]
    other = site.sweep("--wait", "4")
    wait_until(lambda: site.rows.runtime.reports.last_seen("sweep"), 30, "no other sweep")
    began = time.monotonic()
    for number, holding in enumerate(holdings):
        wait_until(lambda n=number: time.monotonic() - began > n * 0.05)
        assert site.rows.runtime.deliverer.deliver(holding).result == "sent"
    assert time.monotonic() - began > 4, "it took no longer than a few leases"
    assert other.counts()["claimed"] == 0
    assert len(site.smtp.messages) == 100
    assert {message.connection for message in site.smtp.messages} == {1}
    assert site.statuses() == {"sent": 100}


def test_b1_what_cannot_be_renewed_is_not_handed_over(make_app: Make, smtp: SmtpServer) -> None:
    """The database is locked for longer than the lease, before the dot: the mail is dropped
    without one, the attempt is not held against it, and somebody else sends it."""
    app = make_app(smtp.url(), **SHORT_LEASE)
    job = app.send()
    smtp.hold("data")
    reasons: list[str] = []
    sweep = Background(app, on_result=lambda delivered: reasons.append(delivered.detail))
    smtp.wait_held("data")
    with locked(app):
        ends = lease_end(app)
        wait_until(lambda: time.time() > ends, 20)
        smtp.release("data")
        # The line is cut where the dot would have come.
        wait_until(lambda: not smtp.open_connections, 20, "the mail was not dropped")
        assert not smtp.messages
    assert sweep.end().returned == 1
    assert reasons == ["the lease could not be renewed in time"]
    assert not smtp.messages
    assert app.sweep().sent == 1
    assert len(smtp.messages) == 1
    assert (app.job(job).status, app.job(job).attempts) == ("sent", 1)


def test_b1_an_outcome_that_comes_late_is_written_late(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Locked for longer than the lease *after* the dot, and nobody took over: sent, once."""
    app = make_app(smtp.url(), **SHORT_LEASE)
    job = app.send()
    smtp.hold("dot")
    sweep = Background(app)
    smtp.wait_held("dot")
    with locked(app):
        smtp.release("dot")
        smtp.wait_for(1)
        ends = lease_end(app)
        wait_until(lambda: time.time() > ends, 20)
    assert sweep.end().sent == 1
    assert app.outcomes(job) == ["sent"]
    assert (app.job(job).status, app.job(job).attempts) == ("sent", 1)
    assert len(smtp.messages) == 1
    assert "lease lost" not in caplog.text


def test_b1_a_beat_right_after_the_outcome_finds_nothing_lost(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit of the outcome has ended the lease, and the mail is not out of hand yet."""
    app = make_app(smtp.url())
    leases = app.runtime.leases

    def beat(_event: object) -> None:
        for holding in leases.in_hand():
            holding.lease_ends = time.monotonic() + 1
        assert leases.count() == 1
        leases.tend()

    app.runtime.deliverer.listener.attempted = beat
    app.send()
    assert app.sweep().sent == 1
    assert "lease lost" not in caplog.text


def test_b1_a_late_outcome_does_not_overwrite_that_of_another(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After the dot the heartbeat stands still, another process takes over and sends: one extra
    copy at most, and the late writer finds a row that is not its own."""
    app = make_app(smtp.url(), **SHORT_LEASE)
    other = make_app(smtp.url(), **SHORT_LEASE)
    job = app.send()
    app.runtime.leases.tend = lambda: None  # type: ignore[method-assign]  # renews nothing
    answer = Held()
    smtp.script("dot", answer)
    sweep = Background(app)
    answer.wait()
    wait_until(lambda: time.time() > lease_end(app), 20)
    assert other.sweep().sent == 1
    answer.release()
    assert sweep.end().returned == 1
    assert "lease lost before its outcome (sent) was written" in caplog.text
    assert (app.job(job).status, app.job(job).attempts) == ("sent", 2)
    assert app.outcomes(job) == ["unknown", "sent"]
    assert len(smtp.messages) == 2
    assert len({message.parsed["Message-ID"] for message in smtp.messages}) == 1


def test_b1_receivers_of_a_stuck_attempt_do_not_stop_the_heartbeat(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes its time over an attempt that stood still costs no other mail its lease."""
    monkeypatch.setattr(attempt, "GRACE", 0.2)
    heard, told, moved = threading.Event(), threading.Event(), threading.Event()

    def stands_still(call: Call) -> Outcome:
        assert moved.wait(60)
        return accept(call)

    def receiver(_sender: object, **_details: object) -> None:
        heard.set()
        assert told.wait(60)

    app = make_app(
        "null:",
        DEFERRED_MAIL_LEASE=1,
        DEFERRED_MAIL_ATTEMPT_DEADLINE=0.2,
        DEFERRED_MAIL_FINAL_REPLY_DEADLINE=0.2,
    )
    ScriptedTransport(app, stands_still)
    app.send()
    with mail_retry_scheduled.connected_to(receiver):
        sweep = Background(app)
        assert heard.wait(20)
        claim = app.runtime.claims.take_one(app.send().id)
        assert claim is not None
        holding = app.runtime.leases.hold(claim)
        first = lease_end(app)
        wait_until(lambda: lease_end(app) > first + 1.5, 20, "the lease was not renewed")
        told.set()
        assert sweep.end().retry == 1
    moved.set()
    assert app.runtime.leases.give_back([holding], "the test is over") == 1


def test_b2_a_lease_that_was_lost_is_told_of_when_the_mail_is_given_back(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Woken so late that the sender drops the mail before the heartbeat looks: logged as well."""
    app = make_app("null:", DEFERRED_MAIL_LEASE=60, DEFERRED_MAIL_DISPATCH="none")
    job = app.send()
    claim = app.runtime.claims.take_one(job.id)
    assert claim is not None
    app.end_leases()
    assert app.runtime.claims.take_one(job.id) is not None
    holding = app.runtime.leases.hold(claim)
    assert app.runtime.leases.give_back([holding], "the lease could not be renewed in time") == 0
    assert f"mail {job.id}: lease lost" in caplog.text
    assert app.job(job).status == "sending"


# -- B2 -----------------------------------------------------------------------------------------


def stop(pid: int, app: MailApp) -> None:
    """SIGSTOP; goes on when the process stands still.

    Right after a renewal: one that stands still in the middle of a transaction keeps its lock, and
    nobody can take anything over before it goes on.
    """
    first = lease_end(app)
    wait_until(lambda: lease_end(app) > first, 20, "the lease was not renewed")
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


#: So long that a busy machine does not end it before the process is stopped. Whoever takes over
#: has more, and gunicorn must not end a worker that stands still.
B2_LEASE = 3
B2_TAKER = {"FLASK_DEFERRED_MAIL_LEASE": "60"}
B2_PATIENCE = ("--timeout", "600")


def test_b2_a_process_that_stood_still_with_the_dot_out(
    make_site: MakeSite,
) -> None:
    """Stopped past its lease while it waits for the final reply, then woken: one extra copy at
    most, its late word changes nothing, and it says that it lost its lease."""
    site = make_site(DEFERRED_MAIL_LEASE=B2_LEASE)
    server = site.serve(*B2_PATIENCE)
    answer = Held()
    site.smtp.script("dot", answer)
    job_id = answered(server, "/send?id=slow")
    answer.wait()
    [worker] = server.worker_pids()
    stop(worker, site.rows)
    try:
        wait_until(lambda: time.time() > lease_end(site.rows), 20)
        assert site.sweep(**B2_TAKER).counts()["sent"] == 1
        after = site.row(job_id)
        answer.release()
        site.smtp.wait_for(2)
    finally:
        answer.release()
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: "lease lost" in server.log(), 20, server.log())
    assert site.row(job_id) == after
    assert site.rows.outcomes(job_id) == ["unknown", "sent"]
    assert site.copies("slow") == 2
    assert len(site.message_ids("slow")) == 1
    assert site.rows.sweep().claimed == 0


def test_b2_a_process_that_stood_still_before_the_dot_sends_nothing(
    make_site: MakeSite,
) -> None:
    """Stopped past its lease before its dot, then woken: no extra copy."""
    site = make_site(DEFERRED_MAIL_LEASE=B2_LEASE)
    server = site.serve(*B2_PATIENCE)
    answer = Held()
    site.smtp.script("data", answer)
    job_id = answered(server, "/send?id=slow")
    answer.wait()
    [worker] = server.worker_pids()
    stop(worker, site.rows)
    try:
        wait_until(lambda: time.time() > lease_end(site.rows), 20)
        assert site.sweep(**B2_TAKER).counts()["sent"] == 1
        after = site.row(job_id)
    finally:
        os.kill(worker, signal.SIGCONT)
    answer.release()
    wait_until(lambda: "lease lost" in server.log(), 20, server.log())
    wait_until(lambda: not site.smtp.open_connections, 20, "the line was not dropped")
    assert site.row(job_id) == after
    assert site.copies("slow") == 1
    assert site.rows.outcomes(job_id) == ["unknown", "sent"]
