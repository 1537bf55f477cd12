"""From what a view wrote to what is stored: every field checked once, in the caller.

One function per field or group of fields. Each names the field in its error, and each takes time
in proportion to its input, after a cap.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import esp_fields
from .address import parse_address, same_mailbox
from .attachment import MAX_DATA, check_attachment, check_content_type
from .characters import body as body_text
from .characters import label, line, shown
from .errors import MessageError, MessageTooLarge
from .header_fields import extra_fields
from .letter import Address, Kind, Letter, OnUnknown, Part, Recipient, Submission, octets
from .moments import header_date, instant, span
from .plain_text import html_to_text

if TYPE_CHECKING:
    from .message import Defaults, Message

#: Most recipients of one message, of all kinds together.
MAX_RECIPIENTS = 1000
#: Longest subject, in characters (what one line could hold, RFC 5322 section 2.1.1).
MAX_SUBJECT = 998
#: Most attachments and inline images of one message.
MAX_ATTACHMENTS = 100
#: Bodies, alternatives and files of one message together, in bytes before transfer encoding.
MAX_CONTENT = MAX_DATA
#: Longest ``key``, ``tenant`` and name of a transport, in characters.
MAX_KEY, MAX_TENANT, MAX_TRANSPORT = 200, 100, 64
#: The names of priorities, and the span of their numbers.
PRIORITIES = {"low": -10, "medium": 0, "high": 10, "now": 100}
MAX_PRIORITY = 1000
#: Most attempts that a message can ask for.
MAX_ATTEMPTS = 10_000

#: Python's name of a charset -> its name in a mail (IANA's preferred MIME name). All of them leave
#: ASCII alone; UTF-16 and UTF-7 would not, and many of Python's codecs are no charsets at all.
CHARSETS = {
    "utf-8": "utf-8",
    "ascii": "us-ascii",
    **{f"iso8859-{n}": f"iso-8859-{n}" for n in (*range(1, 12), *range(13, 17))},
    **{f"cp{n}": f"windows-{n}" for n in range(1250, 1259)},
    **{name: name for name in ("koi8-r", "koi8-u", "big5", "gb2312", "gbk", "gb18030")},
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
    "shift_jis": "shift_jis",
    "iso2022_jp": "iso-2022-jp",
    "iso2022_kr": "iso-2022-kr",
    "tis-620": "tis-620",
}


def check(message: Message, defaults: Defaults) -> Submission:
    """The frozen form of ``message``; see :meth:`.message.Message.check`."""
    if message.template is not None:
        raise MessageError(
            "template",
            "is not rendered yet: mail.send_after_response() and the other calls of "
            "DeferredMail do it, or Message.render(app.jinja_env)",
        )
    send_at, expires_at = _schedule(message, defaults.now)
    return Submission(
        letter=_letter(message, defaults, send_at),
        transport=_transport(message.transport, defaults),
        priority=_priority(message.priority),
        key=None if message.key is None else label(message.key, "key", MAX_KEY),
        tenant=label(message.tenant, "tenant", MAX_TENANT) if message.tenant else "",
        send_at=send_at,
        expires_at=expires_at,
        max_attempts=_max_attempts(message.max_attempts),
        on_unknown=_on_unknown(message.on_unknown),
        transactional=_yes_or_no(message.transactional, "transactional"),
    )


def as_list(value: Any, field: str) -> list[Any]:
    """What may be given as one or several: nothing, a single text or address, or any iterable.

    :raises MessageError: it is none of these.
    """
    if value is None:
        return []
    if type(value) is list:
        return value.copy()
    if isinstance(value, (str, Address)):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return list(value)
    raise MessageError(field, f"must be a list, not {type(value).__name__}")


def _letter(message: Message, defaults: Defaults, send_at: float | None) -> Letter:
    sender = _sender(message.sender, defaults)
    recipients = _recipients(message)
    text, html, alternatives = _bodies(message)
    parts = _parts(message.attachments, html, alternatives, defaults.ascii_attachments)
    _cap_content(text, html, alternatives, parts)
    headers, message_id = _headers(message.extra_headers, defaults, sender)
    envelope = message.envelope_sender or defaults.envelope_sender
    return Letter(
        sender=sender,
        recipients=recipients,
        envelope_sender=(
            parse_address(envelope, "envelope_sender").email if envelope else sender.email
        ),
        message_id=message_id,
        date=header_date(_date(message.date, send_at, defaults.now)),
        subject=line(
            "" if message.subject is None else message.subject, "subject", MAX_SUBJECT
        ).strip(" \t"),
        text=text,
        html=html,
        alternatives=alternatives,
        reply_to=_addresses(_reply_to(message.reply_to), "reply_to"),
        headers=headers,
        parts=parts,
        charset=_charset(message.charset, text, html, alternatives),
        private_copies=_private_copies(message),
        **esp_fields.given(message, recipients),
    )


# --- who ---------------------------------------------------------------------------------------


def _sender(value: object, defaults: Defaults) -> Address:
    if value is not None and value != "":
        return parse_address(value, "sender")
    if defaults.sender is None:
        raise MessageError(
            "sender", "is missing; give sender=..., or set MAIL_DEFAULT_SENDER for all messages"
        )
    return defaults.sender


def _recipients(message: Message) -> tuple[Recipient, ...]:
    """Everybody, once: who stands in two lists, or twice in one, keeps the first place."""
    to = as_list(message.recipients, "recipients")
    cc, bcc = as_list(message.cc, "cc"), as_list(message.bcc, "bcc")
    count = len(to) + len(cc) + len(bcc)
    if count > MAX_RECIPIENTS:
        raise MessageTooLarge("recipients", f"{count} of them, {MAX_RECIPIENTS} are allowed")
    found: dict[tuple[str, str], Recipient] = {}
    lists: tuple[tuple[Kind, str, list[object]], ...] = (
        ("to", "recipients", to),
        ("cc", "cc", cc),
        ("bcc", "bcc", bcc),
    )
    for kind, field, members in lists:
        for address in _addresses(members, field) if members else ():
            found.setdefault(same_mailbox(address.email), Recipient(address, kind))
    if not found:
        raise MessageError("recipients", "there are none: give recipients, cc or bcc")
    return tuple(found.values())


def _addresses(members: Sequence[object], field: str) -> tuple[Address, ...]:
    """All of them checked; the error says which one it was, if there are several."""
    found = []
    for number, member in enumerate(members, 1):
        try:
            found.append(parse_address(member, field))
        except MessageError as error:
            if len(members) == 1:
                raise
            raise type(error)(
                field, f"number {number} of {len(members)}: {error.problem}"
            ) from None
    return tuple(found)


def _reply_to(value: Any) -> list[Any]:
    """A tuple is Flask-Mail's (name, address) here; several addresses come as a list."""
    return [value] if isinstance(value, tuple) else as_list(value or None, "reply_to")


