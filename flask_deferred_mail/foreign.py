"""Messages of other packages, taken over as ours.

Flask-Mail's and Flask-Mailman's classes are recognised by what they have, so that neither package
is needed, and their subclasses and look-alikes are welcome. ``email.message`` objects are read by
:mod:`.mime_reading`.
"""

from __future__ import annotations

import email.message
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .address import parse_address
from .attachment import Attachment
from .characters import shown
from .errors import MessageError
from .message import Message
from .mime_reading import attachment_from_part, decoded_mailbox, message_from_email, sent_at

_FLASK_MAIL = ("recipients", "sender", "alts", "extra_headers", "attachments")
_FLASK_MAILMAN = ("to", "from_email", "extra_headers", "attachments", "message")
# What the standard library makes up when nobody sets a Message-ID; behind the @ stands the
# host's name, which must not leave it.
_MADE_UP = re.compile(r"<\d+\.\d+\.\d+@[^<>\s]+>")


def adopt(message: object) -> Message:
    """``message`` as one of ours; ours comes back as it is.

    Takes dicts of fields, and objects of ``flask_mail``, ``flask_mailman`` and ``email.message``,
    with their attachments, inline images and header fields. The given object is not changed.

    :raises TypeError: it is none of these, or a dict with a name that is no field.
    :raises MessageError: it holds something that cannot be carried over; names it.
    """
    if isinstance(message, Message):
        return message
    if isinstance(message, Mapping):
        return Message(**message)
    if isinstance(message, email.message.Message):
        return message_from_email(message)
    if _has(message, _FLASK_MAIL):
        return _from_flask_mail(message)
    if _has(message, _FLASK_MAILMAN):
        return _from_flask_mailman(message)
    raise TypeError(
        f"{type(message).__name__} is not a message: give a flask_deferred_mail.Message, a dict "
        "of its fields, or a message of flask_mail, flask_mailman or email.message"
    )


def _has(thing: object, names: Iterable[str]) -> bool:
    return not isinstance(thing, type) and all(hasattr(thing, name) for name in names)


def _from_flask_mail(given: Any) -> Message:
    """The fields have the same names; the Message-ID stands apart from the other headers."""
    return Message(
        subject=given.subject,
        recipients=given.recipients,
        body=given.body,
        alts=dict(given.alts),
        sender=_flask_mail_sender(given.sender),
        cc=given.cc,
        bcc=given.bcc,
        attachments=given.attachments,
        reply_to=given.reply_to,
        date=given.date,
        charset=given.charset,
        extra_headers=_with_message_id(given.extra_headers, getattr(given, "msgId", None)),
        mail_options=getattr(given, "mail_options", None),
        rcpt_options=getattr(given, "rcpt_options", None),
    )


def _flask_mail_sender(sender: Any) -> Any:
    """Undo what the class does with (name, address): it joins them without quoting the name."""
    if isinstance(sender, str) and sender.endswith(">") and not sender.startswith('"'):
        name, _, address = sender.rpartition("<")
        return name, address[:-1]
    return sender


def _with_message_id(headers: Any, message_id: str | None) -> Any:
    """The header fields with the Message-ID that somebody chose, if anybody did."""
    fields = dict(headers or {})
    named = any(str(name).lower() == "message-id" for name in fields)
    if message_id and not named and not _MADE_UP.fullmatch(message_id):
        fields["Message-ID"] = message_id
    return fields


def _from_flask_mailman(given: Any) -> Message:
    headers = dict(given.extra_headers)
    shown_sender = _take(headers, "from")
    date = _take(headers, "date")
    message = Message(
        subject=given.subject,
        recipients=given.to,
        sender=_mailman_sender(shown_sender or given.from_email),
        cc=given.cc,
        bcc=given.bcc,
        reply_to=list(given.reply_to),
        date=None if date is None else sent_at(date),
        charset=str(given.encoding) if given.encoding else None,
        extra_headers=headers,
    )
    if shown_sender:
        envelope = parse_address(_mailman_sender(given.from_email), "from_email")
        message.envelope_sender = envelope.email
    _set_bodies(message, given)
    message.attachments = [_mailman_attachment(one) for one in given.attachments]
    return message


def _take(headers: dict[str, Any], lower: str) -> Any:
    """Remove a field whatever its case, and give its value."""
    for name in [name for name in headers if str(name).lower() == lower]:
        return headers.pop(name)
    return None


def _mailman_sender(sender: Any) -> Any:
    """The class makes one text of (name, address), with the name in encoded words."""
    return decoded_mailbox(sender) if type(sender) is str else sender


def _set_bodies(message: Message, given: Any) -> None:
    if given.content_subtype == "html":
        message.html = given.body
    elif given.content_subtype == "plain":
        message.body = given.body
    else:
        raise MessageError(
            "content_subtype", f"must be 'plain' or 'html', not {shown(given.content_subtype)}"
        )
    for content, content_type in getattr(given, "alternatives", ()):
        name = "html" if content_type == "text/html" else content_type
        if name in message.alts:
            raise MessageError("alternatives", f"two of the same type, {shown(content_type)}")
        message.alts[name] = content
    if message.html is not None and message.body == "":
        # An empty body beside HTML is what the class makes of a missing one.
        message.body = None


def _mailman_attachment(given: Any) -> Attachment:
    if isinstance(given, email.message.Message):
        return attachment_from_part(given)
    filename, content, content_type = (*given, None, None)[:3]
    if isinstance(content, email.message.Message):
        content = content.as_bytes()
    elif callable(getattr(content, "message", None)):
        content = content.message().as_bytes()
    return Attachment(filename, content_type, content)
