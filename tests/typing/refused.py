"""Calls that must not type-check: each line says with which error. Nothing here is run.

mypy's ``warn_unused_ignores`` makes a line that has become acceptable a fault.
"""

from __future__ import annotations

from flask_deferred_mail import Attachment, DeferredMail, Job, Message, send_after_response
from flask_deferred_mail.job import JobStatus

mail = DeferredMail()


def a_field_that_is_none() -> None:
    """Mistyped names are found before anything runs."""
    mail.send_after_response(subjct="Hi")  # type: ignore[call-arg]
    send_after_response(recipient="ann@example.com")  # type: ignore[call-arg]
    mail.send_now(to=["ann@example.com"])  # type: ignore[call-arg]
    mail.send_now(session=None)  # type: ignore[call-arg]
    mail.send_after_response(message=Message("Hi"))  # type: ignore[call-arg]
    Message(text="Hi")  # type: ignore[call-arg]
    Message("Hi").subjct = "Hi"  # type: ignore[attr-defined]


def a_value_of_another_type() -> None:
    """So are values that no field takes."""
    mail.send_after_response(subject=17)  # type: ignore[arg-type]
    mail.send_after_response(recipients=[17])  # type: ignore[list-item]
    mail.send_after_response(html=b"<p>Hi</p>")  # type: ignore[arg-type]
    mail.send_after_response(priority="urgent")  # type: ignore[arg-type]
    mail.send_after_response(on_unknown="shrug")  # type: ignore[arg-type]
    mail.send_after_response(attachments=["a.pdf"])  # type: ignore[list-item]
    Message(on_unknown="shrug")  # type: ignore[arg-type]
    Attachment("a.pdf", "application/pdf", 17)  # type: ignore[arg-type]


def calls_that_do_not_exist(job: Job) -> None:
    """Nor is there a method or an attribute that only looks like one."""
    mail.sweep()  # type: ignore[attr-defined]
    mail.get("17")  # type: ignore[arg-type]
    mail.find()  # type: ignore[call-arg]
    mail.release(job.id, True)  # type: ignore[call-arg]
    DeferredMail(None, True)  # type: ignore[call-arg]
    mail.send_many(Message("Hi"))  # type: ignore[arg-type]


def a_job_that_changes(job: Job) -> None:
    """Jobs are frozen."""
    job.status = JobStatus.SENT  # type: ignore[misc]
    job.recipients[0].status = "sent"  # type: ignore[misc, assignment]
