"""What the package exports, and what init_app() makes of an application."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask, appcontext_tearing_down, request_tearing_down
from werkzeug.middleware.proxy_fix import ProxyFix

import flask_deferred_mail
from flask_deferred_mail import (
    Attachment,
    DeferredMail,
    Mail,
    Message,
    send_after_response,
)
from flask_deferred_mail.errors import (
    ConfigurationError,
    JobNotFound,
)
from flask_deferred_mail.wsgi import AfterResponse
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits

Make = Callable[..., MailApp]

HELLO = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


# --- names ---------------------------------------------------------------------------------------


def test_the_package_exports_its_public_names_and_no_others() -> None:
    """Signals and errors have modules of their own; ``Mail`` is ``DeferredMail``."""
    assert set(flask_deferred_mail.__all__) == {
        "Attachment",
        "DeferredMail",
        "DeferredMailError",
        "Job",
        "Mail",
        "Message",
        "send_after_response",
    }
    assert Mail is DeferredMail


def test_message_has_flask_mails_positional_order() -> None:
    """Code that passes a message's fields by position goes on working."""
    order = list(inspect.signature(Message).parameters)
    fields = (
        "subject recipients body html alts sender cc bcc attachments reply_to date charset "
        "extra_headers mail_options rcpt_options"
    )
    assert " ".join(order[:15]) == fields


def test_attach_takes_its_arguments_in_flask_mails_order() -> None:
    """``attach(filename, content_type, data, disposition, headers)``."""
    expected = ["filename", "content_type", "data", "disposition", "headers"]
    assert list(inspect.signature(Message.attach).parameters)[1:] == expected
    assert list(inspect.signature(Attachment).parameters) == expected


# --- init_app ------------------------------------------------------------------------------------


def test_the_extension_is_found_under_its_name(make_app: Make) -> None:
    """``app.extensions["deferred_mail"]`` is the object itself; the app is wrapped once."""
    app = make_app("null:")
    assert app.app.extensions["deferred_mail"] is app.mail
    hook = app.app.wsgi_app
    assert isinstance(hook, AfterResponse)
    assert not isinstance(hook.wsgi_app, AfterResponse)


def test_a_second_init_app_is_refused_with_advice(make_app: Make) -> None:
    """Two queues in one app would be one too many; the first stays as it was."""
    app = make_app("null:")
    for mail in (app.mail, DeferredMail()):
        with pytest.raises(RuntimeError, match="call init_app once per app"):
            mail.init_app(app.app)
    assert app.send().status == "pending"


def test_all_faults_of_a_configuration_are_told_at_once(make_app: Make) -> None:
    """Unknown keys, wrong values, and what is wrong inside transport URLs: one error."""
    with pytest.raises(ConfigurationError) as caught:
        make_app(
            "smtp://mail.example.com?tls=perhaps",
            DEFERRED_MAIL_LEESE=60,
            DEFERRED_MAIL_DISPATCH="celeri",
            DEFERRED_MAIL_SENDER_THREADS=0,
            DEFERRED_MAIL_WEBHOOKS={"bulk": "secret"},
            DEFERRED_MAIL_TRANSPORTS={
                "bulk": "pigeon://loft",
                "tokens": {"url": "smtp://mail.example.com", "token": lambda: "t"},
                "signed": {"url": "smtp://mail.example.com", "dkim": {"selector": "s"}},
            },
        )
    faults = "\n".join(caught.value.faults)
    for words in (
        "'default': smtp: option 'tls'",
        "DEFERRED_MAIL_LEESE: no such setting; did you mean DEFERRED_MAIL_LEASE?",
        "DEFERRED_MAIL_DISPATCH: expected",
        "DEFERRED_MAIL_SENDER_THREADS: expected",
        "DEFERRED_MAIL_WEBHOOKS: expected for 'bulk' a dict",
        "'bulk': its URL has the unknown scheme pigeon",
        "'tokens': smtp: has no use for 'token'",
        "'signed': dkim: 'domain' should be",
        "'signed': dkim: needs either 'key'",
    ):
        assert words in faults, words
    assert len(caught.value.faults) == 9
    assert "secret" not in faults


