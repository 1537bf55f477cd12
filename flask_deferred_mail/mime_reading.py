"""An ``email.message`` object, of either API and any policy, as one of our messages.

The object is read, not passed on: what reaches the wire is written anew, by us, after the same
checks that every message passes. What that would destroy (signed and encrypted parts) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC
from email.errors import HeaderParseError, ObsoleteHeaderDefect
from email.header import decode_header, make_header
from email.message import Message as Mime
from email.utils import parsedate_to_datetime
from typing import Any

from .address import AddressLike
from .attachment import Attachment
from .characters import shown
from .errors import AddressError, MessageError, MessageTooLarge
from .message import Message

# Deeper nesting has no honest reader, and would exhaust the stack.
_MAX_DEPTH = 20
# Longest list of addresses, in characters: some 1000 with names.
_MAX_LIST = 600_000

_FOLD = re.compile(r"\r?\n(?=[ \t])")
# One member of an address list: quoted strings hold anything, the rest neither quotes nor commas.
_MEMBER = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",]+)+')
_EMPTY_GROUP = re.compile(r"[A-Za-z -]+:\s*;")
#: Fields that become fields of the message, or that are written anew.
_READ_ELSEWHERE = frozenset(
    {"from", "to", "cc", "bcc", "subject", "reply-to", "date", "mime-version", "return-path"}
)
_PARAMETERS = frozenset({"charset", "method", "format", "delsp"})
_UNCHANGEABLE = frozenset({"multipart/signed", "multipart/encrypted"})


def message_from_email(given: Mime[Any, Any]) -> Message:
    """Our message of an ``email.message.EmailMessage`` or the older ``Message``.

    :raises MessageError: signed or encrypted content, ``Resent-`` fields, two senders, text in an
        unknown charset.
    :raises AddressError: an address list that is not one.
    """
    senders = _addresses(given, "From")
    if len(senders) > 1:
        raise MessageError("From", f"names {len(senders)} senders; one is supported")
    date = given.get("Date")
    message = Message(
        subject=_text(given.get("Subject", "")),
        recipients=_addresses(given, "To"),
        sender=senders[0] if senders else None,
        cc=_addresses(given, "Cc"),
        bcc=_addresses(given, "Bcc"),
        reply_to=_addresses(given, "Reply-To"),
        date=None if date is None else sent_at(date),
        extra_headers=list(_further_fields(given)),
    )
    _read(given, message, "multipart/mixed", 0)
    return message


def sent_at(value: object) -> float:
    """A ``Date`` header as seconds since the epoch; ``-0000`` counts as UTC.

    :raises MessageError: it is not a date of RFC 5322.
    """
    try:
        date = parsedate_to_datetime(str(value))
    except ValueError:
        raise MessageError("Date", f"{shown(value)} is not a date of RFC 5322") from None
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()


def attachment_from_part(part: Mime[Any, Any]) -> Attachment:
    """One part as an attachment: its file name, type, disposition, content id and content."""
    content_id = part.get("Content-ID")
    headers = {} if content_id is None else {"Content-ID": str(content_id).strip()}
    disposition = part.get_content_disposition()
    if content_id is not None and disposition is None:
        disposition = "inline"
    return Attachment(
        filename=part.get_filename(),
        content_type=_content_type(part),
        data=_octets(part),
        disposition="inline" if disposition == "inline" and content_id else "attachment",
        headers=headers,
    )


# --- header fields -----------------------------------------------------------------------------


def _text(value: object) -> str:
    """A field's value decoded; folds, which are part of the wire form, are taken out.

    A line break that is no fold stays, and is refused where the message is checked.
    """
    if type(value) is not str:
        # A header object of the library, which has decoded itself; once is enough.
        return str(value)
    text = _FOLD.sub("", value)
    if "=?" not in text:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, UnicodeError):
        return text


def _addresses(given: Mime[Any, Any], name: str) -> list[AddressLike]:
    found: list[AddressLike] = []
    for value in given.get_all(name, []):
        parsed = getattr(value, "addresses", None)
        if parsed is None:
            found += _split(str(value), name)
            continue
        if any(not isinstance(defect, ObsoleteHeaderDefect) for defect in value.defects):
            raise AddressError(name, f"{shown(value)} is not a list of addresses")
        found += [(one.display_name, one.addr_spec) for one in parsed]
    return found


def _split(value: str, name: str) -> Iterator[AddressLike]:
    """The members of a raw list; names are decoded after the structure was read, not before."""
    text = _FOLD.sub("", value).strip()
    if len(text) > _MAX_LIST:
        raise MessageTooLarge(name, f"has {len(text)} characters, {_MAX_LIST} are allowed")
    if _EMPTY_GROUP.fullmatch(text):
        return
    position = 0
    while position < len(text):
        if text[position] in ", \t":
            position += 1
            continue
        match = _MEMBER.match(text, position)
        if match is None:
            raise AddressError(name, f"{shown(text)} has a quote that does not end")
        position = match.end()
        yield decoded_mailbox(match[0].strip())


def decoded_mailbox(member: str) -> AddressLike:
    """``Name <address>`` with the name's encoded words decoded; else the text as it is."""
    name, opened, rest = member.rpartition("<")
    if opened and "=?" in name and rest.endswith(">"):
        return _text(name.strip().strip('"')), rest[:-1]
    return member


