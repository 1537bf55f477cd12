"""A database that is full when it matters, not durable, or of another version (fault table, C5 to
C7)."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.delivery import attempt as attempt_module
from flask_deferred_mail.delivery.dispatcher import Ticket
from flask_deferred_mail.errors import SchemaError, StoreError
from flask_deferred_mail.store import sqlite as sqlite_module
from tests.support.background import Background
from tests.support.disk import Disk
from tests.support.mail_app import MailApp
from tests.support.row_facts import dump
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]


def cli(app: MailApp, *arguments: str) -> Any:
    """Run ``flask mail ...``."""
    return app.app.test_cli_runner().invoke(mail_group, list(arguments))


# -- C5: full at the outcome ----------------------------------------------------------------------


@pytest.fixture
def full_at_the_outcome(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[MailApp, Disk]]:
    """An app with a mail to 300; while its server takes it, the disk becomes full."""
    monkeypatch.setattr(attempt_module, "OUTCOME_PATIENCE", 1.5)
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=1)
    app.send(*(f"reader{number}@example.com" for number in range(300)))
    disk = Disk(app)
    smtp.script("dot", [lambda _turn: disk.is_full()])
    yield app, disk
    disk.has_room()


def test_c5_full_at_the_outcome_ends_the_sweep_with_the_databases_fault(
    full_at_the_outcome: tuple[MailApp, Disk], smtp: SmtpServer
) -> None:
    """Written again and again for a while, then exit code 3 with the reason; the row is legal."""
    app, _ = full_at_the_outcome
    result = cli(app, "sweep")
    assert result.exit_code == 3
    assert "full" in result.stderr
    assert len(smtp.messages) == 1
    [row] = app.sql("SELECT status, attempts, ended_at FROM deferred_mail_job")
    assert row == ("sending", 1, None)
    assert app.sql("SELECT count(*) FROM deferred_mail_attempt") == [(0,)]
    assert app.sql("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("room_for", ["nothing", "a claim"])
def test_c5_a_full_disk_does_not_send_a_mail_again_and_again(
    full_at_the_outcome: tuple[MailApp, Disk], smtp: SmtpServer, room_for: str
) -> None:
    """Cron goes on while the disk is full, or has room for a claim and not for an outcome: one
    copy. Once there is room: one more, under the same Message-ID, and the row says sent."""
    app, disk = full_at_the_outcome
    job = app.job(1)
    assert cli(app, "sweep").exit_code == 3
    if room_for == "a claim":
        disk.is_full(but_for=20)
    for _ in range(7):
        app.end_leases()
        assert cli(app, "sweep").exit_code == 3
        assert app.job(1).status in ("pending", "sending")
    assert len(smtp.messages) == 1
    disk.has_room()
    app.end_leases()
    assert app.sweep().sent == 1
    assert len(smtp.messages) == 2
    assert {message.parsed["Message-ID"] for message in smtp.messages} == {job.message_id}
    assert app.job(1).status == "sent"
    assert app.sql("SELECT count(*) FROM deferred_mail_blob") == [(0,)]


def test_c5_nothing_is_sent_from_a_disk_that_was_full_before(
    make_app: Make, smtp: SmtpServer
) -> None:
    """What could not be written down is not sent at all: exit code 3, and the mail waits."""
    app = make_app(smtp.url())
    jobs = [app.send() for _ in range(5)]
    disk = Disk(app)
    disk.is_full()
    assert cli(app, "sweep").exit_code == 3
    assert not smtp.connections
    assert {(app.job(job).status, app.job(job).attempts) for job in jobs} == {("pending", 0)}
    disk.has_room()
    assert app.sweep().sent == 5


def test_c5_room_that_comes_back_in_time_is_used(
    full_at_the_outcome: tuple[MailApp, Disk],
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The outcome is written as soon as it can be: sent, once."""
    app, disk = full_at_the_outcome
    monkeypatch.setattr(attempt_module, "OUTCOME_PATIENCE", 30.0)
    sweep = Background(app)
    smtp.wait_for(1)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1.5)
    assert app.job(1).status == "sending"
    disk.has_room()
    assert sweep.end().sent == 1
    assert len(smtp.messages) == 1
    assert app.outcomes(1) == ["sent"]


