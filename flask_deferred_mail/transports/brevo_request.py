"""A letter as a request to Brevo's ``smtp/email``, and what such a request cannot hold.

A request is one mail, or one content and a list of *message versions*: mails with recipients and
values of their own.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Address, Letter, Part, Recipient
from ..mime_headers import encoded_words
from ..reference import NAME
from .ascii_addresses import refuse_utf8_addresses
from .extras import refuse_ours
from .headings import Heading, headings
from .provider import Stamp

#: Bytes of one mail, after base64.
MAX_MESSAGE = 20_971_520
#: Recipients who see each other, and private copies of one call.
MAX_RECIPIENTS, MAX_COPIES = 99, 2000
#: Bytes of the values of one copy. Brevo says 1000 KB for those of a call, and not which KB.
MAX_PARAMS, MAX_PARAMS_OF_CALL = 102_400, 1_000_000

#: Metadata as JSON. Recipients can see it.
CUSTOM = "X-Mailin-custom"
#: No header field of the mail, although it stands among them.
KEY = "idempotencyKey"

# What we set ourselves, and with it whom the mail is from and for, and when.
_NOT_EXTRA = frozenset(
    (
        *("sender", "to", "cc", "bcc", "replyTo", "subject", "textContent", "htmlContent"),
        *("headers", "attachment", "tags", "templateId", "params", "messageVersions"),
        *("scheduledAt", "htmlUrl", "textUrl"),
    )
)
# The Message-ID is Brevo's own, the others carry what we say in other fields.
_NOT_HEADERS = frozenset({"message-id", CUSTOM.lower(), KEY.lower()})
# What may not stand in a display name without quotes (RFC 5322 section 3.2.3).
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
# Brevo takes the type of a file from its name, and refuses names that it does not know.
EXTENSIONS = frozenset(
    (
        *("xlsx", "xls", "ods", "docx", "docm", "doc", "csv", "pdf", "txt", "gif", "jpg", "jpeg"),
        *("png", "tif", "tiff", "rtf", "bmp", "cgm", "css", "shtml", "html", "htm", "zip", "xml"),
        *("ppt", "pptx", "tar", "ez", "ics", "mobi", "msg", "pub", "eps", "odt", "mp3", "m4a"),
        *("m4v", "wma", "ogg", "flac", "wav", "aif", "aifc", "aiff", "mp4", "mov", "avi", "mkv"),
        *("mpeg", "mpg", "wmv", "pkpass", "xlsm"),
    )
)
# Without the host's own tables: what is refused must not depend on where the code runs.
_TYPES = mimetypes.MimeTypes()


def content_of(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> dict[str, Any]:
    """The body of the request that mails this letter to these of its recipients."""
    mails = headings(letter, recipients)
    several = len(mails) > 1
    # What a version says replaces the common value; what it does not say is the common one.
    only = "" if several else _only(letter, mails[0])
    headers = _headers(letter, only, stamp)
    if stamp.idempotency_key:
        headers[KEY] = key_of(stamp.idempotency_key)
    fields: dict[str, Any] = {
        "sender": _person(letter.sender),
        **({} if several else _people(mails[0])),
        "replyTo": _person(letter.reply_to[0]) if letter.reply_to else None,
        "subject": letter.subject,
        "textContent": letter.text,
        "htmlContent": letter.html or _html_of(letter.text),
        "templateId": None if letter.template_id is None else int(letter.template_id),
        "params": _params(letter, only),
        "messageVersions": [_version(letter, mail, stamp) for mail in mails] if several else None,
        "headers": headers,
        "attachment": [_file(part, number) for number, part in enumerate(letter.attachments, 1)],
        "tags": list(letter.tags),
        "scheduledAt": None if stamp.send_at is None else _moment(stamp.send_at),
    }
    return {**{name: value for name, value in fields.items() if value}, **letter.esp_extra}


def key_of(key: str) -> str:
    """An idempotency key as the UUID that Brevo demands: version 4, as far as one can see."""
    return str(uuid.UUID(hex=key.replace("-", "")[:32], version=4))


def _only(letter: Letter, mail: Heading) -> str:
    """The one reader of a private copy; empty for a mail that shows everybody."""
    return mail.to[0].email if letter.private_copies else ""


def _version(letter: Letter, mail: Heading, stamp: Stamp) -> dict[str, Any]:
    only = _only(letter, mail)
    fields = _people(mail)
    if letter.merge_data.get(only):
        fields["params"] = _params(letter, only)
    if letter.merge_metadata.get(only) or letter.merge_headers.get(only):
        fields["headers"] = _headers(letter, only, stamp)
    return fields


def _people(mail: Heading) -> dict[str, Any]:
    fields = {"to": mail.to, "cc": mail.cc, "bcc": mail.bcc}
    return {name: [_person(r.address) for r in some] for name, some in fields.items() if some}


def _person(address: Address) -> dict[str, str]:
    """An address and its name. A name beyond ASCII that has a comma, Brevo would leave out."""
    name = address.name
    if not name.isascii() and _SPECIALS.search(name):
        name = " ".join(encoded_words(name))
    return {"email": address.email, **({"name": name} if name else {})}


def _html_of(text: str | None) -> str:
    """A text as HTML. Without one Brevo makes its own, and leaves out the text."""
    if not text:
        return ""
    return f'<div style="white-space: pre-wrap">{escape(text.rstrip(), quote=False)}</div>'


def _params(letter: Letter, only: str) -> dict[str, Any]:
    return {**letter.merge_global_data, **letter.merge_data.get(only, {})}


def _headers(letter: Letter, only: str, stamp: Stamp) -> dict[str, str]:
    """The letter's fields, those of one copy in their place, and the metadata as one of them."""
    own = letter.merge_headers.get(only, {})
    names = {name.lower() for name in own}
    kept = {name: value for name, value in letter.headers if name.lower() not in names}
    metadata = {**letter.metadata, **letter.merge_metadata.get(only, {})}
    if stamp.reference:
        metadata[NAME] = stamp.reference
    custom = {CUSTOM: json.dumps(metadata)} if metadata else {}
    return {**kept, **own, **custom}


