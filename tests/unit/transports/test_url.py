"""Transport URLs: taken apart exactly, and never shown with a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.transports.url import TransportURL, URLFault, mask, parse


def test_every_part_is_found():
    """Scheme in lower case, user and password percent-decoded, port, options."""
    url = parse("SMTP://ann%40example.com:p%2Fw%23%3A@mail.example.com:2525?tls=none&cafile=%2Fa")
    assert url == TransportURL(
        scheme="smtp",
        host="mail.example.com",
        port=2525,
        user="ann@example.com",
        password="p/w#:",
        options={"tls": "none", "cafile": "/a"},
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("console:", TransportURL("console")),
        ("file:///var/my%20mail", TransportURL("file", path="/var/my mail")),
        ("smtp://[::1]:25", TransportURL("smtp", host="::1", port=25)),
        (" memory:\n", TransportURL("memory")),
        ("smtp://user@host", TransportURL("smtp", host="host", user="user")),
        ("smtp://u:a@b@host", TransportURL("smtp", host="host", user="u", password="a@b")),
    ],
)
def test_the_shapes_that_the_contract_names(url, expected):
    """Without a host, with a folder, with an IPv6 address, with blanks around it."""
    assert parse(url) == expected


def test_a_urls_repr_holds_no_secret():
    """It may end up in a traceback."""
    shown = repr(parse("smtp://user:hunter2@host?x=hunter3"))
    assert "hunter" not in shown
    assert "user" not in shown.replace("user=", "")


BROKEN = [
    "hunter2",
    "smtp://u:hun/ter2@host",
    "smtp://u:hun?ter2@host",
    "smtp://u:hun#ter2@host",
    "smtp://u:hun@?ter2@host",
    "smtp://u:hun@/ter2@host",
    "smtp://u:hunter2%@host",
    "smtp://u:hunter2%zz@host",
    "smtp://u:hunter2%ff@host",
    "smtp://u:hunter2@host:99999",
    "smtp://u:hunter2@host:0",
    "smtp://u:hunter2@[host",
    "smtp://u:hun ter2@host",
    "smtp://u:hun\nter2@host",
    "smtp://u:hunter2@host?tls",
    "smtp://u:hunter2@host?tls=none&tls=none",
    "://hunter2@host",
]


@pytest.mark.parametrize("url", BROKEN)
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url):
    """A password that was not encoded may be anywhere in it, so nothing of it is repeated."""
    with pytest.raises(URLFault) as caught:
        parse(url)
    assert "hun" not in str(caught.value)
    assert "ter2" not in str(caught.value)
    assert "hun" not in mask(url)
    assert "ter2" not in mask(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smtp://u:p@host:587?tls=required", "smtp://***:***@host:587?tls=required"),
        ("smtp://token@host", "smtp://***@host"),
        ("smtps://host", "smtps://host"),
        (
            "sendcloud://u:k@default?endpoint=http://127.0.0.1:8080",
            "sendcloud://***:***@default?endpoint=http://127.0.0.1:8080",
        ),
        ("sendcloud://u:k@default?endpoint=http://u:p%40x", "sendcloud://***:***@default?***"),
        ("sendcloud://key", "sendcloud://***"),
        ("mailgun://key@domain?region=eu&token=x", "mailgun://***@domain?region=eu&***"),
        ("file:///var/m@il", "file:///var/m@il"),
        ("console:", "console:"),
        ("failover(smtp://u:p@a memory:)", "failover(smtp://***:***@a memory:)"),
        ("mysecretscheme://key", "***"),
    ],
)
def test_a_masked_url_shows_where_but_not_who(url, shown):
    """Host, port and harmless options stay; everything else is starred out."""
    assert mask(url) == shown


@given(st.text(alphabet="abc/?#@%: &=\n", max_size=12))
def test_no_password_survives_masking(password):
    """However it was written, encoded or not."""
    secret = f"QX{password}QY"
    for url in (f"smtp://user:{secret}@host:25", f"sendcloud://u:{secret}@default?endpoint=x"):
        assert "QX" not in mask(url)
        assert "QY" not in mask(url)
