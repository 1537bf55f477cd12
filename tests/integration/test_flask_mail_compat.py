"""Code written for Flask-Mail: its messages, its calls, its place in ``app.extensions``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask_mail
import pytest
from flask import Flask, current_app

from flask_deferred_mail import Attachment, DeferredMail, Mail, Message
from flask_deferred_mail.errors import AddressError, MessageError
from tests.support.mail_app import MailApp
from tests.support.smtp_script import Hang
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


# --- its own messages, through our object --------------------------------------------------------


def test_a_flask_mail_message_arrives_whole(make_app: Make, smtp: SmtpServer) -> None:
    """Every field of the real class, handed to ``send_after_response`` in a view."""
    app = make_app(smtp.url())

    def view() -> None:
        message = flask_mail.Message(
            "Grüße",
            recipients=["ann@example.com", ("Bob", "bob@example.com")],
            body="Hi\n",
            html="<p>Hi</p>",
            sender=("Shop, Inc.", "sales@example.com"),
            cc=["carl@example.com"],
            bcc=["eve@example.com"],
            reply_to="desk@example.com",
            date=1_700_000_000,
            extra_headers={"X-Order": "17"},
        )
        message.attach("list.csv", "text/csv", b"a;b\r\n")
        app.mail.send_after_response(message)

    Visits(app.app)(view)
    received = smtp.wait_for(1)[0]
    assert received.envelope_from == "sales@example.com"
    assert set(received.recipients) == {f"{n}@example.com" for n in ("ann", "bob", "carl", "eve")}
    parsed = received.parsed
    assert parsed["Subject"] == "Grüße"
    assert parsed["From"].addresses[0].display_name == "Shop, Inc."
    assert parsed["Reply-To"] == "desk@example.com"
    assert parsed["Date"].datetime.timestamp() == 1_700_000_000
    assert parsed["X-Order"] == "17"
    assert parsed["Bcc"] is None
    assert parsed.get_body(["plain"]).get_content().strip() == "Hi"
    assert parsed.get_body(["html"]).get_content().strip() == "<p>Hi</p>"
    [attachment] = parsed.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content_type()) == ("list.csv", "text/csv")


def test_a_flask_mail_message_takes_its_default_sender_from_us(
    make_app: Make, smtp: SmtpServer
) -> None:
    """The real class asks ``app.extensions["mail"]`` for it."""
    app = make_app(smtp.url(), MAIL_DEFAULT_SENDER=("Shop, Inc.", "shop@example.com"))
    with app.app.app_context():
        app.mail.send(flask_mail.Message("Hello", ["ann@example.com"], "Hi"))
    app.sweep()
    [sender] = smtp.messages[0].parsed["From"].addresses
    assert (sender.display_name, sender.addr_spec) == ("Shop, Inc.", "shop@example.com")


def test_the_made_up_message_id_of_flask_mail_stays_behind(
    make_app: Make, smtp: SmtpServer
) -> None:
    """It names this host, and it would be the same each time the object is sent."""
    app = make_app(smtp.url())
    with app.app.app_context():
        message = flask_mail.Message("Hello", ["ann@example.com"], "Hi")
        jobs = [app.mail.send(message), app.mail.send(message)]
    assert len({job.message_id for job in jobs} | {message.msgId}) == 3
    assert all(job.message_id.endswith("@example.com>") for job in jobs)


def test_flask_mails_own_mail_object_is_not_needed_to_send_its_messages(
    make_app: Make, smtp: SmtpServer
) -> None:
    """``Message.send(connection)`` and ``flask_mail.Mail.send``'s way round go through us."""
    app = make_app(smtp.url())
    with app.app.app_context(), app.mail.connect() as connection:
        flask_mail.Message("one", ["ann@example.com"], "Hi").send(connection)
        Message("two", ["ann@example.com"], "Hi").send(connection)
    app.sweep(concurrency=1)
    assert [m.parsed["Subject"] for m in smtp.messages] == ["one", "two"]


# --- its calls -----------------------------------------------------------------------------------


@pytest.fixture(params=["mail", "stand_in"])
def pick(request: pytest.FixtureRequest) -> Callable[[MailApp], Any]:
    """Our object, or what other extensions find under ``app.extensions["mail"]``."""
    if request.param == "mail":
        return lambda app: app.mail
    return lambda app: app.app.extensions["mail"]


def test_flask_mails_calls_record_and_send(
    make_app: Make, smtp: SmtpServer, pick: Callable[[MailApp], Any]
) -> None:
    """``send``, ``send_message`` and ``connect()``; in a view they leave after the response."""
    app = make_app(smtp.url())
    mail = pick(app)

    def view() -> None:
        mail.send(flask_mail.Message("one", ["ann@example.com"], "Hi"))
        mail.send_message("two", ["ann@example.com"], "Hi")
        with mail.connect() as connection:
            connection.send(Message("three", ["ann@example.com"], "Hi"))
            connection.send_message(subject="four", recipients=["ann@example.com"], body="Hi")
        assert not smtp.messages

    Visits(app.app)(view)
    subjects = {m.parsed["Subject"] for m in smtp.wait_for(4)}
    assert subjects == {"one", "two", "three", "four"}


