"""No password and no key in a repr, a log, an error, a row or what ``doctor`` says (fault table,
F13)."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_deferred_mail import DeferredMail
from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.transports.smtp_token import initial_response
from tests.support.dkim_keys import DkimKey, ed25519_key, rsa_key
from tests.support.http_provider import HttpProvider, Reply, accepted_by_sendcloud, unused_port
from tests.support.mail_app import MailApp
from tests.support.row_facts import dump
from tests.support.secrets import Secret, ours
from tests.support.smtp_script import Drop, Garbage
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]

PASSWORD = Secret("shop-user", "Tr0ub4dor&3/p@ss%word:xyzzy")
TOKEN = Secret("shop@example.com", "ya29.a0AfH6SMBx-NEVERSHOWN")
TOKEN_SENT = initial_response(TOKEN.user, TOKEN.value)
KEY = Secret("API_USER_7", "0123456789abcdefKEYKEYKEY")
COMMANDS = (
    ["doctor"],
    ["list"],
    ["list", "--json"],
    ["show", "1"],
    ["show", "1", "--json"],
    ["explain", "1"],
    ["status"],
    ["test", "ann@example.com"],
    ["sweep"],
)


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """All loggers, at DEBUG: ours, and those of the libraries beneath."""
    caplog.set_level(logging.DEBUG)


def assert_kept(app: MailApp, secret: Secret, caplog: pytest.LogCaptureFixture) -> None:
    """The secret is nowhere that somebody could come across it."""
    for command in COMMANDS:
        result = app.app.test_cli_runner().invoke(mail_group, command)
        assert not secret.found_in(result.output), command
        if result.exception is not None:
            assert not secret.found_in(repr(result.exception)), command
    objects = list(ours([app.mail, app.mail.for_app(app.app)]))
    assert len(objects) > 15, "the objects were not reached"
    for item in objects:
        assert not secret.found_in(repr(item)), type(item)
        assert not secret.found_in(str(item)), type(item)
    assert not secret.found_in(caplog.text)
    for record in caplog.records:
        assert not secret.found_in(f"{record.getMessage()} {record.args!r}")
        if record.exc_info and record.exc_info[1] is not None:
            assert not secret.found_in("".join(traceback.format_exception(record.exc_info[1])))
    assert not secret.found_in(repr(dump(app)))
    app.close()
    for path in app.folder.rglob("*"):
        if path.is_file():
            assert not secret.found_in(path.read_bytes()), path.name


# -- SMTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_f13_a_password_that_is_right(
    make_app: Make, caplog: pytest.LogCaptureFixture, mechanism: str
) -> None:
    """Mail is sent with it; that is the only place where it goes."""
    with SmtpServer(
        tls="starttls",
        credentials={PASSWORD.user: PASSWORD.value},
        auth_mechanisms=(mechanism,),
        auth_required=True,
    ) as server:
        app = make_app(server.url(PASSWORD.user, PASSWORD.value))
        app.send()
        assert app.sweep().sent == 1
        assert server.messages[0].user == PASSWORD.user
        assert_kept(app, PASSWORD, caplog)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        f"535 5.7.8 user {PASSWORD.user} has no password {PASSWORD.value}",
        f"535 5.7.8 you said {PASSWORD.forms[3]}",
        f"535-5.7.8 {PASSWORD.value}\n535 5.7.8 {PASSWORD.forms[4]}",
        f"454 4.7.0 {PASSWORD.value}",
        f"535 5.7.8 {'x' * 480} {PASSWORD.value}",
        f"535 5.7.8 login{PASSWORD.value}login",
        Garbage(PASSWORD.value.encode() + b"\r\n"),
        Drop(),
    ],
    ids=["plain", "repeated", "base64", "lines", "4xx", "cut", "glued", "garbage", "dropped"],
)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_f13_a_password_that_is_refused(
    make_app: Make, caplog: pytest.LogCaptureFixture, answer: Any, mechanism: str
) -> None:
    """Not even when the server repeats it in its refusal, plain or as it was sent."""
    with SmtpServer(
        tls="starttls", credentials={"somebody": "else"}, auth_mechanisms=(mechanism,)
    ) as server:
        server.script("auth", answer)
        app = make_app(server.url(PASSWORD.user, PASSWORD.value), DEFERRED_MAIL_BACKOFF=[60])
        job = app.send()
        assert app.sweep().returned == 1
        assert app.job(job).last_error
        assert_kept(app, PASSWORD, caplog)


@pytest.mark.parametrize("key", [rsa_key(), ed25519_key()], ids=["rsa", "ed25519"])
def test_f13_a_key_that_signs(
    make_app: Make, caplog: pytest.LogCaptureFixture, smtp: SmtpServer, key: DkimKey
) -> None:
    """The mail goes out signed; the private half goes nowhere."""
    # The last line: what comes before it in an RSA key is its public half.
    private = key.pem.strip().split("\n")[-2]
    dkim = {"domain": "example.com", "selector": "s1", "key": key.pem}
    app = make_app({"url": smtp.url(), "dkim": dkim})
    app.send()
    assert app.sweep().sent == 1
    assert smtp.messages[0].data.startswith(b"DKIM-Signature: ")
    assert_kept(app, Secret("s1", private), caplog)


def test_f13_a_later_reply_that_repeats_the_password(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that puts the login into its refusal of a recipient."""
    with SmtpServer(tls="starttls", credentials={PASSWORD.user: PASSWORD.value}) as server:
        server.script("rcpt", f"550 5.7.1 {PASSWORD.user}/{PASSWORD.value} may not")
        app = make_app(server.url(PASSWORD.user, PASSWORD.value))
        app.send()
        assert app.sweep().failed == 1
        assert_kept(app, PASSWORD, caplog)


