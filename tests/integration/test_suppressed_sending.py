"""``MAIL_SUPPRESS_SEND`` and testing: recorded and shown in the outbox, never sent, in any door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail import Job, Message, send_after_response
from flask_deferred_mail.app_mail import OUTBOX_LIMIT
from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.errors import AddressError, ConfigurationError
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}

DOORS: dict[str, Callable[[MailApp], Any]] = {
    "send_after_response": lambda app: app.mail.send_after_response(**HELLO),
    "function": lambda app: send_after_response(**HELLO),
    "send_many": lambda app: app.mail.send_many([HELLO]),
    "send_now": lambda app: app.mail.send_now(**HELLO),
    "send": lambda app: app.mail.send(Message(**HELLO)),
    "send_message": lambda app: app.mail.send_message(**HELLO),
    "connect": lambda app: app.mail.connect().send(Message(**HELLO)),
    "stand_in": lambda app: app.app.extensions["mail"].send(Message(**HELLO)),
}

every_door = pytest.mark.parametrize("door", DOORS)


def subjects(app: MailApp) -> list[str]:
    with app.app.app_context():
        return [message.subject for message in app.mail.outbox]


def untouched(app: MailApp, smtp: SmtpServer) -> bool:
    """One row that nobody has in hand, and a server that nobody called."""
    rows = app.sql("SELECT status, attempts, lease_token FROM deferred_mail_job")
    return rows == [("pending", 0, None)] and smtp.connections == 0


@every_door
@pytest.mark.parametrize("closing", [True, False], ids=["closed", "left open"])
def test_the_outbox_has_the_message_when_the_call_returns(
    make_app: Make, smtp: SmtpServer, door: str, closing: bool
) -> None:
    """Whether the test client closes its response or not; the row is there, and stays."""
    app = make_app(smtp.url(), TESTING=True)

    def view() -> list[str]:
        DOORS[door](app)
        return subjects(app)

    in_view, response = Visits(app.app).open(view)
    if closing:
        response.close()
    assert in_view == subjects(app) == ["Hello"]
    assert untouched(app, smtp)


@every_door
def test_outside_a_request_the_same_holds(make_app: Make, smtp: SmtpServer, door: str) -> None:
    """In an app context alone: recorded, shown, not sent."""
    app = make_app(smtp.url(), TESTING=True)
    with app.app.app_context():
        DOORS[door](app)
    assert subjects(app) == ["Hello"]
    assert untouched(app, smtp)


@pytest.mark.parametrize("dispatch", ["thread", "inline", "none"])
def test_no_dispatch_sends(make_app: Make, smtp: SmtpServer, dispatch: str) -> None:
    """Nothing is scheduled for the end of the response."""
    app = make_app(smtp.url(), TESTING=True, DEFERRED_MAIL_DISPATCH=dispatch)
    Visits(app.app)(lambda: app.mail.send_after_response(**HELLO))
    assert app.runtime._dispatcher is None
    assert untouched(app, smtp)


def test_the_sweep_of_the_command_line_sends_nothing(make_app: Make, smtp: SmtpServer) -> None:
    """It says why, and counts nothing."""
    app = make_app(smtp.url(), TESTING=True)
    app.send()
    result = app.app.test_cli_runner().invoke(mail_group, ["sweep"])
    assert result.exit_code == 0
    assert "suppressed" in result.output
    assert untouched(app, smtp)


@every_door
def test_a_missing_transport_is_no_error(make_app: Make, door: str) -> None:
    """Tests need no mail server in their configuration."""
    app = make_app(None, TESTING=True)
    Visits(app.app)(lambda: DOORS[door](app))
    assert subjects(app) == ["Hello"]


def test_a_bad_message_raises_as_in_production(make_app: Make) -> None:
    """Checks are the same, and what fails them is in no outbox."""
    app = make_app(None, TESTING=True)
    with pytest.raises(AddressError):
        app.send("ann@@example.com")
    assert subjects(app) == []


def test_the_setting_is_looked_up_for_each_mail(make_app: Make, smtp: SmtpServer) -> None:
    """Switched on and off after ``init_app``, it counts as it is at the call."""
    app = make_app(smtp.url())
    visit = Visits(app.app)

    def send(subject: str) -> Job:
        return visit(lambda: app.mail.send_after_response(**(HELLO | {"subject": subject})))

    send("sent")
    app.app.testing = True
    send("kept")
    app.app.config["MAIL_SUPPRESS_SEND"] = False
    send("sent too")
    app.app.testing = False
    app.app.config["MAIL_SUPPRESS_SEND"] = "true"
    send("kept too")
    assert subjects(app) == ["kept", "kept too"]
    wait_until(lambda: {m.parsed["Subject"] for m in smtp.messages} == {"sent", "sent too"})


def test_a_word_that_is_neither_is_refused(make_app: Make) -> None:
    """A mistyped switch must not let mail out: the call raises, before anything is recorded."""
    app = make_app("null:")
    app.app.config["MAIL_SUPPRESS_SEND"] = "perhaps"
    with pytest.raises(ConfigurationError, match="MAIL_SUPPRESS_SEND: expected true or false"):
        app.send()
    assert not app.runtime.reports.listing()


def test_what_was_recorded_meanwhile_leaves_once_sending_is_on(
    make_app: Make, smtp: SmtpServer
) -> None:
    """The row was recorded like any other."""
    app = make_app(smtp.url(), MAIL_SUPPRESS_SEND=True)
    job = app.send()
    app.app.config["MAIL_SUPPRESS_SEND"] = False
    result = app.app.test_cli_runner().invoke(mail_group, ["sweep"])
    assert result.exit_code == 0
    assert app.job(job).status == "sent"


# --- outbox and record_messages --------------------------------------------------------------


def test_the_outbox_holds_our_messages_with_the_rendered_text(make_app: Make) -> None:
    """A template is text there, and a foreign message is one of ours."""
    app = make_app(None, TESTING=True)
    folder = app.folder / "templates"
    folder.mkdir()
    app.app.template_folder = str(folder)
    (folder / "welcome.subject.txt").write_text("Welcome, {{ name }}\n")
    (folder / "welcome.html").write_text("<p>Hello {{ name }}</p>")
    written = Message(recipients=["ann@example.com"], template="welcome", context={"name": "Ann"})
    with app.app.app_context():
        app.mail.send(written)
        [kept] = app.mail.outbox
    assert isinstance(kept, Message)
    assert (kept.subject, kept.html) == ("Welcome, Ann", "<p>Hello Ann</p>")
    assert "Hello Ann" in (kept.body or "")
    assert kept.template is kept.context is None
    assert written.template == "welcome"


def test_the_outbox_holds_each_mail_as_it_was(make_app: Make) -> None:
    """A loop that changes one message and sends it again fills it with different ones."""
    app = make_app(None, TESTING=True)
    message = Message("Hello", body="Hi")
    with app.app.app_context():
        for name in ("ann", "bob"):
            message.recipients = [f"{name}@example.com"]
            app.mail.send(message)
        kept = [m.recipients for m in app.mail.outbox]
    assert kept == [["ann@example.com"], ["bob@example.com"]]


def test_the_outbox_keeps_the_newest(make_app: Make) -> None:
    """An application that suppresses sending for good does not fill its memory."""
    app = make_app(None, TESTING=True)
    with app.app.app_context():
        for start in range(0, OUTBOX_LIMIT + 10, 10):
            app.mail.send_many(HELLO | {"subject": str(start + i)} for i in range(10))
    assert len(subjects(app)) == OUTBOX_LIMIT
    assert subjects(app)[-1] == str(OUTBOX_LIMIT + 9)


def test_the_outbox_shows_only_what_was_not_sent(make_app: Make, smtp: SmtpServer) -> None:
    """Without suppression it stays empty."""
    app = make_app(smtp.url())
    app.send()
    assert subjects(app) == []


@pytest.mark.parametrize("testing", [True, False])
def test_record_messages_shows_what_a_block_records(
    make_app: Make, smtp: SmtpServer, testing: bool
) -> None:
    """Suppressed or not, also in nested blocks; nothing before and nothing after."""
    app = make_app(smtp.url(), TESTING=testing)
    with app.app.app_context():
        app.mail.send_message(**HELLO)
        with app.mail.record_messages() as outer:
            app.mail.send_message(**(HELLO | {"subject": "one"}))
            with app.mail.record_messages() as inner:
                app.mail.send_message(**(HELLO | {"subject": "two"}))
        app.mail.send_message(**HELLO)
    assert [m.subject for m in outer] == ["one", "two"]
    assert [m.subject for m in inner] == ["two"]


def test_record_messages_ends_with_its_block_also_after_an_error(make_app: Make) -> None:
    """A failing test leaves no recording behind."""
    app = make_app(None, TESTING=True)
    with app.app.app_context():
        with pytest.raises(ZeroDivisionError), app.mail.record_messages() as messages:
            raise ZeroDivisionError
        app.mail.send_message(**HELLO)
    assert messages == []


def test_a_key_that_is_taken_adds_nothing_to_the_outbox(make_app: Make) -> None:
    """It is one mail, recorded once."""
    app = make_app(None, TESTING=True)
    app.send(key="k")
    app.send(key="k")
    assert subjects(app) == ["Hello"]
