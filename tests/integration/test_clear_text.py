"""doctor's word about links without TLS, of providers and of mail servers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.transports import smtp_connection
from tests.support.certificates import certificates
from tests.support.http_provider import HttpProvider, Reply
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]

PROVIDERS = ["sendgrid://hush@default", "sendcloud://user:hush@default"]


def doctor(app: MailApp) -> list[str]:
    """What it says of the default transport, its advice in the lines after."""
    lines = app.app.test_cli_runner().invoke(mail_group, ["doctor"]).stdout.splitlines()
    places = [place for place, line in enumerate(lines) if "transport default" in line]
    return lines[places[0] : places[-1] + 2]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """A host's name that does not tell that it is this machine's."""
    look_up = socket.getaddrinfo

    def found(host: Any, *rest: Any, **how: Any) -> Any:
        return look_up("127.0.0.1" if host == "proxy.example" else host, *rest, **how)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return "proxy.example"


@pytest.mark.parametrize("url", PROVIDERS)
def test_a_key_that_crosses_a_network_in_clear_is_warned_of(
    make_app: Make, proxy: str, url: str
) -> None:
    """And mail leaves all the same: it may be meant so."""
    with HttpProvider() as provider:
        provider.default = Reply({"result": True, "scopes": ["mail.send"]})
        told = doctor(make_app(f"{url}?endpoint=http://{proxy}:{provider.port}"))
    [line] = [line for line in told if "no TLS" in line]
    assert line.startswith("warn")
    assert "the key and all mail cross the network in clear text: use https://" in " ".join(told)
    assert "hush" not in str(told)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("url", PROVIDERS)
def test_a_proxy_on_this_machine_may_be_asked_in_clear(make_app: Make, host: str, url: str) -> None:
    """Nothing of it can be heard elsewhere."""
    with HttpProvider() as provider:
        provider.default = Reply({"result": True, "scopes": ["mail.send"]})
        told = doctor(make_app(f"{url}?endpoint=http://{host}:{provider.port}"))
    assert next(line for line in told if "no TLS" in line).startswith("ok")
    assert "in clear text" not in str(told)


@pytest.mark.parametrize("url", PROVIDERS)
def test_a_proxy_with_tls_is_no_matter_of_warning(make_app: Make, proxy: str, url: str) -> None:
    """Wherever it is; this one's certificate is for another name, which is told instead."""
    with HttpProvider(certificates().server_context()) as provider:
        told = doctor(make_app(f"{url}?endpoint=https://{proxy}:{provider.port}"))
    assert any(line.startswith("FAIL") for line in told)
    assert "in clear text" not in str(told)


@pytest.mark.parametrize("here", [True, False])
def test_mail_that_crosses_a_network_in_clear_is_warned_of(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """A mail server without TLS too, unless it is on this machine."""
    if not here:
        monkeypatch.setattr(smtp_connection, "is_loopback", lambda _address: False)
    told = doctor(make_app(smtp.url()))
    [line] = [line for line in told if "tls: clear text" in line]
    assert line.startswith("ok" if here else "warn")
    assert ("crosses the network in clear text" in " ".join(told)) is not here
