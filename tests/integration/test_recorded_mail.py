"""One recorded mail: look at it, cancel, hold, release and retry it; what a Job says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from flask_deferred_mail import (
    Job,
)
from flask_deferred_mail.errors import (
    IllegalTransition,
    JobNotFound,
)
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


def is_sent(app: MailApp, job: Job) -> bool:
    return app.job(job).status == "sent"


# --- one recorded mail ---------------------------------------------------------------------------


def test_get_gives_what_was_recorded(make_app: Make) -> None:
    """Equal to what the call returned; an unknown number raises."""
    app = make_app("null:")
    job = app.send()
    with app.app.app_context():
        assert app.mail.get(job.id) == job
        with pytest.raises(JobNotFound, match="99"):
            app.mail.get(99)


def test_a_cancelled_mail_is_not_sent(make_app: Make, smtp: SmtpServer) -> None:
    """By number or key; a second time, and with both or neither, it is refused."""
    app = make_app(smtp.url())
    one, two = app.send(), app.send(key="two")
    with app.app.app_context():
        assert app.mail.cancel(one.id).status == "cancelled"
        assert app.mail.cancel(key="two").status == "cancelled"
        with pytest.raises(IllegalTransition, match="cancelled"):
            app.mail.cancel(two.id)
        with pytest.raises(JobNotFound, match="unknown"):
            app.mail.cancel(key="unknown")
        for arguments in ({}, {"id": one.id, "key": "two"}):
            with pytest.raises(TypeError, match="either a number or key"):
                app.mail.cancel(**arguments)
    assert app.sweep().claimed == 0


def test_a_mail_that_is_being_sent_cannot_be_cancelled(make_app: Make, smtp: SmtpServer) -> None:
    """It may be out at any moment."""
    app = make_app(smtp.url())
    smtp.hold("dot")
    job = Visits(app.app)(lambda: app.mail.send_after_response(**HELLO))
    smtp.wait_held("dot")
    with app.app.app_context(), pytest.raises(IllegalTransition, match=r"(being|about to be) sent"):
        app.mail.cancel(job.id)
    smtp.release("dot")
    wait_until(lambda: is_sent(app, job))


def test_a_held_mail_waits_until_it_is_released(make_app: Make, smtp: SmtpServer) -> None:
    """``hold`` keeps it from every sweep, ``release`` lets it go."""
    app = make_app(smtp.url())
    job = app.send()
    with app.app.app_context():
        assert app.mail.hold(job.id).status == "held"
        assert app.sweep().claimed == 0
        with pytest.raises(IllegalTransition, match="held"):
            app.mail.hold(job.id)
        assert app.mail.release(job.id).status == "pending"
        assert app.sweep().sent == 1
        with pytest.raises(IllegalTransition, match="release"):
            app.mail.release(job.id)


def test_a_held_mail_can_be_ended_as_sent(make_app: Make, smtp: SmtpServer) -> None:
    """Somebody knows that it is there."""
    app = make_app(smtp.url())
    job = app.send()
    with app.app.app_context():
        app.mail.hold(job.id)
        assert app.mail.release(job.id, as_sent=True).status == "sent"
    assert app.sweep().claimed == 0


def test_retry_opens_what_was_refused_and_nothing_that_was_sent(
    make_app: Make, smtp: SmtpServer
) -> None:
    """The refused recipient is mailed again, the accepted one is not; a sent mail is refused."""
    smtp.script("rcpt", lambda turn: "550 no" if "bob@" in turn.argument else None)
    app = make_app(smtp.url())
    job = app.send("ann@example.com", "bob@example.com")
    assert app.sweep().partial == 1
    smtp.script("rcpt", None)
    with app.app.app_context():
        assert app.mail.retry(job.id).status == "pending"
        assert app.sweep().sent == 1
        with pytest.raises(IllegalTransition, match="everybody has it"):
            app.mail.retry(job.id)
    assert [m.recipients for m in smtp.messages] == [["ann@example.com"], ["bob@example.com"]]


# --- Job -----------------------------------------------------------------------------------------


def test_a_job_says_what_was_promised(make_app: Make) -> None:
    """Every field, its type, and recipients with theirs."""
    app = make_app("null:")
    before = datetime.now(UTC)
    job = app.send("ann@example.com", cc=["bob@example.com"], bcc=["eve@example.com"])
    assert isinstance(job, Job)
    assert isinstance(job.id, int)
    assert job.status == "pending"
    assert isinstance(job.status, str)
    assert job.message_id.endswith("@example.com>")
    assert (job.attempts, job.sent_at, job.last_error) == (0, None, None)
    assert before - timedelta(seconds=5) < job.created_at < datetime.now(UTC)
    assert job.next_attempt_at is not None
    assert job.next_attempt_at.tzinfo is not None
    assert [(r.address, r.kind) for r in job.recipients] == [
        ("ann@example.com", "to"),
        ("bob@example.com", "cc"),
        ("eve@example.com", "bcc"),
    ]
    assert {(r.status, r.detail, r.provider_message_id) for r in job.recipients} == {
        ("pending", "", None)
    }


def test_a_job_cannot_be_changed(make_app: Make) -> None:
    """Frozen, and its recipients too: a change is a new job out of the store."""
    job = make_app("null:").send()
    for thing, name in ((job, "status"), (job.recipients[0], "status")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, "sent")
    assert isinstance(job.recipients, tuple)


def test_the_status_reads_pending_while_the_row_is_ours_from_the_start(
    make_app: Make, smtp: SmtpServer
) -> None:
    """A row that was inserted already leased shows no difference before its attempt has begun."""
    app = make_app(smtp.url())
    job, response = Visits(app.app).open(lambda: app.mail.send_after_response(**HELLO))
    assert app.sql("SELECT status FROM deferred_mail_job") == [("sending",)]
    assert app.job(job) == job
    assert (job.status, job.attempts) == ("pending", 0)
    response.close()
    wait_until(lambda: is_sent(app, job))
    assert app.job(job).attempts == 1


def test_the_message_id_is_random_and_at_the_senders_domain(make_app: Make) -> None:
    """Never the host's name; a setting or a header of the message overrides it."""
    app = make_app("null:")
    assert app.send(sender="a@mail.example.org").message_id.endswith("@mail.example.org>")
    own = {"Message-ID": "<mine@example.net>"}
    assert app.send(extra_headers=own).message_id == "<mine@example.net>"
    other = make_app("null:", DEFERRED_MAIL_MESSAGE_ID_DOMAIN="ids.example.com")
    assert other.send().message_id.endswith("@ids.example.com>")


def test_a_template_is_rendered_in_the_callers_context(make_app: Make, smtp: SmtpServer) -> None:
    """At the call: context processors and the request are there; the text is what is stored."""
    app = make_app(smtp.url())
    folder = app.folder / "templates"
    folder.mkdir()
    app.app.template_folder = str(folder)
    (folder / "welcome.subject.txt").write_text("Welcome, {{ name }}\n")
    (folder / "welcome.html").write_text("<p>{{ name }} at {{ request.path }} of {{ shop }}</p>")
    app.app.context_processor(lambda: {"shop": "Tally"})
    visit = Visits(app.app)
    fields = {"recipients": ["ann@example.com"], "template": "welcome"}
    visit(lambda: app.mail.send_after_response(context={"name": "Ann & Bob"}, **fields))
    received = smtp.wait_for(1)[0].parsed
    assert received["Subject"] == "Welcome, Ann & Bob"
    html = received.get_body(["html"]).get_content()
    assert html.strip() == "<p>Ann &amp; Bob at /visit of Tally</p>"
    assert "Ann & Bob at /visit" in received.get_body(["plain"]).get_content()
