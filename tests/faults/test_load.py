"""Load: one transport that is out, and very large mail (fault table, F2 and F3)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_deferred_mail import Attachment
from tests.support.background import Background
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT

Make = Callable[..., MailApp]

#: No deadline may end what a test holds back.
PATIENT = {"DEFERRED_MAIL_ATTEMPT_DEADLINE": 600, "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 600}


@pytest.fixture
def strict() -> Iterator[SmtpServer]:
    """A server that refuses whatever a strict one may refuse."""
    with SmtpServer(strict=True) as server:
        yield server


# -- F2: one transport is out ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["banner", "rcpt", "dot"])
def test_f2_a_sweep_is_not_held_up_by_one_silent_server(
    make_app: Make, smtp: SmtpServer, stage: str
) -> None:
    """All threads could be waiting for one server; the mail for another goes out meanwhile."""
    with SmtpServer() as silent:
        silent.hold(stage)
        # By name the silent one comes first, and it has the older mail.
        app = make_app(silent.url(), DEFERRED_MAIL_TRANSPORTS={"other": smtp.url()}, **PATIENT)
        stuck = [app.send() for _ in range(20)]
        quick = [app.send(transport="other") for _ in range(20)]
        sweep = Background(app, concurrency=4)
        silent.wait_held(stage, 4)
        smtp.wait_for(20)
        wait_until(lambda: {app.job(job).status for job in quick} == {"sent"})
        assert not silent.messages
        silent.release(stage)
        assert sweep.end().sent == 40
        assert {app.job(job).attempts for job in [*stuck, *quick]} == {1}


def test_f2_a_web_process_is_not_held_up_by_one_silent_server(
    make_app: Make, smtp: SmtpServer
) -> None:
    """Nor are the two sender threads of a web process."""
    with SmtpServer() as silent:
        silent.hold("banner")
        app = make_app(silent.url(), DEFERRED_MAIL_TRANSPORTS={"other": smtp.url()}, **PATIENT)

        @app.app.post("/send/<name>")
        def send(name: str) -> str:
            app.mail.send_after_response(
                subject="x", recipients=["ann@example.com"], body="x", transport=name
            )
            return "recorded"

        client = app.app.test_client()
        for name in ["default"] * 40 + ["other"] * 5:
            with client.post(f"/send/{name}") as response:
                assert response.status_code == 200
        silent.wait_held("banner", 2)
        smtp.wait_for(5)
        assert not silent.messages
        silent.release("banner")


def test_f2_a_dead_transport_rests_alone(make_app: Make, smtp: SmtpServer) -> None:
    """Refused connections: its mail waits unburned, all other mail is out in the same pass."""
    app = make_app(
        "smtp://127.0.0.1:9?tls=none",
        DEFERRED_MAIL_TRANSPORTS={"other": smtp.url()},
        DEFERRED_MAIL_BACKOFF=[600],
    )
    dead = [app.send() for _ in range(50)]
    alive = [app.send(transport="other") for _ in range(50)]
    assert app.sweep().sent == 50
    assert {(app.job(job).status, app.job(job).attempts) for job in dead} == {("pending", 0)}
    assert {app.job(job).status for job in alive} == {"sent"}


# -- F3: size -------------------------------------------------------------------------------------


def measured(folder: Path, url: str, megabytes: int, step: str) -> int:
    """Growth in memory of a process that does this, in bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.large_mail", str(folder), url, str(megabytes), step],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="resource usage is read as Unix has it")
def test_f3_a_large_mail_takes_a_few_times_its_size_in_memory(
    tmp_path: Path, strict: SmtpServer
) -> None:
    """25 MB, recorded by one process and sent by another: each grows by less than five times the
    message as it is on the wire."""
    measured(tmp_path, strict.url(), 25, "record")
    growth = measured(tmp_path, strict.url(), 25, "sweep")
    large = max(strict.messages, key=lambda message: len(message.data))
    assert len(large.data) > 33_000_000
    assert growth < 5 * len(large.data)
    assert not strict.violations


@pytest.mark.skipif(sys.platform == "win32", reason="resource usage is read as Unix has it")
def test_f3_recording_a_large_mail_takes_a_few_times_its_size(
    tmp_path: Path, strict: SmtpServer
) -> None:
    """The web process that takes in 25 MB grows by less than five times that."""
    assert measured(tmp_path, strict.url(), 25, "record") < 5 * 25_000_000


def test_f3_the_same_file_in_many_mails_is_stored_once(make_app: Make, smtp: SmtpServer) -> None:
    """Five mails with the same 5 MB: one blob, a database of about its size, five whole mails."""
    content = os.urandom(5_000_000)
    app = make_app(smtp.url(), **PATIENT)
    file = Attachment("report.bin", "application/octet-stream", content)
    for _ in range(5):
        app.send(attachments=[file])
    assert app.sql("SELECT count(*), sum(size) FROM deferred_mail_blob") == [(1, 5_000_000)]
    assert app.sweep().sent == 5
    for message in smtp.messages:
        [part] = message.parsed.iter_attachments()
        assert part.get_content() == content
    assert (app.folder / "deferred_mail.sqlite3").stat().st_size < 12_000_000


def test_f3_the_write_ahead_log_does_not_grow_for_ever(make_app: Make, smtp: SmtpServer) -> None:
    """It is written back now and then: eight files of 4 MB, and a log that holds but some."""
    app = make_app(smtp.url(), **PATIENT)
    for _ in range(8):
        content = os.urandom(4_000_000)
        app.send(attachments=[Attachment("a.bin", "application/octet-stream", content)])
    assert app.sweep(concurrency=1).sent == 8
    log = app.folder / "deferred_mail.sqlite3-wal"
    assert log.stat().st_size < 16_000_000
