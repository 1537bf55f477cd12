"""What an application may call to send mail, and what it gets, in and out of a request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask

from flask_deferred_mail import (
    DeferredMailError,
    Job,
    Message,
    send_after_response,
)
from flask_deferred_mail.errors import (
    AddressError,
    BadHeaderError,
    MessageError,
    NotYetAvailable,
    StoreError,
    UnsupportedFeature,
)
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


def is_sent(app: MailApp, job: Job) -> bool:
    return app.job(job).status == "sent"


# --- send_after_response -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["fields", "message", "dict", "function"])
def test_a_mail_sent_in_a_view_arrives_after_the_response(
    make_app: Make, smtp: SmtpServer, form: str
) -> None:
    """Fields, a message, a dict, or the module's function: recorded, then sent."""
    app = make_app(smtp.url())
    send = {
        "fields": lambda: app.mail.send_after_response(**HELLO),
        "message": lambda: app.mail.send_after_response(Message(**HELLO)),
        "dict": lambda: app.mail.send_after_response(dict(HELLO)),
        "function": lambda: send_after_response(**HELLO),
    }[form]
    job, response = Visits(app.app).open(send)
    assert job.status == "pending"
    assert not smtp.messages
    response.close()
    assert smtp.wait_for(1)[0].parsed["Subject"] == "Hello"
    wait_until(lambda: is_sent(app, job))


def test_outside_a_request_a_mail_is_recorded_for_the_sweep(
    make_app: Make, smtp: SmtpServer
) -> None:
    """No request, no end of a response: the sweep sends it."""
    app = make_app(smtp.url())
    with app.app.app_context():
        job = send_after_response(**HELLO)
    assert app.sql("SELECT status, lease_token FROM deferred_mail_job") == [("pending", None)]
    assert app.sweep().sent == 1
    assert is_sent(app, job)


def test_a_request_context_without_a_server_only_records(make_app: Make, smtp: SmtpServer) -> None:
    """``test_request_context`` has no response that could end."""
    app = make_app(smtp.url())
    with app.app.test_request_context():
        send_after_response(**HELLO)
    assert app.sql("SELECT status, lease_token FROM deferred_mail_job") == [("pending", None)]


def test_without_an_app_context_the_only_app_is_meant(make_app: Make) -> None:
    """A shell or a thread of an application with one app needs no context for the method."""
    app = make_app("null:")
    assert app.mail.send_after_response(**HELLO).status == "pending"
    with pytest.raises(RuntimeError, match="application context"):
        send_after_response(**HELLO)


def test_the_function_needs_an_app_that_has_the_extension() -> None:
    """An app without it gets told what to call."""
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="call init_app first"):
        send_after_response(**HELLO)


def test_a_view_that_raises_afterwards_has_sent_its_mail(make_app: Make, smtp: SmtpServer) -> None:
    """Recorded is sent, whatever the view does then."""
    app = make_app(smtp.url())

    def view() -> None:
        app.mail.send_after_response(**HELLO)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Visits(app.app)(view)
    smtp.wait_for(1)


def test_a_message_sent_twice_is_two_mails(make_app: Make, smtp: SmtpServer) -> None:
    """Each has a Message-ID of its own; the object is not changed by being sent."""
    app = make_app(smtp.url())
    message = Message(**HELLO)
    with app.app.app_context():
        first, second = app.mail.send(message), app.mail.send(message)
    assert first.id != second.id
    assert first.message_id != second.message_id
    app.sweep()
    ids = {received.parsed["Message-ID"] for received in smtp.wait_for(2)}
    assert ids == {first.message_id, second.message_id}


def test_message_and_fields_together_are_refused(make_app: Make) -> None:
    """Which of the two would win is nothing to guess; the error names the fields."""
    app = make_app("null:")
    with app.app.app_context(), pytest.raises(TypeError, match=r"not both \(got subject\)"):
        app.mail.send_after_response(Message(**HELLO), subject="Other")


