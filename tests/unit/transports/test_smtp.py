"""The SMTP transport's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from flask_deferred_mail.errors import ConfigurationError, UnsupportedFeature
from flask_deferred_mail.transports.smtp import SmtpTransport
from tests.support.transport_calls import a_letter


def transport(**how: Any) -> SmtpTransport:
    """A transport that never connects."""
    return SmtpTransport("default", **({"host": "mail.example.com", "port": 587} | how))


def test_no_secret_in_its_repr() -> None:
    """Neither user nor password shows, in the transport nor in its parts."""
    smtp = transport(username="sesame-user", password="sesame")
    assert "sesame" not in repr(smtp)
    assert "sesame" not in repr(vars(smtp))
    assert "mail.example.com:587" in repr(smtp)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"host": ""}, "MAIL_SERVER"),
        ({"port": 0}, "MAIL_PORT"),
        ({"tls": "yes"}, "tls must be one of"),
        ({"username": "ann"}, "MAIL_PASSWORD"),
        ({"username": "ann", "password": "sesa\0me"}, "NUL"),
        ({"local_hostname": "a b"}, "local_hostname"),
        ({"auth": "ntlm"}, "auth"),
        ({"cafile": "/nowhere/ca.pem"}, "cafile"),
    ],
)
def test_what_cannot_be_used_is_named(how: dict[str, Any], named: str) -> None:
    """A faulty value is refused with the name of the option, without a secret."""
    with pytest.raises(ConfigurationError, match=named) as refused:
        transport(**how)
    assert "sesa" not in str(refused.value)


def test_every_fault_is_told_at_once() -> None:
    """Two faults are two sentences of one error."""
    with pytest.raises(ConfigurationError) as refused:
        transport(host="", tls="yes")
    assert len(refused.value.faults) == 2


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"auth": "xoauth2", "username": "ann"}, "go together"),
        ({"token": str, "username": "ann"}, "go together"),
        ({"auth": "xoauth2", "token": str}, "takes a user"),
        ({"auth": "xoauth2", "token": str, "username": "ann", "password": "sesa"}, "no password"),
        ({"auth": "xoauth2", "token": str, "username": "a\x01b"}, "control characters"),
    ],
)
def test_what_xoauth2_takes(how: dict[str, Any], named: str) -> None:
    """A user and a callable, and no password beside them."""
    with pytest.raises(ConfigurationError, match=named) as refused:
        transport(**how)
    assert "sesa" not in str(refused.value)


def test_a_token_does_not_show() -> None:
    """Nor does the callable that gives it, whose repr could say more than it should."""

    class Caller:
        def __call__(self) -> str:
            return "sesame"

        def __repr__(self) -> str:
            return "sesame"

    smtp = transport(auth="xoauth2", username="ann", token=Caller())
    assert "sesame" not in repr(smtp)
    assert "sesame" not in repr(vars(smtp))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"merge_headers": {"ann@example.net": {"X-A": "1"}}}, "needs private_copies"),
        (
            {
                "merge_headers": {"ann@example.net": {"Message-ID": "<a@example.com>"}},
                "private_copies": True,
            },
            "one Message-ID",
        ),
    ],
)
def test_fields_of_each_recipients_own_need_a_copy_of_its_own(
    fields: dict[str, Any], words: str
) -> None:
    """Told in the caller: at the attempt it would be too late."""
    with pytest.raises(UnsupportedFeature, match=words):
        SmtpTransport("default", "127.0.0.1", 25).check(a_letter(**fields))
