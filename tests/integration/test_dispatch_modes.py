"""Who sends once the response is out: a thread, the closing request, or nobody; and when not."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from flask_deferred_mail import Job, conversion
from flask_deferred_mail.delivery import runtime as runtime_module
from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.signals import mail_backlog
from tests.support.mail_app import MailApp
from tests.support.smtp_script import Hang
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


def send(app: MailApp, number: int = 1, **fields: Any) -> Callable[[], list[Job]]:
    """What a view does: record so many mails."""
    return lambda: [app.mail.send_after_response(**HELLO, **fields) for _ in range(number)]


def rows(app: MailApp) -> set[str]:
    """The statuses that stand in the table."""
    return {status for (status,) in app.sql("SELECT status FROM deferred_mail_job")}


def all_sent(app: MailApp) -> bool:
    return rows(app) == {"sent"}


# --- thread ----------------------------------------------------------------------------------


def test_a_thread_sends_while_the_client_has_its_answer(make_app: Make, smtp: SmtpServer) -> None:
    """Closing the response returns although the mail server has not answered."""
    smtp.hold("dot")
    app = make_app(smtp.url())
    [job] = Visits(app.app)(send(app))
    smtp.wait_held("dot")
    assert app.job(job).status == "pending"
    smtp.release("dot")
    wait_until(lambda: all_sent(app))


def test_a_row_that_is_ours_from_the_start_saves_the_claim(
    make_app: Make, smtp: SmtpServer
) -> None:
    """In a request with room it is inserted leased, under this process's name."""
    app = make_app(smtp.url())
    _, response = Visits(app.app).open(send(app))
    ((owner,),) = app.sql("SELECT lease_owner FROM deferred_mail_job")
    assert owner == app.runtime.lease.owner
    response.close()
    wait_until(lambda: all_sent(app))
    assert app.outcomes(1) == ["sent"]


def test_scheduled_mail_is_not_taken_in_hand(make_app: Make, smtp: SmtpServer) -> None:
    """Its time has not come; the sweep will have it."""
    app = make_app(smtp.url())
    [job] = Visits(app.app)(send(app, delay=3600))
    assert app.sql("SELECT status, lease_token FROM deferred_mail_job") == [("pending", None)]
    assert app.job(job).attempts == 0


@pytest.mark.parametrize("whose", ["the mail's", "the configuration's"])
def test_the_only_attempt_is_not_spent_on_a_lease(
    make_app: Make, smtp: SmtpServer, whose: str
) -> None:
    """A process that dies before it begins costs an attempt: a mail that has one is claimed."""
    fields = {"max_attempts": 1} if whose == "the mail's" else {}
    config = {} if fields else {"DEFERRED_MAIL_MAX_ATTEMPTS": 1}
    app = make_app(smtp.url(), **config)
    [job], response = Visits(app.app).open(send(app, **fields))
    assert app.sql("SELECT status, lease_token FROM deferred_mail_job") == [("pending", None)]
    response.close()
    wait_until(lambda: all_sent(app))
    assert app.job(job).attempts == 1


def test_what_does_not_fit_is_left_to_the_sweep(make_app: Make, smtp: SmtpServer) -> None:
    """Sixteen mails in hand per thread; the others stay pending, and nothing is lost."""
    smtp.hold("dot")
    app = make_app(smtp.url(), DEFERRED_MAIL_SENDER_THREADS=1)
    places = app.runtime.dispatcher.places
    Visits(app.app)(send(app, places + 4))
    smtp.wait_held("dot")
    counts = dict(app.sql("SELECT status, count(*) FROM deferred_mail_job GROUP BY status"))
    assert counts == {"sending": places, "pending": 4}
    smtp.release("dot")
    wait_until(lambda: rows(app) == {"sent", "pending"})
    assert app.sweep().sent == 4
    assert len(smtp.messages) == places + 4