def test_c5_a_web_process_that_cannot_write_sends_nothing_for_a_while(
    full_at_the_outcome: tuple[MailApp, Disk], smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After an outcome that could not be written the bell is not heard; the sweep takes over."""
    app, disk = full_at_the_outcome
    dispatcher = app.runtime.dispatcher
    assert dispatcher.ring(Ticket(1))
    wait_until(lambda: "this process sends nothing for" in caplog.text, 20)
    disk.has_room()
    second = app.send()
    assert not dispatcher.ring(Ticket(second.id))
    assert app.job(second).status == "pending"
    assert len(smtp.messages) == 1


# -- C6: durability -------------------------------------------------------------------------------


def test_c6_every_connection_commits_durably(make_app: Make, smtp: SmtpServer) -> None:
    """WAL with ``synchronous=FULL``, on each connection of the pool, not only on the first."""
    database = make_app(smtp.url()).runtime.database
    connections = [database.engine.connect() for _ in range(6)]
    for connection in connections:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        connection.close()


@pytest.mark.parametrize("level", ["OFF", "NORMAL"])
def test_c6_a_database_that_is_not_durable_is_refused(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """Where ``FULL`` cannot be had, nothing is promised: an error at the first use, each time."""

    strengthen = sqlite_module._on_connect

    def weaken(connection: sqlite3.Connection, record: object) -> None:
        strengthen(connection, record)
        connection.execute(f"PRAGMA synchronous = {level}")

    monkeypatch.setattr(sqlite_module, "_on_connect", weaken)
    app = make_app(smtp.url())
    for _ in range(2):
        with pytest.raises(StoreError, match="not be durable"):
            app.send()


def test_c6_without_a_write_ahead_log_it_says_so_and_stays_durable(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that cannot have one: a rollback journal with ``FULL``, and a warning."""
    # Locks by files beside the database have no shared memory, which the log needs.
    path = make_app(None).folder / "deferred_mail.sqlite3"
    uri = f"sqlite:///file:{path}?vfs=unix-dotfile&uri=true"
    app = make_app(smtp.url(), DEFERRED_MAIL_DATABASE_URI=uri)
    with caplog.at_level(logging.WARNING):
        app.send()
    assert "no write-ahead log" in caplog.text
    with app.runtime.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert app.sweep().sent == 1


# -- C7: tables of another version ----------------------------------------------------------------


def test_c7_a_missing_table_names_the_command(make_app: Make, smtp: SmtpServer) -> None:
    """``SchemaError`` in the view, exit code 3 at the command line, and what to run."""
    app = make_app(smtp.url())
    app.runtime.reports.backlog()
    app.sql("DROP TABLE deferred_mail_job")
    with pytest.raises(SchemaError, match="flask mail init-db"):
        app.send()
    result = cli(app, "sweep")
    assert result.exit_code == 3
    assert "flask mail init-db" in result.stderr


def test_c7_tables_of_a_newer_version_are_left_alone(make_app: Make, smtp: SmtpServer) -> None:
    """An old process beside a new one, as in a rolling upgrade: a clear text, nothing touched."""
    app = make_app(smtp.url())
    app.send()
    app.runtime.database.close()
    app.sql("UPDATE deferred_mail_meta SET value = '99' WHERE name = 'schema'")
    before = dump(app)
    old = make_app(smtp.url())
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"version 99.*Upgrade flask-deferred-mail"):
            old.send()
    assert cli(old, "sweep").exit_code == 3
    assert cli(old, "retry", "1", "--yes").exit_code == 3
    assert dump(app) == before
    assert not smtp.messages


def test_c7_a_row_of_a_newer_version_is_left_alone_and_stops_nobody(
    make_app: Make, smtp: SmtpServer
) -> None:
    """It stays pending for a process that can read it; every other mail goes."""
    app = make_app(smtp.url())
    newer = app.send(priority="now")
    app.send()
    app.sql("UPDATE deferred_mail_job SET format = 99, payload = '?' WHERE id = ?", newer.id)
    counts = app.sweep()
    assert (counts.claimed, counts.sent) == (1, 1)
    assert (app.job(newer).status, app.job(newer).attempts) == ("pending", 0)
    assert app.sql("SELECT payload FROM deferred_mail_job WHERE id = ?", newer.id) == [("?",)]
    assert app.sweep().claimed == 0


@pytest.mark.parametrize("payload", ["{", "[]", '{"format": 1}', "", "null"])
def test_c7_a_row_that_cannot_be_read_ends_and_stops_nobody(
    make_app: Make, smtp: SmtpServer, payload: str
) -> None:
    """Damaged by hand or disk: it runs out of attempts as failed, and all others go at once."""
    app = make_app(smtp.url())
    damaged = app.send(max_attempts=2)
    others = [app.send() for _ in range(3)]
    app.sql("UPDATE deferred_mail_job SET payload = ? WHERE id = ?", payload, damaged.id)
    assert app.sweep().sent == 3
    app.make_due()
    app.sweep()
    after = app.job(damaged)
    assert (after.status, after.attempts) == ("failed", 2)
    assert after.last_error
    assert {app.job(job).status for job in others} == {"sent"}
