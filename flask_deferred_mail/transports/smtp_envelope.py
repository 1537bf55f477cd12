"""The commands of one envelope: MAIL, RCPT, DATA, and when they may go out in one write.

RFC 2920 lets a client send the whole envelope before it reads the first answer, where the server
offers PIPELINING. The envelope of the *next* mail may even go along with the last byte of this one:
its body may not, because this one's outcome has to be written down first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..letter import Letter, Recipient

#: What may stand between the angle brackets of MAIL and RCPT; the message was checked before,
#: this is the last door (RFC 5321 4.1.2, RFC 6531 3.3; quoted local parts are not accepted).
PATH = re.compile(r"[^\s<>\x00-\x20\x7f-\x9f]*")

#: The commands of an envelope whose addresses are all in ASCII and fit between their brackets.
_ORDINARY = re.compile(
    r"MAIL FROM:<[!-;=?-~]*>(?: SIZE=\d+)?\r\n(?:RCPT TO:<[!-;=?-~]+>\r\n)+DATA\r\n"
)

#: Recipients whose commands go out in one write. More answers than that could fill both sides'
#: buffers while nobody reads (RFC 2920 4.1).
MOST_AT_ONCE = 50


@dataclass(slots=True)
class Ahead:
    """The next mail of a connection, whose envelope went out with the last byte of this one."""

    letter: Letter
    recipients: tuple[Recipient, ...]
    #: The rendered mail.
    data: bytes = field(repr=False)
    #: Its envelope as it went over the wire; the server it went to is able to take it.
    commands: bytes

    def is_of(self, letter: Letter, recipients: tuple[Recipient, ...]) -> bool:
        """Whether that mail, to exactly those, is what was announced."""
        return self.letter is letter and self.recipients == recipients


def mail_line(
    sender: str, emails: Collection[str], data: bytes, extensions: Mapping[str, str]
) -> str:
    """The MAIL command, with the parameters that the server knows and the mail needs."""
    line = f"MAIL FROM:<{sender}>"
    if "SIZE" in extensions:
        line += f" SIZE={len(data)}"
    if not (data.isascii() and sender.isascii() and all(map(str.isascii, emails))):
        line += " SMTPUTF8"
        if "8BITMIME" in extensions:
            line += " BODY=8BITMIME"
    return line


def rcpt_line(email: str) -> str:
    """The RCPT command for one recipient."""
    return f"RCPT TO:<{email}>"


def goes_at_once(emails: Collection[str], extensions: Mapping[str, str]) -> bool:
    """Whether the whole envelope may go out in one write."""
    return "PIPELINING" in extensions and len(emails) <= MOST_AT_ONCE


def ahead_of(
    letter: Letter, recipients: tuple[Recipient, ...], data: bytes, extensions: Mapping[str, str]
) -> Ahead | None:
    """What to announce of the next mail; ``None`` if anything about its envelope is unusual."""
    emails = [recipient.email for recipient in recipients]
    if (
        not goes_at_once(emails, extensions)
        or len(set(emails)) != len(emails)
        or size_limit(extensions) < len(data)
    ):
        return None
    lines = [mail_line(letter.envelope_sender, emails, data, extensions)]
    lines += map(rcpt_line, emails)
    commands = "\r\n".join([*lines, "DATA", ""])
    # Lines are counted too: an address that holds the end of one is two good lines to a pattern.
    if commands.count("\r") != len(emails) + 2 or not _ORDINARY.fullmatch(commands):
        return None
    return Ahead(letter, recipients, data, commands.encode("ascii"))


def size_limit(extensions: Mapping[str, str]) -> float:
    """Most bytes of a mail that the server takes, as far as it says so (RFC 1870)."""
    limit = extensions.get("SIZE", "")
    return (int(limit) if limit.isdecimal() else 0) or math.inf
