"""Reports of providers on a real server: what a test client does not show."""

from __future__ import annotations

import http.client
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.web_server import WebServer
from tests.support.webhook_app import FOLDER_VARIABLE, name_of
from tests.support.webhook_fixtures import PROVIDERS, WebhookFixture, fixture, webhook_fixtures

FACTORY = "tests.support.webhook_app:create_app"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webhooks")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[WebServer]:
    """gunicorn with two worker processes."""
    env = {FOLDER_VARIABLE: str(folder)}
    with WebServer("gunicorn-sync", FACTORY, folder / "log", env=env, workers=2) as up:
        yield up


def post(site: WebServer, name: str, body: bytes, headers: dict[str, str]) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)) as connection:
        connection.request("POST", f"/mail/events/{name}", body=body, headers=headers)
        return connection.getresponse().status


def stored(folder: Path, name: str) -> list[tuple[str, str]]:
    query = "SELECT kind, address FROM deferred_mail_event WHERE transport = ? ORDER BY id"
    with closing(sqlite3.connect(folder / "deferred_mail.sqlite3")) as connection:
        return connection.execute(query, (name,)).fetchall()


@pytest.mark.parametrize("one", webhook_fixtures(), ids=lambda one: f"{one.provider}-{one.name}")
def test_a_fixture_goes_through_byte_for_byte(
    site: WebServer, folder: Path, one: WebhookFixture
) -> None:
    """Taken twice, kept once, whichever process gets it."""
    name = name_of(one.provider, one.name)
    for _ in range(2):
        assert post(site, name, one.body, one.headers) == 200
    assert stored(folder, name) == [(w["event"], w["recipient"]) for w in one.expect]


def test_a_body_in_chunks_is_capped(site: WebServer) -> None:
    """The server does not know its size; we stop at a megabyte."""
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)) as connection:
        connection.putrequest("POST", "/mail/events/brevo-webhook_open")
        for name, value in fixture("brevo", "open").headers.items():
            connection.putheader(name, value)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(18):
            connection.send(b"%x\r\n%s\r\n" % (65_536, b" " * 65_536))
        connection.send(b"0\r\n\r\n")
        assert connection.getresponse().status == 413


def test_a_forged_report_is_refused(site: WebServer, folder: Path) -> None:
    """Without the token: 403, and nothing kept."""
    one = fixture("brevo", "click")
    before = stored(folder, "brevo-webhook_click")
    assert post(site, "brevo-webhook_click", one.body, {"Authorization": "Bearer x"}) == 403
    assert stored(folder, "brevo-webhook_click") == before


@pytest.fixture
def live(tmp_path: Path) -> Iterator[WebServer]:
    """A server with a database of its own."""
    env = {FOLDER_VARIABLE: str(tmp_path)}
    with WebServer("gunicorn-sync", FACTORY, tmp_path / "log", env=env, workers=2) as up:
        yield up


@contextmanager
def sender(folder: Path, name: str, smtp: SmtpServer) -> Iterator[MailApp]:
    """Another process's app on the same database, as far as the database can tell."""
    app = MailApp(folder, smtp.url(), DEFERRED_MAIL_TRANSPORTS={name: smtp.url()})
    try:
        yield app
    finally:
        app.close()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_complaint_over_http_keeps_the_next_mail_back(
    live: WebServer, tmp_path: Path, smtp: SmtpServer, provider: str
) -> None:
    """Sent, complained about to the server, not sent again, and nobody is connected to for that."""
    one = fixture(provider, "complaint")
    name, said = name_of(provider, one.name), one.expect[0]
    address = said["recipient"]
    with sender(tmp_path, name, smtp) as app:
        first = app.send(address, transport=name)
        assert app.sweep().sent == 1
        app.sql("UPDATE deferred_mail_recipient SET provider_message_id = ?", said["message_id"])
        assert post(live, name, one.body, one.headers) == 200
        assert app.statuses(first) == {address: "complained"}
    connections = smtp.connections
    with sender(tmp_path, name, smtp) as app:
        second = app.send(address, transport=name)
        assert app.sweep().failed == 1
        assert app.statuses(second) == {address: "suppressed"}
    assert (len(smtp.messages), smtp.connections) == (1, connections)
