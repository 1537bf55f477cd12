"""The commands of one envelope: MAIL, RCPT, DATA, and when they may go out in one write.

RFC 2920 lets a client send the whole envelope before it reads the first answer, where the server
offers PIPELINING. The envelope of the *next* mail may even go along with the last byte of this one:
its body may not, because this one's outcome has to be written down first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..letter import Letter, Recipient
from ..mime import address_needs_utf8, header_needs_utf8

#: What may stand between the angle brackets of MAIL and RCPT; the message was checked before,
#: this is the last door (RFC 5321 4.1.2, RFC 6531 3.3; quoted local parts are not accepted).
PATH = re.compile(r"[^\s<>\x00-\x20\x7f-\x9f]*")

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
    lines: tuple[str, ...]

    def is_of(self, letter: Letter, recipients: tuple[Recipient, ...]) -> bool:
        """Whether that mail, to exactly those, is what was announced."""
        return self.letter is letter and self.recipients == recipients


def mail_line(
    letter: Letter,
    recipients: Sequence[Recipient],
    emails: Collection[str],
    size: int,
    extensions: Mapping[str, str],
) -> str:
    """The MAIL command, with the parameters that the server knows and the mail needs."""
    sender = letter.envelope_sender
    line = f"MAIL FROM:<{sender}>"
    if "SIZE" in extensions:
        line += f" SIZE={size}"
    if is_utf8(letter, recipients) or any(map(address_needs_utf8, [sender, *emails])):
        line += " SMTPUTF8"
        if "8BITMIME" in extensions:
            line += " BODY=8BITMIME"
    return line


def is_utf8(letter: Letter, recipients: Sequence[Recipient]) -> bool:
    """Whether the header of this mail to them needs a server with SMTPUTF8."""
    return header_needs_utf8(letter, recipients[0] if letter.private_copies else None)


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
    limit = extensions.get("SIZE", "")
    if (
        not goes_at_once(emails, extensions)
        or len(set(emails)) != len(emails)
        or any(map(address_needs_utf8, [letter.envelope_sender, *emails]))
        or is_utf8(letter, recipients)
        or not all(map(PATH.fullmatch, [letter.envelope_sender, *emails]))
        or not all(emails)
        or (limit.isdecimal() and 0 < int(limit) < len(data))
    ):
        return None
    first = mail_line(letter, recipients, emails, len(data), extensions)
    return Ahead(letter, recipients, data, (first, *map(rcpt_line, emails), "DATA"))
