"""A database that fails before anything was tried (fault table, part C): no mail pays for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.errors import StoreBusy, StoreError
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

UNTOUCHED = ("pending", 0, 0, None)


def row(app: MailApp, job: Job) -> tuple[Any, ...]:
    """Status, attempts, deaths and token of a mail's row."""
    return app.sql(
        "SELECT status, attempts, deaths, lease_token FROM deferred_mail_job WHERE id = ?", job.id
    )[0]


def busy(*_args: object, **_kwargs: object) -> Any:
    raise StoreBusy("the database is locked")


def after_a_response(app: MailApp) -> Job:
    """A thread of the web process takes the mail, whose row is leased to it already."""
    job = Visits(app.app)(
        lambda: app.mail.send_after_response(
            subject="Hello", recipients=["ann@example.com"], body="x" * 300_000
        )
    )
    wait_until(lambda: app.runtime.dispatcher._pool.pending == 0)
    return job


def in_the_caller(app: MailApp) -> Job:
    """``send_now`` and ``inline`` come this way."""
    job = app.send()
    with pytest.raises(StoreError):
        app.runtime.deliver_now(job.id)
    return job


def in_a_sweep(app: MailApp) -> Job:
    """A pass over what is due."""
    job = app.send()
    with pytest.raises(StoreError):
        app.sweep()
    return job


DOORS = pytest.mark.parametrize("door", [after_a_response, in_the_caller, in_a_sweep])


@DOORS
def test_a_mail_does_not_pay_for_content_that_could_not_be_loaded(
    make_app: Make,
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[MailApp], Job],
) -> None:
    """Through each door: given back untried, and sent by the next sweep in its first attempt."""
    app = make_app(smtp.url())
    with monkeypatch.context() as patch:
        patch.setattr(app.runtime.jobs, "load", busy)
        job = door(app)
    assert row(app, job) == UNTOUCHED
    assert app.log(job) == []
    assert app.runtime.leases.count() == 0
    assert app.sweep().sent == 1
    assert app.job(job).attempts == 1


@DOORS
def test_a_mail_does_not_pay_for_a_question_that_could_not_be_asked(
    make_app: Make,
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[MailApp], Job],
) -> None:
    """Whether its transport may be used is in the database; nobody connects without an answer."""
    app = make_app(smtp.url())
    with monkeypatch.context() as patch:
        patch.setattr(app.runtime.states, "all", busy)
        job = door(app)
    assert row(app, job) == UNTOUCHED
    assert app.log(job) == []
    assert smtp.connections == 0
    assert app.sweep().sent == 1
    assert app.job(job).attempts == 1


def test_a_mail_does_not_pay_for_a_probe_that_could_not_be_taken(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rest somebody has to become the one who tries, and the database is locked."""
    app = make_app(smtp.url())
    app.runtime.states.rest("default", "unreachable", "down", {1: -1.0})
    with monkeypatch.context() as patch:
        patch.setattr(app.runtime.states, "try_probe", busy)
        job = in_the_caller(app)
    assert row(app, job) == UNTOUCHED
    assert app.sweep().sent == 1


def test_content_that_is_gone_is_the_mails_own_misfortune(make_app: Make, smtp: SmtpServer) -> None:
    """The database answers, so waiting for it would help nobody: the attempt counts."""
    app = make_app(smtp.url())
    job = app.send()
    app.sql("UPDATE deferred_mail_job SET payload = '{' WHERE id = ?", job.id)
    assert app.sweep().retry == 1
    assert app.job(job).attempts == 1