def test_a_long_response_gives_its_row_back(make_app: Make, smtp: SmtpServer) -> None:
    """After half a lease without a bell the row is anybody's; the bell then finds it sent."""
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=1)
    [job], response = Visits(app.app).open(send(app))
    assert rows(app) == {"sending"}
    wait_until(lambda: rows(app) == {"pending"})
    assert app.job(job).attempts == 0
    assert app.sweep().sent == 1
    response.close()
    sweeps_attempt = app.log(job)
    wait_until(lambda: app.runtime.dispatcher._pool.pending == 0)
    assert app.log(job) == sweeps_attempt
    assert len(smtp.messages) == 1


def test_a_bell_that_comes_late_sends_what_nobody_took(make_app: Make, smtp: SmtpServer) -> None:
    """A row that was given back meanwhile is claimed like any other."""
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=1)
    _, response = Visits(app.app).open(send(app))
    wait_until(lambda: rows(app) == {"pending"})
    response.close()
    wait_until(lambda: all_sent(app))


def test_a_transport_that_rests_gets_no_mail_from_the_bell(make_app: Make) -> None:
    """After a fault, further mails are recorded and wait; none is leased in vain."""
    app = make_app("smtp://127.0.0.1:9?tls=none", DEFERRED_MAIL_BACKOFF=[600])
    visit = Visits(app.app)
    visit(send(app))
    wait_until(lambda: app.runtime.states.all() and rows(app) == {"pending"})
    app.runtime.pacing.forget()
    app.runtime.pacing.known()
    visit(send(app))
    assert rows(app) == {"pending"}
    wait_until(lambda: app.runtime.leases.count() == 0)
    assert app.sql("SELECT DISTINCT attempts FROM deferred_mail_job") == [(0,)]


# --- inline ----------------------------------------------------------------------------------


def test_inline_sends_inside_the_closing_of_the_response(make_app: Make, smtp: SmtpServer) -> None:
    """All mails of the request are out when ``close()`` returns, and none before."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="inline")
    jobs, response = Visits(app.app).open(send(app, 3))
    assert not smtp.messages
    response.close()
    assert [app.job(job).status for job in jobs] == [JobStatus.SENT] * 3
    assert smtp.connections == 1


def test_inline_sends_for_each_response_to_one_environ(make_app: Make, smtp: SmtpServer) -> None:
    """A middleware may call the application again with the environ that it had before."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="inline")
    app.app.add_url_rule("/again", view_func=lambda: str(len(send(app)())))
    environ = EnvironBuilder("/again").get_environ()
    for number in (1, 2):
        body = app.app.wsgi_app(environ, lambda *_: lambda _: None)
        assert b"".join(body) == b"1"
        body.close()  # type: ignore[attr-defined]  # the hook's own always has it
        assert len(smtp.messages) == number
    assert all_sent(app)