@pytest.mark.parametrize(
    "envelope_from", ["bounces@example.com", ("Bounces", "bounces@example.com")]
)
def test_envelope_from_is_the_envelope_sender_of_that_mail(
    make_app: Make, smtp: SmtpServer, envelope_from: Any
) -> None:
    """Flask-Mail's name for it; the message itself does not change."""
    app = make_app(smtp.url())
    message = Message(**HELLO)
    with app.app.app_context(), app.mail.connect() as connection:
        connection.send(message, envelope_from=envelope_from)
        connection.send(message)
        connection.send(flask_mail.Message(**HELLO), envelope_from)
        with pytest.raises(AddressError) as caught:
            connection.send(message, envelope_from="nobody")
    assert caught.value.field == "envelope_from"
    app.sweep(concurrency=1)
    senders = [m.envelope_from for m in smtp.messages]
    assert senders == ["bounces@example.com", "shop@example.com", "bounces@example.com"]
    assert {m.parsed["From"] for m in smtp.messages} == {"shop@example.com"}


def test_record_messages_works_on_both(make_app: Make, pick: Callable[[MailApp], Any]) -> None:
    """``with mail.record_messages() as outbox``, as in tests written for Flask-Mail."""
    app = make_app(None, TESTING=True)
    with app.app.app_context(), pick(app).record_messages() as outbox:
        pick(app).send_message("testing", ["ann@example.com"], "Hi")
        assert len(outbox) == 1
        assert outbox[0].subject == "testing"


def test_what_cannot_be_mailed_raises_at_the_call(
    make_app: Make, pick: Callable[[MailApp], Any]
) -> None:
    """ESMTP options are refused by name, and nobody to mail is an error."""
    app = make_app("null:")
    with app.app.app_context():
        options = flask_mail.Message("Hello", ["ann@example.com"], mail_options=["SIZE=1"])
        with pytest.raises(MessageError, match="mail_options"):
            pick(app).send(options)
        with pytest.raises(MessageError, match="recipients"):
            pick(app).send(flask_mail.Message("Hello"))


# --- its settings --------------------------------------------------------------------------------


def test_flask_mails_settings_are_read(tmp_path: Path) -> None:
    """``MAIL_SERVER`` and its like, with a login, are the default transport."""
    with SmtpServer(credentials={"me": "p@ss:w/rd"}) as server:
        app = MailApp(
            tmp_path,
            None,
            MAIL_SERVER=server.host,
            MAIL_PORT=server.port,
            MAIL_USERNAME="me",
            MAIL_PASSWORD="p@ss:w/rd",
            MAIL_TIMEOUT=5,
            MAIL_USE_TLS=False,
            MAIL_MAX_EMAILS=10,
            MAIL_DEBUG=0,
        )
        job = app.send()
        assert app.sweep().sent == 1
        assert app.job(job).status == "sent"
        assert server.count("AUTH") == 1
        app.close()


def test_mail_timeout_bounds_one_step(make_app: Make) -> None:
    """Flask-Mailman's key: a server that says nothing costs so long, not the whole attempt."""
    with SmtpServer(banner=Hang()) as server:
        app = make_app(
            None,
            MAIL_SERVER=server.host,
            MAIL_PORT=server.port,
            MAIL_TIMEOUT=0.3,
            DEFERRED_MAIL_ATTEMPT_DEADLINE=60,
        )
        app.send()
        started = time.monotonic()
        assert app.sweep().returned == 1
        assert time.monotonic() - started < 20
        assert app.runtime.states.all()["default"].kind == "unreachable"


@pytest.mark.parametrize(
    ("given", "ascii_name"),
    [
        ("Übersicht été.pdf", "Ubersicht ete.pdf"),
        ("a\u00a0\u3000b.pdf", "a b.pdf"),
        ("报告.pdf", ".pdf"),
        ("ﬁle.pdf", "file.pdf"),
        ("plain.pdf", "plain.pdf"),
        ("报告", None),
    ],
)
def test_ascii_attachments_reduces_file_names(
    make_app: Make, smtp: SmtpServer, given: str, ascii_name: str | None
) -> None:
    """``MAIL_ASCII_ATTACHMENTS``: decomposed, what is not ASCII left out, blanks squeezed."""
    app = make_app(smtp.url(), MAIL_ASCII_ATTACHMENTS=True)
    app.send(attachments=[Attachment(given, "application/pdf", b"%PDF")])
    app.sweep()
    [attachment] = smtp.messages[0].parsed.iter_attachments()
    assert attachment.get_filename() == ascii_name
    assert attachment.get_content() == b"%PDF"