def _private_copies(message: Message) -> bool:
    if message.private_copies is None:
        private = message.merge_data is not None
    else:
        private = _yes_or_no(message.private_copies, "private_copies")
    if private and (message.cc or message.bcc):
        raise MessageError(
            "private_copies",
            "cannot be had together with cc or bcc: nobody sees anybody else "
            "(merge_data turns it on; private_copies=False turns it off)",
        )
    return private


# --- what --------------------------------------------------------------------------------------


def _bodies(message: Message) -> tuple[str | None, str | None, tuple[tuple[str, str], ...]]:
    """Text, HTML and all other alternatives. ``body=""`` asks for HTML without a text part."""
    text = None if message.body is None else body_text(message.body, "body")
    html = None
    alternatives = []
    for name, content in message.alts.items():
        content_type = _alternative_type(name)
        content = body_text(content, "html" if content_type == "text/html" else "alts")
        if content_type == "text/html":
            html = content
        elif content_type == "text/plain":
            text = content if text is None else text
        else:
            alternatives.append((content_type, content))
    if text is None and html is not None and html:
        text = html_to_text(html)
    if html is None and text is None and message.template_id is None:
        text = ""
    return (None if html and not text else text), html, tuple(alternatives)


def _alternative_type(name: object) -> str:
    """Flask-Mail names the subtype of ``text/``; a whole content type will do as well."""
    if name == "html":
        return "text/html"
    text = line(name, "alts")
    return check_content_type(text if "/" in text.partition(";")[0] else f"text/{text}", "alts")


def _parts(
    attachments: Any,
    html: str | None,
    alternatives: Sequence[tuple[str, str]],
    ascii_names: bool,
) -> tuple[Part, ...]:
    if not attachments:
        return ()
    given = as_list(attachments, "attachments")
    if len(given) > MAX_ATTACHMENTS:
        raise MessageTooLarge("attachments", f"{len(given)} files, {MAX_ATTACHMENTS} are allowed")
    bodies = [body for body in (html, *(content for _, content in alternatives)) if body]
    parts = tuple(
        check_attachment(one, f"attachments, number {number}", bodies, ascii_names)
        for number, one in enumerate(given, 1)
    )
    ids = [part.content_id for part in parts if part.content_id is not None]
    if len(ids) != len(set(ids)):
        raise MessageError("attachments", "two of them have the same content id")
    return parts


