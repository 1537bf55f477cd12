"""Signals from a real app: each at its moment, after the commit, away from the request."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from flask import current_app, g, has_request_context

from flask_deferred_mail import Job, Message, signal_listener, signals
from flask_deferred_mail.store.statements import AttemptNote
from tests.support.mail_app import MailApp
from tests.support.smtp_script import Drop
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}
NAMES = (
    "mail_queued",
    "mail_attempted",
    "email_dispatched",
    "mail_retry_scheduled",
    "mail_failed",
    "mail_held",
)


class Ears:
    """Hears every signal of one app, and looks around while it does."""

    def __init__(self, app: MailApp) -> None:
        self.app = app
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.rows: list[str] = []
        self.requests: list[bool] = []
        self.marks: list[Any] = []
        self.apps: list[Any] = []
        self.receivers = [self._connect(name) for name in NAMES]

    def _connect(self, name: str) -> Any:
        def receiver(sender: Any, **details: Any) -> None:
            assert sender is self.app.app
            self.rows.append(self._status(details["job"].id))
            self.requests.append(has_request_context())
            self.marks.append(g.get("mark"))
            g.mark = name
            self.apps.append(current_app._get_current_object())  # type: ignore[attr-defined]
            self.heard.append((name, details))

        getattr(signals, name).connect(receiver, sender=self.app.app)
        return receiver

    def _status(self, job_id: int) -> str:
        """What another connection sees at this moment, past our own."""
        path = self.app.folder / "deferred_mail.sqlite3"
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT status FROM deferred_mail_job WHERE id = ?"
            (status,) = connection.execute(query, [job_id]).fetchone()
        return str(status)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def details(self, name: str) -> dict[str, Any]:
        """What the only signal of that name carried."""
        (found,) = [details for heard, details in self.heard if heard == name]
        return found


# --- which, and when -------------------------------------------------------------------------


def test_a_mail_that_is_accepted(make_app: Make, smtp: SmtpServer) -> None:
    """Queued, attempted, dispatched; each when the row says so to everybody."""
    app = make_app(smtp.url())
    ears = Ears(app)
    job = app.send()
    app.sweep()
    assert ears.names == ["mail_queued", "mail_attempted", "email_dispatched"]
    assert ears.rows == ["pending", "sent", "sent"]
    assert ears.details("mail_queued") == {"job": job}
    attempt = ears.details("mail_attempted")
    assert attempt["job"] == app.job(job)
    assert isinstance(attempt["attempt"], AttemptNote)
    assert attempt["attempt"].outcome == "sent"


def test_a_mail_that_is_put_off(make_app: Make, smtp: SmtpServer) -> None:
    """``mail_retry_scheduled`` says when it is due again."""
    smtp.script("rcpt", "451 4.2.0 later")
    app = make_app(smtp.url())
    ears = Ears(app)
    app.send()
    app.sweep()
    assert ears.names == ["mail_queued", "mail_attempted", "mail_retry_scheduled"]
    job = ears.details("mail_retry_scheduled")["job"]
    assert job.status == "pending"
    assert job.next_attempt_at > job.created_at


def test_a_mail_that_is_refused(make_app: Make, smtp: SmtpServer) -> None:
    """``mail_failed``, with the reason in the job."""
    smtp.script("rcpt", "550 5.1.1 no such user")
    app = make_app(smtp.url())
    ears = Ears(app)
    app.send()
    app.sweep()
    assert ears.names == ["mail_queued", "mail_attempted", "mail_failed"]
    assert "no such user" in ears.details("mail_failed")["job"].last_error


def test_a_mail_that_reaches_some(make_app: Make, smtp: SmtpServer) -> None:
    """Both: dispatched to those who were accepted, and failed, since it has ended ``partial``."""
    smtp.script("rcpt", lambda turn: "550 no" if "bob@" in turn.argument else None)
    app = make_app(smtp.url())
    ears = Ears(app)
    app.send("ann@example.com", "bob@example.com")
    app.sweep()
    assert sorted(ears.names[2:]) == ["email_dispatched", "mail_failed"]
    assert ears.details("mail_failed")["job"].status == "partial"


def test_a_mail_whose_fate_is_unknown(make_app: Make, smtp: SmtpServer) -> None:
    """``mail_held``: a person has to look. Nobody says that it was dispatched."""
    smtp.script("dot", Drop())
    app = make_app(smtp.url(), DEFERRED_MAIL_ON_UNKNOWN="hold")
    ears = Ears(app)
    app.send()
    app.sweep()
    assert ears.names == ["mail_queued", "mail_attempted", "mail_held"]
    assert ears.details("mail_held")["job"].status == "held"


def test_a_mail_that_ends_while_its_transport_rests(make_app: Make) -> None:
    """No attempt, and yet ``mail_failed``."""
    app = make_app("smtp://127.0.0.1:9?tls=none", DEFERRED_MAIL_BACKOFF=[600])
    job = app.send()
    app.sweep()
    app.sql("UPDATE deferred_mail_job SET first_due_at = 1, due_at = 1")
    ears = Ears(app)
    app.sweep()
    assert ears.names == ["mail_failed"]
    assert ears.details("mail_failed")["job"] == app.job(job)


def test_many_mails_are_queued_once_all_are_there(make_app: Make) -> None:
    """One signal for each, in order, after the one commit."""
    app = make_app("null:")
    ears = Ears(app)
    with app.app.app_context():
        jobs = app.mail.send_many([HELLO, HELLO])
    assert [details["job"] for _, details in ears.heard] == jobs
    assert ears.rows == ["pending", "pending"]


def test_suppressed_mail_is_queued_and_nothing_more(make_app: Make, smtp: SmtpServer) -> None:
    """It was recorded; nobody tried to send it."""
    app = make_app(smtp.url(), TESTING=True)
    ears = Ears(app)
    with app.app.app_context():
        app.mail.send_now(**HELLO)
    assert ears.names == ["mail_queued"]


def test_a_key_that_is_taken_queues_nothing(make_app: Make) -> None:
    """Nothing was recorded."""
    app = make_app("null:")
    app.send(key="k")
    ears = Ears(app)
    app.send(key="k")
    assert ears.names == []


# --- where -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["thread", "inline"])
def test_receivers_see_a_fresh_app_context_and_no_request(
    make_app: Make, smtp: SmtpServer, dispatch: str
) -> None:
    """From the view, from the closing request and from a sender thread; none sees another's g."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH=dispatch)
    ears = Ears(app)

    def view() -> None:
        g.mark = "the view's"
        app.mail.send_after_response(**HELLO)
        assert g.mark == "the view's"

    Visits(app.app)(view)
    wait_until(lambda: len(ears.heard) == 3)
    assert ears.requests == [False] * 3
    assert ears.marks == [None] * 3
    assert ears.apps == [app.app] * 3