def _further_fields(given: Mime[Any, Any]) -> Iterator[tuple[str, str]]:
    """What the application added: all fields but those that we write or that describe parts."""
    for name, value in given.items():
        lower = name.lower()
        if lower.startswith("resent-"):
            raise MessageError(name, "a message that is sent on is not supported; attach it")
        if lower not in _READ_ELSEWHERE and not lower.startswith("content-"):
            yield name, _text(value)


# --- parts -------------------------------------------------------------------------------------


def _read(part: Mime[Any, Any], message: Message, container: str, depth: int) -> None:
    """Put one part, and what it contains, into the place of the message where it belongs."""
    if depth > _MAX_DEPTH:
        raise MessageError("content", f"is nested more than {_MAX_DEPTH} levels deep")
    content_type = part.get_content_type()
    if content_type in _UNCHANGEABLE:
        raise MessageError(
            "content", f"{content_type} would not survive being written anew; it cannot be sent"
        )
    if content_type.startswith("multipart/"):
        for child in _children(part):
            _read(child, message, content_type, depth + 1)
    elif _is_body(part, content_type, message, container):
        _set_body(part, content_type, message)
    else:
        message.attachments.append(_beside_html(attachment_from_part(part), container))


def _children(part: Mime[Any, Any]) -> list[Mime[Any, Any]]:
    payload: Any = part.get_payload()
    if isinstance(payload, list):
        return payload
    if payload:
        raise MessageError("content", f"{part.get_content_type()} without parts in it")
    return []


def _is_body(part: Mime[Any, Any], content_type: str, message: Message, container: str) -> bool:
    """Whether a part is shown as (a form of) the message itself."""
    if part.get_content_disposition() == "attachment" or part.get_filename():
        return False
    if content_type == "text/plain":
        return message.body is None
    if content_type == "text/html":
        return message.html is None
    return container == "multipart/alternative" and content_type.startswith("text/")


def _set_body(part: Mime[Any, Any], content_type: str, message: Message) -> None:
    text = _decoded_text(part)
    if content_type == "text/plain":
        message.body = text
    elif content_type == "text/html":
        message.html = text
    else:
        message.alts[_content_type(part, encoded_anew=True)] = text


def _beside_html(attachment: Attachment, container: str) -> Attachment:
    """Inside multipart/related, a part with a content id belongs to the HTML."""
    if container == "multipart/related" and attachment.headers:
        attachment.disposition = "inline"
    return attachment


def _content_type(part: Mime[Any, Any], *, encoded_anew: bool = False) -> str:
    """The media type with those of its parameters that say something about the content.

    :param encoded_anew: the text gets the message's charset, so its own is left out.
    """
    kept = [part.get_content_type()]
    for name, value in part.get_params(failobj=[])[1:]:
        plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._+-]+", value)
        if name.lower() in _PARAMETERS and plain and not (encoded_anew and name == "charset"):
            kept.append(f"{name.lower()}={value}")
    return "; ".join(kept)


def _octets(part: Mime[Any, Any]) -> bytes:
    """The content without its transfer encoding; an enclosed message as it would be sent."""
    payload: Any = part.get_payload()
    if isinstance(payload, list):
        return b"".join(child.as_bytes() for child in payload)
    decoded = part.get_payload(decode=True)
    if isinstance(decoded, bytes):
        return decoded
    return str(payload or "").encode()


def _decoded_text(part: Mime[Any, Any]) -> str:
    """A text part's characters, read by its charset, or as UTF-8 if that does not fit."""
    payload = part.get_payload()
    if isinstance(payload, str) and not payload.isascii() and _is_whole(payload):
        # Set as text and never encoded (its bytes would be made up), or read by its charset.
        return payload.replace("\r\n", "\n")
    octets = _octets(part)
    charset = part.get_content_charset() or "us-ascii"
    for name in (charset, "utf-8"):
        try:
            text = octets.decode(name)
        except (LookupError, UnicodeError):
            continue
        # The older API puts line ends on the wire as they are; the text has plain ones.
        return text.replace("\r\n", "\n")
    raise MessageError("content", f"a text part is not in its charset, {shown(charset)}")


def _is_whole(payload: str) -> bool:
    """Whether no character was lost on the way here: the library puts U+FFFD in its place."""
    try:
        payload.encode()
    except UnicodeEncodeError:
        return False
    return "\ufffd" not in payload