def _cap_content(
    text: str | None,
    html: str | None,
    alternatives: Sequence[tuple[str, str]],
    parts: Sequence[Part],
) -> None:
    size = octets(text or "") + octets(html or "")
    for _, content in alternatives:
        size += octets(content)
    for part in parts:
        size += len(part.data)
    if size > MAX_CONTENT:
        raise MessageTooLarge(
            "attachments" if parts else "body",
            f"the message holds {size} bytes, {MAX_CONTENT} are allowed; send a link instead",
        )


def _charset(
    value: object, text: str | None, html: str | None, alternatives: Sequence[tuple[str, str]]
) -> str:
    """The charset of the bodies; UTF-8 if the one asked for cannot hold them."""
    if value is None or value in ("utf-8", ""):
        return "utf-8"
    name = label(value, "charset", 40)
    try:
        mime_name = CHARSETS[codecs.lookup(name).name]
    except (LookupError, UnicodeError):
        raise MessageError(
            "charset", f"{shown(name)} is not one that mail is written in; leave it out for UTF-8"
        ) from None
    try:
        for body in (text, html, *(content for _, content in alternatives)):
            (body or "").encode(name)
    except UnicodeError:
        return "utf-8"
    return mime_name


def _headers(
    extra: object, defaults: Defaults, sender: Address
) -> tuple[tuple[tuple[str, str], ...], str]:
    """The fields that the application adds, and the Message-ID, which may be among them."""
    fields = extra_fields(extra, "extra_headers") if extra else ()
    message_id = None
    if fields:
        message_id = next((value for name, value in fields if name.lower() == "message-id"), None)
        fields = tuple(pair for pair in fields if pair[0].lower() != "message-id")
    if defaults.default_headers:
        own = {name.lower() for name, _ in fields} | {"message-id"}
        added = extra_fields(defaults.default_headers, "DEFERRED_MAIL_DEFAULT_HEADERS")
        fields += tuple(pair for pair in added if pair[0].lower() not in own)
    return fields, message_id or _new_message_id(defaults.message_id_domain, sender)


def _new_message_id(domain: str | None, sender: Address) -> str:
    # Random, and at the sender's domain: a host's name tells strangers about the inside.
    return f"<{os.urandom(16).hex()}@{domain or sender.email.rpartition('@')[2]}>"


# --- when and how ------------------------------------------------------------------------------


def _schedule(message: Message, now: float) -> tuple[float | None, float | None]:
    """When it is due (``None``: at once), and when it is no longer worth sending."""
    if message.send_at is not None and message.delay is not None:
        raise MessageError("delay", "and send_at say the same thing twice; give one of the two")
    send_at = None
    if message.send_at is not None:
        send_at = instant(message.send_at, "send_at")
    elif message.delay is not None:
        send_at = instant(now + span(message.delay, "delay"), "delay")
    if message.expires_at is None:
        return send_at, None
    due = now if send_at is None else max(send_at, now)
    expires_at = instant(message.expires_at, "expires_at", after=due)
    if expires_at <= due:
        raise MessageError("expires_at", "must lie after the time at which the mail is due")
    return send_at, expires_at


def _date(date: object, send_at: float | None, now: float) -> float:
    if date is not None:
        return instant(date, "date")
    return now if send_at is None else send_at


def _transport(value: object, defaults: Defaults) -> str:
    return defaults.transport if value is None else label(value, "transport", MAX_TRANSPORT)


def _priority(value: object) -> int:
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_PRIORITY:
        return int(value)
    raise MessageError(
        "priority",
        f"must be one of {', '.join(PRIORITIES)}, or a number from -{MAX_PRIORITY} to "
        f"{MAX_PRIORITY} (higher goes first), not {shown(value)}",
    )


def _max_attempts(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_ATTEMPTS:
        return int(value)
    raise MessageError(
        "max_attempts", f"must be a number from 1 to {MAX_ATTEMPTS}, not {shown(value)}"
    )


def _on_unknown(value: object) -> OnUnknown | None:
    if value is None or value == "retry" or value == "hold":
        return value
    raise MessageError("on_unknown", f"must be 'retry' or 'hold', not {shown(value)}")


def _yes_or_no(value: object, field: str) -> bool:
    if isinstance(value, bool):
        return value
    raise MessageError(field, f"must be True or False, not {shown(value)}")
