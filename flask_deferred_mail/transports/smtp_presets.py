"""SMTP servers of providers that everybody knows: their host, port, login and limits by one word.

``gmail:``, ``m365:`` and ``aliyun+smtp:``; what each means is in ``docs/transports/smtp.md``.
"""

from __future__ import annotations

from typing import ClassVar

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Letter
from ..rates import limits_from
from .schemes import Plan
from .smtp import SmtpTransport

#: Host and port of each; STARTTLS on 587, TLS from the first byte on 465.
SERVERS = {
    "gmail": ("smtp.gmail.com", 587),
    "m365": ("smtp.office365.com", 587),
    "aliyun+smtp": ("smtpdm.aliyun.com", 465),
}
#: Microsoft's limits of a mailbox, as far as one knows them.
M365_CONNECTIONS, M365_RATE = 3, "30/m"


class PresetTransport(SmtpTransport):
    """A large provider by SMTP, which signs what it sends."""

    server_signs: ClassVar[bool] = True


class AliyunSmtpTransport(PresetTransport):
    """Aliyun DirectMail by SMTP: the login is the sender's address, and only it may send."""

    label = "Aliyun DirectMail by SMTP"
    max_recipients: ClassVar[int | None] = 100
    max_size: ClassVar[int | None] = 15_728_640
    max_attachments: ClassVar[int] = 100

    def check(self, letter: Letter) -> None:
        """Refuse what Aliyun would refuse.

        :raises UnsupportedFeature: it is from another address than the one that logs in.
        :raises MessageTooLarge: over 100 recipients, 100 attachments, or 15 MiB.
        """
        super().check(letter)
        user = (self._endpoint.username or "").lower()
        if user not in ("", letter.sender.email.lower()):
            raise UnsupportedFeature("sender", "Aliyun sends only for the address that logs in")
        if user not in ("", letter.envelope_sender.lower()):
            raise UnsupportedFeature(
                "envelope_sender", "Aliyun sends only for the address that logs in"
            )
        if len(letter.attachments) > self.max_attachments:
            raise MessageTooLarge(
                "attachments", f"Aliyun takes {self.max_attachments} attachments a mail"
            )
        if self.max_size is not None and letter.size > self.max_size:
            raise MessageTooLarge(
                "attachments",
                f"Aliyun takes {self.max_size} bytes a mail, this one has {letter.size}",
            )


def from_plan(plan: Plan) -> SmtpTransport:
    """``gmail://USER@default``, ``m365://USER@default``, ``aliyun+smtp://USER:PASSWORD@default``."""
    scheme, url = plan.url.scheme, plan.url
    host, port = SERVERS[scheme]
    if plan.option("region"):
        host = f"smtpdm-{plan.option('region')}.aliyun.com"
    by_token = scheme != "aliyun+smtp" and not url.password
    make = AliyunSmtpTransport if scheme == "aliyun+smtp" else PresetTransport
    transport = make(
        plan.name,
        host,
        port,
        username=url.user,
        password=url.password,
        tls="implicit" if port == 465 else "required",
        auth="xoauth2" if by_token else None,
        token=plan.token if by_token else None,
        local_hostname=plan.option("local_hostname"),
        cafile=plan.option("cafile"),
        timeout=plan.timeout,
    )
    if scheme == "m365":
        transport.connections = M365_CONNECTIONS
        transport.limits = limits_from(M365_RATE) or ()
    return transport
