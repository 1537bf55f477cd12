"""Messages of Flask-Mailman, handed to our calls; and both packages side by side in one app."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage as LibraryMessage

import flask_mailman
import pytest

from flask_deferred_mail.errors import MessageError
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits

Make = Callable[..., MailApp]


@pytest.fixture
def app(make_app: Make, smtp: SmtpServer) -> MailApp:
    """An app that has Flask-Mailman as well: its messages ask it for their defaults."""
    made = make_app(smtp.url(), MAIL_BACKEND="locmem", MAIL_DEFAULT_CHARSET="utf-8")
    flask_mailman.Mail(made.app)
    return made


def test_a_mailman_message_arrives_whole(app: MailApp, smtp: SmtpServer) -> None:
    """Every field of the real class, sent in a view, leaves through our queue."""

    def view() -> None:
        message = flask_mailman.EmailMultiAlternatives(
            "Grüße",
            "Hi\n",
            "Shop <sales@example.com>",
            ["ann@example.com"],
            bcc=["eve@example.com"],
            cc=["carl@example.com"],
            reply_to=["desk@example.com"],
            headers={"X-Order": "17"},
        )
        message.attach_alternative("<p>Hi</p>", "text/html")
        message.attach("list.csv", "a;b\r\n", "text/csv")
        app.mail.send_after_response(message)

    Visits(app.app)(view)
    received = smtp.wait_for(1)[0]
    assert received.envelope_from == "sales@example.com"
    assert set(received.recipients) == {f"{n}@example.com" for n in ("ann", "carl", "eve")}
    parsed = received.parsed
    assert (parsed["Subject"], parsed["X-Order"]) == ("Grüße", "17")
    assert parsed["From"] == "Shop <sales@example.com>"
    assert parsed["Bcc"] is None
    assert parsed.get_body(["plain"]).get_content().strip() == "Hi"
    assert parsed.get_body(["html"]).get_content().strip() == "<p>Hi</p>"
    [attachment] = parsed.iter_attachments()
    assert attachment.get_filename() == "list.csv"


def test_html_as_the_body_stays_html(app: MailApp, smtp: SmtpServer) -> None:
    """``content_subtype = "html"``; a text part is derived."""
    with app.app.app_context():
        message = flask_mailman.EmailMessage("Hello", "<p>Hi</p>", to=["ann@example.com"])
        message.content_subtype = "html"
        app.mail.send(message)
    app.sweep()
    parsed = smtp.messages[0].parsed
    assert parsed.get_body(["html"]).get_content().strip() == "<p>Hi</p>"
    assert parsed.get_body(["plain"]).get_content().strip() == "Hi"


def test_the_default_sender_is_the_applications(app: MailApp, smtp: SmtpServer) -> None:
    """Both packages read ``MAIL_DEFAULT_SENDER``."""
    with app.app.app_context():
        app.mail.send(flask_mailman.EmailMessage("Hello", "Hi", to=["ann@example.com"]))
    app.sweep()
    assert smtp.messages[0].parsed["From"] == "shop@example.com"


def test_many_messages_of_any_kind_go_together(app: MailApp, smtp: SmtpServer) -> None:
    """``send_many`` takes them mixed, with those of the standard library too."""
    plain = LibraryMessage()
    plain["Subject"], plain["To"] = "library", "ann@example.com"
    plain.set_content("Hi\n")
    with app.app.app_context():
        jobs = app.mail.send_many(
            [
                flask_mailman.EmailMessage("mailman", "Hi", to=["ann@example.com"]),
                plain,
                {"subject": "dict", "recipients": ["ann@example.com"], "body": "Hi"},
            ]
        )
    assert [job.subject for job in jobs] == ["mailman", "library", "dict"]
    assert app.sweep().sent == 3


def test_what_cannot_be_carried_over_is_refused(app: MailApp) -> None:
    """Nothing of a message is dropped in silence."""
    with app.app.app_context():
        message = flask_mailman.EmailMessage("Hello", "Hi", to=["ann@example.com"])
        message.content_subtype = "calendar"
        with pytest.raises(MessageError, match="content_subtype"):
            app.mail.send(message)
        with pytest.raises(TypeError, match="str is not a message"):
            app.mail.send("Hello")


def test_mailmans_own_door_is_left_alone(app: MailApp, smtp: SmtpServer) -> None:
    """Its place in ``app.extensions`` is another one; what it sends itself is its business."""
    with app.app.app_context():
        flask_mailman.EmailMessage("Hello", "Hi", to=["ann@example.com"]).send()
        assert [m.subject for m in app.app.extensions["mailman"].outbox] == ["Hello"]
    assert not app.runtime.reports.listing()
