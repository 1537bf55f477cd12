"""What goes out for a request: the same that requests would send, and what is ours in it."""

from __future__ import annotations

import pytest
import requests
from requests.exceptions import InvalidHeader

from flask_deferred_mail.transports import http_request
from flask_deferred_mail.transports.http_request import Requests, Site

URL = "https://api.test/v1/mail"


def outgoing(*args, **options):
    """One request, by a transport that has sent none before."""
    return Requests().outgoing(requests.Request(*args, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"data": b"{}", "headers": {"Content-Type": "application/json", "X-Key": "k"}},
        {"data": "grüße", "headers": {"Content-Type": "text/plain"}},
        {"data": [("to", "Ann Ä <ann@example.net>"), ("to", "b&c=d")]},
        {"data": [("to", "a b")], "auth": ("api", "key:ä")},
        {"data": {"to": "a b"}},
        {"json": {"to": "a b"}},
        {"params": {"a": "b c"}, "data": b"x"},
        {"data": b"x", "auth": requests.auth.HTTPBasicAuth("api", "key")},
        {"data": b"x", "cookies": {"a": "b"}},
        {},
    ],
    ids=lambda options: "+".join(options) or "nothing",
)
@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://user:pass@127.0.0.1:8080",
        "http://[::1]:8025/a b/ä?q=a b#part",
        "https://Bücher.example./x",
    ],
)
def test_it_is_what_requests_would_send(url: str, options: dict) -> None:
    """URL, login, length and body, made at once and from what is remembered of the one before."""
    prepared = requests.Request("POST", url, **options).prepare()
    ours = {"User-Agent", "Accept", "Accept-Encoding"}
    expected = {name: value for name, value in prepared.headers.items() if name not in ours}
    body = prepared.body or b""
    made = Requests()
    for _ in range(2):
        out = made.outgoing(requests.Request("POST", url, **options))
        assert {name: value for name, value in out.fields if name not in ours} == expected
        assert out.body == (body.encode() if isinstance(body, str) else body)
        assert (out.method, out.target) == ("POST", prepared.path_url)


def test_files_are_encoded_by_requests() -> None:
    """A form with a file is multipart, and its length is that of the whole."""
    out = outgoing("POST", URL, data=[("to", "a")], files=[("f", ("n.txt", b"xyz", "text/plain"))])
    fields = dict(out.fields)
    assert fields["Content-Type"].startswith("multipart/form-data; boundary=")
    assert fields["Content-Length"] == str(len(out.body))
    assert b"xyz" in out.body


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://api.test/x", Site("api.test", 443, True)),
        ("HTTP://API.test/x", Site("api.test", 80, False)),
        ("https://api.test:8443", Site("api.test", 8443, True)),
        ("http://[::1]:8025/", Site("::1", 8025, False)),
        ("https://bücher.example/", Site("xn--bcher-kva.example", 443, True)),
    ],
)
def test_the_site_is_that_of_the_url(url: str, site: Site) -> None:
    """Scheme, port and name in the form in which they are looked up."""
    assert outgoing("POST", url).site == site


def test_what_is_ours_cannot_be_replaced() -> None:
    """However it is written: a field goes out once, and an answer is never compressed."""
    given = {"accept-encoding": "gzip", "user-agent": "x", "content-length": "9", "accept": "a/b"}
    out = outgoing("POST", URL, data=b"1234", headers=given)
    assert sorted(out.fields) == [
        ("Accept-Encoding", "identity"),
        ("Content-Length", "4"),
        ("User-Agent", "flask-deferred-mail"),
        ("accept", "a/b"),
    ]


def test_a_login_is_not_given_to_another_url() -> None:
    """What is remembered belongs to method, URL and login together."""
    made = Requests()
    first, other, bare = (
        made.outgoing(requests.Request("POST", URL, auth=auth)).fields
        for auth in (("api", "one"), ("api", "two"), None)
    )
    assert "Authorization" not in dict(bare)
    assert dict(first)["Authorization"] != dict(other)["Authorization"]


def test_not_all_urls_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts something different into each URL does not fill the memory."""
    monkeypatch.setattr(http_request, "_REMEMBERED", 3)
    made = Requests()
    for number in range(10):
        assert made.outgoing(requests.Request("GET", f"{URL}?{number}")).target.endswith(
            f"?{number}"
        )
        assert len(made._places) <= 3


@pytest.mark.parametrize("options", [{}, {"json": {}}], ids=["at once", "by requests"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Key", "secret\r\nX: y"), ("X-Key", "secret\n"), ("X-Key", "secret€"), ("X-ä", "secret")],
    ids=["lines", "line break", "value", "name"],
)
def test_a_header_that_cannot_be_sent_is_not_shown(name: str, value: str, options: dict) -> None:
    """It may be the one with the key. It is found before half of a request is written."""
    with pytest.raises(InvalidHeader) as raised:
        outgoing("POST", URL, headers={name: value}, **options)
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_login_that_cannot_be_sent_is_not_shown() -> None:
    """Nor is it taken for a mistake in our code."""
    with pytest.raises(InvalidHeader) as raised:
        outgoing("POST", URL, auth=("api", "secret€"))
    assert "secret" not in str(raised.value)
