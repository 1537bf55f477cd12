"""A mail as the application sees it afterwards: in ``email_dispatched`` and in ``outbox``."""

from __future__ import annotations

import copy
import re

from .attachment import Attachment
from .checking import as_list
from .letter import Address, Letter, Part
from .message import Message
from .mime_reading import sent_at

# What may stand in a display name without quotes (RFC 5322 section 3.2.3, and beyond ASCII).
_UNQUOTED = re.compile(r"[\w!#$%&'*+/=?^`{|}~ -]*")
_TO_ESCAPE = re.compile(r'(["\\])')


def dispatched_message(letter: Letter) -> Message:
    """The message of a mail as it went out, in the shape that receivers written for Flask-Mail
    know: ``recipients`` and the like are lists of text, ``body`` and ``html`` are the bodies."""
    message = Message(
        subject=letter.subject,
        recipients=[mailbox(address) for address in letter.of_kind("to")],
        body=letter.text,
        html=letter.html,
        sender=mailbox(letter.sender),
        cc=[mailbox(address) for address in letter.of_kind("cc")],
        bcc=[mailbox(address) for address in letter.of_kind("bcc")],
        attachments=[_attachment(part) for part in letter.parts],
        reply_to=[mailbox(address) for address in letter.reply_to],
        date=sent_at(letter.date),
        charset=letter.charset,
        extra_headers=[*letter.headers, ("Message-ID", letter.message_id)],
        envelope_sender=letter.envelope_sender,
        private_copies=letter.private_copies,
        tags=letter.tags,
        metadata=letter.metadata,
        template_id=letter.template_id,
    )
    message.alts |= dict(letter.alternatives)
    return message


def mailbox(address: Address) -> str:
    """An address as people write it, and as :func:`~.address.parse_address` reads it back."""
    if not address.name:
        return address.email
    if _UNQUOTED.fullmatch(address.name):
        return f"{address.name} <{address.email}>"
    escaped = _TO_ESCAPE.sub(r"\\\1", address.name)
    return f'"{escaped}" <{address.email}>'


def snapshot(message: Message) -> Message:
    """The message as it is now: many loops change one object and send it again."""
    copied = copy.copy(message)
    copied.alts = dict(message.alts)
    for name in ("recipients", "cc", "bcc", "attachments"):
        setattr(copied, name, as_list(getattr(message, name), name))
    return copied


def _attachment(part: Part) -> Attachment:
    headers = [*part.headers]
    if part.content_id is not None:
        headers.append(("Content-ID", f"<{part.content_id}>"))
    return Attachment(part.filename, part.content_type, part.data, part.disposition, headers)