def test_a_faulty_configuration_leaves_the_app_alone(tmp_path: Path) -> None:
    """Nothing is registered or wrapped; a corrected configuration can follow."""
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["DEFERRED_MAIL_LEASE"] = "soon"
    mail, inner = DeferredMail(), app.wsgi_app
    with pytest.raises(ConfigurationError):
        mail.init_app(app)
    assert app.wsgi_app == inner
    assert not app.extensions
    app.config["DEFERRED_MAIL_LEASE"] = 30
    mail.init_app(app)


def test_a_missing_transport_is_an_error_in_the_view_that_sends(make_app: Make) -> None:
    """``init_app`` does not mind; the first send says what to set, and records nothing."""
    app = make_app(None)
    visit = Visits(app.app)
    with pytest.raises(ConfigurationError, match="set DEFERRED_MAIL_TRANSPORT"):
        visit(lambda: send_after_response(**HELLO))
    with app.app.app_context(), pytest.raises(JobNotFound):
        app.mail.get(1)


def test_an_unknown_transport_of_a_message_is_named(make_app: Make) -> None:
    """The error lists the configured names."""
    app = make_app("null:", DEFERRED_MAIL_TRANSPORTS={"bulk": "null:"})
    with pytest.raises(ConfigurationError, match=r"'blk'.*bulk, default"):
        app.send(transport="blk")
    assert app.send(transport="bulk").transport == "bulk"


@pytest.mark.parametrize("first", ["proxy", "mail"])
def test_proxy_fix_may_come_before_or_after(tmp_path: Path, smtp: SmtpServer, first: str) -> None:
    """Another middleware, inside or around ours, changes nothing."""
    app = Flask("shop", instance_path=str(tmp_path))
    app.config.update(DEFERRED_MAIL_TRANSPORT=smtp.url(), MAIL_DEFAULT_SENDER="shop@example.com")
    mail = DeferredMail()
    steps = [lambda: setattr(app, "wsgi_app", ProxyFix(app.wsgi_app)), lambda: mail.init_app(app)]
    for step in steps if first == "proxy" else reversed(steps):
        step()
    with closing(mail.for_app(app).runtime):
        Visits(app)(lambda: mail.send_after_response(**HELLO))
        smtp.wait_for(1)


# --- what a later release brings -----------------------------------------------------------------


def test_false_and_none_mean_the_own_transaction(make_app: Make) -> None:
    """Anything else that is no session raises at the call, and nothing is recorded."""
    app = make_app("null:")
    with app.app.app_context():
        for call in (
            lambda: app.mail.send_after_response(session=object(), **HELLO),
            lambda: send_after_response(session=object(), **HELLO),
            lambda: app.mail.send_many([HELLO], session=object()),
        ):
            with pytest.raises(TypeError, match="session="):
                call()
        assert not app.runtime.reports.listing()
        assert app.mail.send_after_response(session=False, **HELLO).id
        assert app.mail.send_many([HELLO], session=None)[0].id


def test_requests_whose_mail_joins_no_session_are_not_followed(make_app: Make) -> None:
    """Being told of the ends of contexts would cost every request of the application."""
    app = make_app("null:")
    Visits(app.app)(lambda: app.mail.send_after_response(**HELLO))
    for ends in (request_tearing_down, appcontext_tearing_down):
        assert not [*ends.receivers_for(app.app)]


@pytest.mark.parametrize("group", ["mail", "deferred-mail"])
def test_the_commands_are_found_by_the_apps_own_test_runner(make_app: Make, group: str) -> None:
    """``app.test_cli_runner()`` knows no entry points; the commands are in ``app.cli`` as well."""
    app = make_app("null:")
    app.send()
    result = app.app.test_cli_runner().invoke(args=[group, "sweep", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sent"] == 1


def test_an_applications_own_group_of_that_name_stays(tmp_path: Path) -> None:
    """Ours gives way, and is found under ``deferred-mail``."""
    app = Flask(__name__, instance_path=str(tmp_path))
    own = app.cli.group("mail")(lambda: None)
    DeferredMail(app)
    assert app.cli.commands["mail"] is own
    assert "deferred-mail" in app.cli.commands
