"""Logging in with access tokens, against a server that speaks XOAUTH2."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import current_app

from flask_deferred_mail.outcome import FaultKind
from flask_deferred_mail.transports import smtp_connection
from tests.support.row_facts import dump
from tests.support.smtp_clients import client
from tests.support.smtp_script import SayAndDrop
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import fates, send

USER = "sender@example.com"
TOKEN = "ya29.test-token"
ANN = "ann@example.net"
AUTH = "AUTH XOAUTH2 "
BASE64 = "dXNlcj1zZW5kZXJAZXhhbXBsZS5jb20BYXV0aD1CZWFyZXIgeWEyOS50ZXN0LXRva2VuAQE="


def a_server(**how: Any) -> SmtpServer:
    given: dict[str, Any] = {"credentials": {USER: TOKEN}, "auth_mechanisms": ("LOGIN", "XOAUTH2")}
    return SmtpServer(**(given | how), auth_required=True)


def by_token(server: SmtpServer, token: Callable[[], Any]) -> Any:
    return client(server, username=USER, auth="xoauth2", token=token)


def giving(*tokens: str) -> tuple[Callable[[], str], list[str]]:
    """A callable that gives these one after the other, and the list of those that it gave."""
    left: Iterator[str] = iter(tokens)
    given: list[str] = []

    def call() -> str:
        given.append(next(left))
        return given[-1]

    return call, given


def test_a_token_logs_in():
    """In one line, in the form of the fixture; never as a password, which is offered too."""
    server = a_server(tls="starttls", strict=True)
    with server, by_token(server, lambda: TOKEN) as smtp:
        assert fates(send(smtp)) == {ANN: "accepted"}
        [auth] = [command.line for command in server.commands if command.verb == "AUTH"]
        assert auth == AUTH + BASE64
        assert server.messages[0].user == USER
        assert server.violations == []


def test_each_connection_has_a_token_of_its_own():
    """A kept connection needs none; a new one asks again."""
    call, given = giving(TOKEN, TOKEN, "unused")
    with a_server() as server, by_token(server, call) as smtp:
        for _ in range(2):
            assert fates(send(smtp)) == {ANN: "accepted"}
        assert len(given) == 1
        smtp.close()
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert len(given) == 2


@pytest.mark.parametrize("refusal", [None, SayAndDrop("535 5.7.8 expired")], ids=["535", "and cut"])
def test_a_token_that_is_refused_is_replaced_once(refusal):
    """Also by a server that ends the connection; the challenge gets its empty line."""
    call, given = giving("ya29.stale-token", TOKEN)
    with a_server(auth=[refusal]) as server, by_token(server, call) as smtp:
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert given == ["ya29.stale-token", TOKEN]
        assert server.violations == []
        assert server.connections == 2


def test_two_refused_tokens_are_an_account_fault():
    """Two logins and no third; the words are the server's, and neither token is in them."""
    call, given = giving("ya29.stale-token", "ya29.other-token", "ya29.third-token")
    server = a_server(auth=lambda turn: f"535 5.7.3 no: {turn.argument} ya29.other-token")
    with server, by_token(server, call) as smtp:
        outcome = send(smtp)
        assert server.count("AUTH") == 2
        assert server.messages == []
    assert outcome.fault.kind is FaultKind.ACCOUNT
    assert not outcome.costs_attempt
    assert "535 5.7.3 no: XOAUTH2 *** ***" in outcome.detail
    assert "scope" in outcome.detail
    assert len(given) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("535 5.7.139 SMTP AUTH is disabled for the mailbox", FaultKind.ACCOUNT),
        ("432 4.3.2 Concurrent connections limit exceeded", FaultKind.RATE_LIMITED),
        ("454 4.7.0 Temporary authentication failure", FaultKind.UNREACHABLE),
        ("421 4.7.0 Try again later", FaultKind.UNREACHABLE),
    ],
)
def test_only_535_has_a_token_replaced(reply, kind):
    """Whatever else a login is answered with, no mail pays for it."""
    with a_server(auth=reply) as server, by_token(server, lambda: TOKEN) as smtp:
        outcome = send(smtp)
        assert server.count("AUTH") == (2 if reply.startswith("535") else 1)
    assert outcome.fault.kind is kind
    assert not outcome.costs_attempt


def test_a_callable_that_raises_is_an_account_fault():
    """Said without what could be a secret; nobody was logged in."""

    def call() -> str:
        raise RuntimeError(f"invalid_client\r\n{'s' * 40}")

    with a_server() as server, by_token(server, call) as smtp:
        outcome = send(smtp)
        assert server.count("AUTH") == 0
    assert outcome.fault.kind is FaultKind.ACCOUNT
    assert outcome.detail.endswith("'token' raised RuntimeError: invalid_client ***")


def test_a_server_without_xoauth2_gets_no_token():
    """It is not even asked for."""
    call, given = giving(TOKEN)
    with a_server(auth_mechanisms=("PLAIN",)) as server, by_token(server, call) as smtp:
        outcome = send(smtp)
        assert server.count("AUTH") == 0
    assert outcome.fault.kind is FaultKind.ACCOUNT
    assert "offers only PLAIN" in outcome.detail
    assert given == []


def test_no_token_over_a_link_that_is_not_safe(monkeypatch):
    """A token is as good as a password to whoever listens."""
    monkeypatch.setattr(smtp_connection, "is_loopback", lambda _address: False)
    call, given = giving(TOKEN)
    with a_server() as server, by_token(server, call) as smtp:
        outcome = send(smtp)
        assert server.count("AUTH") == 0
    assert outcome.fault.kind is FaultKind.ACCOUNT
    assert given == []


def test_doctor_logs_in_with_a_token():
    """And says that it did; a stale one is replaced there too."""
    call, _given = giving("ya29.stale-token", TOKEN)
    with a_server() as server, by_token(server, call) as smtp:
        steps = {step.name: step for step in smtp.probe()}
    assert steps["login"].ok
    assert steps["login"].detail == "user and token were accepted"


def test_a_token_in_an_app_is_neither_stored_nor_logged(make_app, caplog):
    """The callable may use the application; the URL has a user and no password."""
    caplog.set_level(logging.DEBUG)

    def call() -> str:
        return str(current_app.config["SHOP_TOKEN"])

    with a_server() as server:
        url = f"smtp://sender%40example.com@{server.host}:{server.port}?tls=none&auth=xoauth2"
        app = make_app({"url": url, "token": call}, SHOP_TOKEN=TOKEN)
        app.send()
        assert app.sweep().sent == 1
        assert server.messages[0].user == USER
    for text in (caplog.text, repr(dump(app))):
        assert TOKEN not in text
        assert BASE64 not in text