def _file(part: Part, number: int) -> dict[str, str]:
    return {"name": file_name(part, number), "content": base64.b64encode(part.data).decode()}


def file_name(part: Part, number: int) -> str:
    """A file's name, or one of its number and type."""
    if part.filename:
        return part.filename
    kind = part.content_type.partition(";")[0].strip().lower()
    return f"attachment-{number}{_TYPES.guess_extension(kind) or ''}"


def _moment(seconds: float) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def size_of_params(letter: Letter, recipient: Recipient) -> int:
    """Bytes of the values of one private copy."""
    return len(json.dumps(_params(letter, recipient.email), ensure_ascii=False).encode())


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what Brevo would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.brevo.BrevoTransport.check`.
    :raises MessageTooLarge: over 20 MB after base64, or 100 KB of values for one copy.
    """
    _check_addresses(letter)
    _check_headers("extra_headers", letter.headers)
    for own in letter.merge_headers.values():
        _check_headers("merge_headers", own.items())
    _check_metadata(letter)
    _check_merging(letter)
    _check_body(letter)
    for number, part in enumerate(letter.attachments, 1):
        _check_file(part, number)
    refuse_ours(letter.esp_extra, _NOT_EXTRA)
    if letter.size > MAX_MESSAGE:
        raise MessageTooLarge(
            "attachments", f"Brevo takes {MAX_MESSAGE} bytes a mail, this one has {letter.size}"
        )


def _check_addresses(letter: Letter) -> None:
    refuse_utf8_addresses(letter, "Brevo takes nothing but ASCII before the @")
    if len(letter.reply_to) > 1:
        raise UnsupportedFeature("reply_to", "Brevo takes one address, this mail has more")


def is_header(name: str, value: str) -> bool:
    """Whether Brevo carries a header field as it is."""
    return name.lower() not in _NOT_HEADERS and value.isascii()


def _check_headers(field: str, headers: Iterable[tuple[str, str]]) -> None:
    names = []
    for name, value in headers:
        names.append(name.lower())
        if name.lower() in _NOT_HEADERS:
            raise UnsupportedFeature(field, f"Brevo writes {name} itself, or for us")
        if not is_header(name, value):
            # Not even encoded words: Brevo decodes them.
            raise UnsupportedFeature(field, f"Brevo breaks what is not ASCII, as in {name}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedFeature(
            field, f"Brevo takes each header field once, not {', '.join(twice)}"
        )


def is_metadata(name: str, value: str) -> bool:
    """Whether Brevo carries this entry as it is: it stands in a header."""
    return name != NAME and (name + value).isascii()


def _check_metadata(letter: Letter) -> None:
    given: list[tuple[str, Mapping[str, str]]] = [("metadata", letter.metadata)]
    given += [("merge_metadata", own) for own in letter.merge_metadata.values()]
    for field, own in given:
        for name, value in own.items():
            if not is_metadata(name, value):
                raise UnsupportedFeature(
                    field, f"Brevo has it in a header that we share, in ASCII; not {name!r}"
                )


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if getattr(letter, field) and not letter.private_copies:
            raise UnsupportedFeature(field, "with Brevo it needs private_copies=True")
    for recipient in letter.recipients if letter.merge_data or letter.merge_global_data else ():
        size = size_of_params(letter, recipient)
        if size > MAX_PARAMS:
            raise MessageTooLarge(
                "merge_data", f"Brevo takes {MAX_PARAMS} bytes a mail, these are {size}"
            )


def _check_body(letter: Letter) -> None:
    if letter.template_id is None:
        if not letter.text and not letter.html:
            raise UnsupportedFeature("body", "Brevo refuses mails without text and HTML")
        if not letter.subject:
            raise UnsupportedFeature("subject", "Brevo refuses mails without a subject")
        return
    if not re.fullmatch(r"[1-9][0-9]{0,17}", letter.template_id):
        raise UnsupportedFeature(
            "template_id", f"Brevo's templates have numbers, not {letter.template_id!r}"
        )
    if letter.text or letter.html:
        raise UnsupportedFeature(
            "template_id", "a template of Brevo is the whole body; leave out body and html"
        )


def _check_file(part: Part, number: int) -> None:
    name = file_name(part, number)
    if name.rpartition(".")[2].lower() not in EXTENSIONS or "." not in name:
        raise UnsupportedFeature(
            "attachments", f"Brevo refuses files with this extension, or with none: {name!r}"
        )
