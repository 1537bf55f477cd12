"""The SMTP transport's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from flask_deferred_mail.errors import ConfigurationError, NotYetAvailable
from flask_deferred_mail.transports.smtp import SmtpTransport


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


def test_xoauth2_comes_later() -> None:
    """The name is known and refused until a later release has it."""
    with pytest.raises(NotYetAvailable, match="xoauth2"):
        transport(auth="xoauth2")
