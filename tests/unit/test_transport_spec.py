"""transport_spec.py: a configured transport, and how little of it is shown."""

from __future__ import annotations

import pytest

from flask_deferred_mail.transport_spec import TransportSpec, transport_spec

SECRET = "s3cr3t-Pa55"


def test_a_url_a_dict_and_json_text_mean_the_same():
    """Whoever reads the environment, the result is one."""
    expected = TransportSpec("smtp://u:p@h")
    assert transport_spec(" smtp://u:p@h ") == expected
    assert transport_spec({"url": "smtp://u:p@h"}) == expected
    assert transport_spec('{"url": "smtp://u:p@h"}') == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smtp://mail.example.com", "smtp://mail.example.com"),
        (f"smtp://user:{SECRET}@mail.example.com:2525?tls=none", "smtp://mail.example.com"),
        (f"smtps://user:{SECRET}@[2001:db8::1]:465", "smtps://[2001:db8::1]"),
        (f"sendcloud://USER:{SECRET}@default?endpoint=http://127.0.0.1:9", "sendcloud://default"),
        ("console:", "console"),
        ("file:///var/mail", "file"),
        (f"postmark://{SECRET}", "postmark"),
        (f"smtp://user:pa/{SECRET}@mail.example.com", "smtp"),
        (f"smtp://user:p@{SECRET}/x@mail.example.com", "smtp"),
        (f"failover(smtp://u:{SECRET}@a smtp://u:{SECRET}@b)", "failover"),
        (SECRET, "?"),
    ],
)
def test_a_transports_repr_shows_scheme_and_host_only(url, shown):
    """However it was mistyped, no secret is seen."""
    spec = TransportSpec(url)
    assert spec.shown == shown
    assert SECRET not in repr(spec)
