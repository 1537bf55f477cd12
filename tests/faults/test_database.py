"""A database that refuses, is full, is gone, or is not ours to read (fault table, part C)."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_deferred_mail import DeferredMail
from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.errors import StoreBusy, StoreError
from flask_deferred_mail.store import database as database_module
from flask_deferred_mail.store.database import Database
from tests.support.background import Background
from tests.support.disk import Disk
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another connection holds the write lock."""
    path = folder / "deferred_mail.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def with_view(app: MailApp, raised: list[BaseException]) -> Any:
    """A client of a view that records a mail, and that lets errors through to Flask."""

    @app.app.post("/send")
    def send() -> str:
        try:
            app.mail.send_after_response(
                subject="Hello", recipients=["ann@example.com"], body="x" * 300_000
            )
        except BaseException as error:
            raised.append(error)
            raise
        return "sent"

    return app.app.test_client()


def cli(app: MailApp, *arguments: str) -> Any:
    """Run ``flask mail ...``."""
    return app.app.test_cli_runner().invoke(mail_group, list(arguments))


def count(app: MailApp) -> int:
    [(number,)] = app.sql("SELECT count(*) FROM deferred_mail_job")
    return int(number)


# -- C1: in the view ------------------------------------------------------------------------------


def test_c1_locked_beyond_patience_is_a_named_error_in_the_view(
    make_app: Make, smtp: SmtpServer
) -> None:
    """Somebody else writes and writes: 500, ``StoreBusy``, nothing recorded, nothing sent."""
    app = make_app(smtp.url())
    raised: list[BaseException] = []
    client = with_view(app, raised)
    assert app.sweep().claimed == 0
    with locked(app.folder):
        began = time.monotonic()
        with client.post("/send") as response:
            assert response.status_code == 500
        assert 4 < time.monotonic() - began < 60
    [error] = raised
    assert isinstance(error, StoreBusy)
    assert "nothing was written" in str(error)
    assert count(app) == 0
    assert app.sweep().claimed == 0
    assert not smtp.messages


def test_c1_who_stands_behind_a_more_patient_thread_gives_up_in_time(
    make_app: Make, smtp: SmtpServer
) -> None:
    """A thread that waits in line for the lock is told so when its own patience ends."""
    app = make_app(smtp.url())
    app.send()
    database, turn = app.runtime.database, app.runtime.database.backend.turn

    def is_taken() -> bool:
        free = turn.acquire(blocking=False)
        if free:
            turn.release()
        return not free

    with ThreadPoolExecutor(1) as threads:
        with locked(app.folder):
            patient = threads.submit(database.write, lambda _: "written", patience=60)
            wait_until(is_taken)
            with pytest.raises(StoreBusy, match="nothing was written"):
                database.write(lambda _: None, patience=0.05)
        assert patient.result(60) == "written"


def test_c1_who_opens_the_database_waits_for_no_writer(tmp_path: Path) -> None:
    """A writer whose turn it is may be waiting for just that: for the tables to be made."""
    database = Database(f"sqlite:///{tmp_path / 'fresh.sqlite3'}")
    with ThreadPoolExecutor(1) as threads, database.backend.turn:
        first = threads.submit(database.read, lambda _: "read")
        wait([first], timeout=20)
        opened = first.done()
    database.close()
    assert opened


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_c1_full_or_read_only_is_a_named_error_in_the_view(
    make_app: Make, smtp: SmtpServer, trouble: str
) -> None:
    """500 with the reason, nothing recorded; once there is room again, it works again."""
    app = make_app(smtp.url())
    raised: list[BaseException] = []
    client = with_view(app, raised)
    disk = Disk(app)
    disk.is_full() if trouble == "full" else disk.is_read_only()
    with client.post("/send") as response:
        assert response.status_code == 500
    [error] = raised
    assert isinstance(error, StoreError)
    assert ("full" if trouble == "full" else "readonly") in str(error)
    assert count(app) == 0
    disk.has_room()
    with client.post("/send") as response:
        assert response.status_code == 200
    smtp.wait_for(1)