def test_without_it_file_names_stay(make_app: Make, smtp: SmtpServer) -> None:
    """The default: names in any script."""
    app = make_app(smtp.url())
    app.send(attachments=[Attachment("报告.pdf", "application/pdf", b"%PDF")])
    app.sweep()
    [attachment] = smtp.messages[0].parsed.iter_attachments()
    assert attachment.get_filename() == "报告.pdf"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("shop@example.com", "shop@example.com"),
        ("Shop <shop@example.com>", "Shop <shop@example.com>"),
        (("Shop", "shop@example.com"), "Shop <shop@example.com>"),
        (("Shop, Inc.", "shop@example.com"), '"Shop, Inc." <shop@example.com>'),
    ],
)
def test_the_stand_in_has_flask_mails_attributes(
    make_app: Make, given: Any, expected: str | None
) -> None:
    """``default_sender`` and ``ascii_attachments``, which other extensions read."""
    stand_in = make_app("null:", MAIL_DEFAULT_SENDER=given).app.extensions["mail"]
    assert stand_in.default_sender == expected
    assert stand_in.ascii_attachments is False
    other = make_app("null:", MAIL_ASCII_ATTACHMENTS="true")
    assert other.app.extensions["mail"].ascii_attachments is True


# --- its place -----------------------------------------------------------------------------------


def test_a_place_that_is_taken_is_left_alone_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line says by whom; both go on working, each on its own."""
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["DEFERRED_MAIL_TRANSPORT"] = "null:"
    flask_mail.Mail(app)
    theirs = app.extensions["mail"]
    mail = DeferredMail(app)
    assert app.extensions["mail"] is theirs
    [record] = [r for r in caplog.records if r.name.startswith("flask_deferred_mail")]
    assert "flask_mail." in record.getMessage()
    assert record.levelno == logging.WARNING
    with app.app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hi", sender="a@example.com").id == 1


# --- the drop-in ---------------------------------------------------------------------------------


def small_application(mail_class: Any, message_class: Any, folder: Path, **config: Any) -> Flask:
    """A small application as Flask-Mail's documentation teaches it, for either package."""
    mail = mail_class()
    app = Flask("small", instance_path=str(folder))
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER=("Shop", "shop@example.com"), **config)
    mail.init_app(app)

    @app.get("/contact")
    def contact() -> str:
        message = message_class("Hello", recipients=["you@example.com"])
        message.add_recipient("somebodyelse@example.com")
        message.body = "testing"
        message.html = "<b>testing</b>"
        message.attach("image.png", "image/png", b"\x89PNG")
        assert message.send_to == {"you@example.com", "somebodyelse@example.com"}
        mail.send(message)
        return "sent"

    @app.get("/bulk")
    def bulk() -> str:
        with mail.connect() as connection:
            for name in ("ann", "bob"):
                connection.send(
                    message_class(
                        recipients=[f"{name}@example.com"], body="...", subject=f"hello, {name}"
                    )
                )
        return "sent"

    @app.get("/short")
    def short() -> str:
        mail.send_message("short", sender="me@example.com", recipients=["you@example.com"])
        return "sent"

    app.mail = mail  # type: ignore[attr-defined]  # for the test's use
    return app


@pytest.mark.parametrize(
    ("mail_class", "message_class"),
    [(flask_mail.Mail, flask_mail.Message), (Mail, Message)],
    ids=["flask_mail", "flask_deferred_mail"],
)
def test_an_application_only_changes_its_import(
    tmp_path: Path, mail_class: Any, message_class: Any
) -> None:
    """The same code and the same tests pass with Flask-Mail and with us."""
    app = small_application(mail_class, message_class, tmp_path)
    client = app.test_client()
    with app.app_context(), app.mail.record_messages() as outbox:  # type: ignore[attr-defined]
        for path in ("/contact", "/bulk", "/short"):
            assert client.get(path).text == "sent"
        assert current_app.extensions["mail"].default_sender
    assert [m.subject for m in outbox] == ["Hello", "hello, ann", "hello, bob", "short"]
    contact = outbox[0]
    assert contact.recipients == ["you@example.com", "somebodyelse@example.com"]
    assert (contact.body, contact.html) == ("testing", "<b>testing</b>")
    assert contact.attachments[0].filename == "image.png"
    assert contact.attachments[0].data == b"\x89PNG"
    assert outbox[3].sender == "me@example.com"


def test_the_small_application_really_sends(tmp_path: Path, smtp: SmtpServer) -> None:
    """With Flask-Mail's settings and without suppression, through a real mail server."""
    app = small_application(
        Mail,
        Message,
        tmp_path,
        MAIL_SERVER=smtp.host,
        MAIL_PORT=smtp.port,
        MAIL_SUPPRESS_SEND=False,
    )
    for path in ("/contact", "/bulk", "/short"):
        with app.test_client().get(path):
            pass
    received = {m.parsed["Subject"]: m for m in smtp.wait_for(4)}
    assert set(received) == {"Hello", "hello, ann", "hello, bob", "short"}
    assert received["Hello"].parsed["From"] == "Shop <shop@example.com>"
    app.mail.for_app(app).runtime.close()  # type: ignore[attr-defined]
