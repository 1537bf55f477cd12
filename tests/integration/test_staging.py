"""Mail of a staging server goes to the testers, by whatever door it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from flask_mail import Message as FlaskMailMessage
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from flask_deferred_mail.errors import MessageError
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

MakeApp = Callable[..., MailApp]
ANN, QA = "ann@example.com", "qa@example.net"
OVERRIDE = {"DEFERRED_MAIL_OVERRIDE_RECIPIENTS": [QA]}
FIELDS = {"subject": "Hello", "recipients": [ANN], "body": "Hi\n"}


def doors(staging: MailApp) -> dict[str, Callable[[], object]]:
    """Every way of recording a mail."""
    mail = staging.mail
    return {
        "send_after_response": lambda: mail.send_after_response(**FIELDS),
        "send_many": lambda: mail.send_many([FIELDS, FIELDS]),
        "send_now": lambda: mail.send_now(**FIELDS),
        "send": lambda: mail.send(FlaskMailMessage("Hello", [ANN], "Hi\n")),
        "send_message": lambda: mail.send_message("Hello", [ANN], "Hi\n"),
        "stand-in": lambda: staging.app.extensions["mail"].send(
            FlaskMailMessage("Hello", [ANN], "Hi\n")
        ),
    }


@pytest.mark.parametrize(
    "door", ["send_after_response", "send_many", "send_now", "send", "send_message", "stand-in"]
)
def test_every_door_leads_to_the_tester(make_app: MakeApp, smtp: SmtpServer, door: str) -> None:
    """The row shows who is mailed, the mail whom it was for, and nobody else gets one."""
    staging = make_app(smtp.url(), **OVERRIDE)
    with staging.app.app_context():
        doors(staging)[door]()
    staging.sweep()
    assert smtp.messages
    assert {tuple(mail.recipients) for mail in smtp.messages} == {(QA,)}
    assert smtp.messages[0].parsed["To"] == QA
    assert smtp.messages[0].parsed["X-Original-To"] == ANN
    assert staging.statuses(1) == {QA: "sent"}


def test_a_mail_in_the_callers_transaction_goes_there_too(
    make_app: MakeApp, smtp: SmtpServer, tmp_path: Path
) -> None:
    """As do those of the command line."""
    staging = make_app(smtp.url(), **OVERRIDE)
    staging.send("first@example.com")
    engine = create_engine(staging.app.extensions["deferred_mail"].for_app().settings.database_uri)
    with staging.app.app_context(), Session(engine) as session:
        staging.mail.send_after_response(session=session, **FIELDS)
        session.commit()
    engine.dispose()
    ran = staging.app.test_cli_runner().invoke(args=["mail", "test", ANN])
    assert ran.exit_code == 0, ran.output
    staging.sweep()
    assert [mail.recipients for mail in smtp.messages] == [[QA]] * 3


def test_each_app_has_its_own_rule(make_app: MakeApp, smtp: SmtpServer, tmp_path: Path) -> None:
    """Two apps in one process: one on staging, one not."""
    staging = make_app(smtp.url(), tmp_path / "a", **OVERRIDE)
    live = make_app(smtp.url(), tmp_path / "b")
    staging.send(ANN)
    live.send(ANN)
    staging.sweep()
    live.sweep()
    assert [mail.recipients for mail in smtp.messages] == [[QA], [ANN]]


def test_the_log_says_whom_it_was_for(
    make_app: MakeApp, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO, once a mail."""
    staging = make_app(smtp.url(), **OVERRIDE)
    with caplog.at_level(logging.INFO, "flask_deferred_mail"):
        staging.send(ANN)
    assert f"mail for {ANN} goes to {QA} instead" in caplog.messages


def test_without_a_stand_in_the_caller_is_told_and_nothing_is_recorded(
    make_app: MakeApp, smtp: SmtpServer
) -> None:
    """Also of several mails: all or none."""
    staging = make_app(smtp.url(), DEFERRED_MAIL_ALLOWED_RECIPIENTS="example.net")
    with staging.app.app_context(), pytest.raises(MessageError, match="may not be mailed"):
        staging.mail.send_many([{**FIELDS, "recipients": [QA]}, FIELDS])
    assert staging.sweep().claimed == 0
    staging.send(QA)
    assert staging.sweep().sent == 1


def test_rows_of_another_database_are_not_mailed(make_app: MakeApp, smtp: SmtpServer) -> None:
    """A copy of production holds due mail: its people end suppressed, with the reason."""
    live = make_app(smtp.url())
    copied = live.send(ANN, QA)
    staging = make_app(smtp.url(), **OVERRIDE)
    staging.sweep()
    assert staging.statuses(copied) == {ANN: "suppressed", QA: "sent"}
    assert "OVERRIDE_RECIPIENTS" in str(staging.job(copied).recipients[0].detail)
    assert [mail.recipients for mail in smtp.messages] == [[QA]]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (OVERRIDE, "all mail goes to qa@example.net"),
        ({"DEFERRED_MAIL_ALLOWED_RECIPIENTS": "x.com"}, "anybody but *@x.com is refused"),
        ({}, None),
    ],
)
def test_doctor_says_that_it_is_on(
    make_app: MakeApp, config: dict[str, object], words: str | None
) -> None:
    """Left on in production it would be found there."""
    ran = make_app("null:", **config).app.test_cli_runner().invoke(args=["mail", "doctor"])
    if words is None:
        assert "RECIPIENTS" not in ran.output
    else:
        assert words in " ".join(ran.output.split())


def test_a_provider_that_takes_no_such_field_gets_the_mail_without_it(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has the names; what the application itself may not send is refused as ever."""
    from flask_deferred_mail.errors import UnsupportedFeature
    from flask_deferred_mail.transports.null import NullTransport

    def check(self, letter):
        if letter.headers:
            raise UnsupportedFeature("extra_headers", "takes none")

    monkeypatch.setattr(NullTransport, "check", check)
    staging = make_app("null:", **OVERRIDE)
    assert [r.address for r in staging.send(ANN).recipients] == [QA]
    with pytest.raises(UnsupportedFeature):
        staging.send(ANN, extra_headers={"X-A": "1"})