def test_receivers_of_send_now_see_no_request_either(make_app: Make, smtp: SmtpServer) -> None:
    """Although the attempt runs inside the view."""
    app = make_app(smtp.url())
    ears = Ears(app)

    def view() -> None:
        g.mark = "the view's"
        app.mail.send_now(**HELLO)
        assert g.mark == "the view's"
        assert has_request_context()

    Visits(app.app)(view)
    assert ears.names == ["mail_queued", "mail_attempted", "email_dispatched"]
    assert ears.requests == [False] * 3
    assert ears.marks == [None] * 3


def test_only_the_apps_own_receivers_hear(make_app: Make, tmp_path: Any) -> None:
    """``sender=app`` means that app, of several in one process."""
    one, other = make_app("null:", tmp_path / "one"), make_app("null:", tmp_path / "other")
    ears = Ears(one)
    other.send()
    assert ears.names == []
    one.send()
    assert ears.names == ["mail_queued"]


# --- receivers that fail ---------------------------------------------------------------------


@pytest.fixture
def broken() -> Iterator[list[str]]:
    """Every signal has a receiver that raises; tells which have been called."""
    called: list[str] = []

    def connect(name: str) -> Any:
        def receiver(sender: Any, **_: Any) -> None:
            called.append(name)
            raise ValueError("receiver is broken")

        getattr(signals, name).connect(receiver)
        return receiver

    kept = [connect(name) for name in NAMES]
    yield called
    for name, receiver in zip(NAMES, kept, strict=True):
        getattr(signals, name).disconnect(receiver)