def test_c1_a_file_that_may_only_be_read(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database as a URI with ``mode=ro``: an error that says so, and no stray folder."""
    app = make_app(smtp.url())
    monkeypatch.chdir(app.folder)
    app.send()
    app.runtime.database.close()
    path = app.folder / "deferred_mail.sqlite3"
    reader = make_app(
        smtp.url(), DEFERRED_MAIL_DATABASE_URI=f"sqlite:///file:{path}?mode=ro&uri=true"
    )
    with pytest.raises(StoreError, match="readonly"):
        reader.send()
    assert reader.job(1).status == "pending"
    assert not Path("file:").exists()


def test_c1_a_file_that_is_gone_is_noticed(make_app: Make, smtp: SmtpServer) -> None:
    """Deleted while it is open: SQLite would write on into nowhere. A named error in the view,
    and a new file for the next mail."""
    app = make_app(smtp.url())
    raised: list[BaseException] = []
    client = with_view(app, raised)
    with client.post("/send") as response:
        assert response.status_code == 200
    smtp.wait_for(1)
    wait_until(lambda: app.job(1).status == "sent")
    for path in app.folder.glob("deferred_mail.sqlite3*"):
        path.unlink()
    with client.post("/send") as response:
        assert response.status_code == 500
    [error] = raised
    assert isinstance(error, StoreError)
    assert "deleted" in str(error)
    assert len(smtp.messages) == 1
    with client.post("/send") as response:
        assert response.status_code == 200
    smtp.wait_for(2)
    wait_until(lambda: app.job(1).status == "sent")


def test_c1_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Somebody put a file where the instance folder belongs: the error names the key to set."""
    (tmp_path / "taken").write_text("not a folder")
    app = Flask("nowhere", instance_path=str(tmp_path / "taken"))
    app.config["DEFERRED_MAIL_TRANSPORT"] = "null:"
    app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
    mail = DeferredMail(app)
    with app.app_context(), pytest.raises(StoreError, match="DEFERRED_MAIL_DATABASE_URI"):
        mail.send_after_response(subject="x", recipients=["ann@example.com"], body="x")


def test_c1_a_file_that_is_no_database(make_app: Make, smtp: SmtpServer) -> None:
    """A named error, and the file stays as it was."""
    app = make_app(smtp.url())
    path = app.folder / "deferred_mail.sqlite3"
    path.write_bytes(b"somebody's notes, not a database" * 200)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a database"):
        app.send()
    assert path.read_bytes() == before


# -- C2: locked while sending ---------------------------------------------------------------------


def test_c2_a_sweep_waits_for_the_lock(make_app: Make, smtp: SmtpServer) -> None:
    """Locked for a while as it wants to claim: it waits, and sends."""
    app = make_app(smtp.url())
    app.send()
    app.runtime.reports.backlog()
    with locked(app.folder):
        sweep = Background(app)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 1.5)
        assert not smtp.connections
    assert sweep.end().sent == 1
    assert len(smtp.messages) == 1


def test_c2_an_outcome_waits_longer_than_anything_else(make_app: Make, smtp: SmtpServer) -> None:
    """Locked beyond the usual patience when the mail is out: written all the same, sent once."""
    app = make_app(smtp.url())
    job = app.send()
    smtp.hold("dot")
    sweep = Background(app)
    smtp.wait_held("dot")
    with locked(app.folder):
        smtp.release("dot")
        smtp.wait_for(1)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > database_module.PATIENCE + 1.5)
        assert app.job(job).status == "sending"
    assert sweep.end().sent == 1
    assert app.outcomes(job) == ["sent"]
    assert len(smtp.messages) == 1


def test_c2_a_sweep_that_cannot_claim_says_so_and_loses_nothing(
    make_app: Make, smtp: SmtpServer
) -> None:
    """Locked beyond patience at the claim: exit code 3, the mail waits, the next sweep sends it."""
    app = make_app(smtp.url())
    job = app.send()
    with locked(app.folder):
        result = cli(app, "sweep", "--json")
    assert result.exit_code == 3
    assert "another process held the" in result.stderr
    assert result.stdout == ""
    assert (app.job(job).status, app.job(job).attempts) == ("pending", 0)
    assert cli(app, "sweep").exit_code == 0
    assert len(smtp.messages) == 1


def test_c2_many_writers_at_once_all_get_their_turn(make_app: Make, smtp: SmtpServer) -> None:
    """Eight threads record while two sweeps send: no error, every mail once."""
    apps = [make_app(smtp.url()) for _ in range(2)]
    apps[0].runtime.reports.backlog()
    errors: list[BaseException] = []

    def record() -> None:
        try:
            for number in range(15):
                apps[number % 2].send()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    sweeps = [Background(app) for app in apps]
    for thread in threads:
        thread.join(60)
    for sweep in sweeps:
        sweep.end()
    apps[0].sweep()
    assert not errors
    assert len(smtp.messages) == 120
    assert len({message.parsed["Message-ID"] for message in smtp.messages}) == 120
