"""A person changes mail that a process has in hand but has not begun to send."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.errors import IllegalTransition
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


def send(app: MailApp) -> Job:
    """What a view does."""
    return app.mail.send_after_response(**HELLO)


@pytest.mark.parametrize(("change", "status"), [("cancel", "cancelled"), ("hold", "held")])
def test_a_view_may_take_back_what_it_has_just_recorded(
    make_app: Make, smtp: SmtpServer, change: str, status: str
) -> None:
    """The job reads ``pending``, so it can be changed; the bell then sends nothing."""
    app = make_app(smtp.url())

    def view() -> Job:
        job = send(app)
        assert app.mail.get(job.id).status == "pending"
        changed: Job = getattr(app.mail, change)(job.id)
        return changed

    job = Visits(app.app)(view)
    assert (job.status, job.attempts) == (status, 0)
    wait_until(lambda: app.runtime.dispatcher._pool.pending == 0)
    assert app.job(job).status == status
    assert app.log(job) == []
    assert not smtp.messages


def test_a_mail_that_waits_for_a_thread_can_be_cancelled(make_app: Make, smtp: SmtpServer) -> None:
    """The one in work cannot, and the refusal says whose it is; the one behind it can."""
    smtp.hold("dot")
    app = make_app(smtp.url(), DEFERRED_MAIL_SENDER_THREADS=1)
    first, second = Visits(app.app)(lambda: [send(app), send(app)])
    smtp.wait_held("dot")
    with app.app.app_context():
        assert app.mail.cancel(second.id).status == "cancelled"
        with pytest.raises(IllegalTransition, match="about to be sent by"):
            app.mail.cancel(first.id)
    smtp.release("dot")
    wait_until(lambda: app.job(first).status == "sent")
    wait_until(lambda: app.runtime.dispatcher._pool.pending == 0)
    assert app.job(second).status == "cancelled"
    assert len(smtp.messages) == 1


def test_what_another_process_has_in_hand_is_refused_with_its_name(
    make_app: Make, smtp: SmtpServer
) -> None:
    """Its last byte cannot be stopped from here; a moment later the mail is sent or waits."""
    app, other = make_app(smtp.url()), make_app(smtp.url())
    job, response = Visits(app.app).open(lambda: send(app))
    owner = re.escape(app.runtime.lease.owner)
    with other.app.app_context():
        with pytest.raises(IllegalTransition, match=f"sent by {owner}; try again in a moment"):
            other.mail.cancel(job.id)
        with pytest.raises(IllegalTransition, match=f"sent by {owner}; try again in a moment"):
            other.mail.hold(job.id)
    response.close()
    wait_until(lambda: app.job(job).status == "sent")
