"""Calls that users write; they must type-check under mypy's strict rules. Nothing here is run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any, assert_type

from flask import Flask

from flask_deferred_mail import (
    Attachment,
    DeferredMail,
    DeferredMailError,
    Job,
    Mail,
    Message,
    send_after_response,
)
from flask_deferred_mail.errors import ConfigurationError, MessageError
from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.signals import email_dispatched, mail_failed
from flask_deferred_mail.wsgi import KEY, AfterResponse

mail = DeferredMail()


def create_app() -> Flask:
    """An application factory, and the other two ways of making the object."""
    app = Flask(__name__)
    mail.init_app(app)
    assert_type(DeferredMail(app), DeferredMail)
    assert_type(Mail(app), DeferredMail)
    app.wsgi_app = AfterResponse(app.wsgi_app)  # type: ignore[method-assign]  # as Flask says
    mail_failed.connect(alert, sender=app)
    email_dispatched.connect(alert)
    return app


def alert(sender: Flask, job: Job, **extra: Any) -> None:
    """A receiver."""
    sender.logger.error("mail %d: %s %s", job.id, job.last_error, extra)


def register() -> dict[str, int]:
    """Views: fields, a message, somebody else's message."""
    assert_type(mail.send_after_response(subject="Hi", recipients=["ann@example.com"]), Job)
    assert_type(send_after_response(recipients="ann@example.com", body="Hi"), Job)
    mail.send_after_response(Message("Hi", ["ann@example.com"], "Hi"))
    mail.send_after_response(EmailMessage(), session=False)
    mail.send_after_response({"subject": "Hi", "recipients": ["ann@example.com"]})
    mail.send_after_response(
        recipients=[("Ann", "ann@example.com"), "Bob <bob@example.com>"],
        sender=("Shop", "shop@example.com"),
        cc="carl@example.com",
        reply_to=["desk@example.com"],
        template="welcome",
        context={"name": "Ann"},
        language="de",
        send_at=datetime(2030, 1, 1, tzinfo=UTC),
        expires_at=timedelta(days=2),
        priority="high",
        key="order-17",
        transport="bulk",
        max_attempts=3,
        on_unknown="hold",
        attachments=[Attachment("a.pdf", "application/pdf", b"...")],
        extra_headers={"X-App": "shop"},
        tags=["welcome"],
        metadata={"order": 17, "shop": "de"},
    )
    mail.send_after_response(priority=5, delay=60, expires_at="2030-01-01T00:00:00Z")
    return {"code": 0}


def kept_fields(fields: dict[str, Any]) -> None:
    """Fields that come from elsewhere."""
    mail.send_after_response(**fields)
    send_after_response(**fields)


def many() -> None:
    """Messages and dicts, mixed, from any iterable."""
    assert_type(mail.send_many([Message("Hi"), {"subject": "Hi"}]), list[Job])
    assert_type(mail.send_many(Message(name) for name in ("a", "b")), list[Job])


def at_once() -> str:
    """``send_now`` and what a job says."""
    job = mail.send_now(subject="Hi", recipients=["ann@example.com"], body="Hi")
    assert_type(job.id, int)
    assert_type(job.status, JobStatus)
    assert_type(job.next_attempt_at, datetime | None)
    assert_type(job.created_at, datetime)
    assert_type(job.recipients, tuple[JobRecipient, ...])
    assert_type(job.recipients[0].status, RecipientStatus)
    if job.status == "sent":
        return job.message_id
    return job.last_error or ""


def afterwards(job: Job) -> None:
    """What can be done to a recorded mail."""
    assert_type(mail.get(job.id), Job)
    assert_type(mail.find(key="order-17"), Job | None)
    mail.find("order-17", tenant="b")
    mail.cancel(job.id)
    mail.cancel(key="order-17")
    mail.retry(job.id)
    mail.hold(job.id)
    assert_type(mail.release(job.id, as_sent=True), Job)


def as_with_flask_mail() -> None:
    """Flask-Mail's calls."""
    message = Message("Hello", sender="me@example.com", recipients=["you@example.com"])
    message.add_recipient("somebodyelse@example.com")
    message.body = "testing"
    message.html = "<b>testing</b>"
    message.attach("image.png", "image/png", b"")
    content_id = message.inline("logo.png", "image/png", b"")
    assert_type(content_id, str)
    mail.send(message)
    mail.send_message("Hello", recipients=["you@example.com"])
    with mail.connect() as connection:
        connection.send(message)
        connection.send(message, envelope_from="bounces@example.com")
        message.send(connection)


def in_tests() -> None:
    """An application's own tests."""
    with mail.record_messages() as messages:
        assert_type(messages, list[Message])
    assert_type(mail.outbox, list[Message])


def errors() -> None:
    """One base; a bad message names its field."""
    try:
        mail.send_after_response(recipients=["ann@@example.com"])
    except MessageError as error:
        assert_type(error.field, str)
    except ConfigurationError as error:
        assert_type(error.faults, tuple[str, ...])
    except DeferredMailError:
        raise


def schedule(environ: dict[str, Any]) -> None:
    """The hook without Flask."""
    environ[KEY].append(lambda: None)