def test_a_receiver_that_raises_changes_nothing(
    make_app: Make, smtp: SmtpServer, broken: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The view has its job, the mail is sent once, the log has the traceback."""
    app = make_app(smtp.url())
    job = Visits(app.app)(lambda: app.mail.send_after_response(**HELLO))
    wait_until(lambda: len(broken) == 3)
    wait_until(lambda: app.runtime.leases.count() == 0)
    assert app.job(job).status == "sent"
    assert len(smtp.messages) == 1
    assert caplog.text.count("ValueError: receiver is broken") == 3


def test_a_receiver_that_raises_does_not_reach_the_caller_of_send_now(
    make_app: Make, smtp: SmtpServer, broken: list[str]
) -> None:
    """An exception there would be taken for a mail that was not sent, and sent again."""
    app = make_app(smtp.url())
    with app.app.app_context():
        assert app.mail.send_now(**HELLO).status == "sent"
    assert broken == ["mail_queued", "mail_attempted", "email_dispatched"]


def test_an_app_context_that_breaks_changes_nothing(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What the application does when a context ends is no part of the mail's outcome."""
    app = make_app(smtp.url())

    @app.app.teardown_appcontext
    def break_it(_error: BaseException | None) -> None:
        if "mark" in g:  # a receiver was here
            raise ValueError("teardown is broken")

    ears = Ears(app)
    job = Visits(app.app)(lambda: app.mail.send_after_response(**HELLO))
    wait_until(lambda: len(ears.heard) == 3)
    wait_until(lambda: app.runtime.leases.count() == 0)
    assert app.job(job).status == "sent"
    assert len(smtp.messages) == 1
    assert "teardown is broken" in caplog.text


def test_a_database_that_fails_after_the_outcome_does_not_undo_it(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job cannot be read for the signal: the mail is sent all the same, and the pass ends."""
    from flask_deferred_mail.errors import StoreBusy

    app = make_app(smtp.url())
    job = app.send()
    ears = Ears(app)

    def busy(_job_id: int) -> Job:
        raise StoreBusy("busy")

    monkeypatch.setattr(app.runtime.jobs, "get", busy)
    assert app.sweep().sent == 1
    monkeypatch.undo()
    assert app.job(job).status == "sent"
    assert ears.names == []


# --- shapes ----------------------------------------------------------------------------------


def test_a_message_that_cannot_be_shown_does_not_undo_the_outcome(
    make_app: Make,
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever breaks while receivers are told is logged; the caller hears how the mail stands."""
    app = make_app(smtp.url())
    ears = Ears(app)

    def broken(_letter: object) -> Message:
        raise ValueError("no such date")

    monkeypatch.setattr(signal_listener, "dispatched_message", broken)
    with app.app.app_context():
        job = app.mail.send_now(**HELLO)
    assert job.status == "sent"
    assert ears.names == ["mail_queued", "mail_attempted"]
    assert "no such date" in caplog.text


def test_email_dispatched_has_flask_mails_shape(make_app: Make, smtp: SmtpServer) -> None:
    """``receiver(app, message)`` reads subject, recipients, body and html, as with Flask-Mail."""
    app = make_app(smtp.url())
    lines: list[str] = []

    def log_message(app: Any, message: Any, **_: Any) -> None:
        lines.append(f"{message.subject} to {', '.join(message.recipients)}")
        lines.append(message.body + message.html + message.sender)

    hearing = signals.email_dispatched.connected_to(log_message, sender=app.app)
    with hearing, app.app.app_context():
        job = app.mail.send_now(html="<p>Hi</p>", **HELLO)
    assert lines == ["Hello to ann@example.com", "Hi\n<p>Hi</p>shop@example.com"]
    ears = Ears(app)
    with app.app.app_context():
        app.mail.send_now(**HELLO)
    message = ears.details("email_dispatched")["message"]
    assert isinstance(message, Message)
    assert ears.details("email_dispatched")["job"].id > job.id


def test_a_receiver_may_send_a_mail_itself(make_app: Make, smtp: SmtpServer) -> None:
    """Outside any request it is recorded for the sweep."""
    smtp.script("rcpt", lambda turn: "550 no" if "ann@" in turn.argument else None)
    app = make_app(smtp.url())
    sent = threading.Event()

    def tell_somebody(sender: Any, job: Job, **_: Any) -> None:
        app.mail.send_message("Failed", ["admin@example.com"], f"mail {job.id}")
        sent.set()

    with signals.mail_failed.connected_to(tell_somebody, sender=app.app):
        Visits(app.app)(lambda: app.mail.send_after_response(**HELLO))
        wait_until(sent.is_set)
    wait_until(lambda: app.runtime.leases.count() == 0)
    assert app.sweep().sent == 1
    assert smtp.messages[0].recipients == ["admin@example.com"]