def test_a_mistyped_field_is_refused(make_app: Make) -> None:
    """A keyword that is no field raises and names it."""
    app = make_app("null:")
    with app.app.app_context(), pytest.raises(TypeError, match="recipient"):
        app.mail.send_after_response(recipient="ann@example.com")


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"recipients": ["ann@@example.com"]}, AddressError, "recipients"),
        ({"recipients": []}, MessageError, "recipients"),
        ({"cc": ["nobody"]}, AddressError, "cc"),
        ({"bcc": ["a@example.com\nBcc: b@example.com"]}, BadHeaderError, "bcc"),
        ({"subject": "Hi\r\nBcc: eve@example.com"}, BadHeaderError, "subject"),
        ({"sender": "nobody"}, AddressError, "sender"),
        ({"reply_to": "nobody"}, AddressError, "reply_to"),
        ({"envelope_sender": "nobody"}, AddressError, "envelope_sender"),
        ({"extra_headers": {"X-A": "a\nb"}}, BadHeaderError, "extra_headers"),
        ({"extra_headers": {"X A": "a"}}, BadHeaderError, "extra_headers"),
        ({"mail_options": ["BODY=8BITMIME"]}, MessageError, "mail_options"),
        ({"rcpt_options": ["NOTIFY=NEVER"]}, MessageError, "rcpt_options"),
        ({"priority": "urgent"}, MessageError, "priority"),
        ({"delay": 1, "send_at": 2_000_000_000}, MessageError, "delay"),
        ({"send_at": 1, "scheduled_time": 2}, MessageError, "scheduled_time"),
        ({"expires_at": 1}, MessageError, "expires_at"),
        ({"max_attempts": 0}, MessageError, "max_attempts"),
        ({"on_unknown": "shrug"}, MessageError, "on_unknown"),
        ({"key": ""}, MessageError, "key"),
        ({"private_copies": True, "cc": ["a@example.com"]}, MessageError, "private_copies"),
        ({"tags": ["a"]}, UnsupportedFeature, "tags"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_bad_message_raises_in_the_caller_and_names_the_field(
    make_app: Make, fields: dict, error: type[MessageError], field: str
) -> None:
    """In the view, before anything is recorded."""
    app = make_app("smtp://127.0.0.1:9?tls=none")
    with pytest.raises(error) as caught:
        Visits(app.app)(lambda: app.mail.send_after_response(**(HELLO | fields)))
    assert caught.value.field.partition(",")[0] == field
    assert isinstance(caught.value, DeferredMailError)
    assert isinstance(caught.value, ValueError)
    assert not app.runtime.reports.listing()


def test_reserved_names_of_a_message_are_refused() -> None:
    """``mail_class`` has no meaning yet, and is not ignored."""
    with pytest.raises(NotYetAvailable, match="mail_class"):
        Message(mail_class="bulk")


def test_a_database_that_cannot_be_written_raises_in_the_view(
    make_app: Make, tmp_path: Path
) -> None:
    """If the row cannot be committed, the caller gets the error."""
    (tmp_path / "file").touch()
    app = make_app("null:", DEFERRED_MAIL_DATABASE_URI=f"sqlite:///{tmp_path}/file/mail.sqlite3")
    with pytest.raises(StoreError, match="folder cannot be made"):
        Visits(app.app)(lambda: send_after_response(**HELLO))


# --- send_many -----------------------------------------------------------------------------------


def test_many_mails_are_recorded_at_once_and_sent(make_app: Make, smtp: SmtpServer) -> None:
    """Messages and dicts of fields, in order, in one transaction, sent after the response."""
    app = make_app(smtp.url())
    mails = [Message(**(HELLO | {"subject": "0"})), HELLO | {"subject": "1"}]
    jobs = Visits(app.app)(lambda: app.mail.send_many(iter(mails)))
    assert [job.subject for job in jobs] == ["0", "1"]
    wait_until(lambda: all(is_sent(app, job) for job in jobs))


def test_one_bad_mail_of_many_leaves_none_recorded(make_app: Make) -> None:
    """All or none: the checks come first."""
    app = make_app("null:")
    with app.app.app_context():
        with pytest.raises(AddressError):
            app.mail.send_many([HELLO, HELLO | {"recipients": ["ann@@example.com"]}])
        assert not app.runtime.reports.listing()
        assert app.mail.send_many([]) == []


def test_a_failure_in_the_middle_of_many_leaves_none_recorded(make_app: Make) -> None:
    """The rows share a transaction: one that the database refuses takes the others along."""
    app = make_app("null:")
    app.send()
    app.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON deferred_mail_job WHEN NEW.subject = 'third' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    mails = [HELLO | {"subject": subject} for subject in ("first", "second", "third")]
    with app.app.app_context(), pytest.raises(StoreError, match="refused"):
        app.mail.send_many(mails)
    assert len(app.runtime.reports.listing()) == 1


def test_keys_hold_within_many_mails_too(make_app: Make) -> None:
    """The second one with a key is the first one."""
    app = make_app("null:")
    with app.app.app_context():
        first, second, other = app.mail.send_many(
            [HELLO | {"key": "a"}, HELLO | {"key": "a"}, HELLO | {"key": "b"}]
        )
    assert first.id == second.id != other.id


# --- send_now ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["request", "context"])
def test_send_now_attempts_before_it_returns(make_app: Make, smtp: SmtpServer, where: str) -> None:
    """In a view and out of one: recorded, attempted in the caller, and the job says how it went."""
    app = make_app(smtp.url())

    def send() -> Job:
        return app.mail.send_now(**HELLO)

    if where == "request":
        job = Visits(app.app)(send)
    else:
        with app.app.app_context():
            job = send()
    assert (job.status, job.attempts) == ("sent", 1)
    assert job.sent_at is not None
    assert len(smtp.messages) == 1


def test_send_now_tells_of_a_refusal(make_app: Make, smtp: SmtpServer) -> None:
    """A server's no is no exception: the mail was recorded, and ended ``failed``."""
    smtp.script("rcpt", "550 5.1.1 no such user")
    app = make_app(smtp.url())
    with app.app.app_context():
        job = app.mail.send_now(**HELLO)
    assert (job.status, job.attempts) == ("failed", 1)
    assert "no such user" in (job.last_error or "")
    assert job.recipients[0].status == "rejected"


def test_send_now_with_the_server_down_leaves_the_mail_waiting(make_app: Make) -> None:
    """Nobody listens: nothing is lost and nothing counted; a sweep will try again."""
    app = make_app("smtp://127.0.0.1:9?tls=none")
    with app.app.app_context():
        job = app.mail.send_now(**HELLO)
    assert (job.status, job.attempts) == ("pending", 0)
    assert job.next_attempt_at is not None
    assert job.last_error


def test_send_now_of_a_scheduled_mail_only_records(make_app: Make, smtp: SmtpServer) -> None:
    """``send_at`` holds there as well."""
    app = make_app(smtp.url())
    with app.app.app_context():
        job = app.mail.send_now(delay=timedelta(hours=1), **HELLO)
    assert job.status == "pending"
    assert not smtp.messages


def test_send_now_of_a_known_key_sends_nothing(make_app: Make, smtp: SmtpServer) -> None:
    """The first job comes back, as it stands."""
    app = make_app(smtp.url())
    with app.app.app_context():
        first = app.mail.send_now(key="k", **HELLO)
        again = app.mail.send_now(key="k", **HELLO)
    assert again == first
    assert len(smtp.messages) == 1


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_that_is_taken_gives_the_first_job_whatever_its_status(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Pending, cancelled or sent; the same content is worth no word."""
    app = make_app(smtp.url())
    first = app.send(key="order-17")
    with app.app.app_context():
        app.mail.cancel(first.id)
    again = app.send(key="order-17")
    assert (again.id, again.status) == (first.id, "cancelled")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert app.sweep().claimed == 0


def test_a_key_that_is_taken_by_other_content_is_worth_a_warning(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The first mail stays; the log names the key and its mail."""
    app = make_app("null:")
    first = app.send(key="order-17", body="one")
    assert app.send(key="order-17", body="two").id == first.id
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.name.startswith("flask_deferred_mail")
    assert "order-17" in record.getMessage()
    assert str(first.id) in record.getMessage()


def test_a_known_key_in_a_view_rings_no_bell(make_app: Make, smtp: SmtpServer) -> None:
    """The second recording leaves the first job to whoever has it."""
    app = make_app(smtp.url())
    visit = Visits(app.app)
    first = visit(lambda: app.mail.send_after_response(key="k", **HELLO))
    wait_until(lambda: is_sent(app, first))
    assert visit(lambda: app.mail.send_after_response(key="k", **HELLO)).status == "sent"
    assert len(smtp.messages) == 1


def test_find_knows_a_mail_by_its_key(make_app: Make) -> None:
    """``None`` where there is none; tenants have keys of their own."""
    app = make_app("null:")
    job, other = app.send(key="k"), app.send(key="k", tenant="b")
    with app.app.app_context():
        found = app.mail.find(key="k")
        assert found is not None
        assert found.id == job.id
        theirs = app.mail.find(key="k", tenant="b")
        assert theirs is not None
        assert theirs.id == other.id
        assert app.mail.find(key="unknown") is None
