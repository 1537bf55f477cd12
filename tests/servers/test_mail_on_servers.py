"""Mail on real servers: nobody waits for it, and it arrives.

The mail server says nothing, not even its greeting, before the test has read the whole response
(and where the connection is kept, the next one). Only then it is released, and the mail comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.mail_site import FILE_VARIABLE
from tests.support.raw_http import RawClient, get
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until
from tests.support.web_server import SERVERS, WebServer

FACTORY = "tests.support.mail_site:create_app"
FILE_SIZE = 300_000


@pytest.fixture(scope="module")
def mailbox() -> Iterator[SmtpServer]:
    """The one mail server of this module; it is silent while a test holds it."""
    with SmtpServer() as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest, mailbox: SmtpServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    """The site on each kind of server in turn, with one worker process."""
    folder = tmp_path_factory.mktemp(request.param)
    with WebServer(request.param, FACTORY, folder / "log", env=environment(folder, mailbox)) as up:
        yield up


@pytest.fixture
def silence(mailbox: SmtpServer) -> Iterator[SmtpServer]:
    """The mail server takes connections and mails, and answers nothing until released."""
    for stage in ("banner", "mail"):
        mailbox.hold(stage)
    yield mailbox
    speak(mailbox)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A subject for this test's mail, different from every other's."""
    return re.sub(r"[^\w.-]+", "-", request.node.name)


def environment(folder: Path, mailbox: SmtpServer) -> dict[str, str]:
    """Configuration of the site by variables."""
    file = folder / "file.bin"
    file.write_bytes(b"f" * FILE_SIZE)
    return {
        "FLASK_DEFERRED_MAIL_DATABASE_URI": f"sqlite:///{folder}/mail.sqlite3",
        "FLASK_DEFERRED_MAIL_TRANSPORT": mailbox.url(),
        FILE_VARIABLE: str(file),
    }


def speak(mailbox: SmtpServer) -> None:
    """End the silence, if it has not ended already."""
    for stage in ("banner", "mail"):
        with suppress(KeyError):
            mailbox.release(stage)


def arrived(mailbox: SmtpServer, name: str) -> int:
    """How many mails have this subject."""
    return sum(message.parsed["Subject"] == name for message in mailbox.messages)


def let_it_come(mailbox: SmtpServer, name: str, site: WebServer, number: int = 1) -> None:
    """Nothing has come so far; release the mail server, and the mail is there, once."""
    assert arrived(mailbox, name) == 0
    speak(mailbox)
    wait_until(
        lambda: arrived(mailbox, name) == number,
        15,
        f"{arrived(mailbox, name)} of {number} came; the site's log:\n{site.log()}",
    )


CASES: dict[str, tuple[str, str, str, int, bytes | None]] = {
    "plain": ("GET", "/plain", "1.1", 200, b"plain"),
    "http 1.0": ("GET", "/plain", "1.0", 200, b"plain"),
    "stream": ("GET", "/stream", "1.1", 200, b"first second"),
    "stream to http 1.0": ("GET", "/stream", "1.0", 200, b"first second"),
    "recorded in the stream": ("GET", "/late", "1.1", 200, b"first second"),
    "head": ("HEAD", "/head", "1.1", 200, b""),
    "204": ("GET", "/empty", "1.1", 204, b""),
    "304": ("GET", "/unchanged", "1.1", 304, b""),
    "file": ("GET", "/file", "1.1", 200, b"f" * FILE_SIZE),
    "handled 500": ("GET", "/handled", "1.1", 500, b"sorry"),
    "view that raises": ("GET", "/crashes", "1.1", 500, None),
    "async view": ("GET", "/asynchronous", "1.1", 200, b"async"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_response_is_complete_before_the_mail_server_has_said_a_word(
    site: WebServer, silence: SmtpServer, name: str, case: str
) -> None:
    """Whatever the response, it does not wait for mail; the mail arrives once, afterwards."""
    method, path, version, status, body = CASES[case]
    answer = get(site.port, f"{path}?id={name}", method, version=version)
    assert (answer.status, answer.whole) == (status, True), site.log()
    assert body is None or answer.body == body
    let_it_come(silence, name, site)


@pytest.mark.parametrize("path", ["/plain", "/stream", "/file", "/empty"])
def test_the_next_request_on_the_connection_does_not_wait(
    site: WebServer, silence: SmtpServer, name: str, path: str
) -> None:
    """Where the connection is kept, the next answer comes while the mail server is silent."""
    with RawClient(site.port) as client:
        first = client.request(f"{path}?id={name}")
        if first.keeps_connection:
            assert client.request("/nothing").body == b"nothing"
    assert get(site.port, "/nothing").body == b"nothing"
    let_it_come(silence, name, site)


def test_several_mails_of_one_request(site: WebServer, silence: SmtpServer, name: str) -> None:
    """All of them leave, none is sent twice."""
    assert get(site.port, f"/several?id={name}").body == b"several"
    let_it_come(silence, name, site, number=5)


def test_a_stream_that_breaks(site: WebServer, silence: SmtpServer, name: str) -> None:
    """A generator that raises cuts the response, not the mail."""
    with RawClient(site.port) as client:
        client.send(f"/breaks?id={name}")
        assert client.read_piece(client.read_head()) == b"first"
    let_it_come(silence, name, site)


def test_a_client_that_leaves_midway(site: WebServer, silence: SmtpServer, name: str) -> None:
    """The client resets the connection in the middle of the body: the mail leaves all the same."""
    client = RawClient(site.port)
    client.send(f"/big?id={name}")
    assert client.read_piece(client.read_head())
    client.reset()
    let_it_come(silence, name, site)