@pytest.mark.parametrize(
    "answer",
    [None, f"535 5.7.3 you said {TOKEN.value}", f"535 5.7.3 {TOKEN_SENT}", f"535 x{TOKEN_SENT}x"],
    ids=["plain", "repeated", "as it was sent", "glued"],
)
@pytest.mark.parametrize("right", [True, False])
def test_f13_an_access_token(
    make_app: Make, caplog: pytest.LogCaptureFixture, answer: str | None, right: bool
) -> None:
    """Whether it lets us in or not: it is in no object between two logins, and in no text."""
    credentials = {TOKEN.user: TOKEN.value if right else "another"}
    with SmtpServer(
        tls="starttls", credentials=credentials, auth_mechanisms=("XOAUTH2",)
    ) as server:
        server.script("auth", answer)
        url = server.url(TOKEN.user, "x").replace(":x@", "@")
        spec = {"url": f"{url}&auth=xoauth2", "token": lambda: TOKEN.value}
        app = make_app(spec, DEFERRED_MAIL_BACKOFF=[60])
        app.send()
        done = app.sweep()
        assert (done.sent, done.returned) == ((1, 0) if right and not answer else (0, 1))
        assert_kept(app, TOKEN, caplog)


def test_f13_a_server_that_is_not_there(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The error names host and port, and not what would have been said to them."""
    app = make_app(f"smtp://{PASSWORD.login}@127.0.0.1:{unused_port()}")
    app.send()
    assert app.sweep().returned == 1
    assert_kept(app, PASSWORD, caplog)


def test_f13_flask_mails_keys(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The same for ``MAIL_PASSWORD``."""
    with SmtpServer(credentials={PASSWORD.user: PASSWORD.value}) as server:
        app = make_app(
            None,
            MAIL_SERVER=server.host,
            MAIL_PORT=server.port,
            MAIL_USERNAME=PASSWORD.user,
            MAIL_PASSWORD=PASSWORD.value,
        )
        app.send()
        assert app.sweep().sent == 1
        assert server.messages[0].user == PASSWORD.user
        assert_kept(app, PASSWORD, caplog)


# -- HTTP -----------------------------------------------------------------------------------------

LEAKY = f"bad key {KEY.value} of {KEY.user}"


@pytest.mark.parametrize(
    "reply",
    [
        accepted_by_sendcloud(["ann@example.com"]),
        Reply({"result": False, "statusCode": 40005, "message": LEAKY}),
        Reply({"result": False, "statusCode": 40806, "message": LEAKY}),
        Reply(f"<html>{LEAKY}</html>", 500),
        Reply(LEAKY, 401, {"WWW-Authenticate": LEAKY}),
        Reply("", 302, {"Location": f"https://elsewhere.example/?apiKey={KEY.value}"}),
        Reply(LEAKY, 429, {"Retry-After": KEY.value}),
        Reply(drop="after_body"),
        Reply(LEAKY, content_length=5000),
    ],
    ids=["accepted", "account", "refused", "500", "401", "302", "429", "dropped", "short"],
)
def test_f13_an_api_key(make_app: Make, caplog: pytest.LogCaptureFixture, reply: Reply) -> None:
    """Accepted, refused or broken off, and also if the provider repeats it."""
    with HttpProvider() as provider:
        provider.default = reply
        app = make_app(
            f"sendcloud://{KEY.login}@default?endpoint={provider.url}",
            DEFERRED_MAIL_BACKOFF=[60],
        )
        app.send()
        assert app.sweep().claimed == 1
        assert provider.requests[0].form["apiKey"] == KEY.value
        assert_kept(app, KEY, caplog)


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"DEFERRED_MAIL_TRANSPORT": f"smtp://u:{PASSWORD.value}@mail.example.com"},
        {"DEFERRED_MAIL_TRANSPORT": f"smtp://{PASSWORD.login}@mail.example.com:none"},
        {"DEFERRED_MAIL_TRANSPORT": f"smpt://{PASSWORD.login}@mail.example.com"},
        {"DEFERRED_MAIL_TRANSPORT": PASSWORD.value},
        {"DEFERRED_MAIL_TRANSPORT": f"sendcloud://{PASSWORD.login}@elsewhere"},
        {"DEFERRED_MAIL_TRANSPORT": f"smtp://mail.example.com?password={PASSWORD.forms[1]}"},
        {"DEFERRED_MAIL_TRANSPORT": {"url": "null:", "password": PASSWORD.value}},
        {"DEFERRED_MAIL_TRANSPORTS": {"other": f"ftp://{PASSWORD.login}@mail.example.com"}},
        {"DEFERRED_MAIL_TRANSPORTS": f"other=smtp://{PASSWORD.login}@mail.example.com"},
        {"DEFERRED_MAIL_DATABASE_URI": f"oracle://{PASSWORD.login}@db/mail"},
        {"DEFERRED_MAIL_DATABASE_URI": f"what://{PASSWORD.login}@db/mail"},
        {"MAIL_SERVER": "mail.example.com", "MAIL_PORT": "x", "MAIL_PASSWORD": PASSWORD.value},
        {"MAIL_SERVER": f"{PASSWORD.login}@mail.example.com", "MAIL_PASSWORD": PASSWORD.value},
        {"DEFERRED_MAIL_ENCRYPTION_KEYS": [PASSWORD.value]},
        {"DEFERRED_MAIL_WEBHOOKS": {"sendcloud": PASSWORD.value}},
    ],
    ids=lambda config: "-".join(key.removeprefix("DEFERRED_MAIL_") for key in config),
)
def test_f13_a_faulty_configuration_is_named_without_its_values(
    tmp_path: Any, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The error says which key and what was expected; what stood there it does not say."""
    app = Flask("faulty", instance_path=str(tmp_path))
    app.config.update({"MAIL_DEFAULT_SENDER": "shop@example.com"} | config)
    with pytest.raises(ConfigurationError) as caught:
        DeferredMail(app)
    shown = "".join(traceback.format_exception(caught.value))
    assert not PASSWORD.found_in(shown)
    assert not PASSWORD.found_in(repr(caught.value))
    assert not PASSWORD.found_in(repr(caught.value.faults))
    assert not PASSWORD.found_in(caplog.text)
