"""SMTP transports for tests, made for a scripted server."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from flask_deferred_mail.transports.smtp import SmtpTransport
from tests.support.smtp_server import SmtpServer

POLICIES = {"none": "none", "starttls": "required", "implicit": "implicit"}


def client(server: SmtpServer, **how: Any) -> closing[SmtpTransport]:
    """A transport for this server, which it trusts; closed at the end of ``with``."""
    defaults: dict[str, Any] = {"tls": POLICIES[server.tls]}
    if server.tls != "none":
        defaults["cafile"] = server.cafile
    return closing(SmtpTransport("default", server.host, server.port, **(defaults | how)))