def test_inline_stops_at_its_time_budget(
    make_app: Make,
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that hangs costs the budget, not the deadline; the rest is left to the sweep."""
    monkeypatch.setattr(runtime_module, "INLINE_BUDGET", 0.5)
    smtp.script("rcpt", [Hang(), None])
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="inline", DEFERRED_MAIL_ATTEMPT_DEADLINE=60)
    first, second = Visits(app.app)(send(app, 2))
    assert (app.job(first).status, app.job(second).status) == ("pending", "pending")
    assert app.outcomes(first) == ["returned"]
    assert app.outcomes(second) == []
    assert "left to the sweep" in caplog.text
    smtp.script("rcpt", None)
    app.make_due()
    assert app.sweep().sent == 2


def test_inline_lets_the_end_of_the_process_pass(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``SystemExit`` inside ``close()`` goes on to the server; the mail is given back."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="inline")
    (first, second), response = Visits(app.app).open(send(app, 2))
    transport = app.runtime.transport("default")

    def exits(call: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(transport, "send", exits)
    with pytest.raises(SystemExit):
        response.close()
    assert app.sql("SELECT DISTINCT status, attempts, lease_token FROM deferred_mail_job") == [
        ("pending", 0, None)
    ]
    monkeypatch.undo()
    assert app.sweep().sent == 2
    assert app.outcomes(first) == app.outcomes(second) == ["sent"]


def test_inline_keeps_a_broken_database_from_the_server(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of ours raises out of ``close()``; the log says what happened."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="inline")
    _, response = Visits(app.app).open(send(app))
    app.sql("ALTER TABLE deferred_mail_job RENAME TO elsewhere")
    response.close()
    assert "no such table" in caplog.text
    app.sql("ALTER TABLE elsewhere RENAME TO deferred_mail_job")
    assert app.sweep().sent == 1


# --- none, and what is not installed ---------------------------------------------------------


def test_none_only_records(make_app: Make, smtp: SmtpServer) -> None:
    """No thread is started; the sweep sends."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="none")
    Visits(app.app)(send(app, 2))
    assert app.sql("SELECT DISTINCT status, lease_token FROM deferred_mail_job") == [
        ("pending", None)
    ]
    assert app.runtime._dispatcher is None
    assert app.sweep().sent == 2


@pytest.mark.parametrize(("engine", "library"), [("celery", "celery"), ("rq", "redis")])
def test_an_engine_without_its_library_is_refused(
    make_app: Make, monkeypatch: pytest.MonkeyPatch, engine: str, library: str
) -> None:
    """By name, at ``init_app``, with the extra to install."""
    is_there = conversion.importlib.util.find_spec
    monkeypatch.setattr(
        conversion.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == library else is_there(name, *rest),
    )
    with pytest.raises(ConfigurationError, match=rf"flask-deferred-mail\[{engine}\]"):
        make_app("null:", DEFERRED_MAIL_DISPATCH=engine)


# --- where threads do not run ----------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 1])
def test_uwsgi_without_threads_is_found_out(
    make_app: Make,
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: int,
) -> None:
    """There a thread would freeze: said once, and everything is left to the sweep."""
    fake = types.ModuleType("uwsgi")
    fake.has_threads = threads  # type: ignore[attr-defined]  # as the server's own module has it
    monkeypatch.setitem(sys.modules, "uwsgi", fake)
    app = make_app(smtp.url())
    visit = Visits(app.app)
    visit(send(app))
    visit(send(app))
    warnings = [r for r in caplog.records if "uWSGI runs without threads" in r.getMessage()]
    assert len(warnings) == (0 if threads else 1)
    if threads:
        wait_until(lambda: all_sent(app))
    else:
        assert app.sql("SELECT DISTINCT status, lease_token FROM deferred_mail_job") == [
            ("pending", None)
        ]
        assert app.sweep().sent == 2


# --- nobody sweeps ---------------------------------------------------------------------------


@pytest.fixture
def backlogs() -> Any:
    """What receivers of ``mail_backlog`` are told."""
    heard: list[tuple[Any, Job]] = []

    def receiver(sender: Any, job: Job, **_: Any) -> None:
        heard.append((sender, job))

    with mail_backlog.connected_to(receiver):
        yield heard


def test_an_old_backlog_that_nobody_sweeps_is_told(
    make_app: Make, smtp: SmtpServer, backlogs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """People forget the cron line: an ERROR in the log, and ``mail_backlog`` with the oldest."""
    app = make_app(smtp.url())
    old = app.send()
    app.sql("UPDATE deferred_mail_job SET first_due_at = first_due_at - 400")
    app.runtime._next_backlog_check = 0.0
    Visits(app.app)(send(app))
    wait_until(lambda: backlogs)
    [(sender, job)] = backlogs
    assert sender is app.app
    assert job.id == old.id
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "flask mail sweep" in record.getMessage()


def test_a_backlog_is_not_told_where_somebody_sweeps(
    make_app: Make, smtp: SmtpServer, backlogs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep that was seen lately will come again."""
    app = make_app(smtp.url())
    app.sweep()
    app.send()
    app.sql("UPDATE deferred_mail_job SET first_due_at = first_due_at - 400")
    app.runtime._next_backlog_check = 0.0
    [job] = Visits(app.app)(send(app))
    wait_until(lambda: app.runtime._next_backlog_check > 0 and app.runtime.leases.count() == 0)
    wait_until(lambda: app.runtime.dispatcher._pool.pending == 0)
    assert app.job(job).status == "sent"
    assert not backlogs
    assert not [r for r in caplog.records if r.levelno == logging.ERROR]
