"""What is fetched from SNS: bounded in time and size, without redirects, and kept."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from flask_deferred_mail.webhooks import aws_fetch
from flask_deferred_mail.webhooks.aws_fetch import Certificates, is_of_sns
from flask_deferred_mail.webhooks.receiver import Refused
from tests.support.webhook_fixtures import CERTIFICATE_URL, TOPIC, certificate


class Pages(http.server.BaseHTTPRequestHandler):
    """One page of each kind of trouble, and a good one."""

    asked: list[str]
    released: threading.Event

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/hangs":
            self.released.wait(30)
            return
        status = {"/moved": 302, "/gone": 404}.get(self.path, 200)
        body = b"x" * (100_000 if self.path == "/huge" else 5)
        self.send_response(status)
        self.send_header("Location", "/good")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[str]:
    Pages.asked, Pages.released = [], threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Pages.released.set()
        server.shutdown()
        thread.join()


def test_a_page_is_fetched(pages: str) -> None:
    """The body of a 200."""
    assert aws_fetch.fetch(f"{pages}/good") == b"xxxxx"


@pytest.mark.parametrize("path", ["moved", "gone", "huge", "hangs"])
def test_anything_else_is_an_error(pages: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is not followed, what is too large is not read, and silence ends."""
    monkeypatch.setattr(aws_fetch, "PATIENCE", 0.5)
    with pytest.raises(OSError):
        aws_fetch.fetch(f"{pages}/{path}")
    assert Pages.asked == [f"/{path}"]


def test_a_server_that_is_not_there_is_an_error(pages: str) -> None:
    """Refused connections too."""
    with pytest.raises(OSError):
        aws_fetch.fetch("http://127.0.0.1:1/x.pem")


def test_what_is_no_certificate_is_refused_and_not_asked_for_again() -> None:
    """503, since it may be SNS's trouble."""
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return b"<html>"

    certificates = Certificates(fetch)
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            certificates.key(CERTIFICATE_URL)
        assert refused.value.status == 503
    assert len(asked) == 1


def test_certificates_are_kept_and_not_without_end() -> None:
    """A region has one at a time; whoever makes URLs up fills no memory."""
    certificates = Certificates(lambda _url: certificate())
    for number in range(30):
        certificates.key(f"{CERTIFICATE_URL}?{number}")
    assert len(certificates._keys) <= 8


@pytest.mark.parametrize(
    ("topic", "url"),
    [
        (TOPIC, "https://sns.us-east-1.amazonaws.com/x"),
        ("arn:aws-cn:sns:cn-north-1:1:t", "https://sns.cn-north-1.amazonaws.com.cn/x"),
        ("arn:aws-us-gov:sns:us-gov-west-1:1:t", "https://sns.us-gov-west-1.amazonaws.com/x"),
    ],
)
def test_the_hosts_of_sns(topic: str, url: str) -> None:
    """Each region has one."""
    assert is_of_sns(url, topic)
    assert not is_of_sns(url, "arn:aws:sns:eu-west-3:1:t")
