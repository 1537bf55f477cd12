"""tasks.py: what a worker of any queue calls. The queues themselves are in test_engines.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from flask import Flask
from flask.cli import NoAppException

from flask_deferred_mail import tasks
from flask_deferred_mail.engines.celery import TASK
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]


def deliver(app: MailApp, job_ids: object) -> None:
    """In an application context, as most workers have."""
    with app.app.app_context():
        tasks.deliver(job_ids)


def test_what_is_due_is_sent_and_nothing_else(make_app: Make, smtp: SmtpServer) -> None:
    """Held, cancelled, scheduled, finished and unknown mails stay as they are."""
    app = make_app(smtp.url())
    due, held, cancelled, later = app.send(), app.send(), app.send(), app.send(delay=3600)
    with app.app.app_context():
        app.mail.hold(held.id)
        app.mail.cancel(cancelled.id)
    for _ in range(2):
        deliver(app, [due.id, held.id, cancelled.id, later.id, 99])
    assert [str(app.job(j).status) for j in (due, held, cancelled, later)] == [
        "sent",
        "held",
        "cancelled",
        "pending",
    ]
    assert len(smtp.messages) == 1


def test_a_retry_waits_for_its_time(make_app: Make, smtp: SmtpServer) -> None:
    """A message that comes again right after a failure does not shorten the delay."""
    smtp.script("rcpt", ["450 4.2.1 not now", None])
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[600])
    job = app.send()
    deliver(app, [job.id])
    deliver(app, [job.id])
    assert app.outcomes(job) == ["retry"]


def test_a_resting_transport_gets_nothing(make_app: Make, smtp: SmtpServer) -> None:
    """Workers keep to the rest that the sweep and the web processes keep to."""
    smtp.script("banner", "421 4.3.2 closing")
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[600])
    first, second = app.send(), app.send()
    deliver(app, [first.id])
    before = smtp.connections
    deliver(app, [first.id, second.id])
    assert (smtp.connections, app.job(second).attempts) == (before, 0)


def test_suppressed_mail_stays(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """``MAIL_SUPPRESS_SEND`` holds in the worker too, and it says so."""
    app = make_app(smtp.url(), MAIL_SUPPRESS_SEND=True)
    job = app.send()
    deliver(app, [job.id])
    assert app.job(job).status == "pending"
    assert "sending is suppressed" in caplog.text


def test_a_broken_database_is_logged_and_not_raised(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue has nothing to retry: the sweep sends the mail when the database is back."""
    app = make_app(smtp.url())
    job = app.send()
    app.sql("ALTER TABLE deferred_mail_job RENAME TO elsewhere")
    deliver(app, [job.id])
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    app.sql("ALTER TABLE elsewhere RENAME TO deferred_mail_job")
    assert app.sweep().sent == 1


def test_an_app_without_the_extension_is_told(make_app: Make) -> None:
    """A worker with the wrong application fails, loudly."""
    with Flask("other").app_context(), pytest.raises(RuntimeError, match="call init_app first"):
        tasks.deliver([1])


def test_no_application_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No context, no FLASK_APP, and nothing in the folder."""
    monkeypatch.delenv("FLASK_APP", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "_loaded", [])
    with pytest.raises(NoAppException):
        tasks.deliver([1])


def test_a_celery_without_flasks_task_finds_its_own_app(make_app: Make, smtp: SmtpServer) -> None:
    """Each of two Celery apps in one process delivers for the Flask app that has it."""
    folders = [make_app("null:").folder / name for name in ("one", "two")]
    apps = []
    for folder in folders:
        folder.mkdir()
        app = make_app(smtp.url(), folder=folder, DEFERRED_MAIL_DISPATCH="celery")
        app.app.extensions["celery"] = Celery(folder.name, set_as_current=False)
        app.app.extensions["celery"].conf.task_always_eager = True
        apps.append((app, app.send()))
    (one, first), (two, second) = apps
    two.app.extensions["celery"].tasks[TASK].apply(args=[[second.id]])
    assert two.job(second).status == "sent"
    assert one.job(first).status == "pending"
