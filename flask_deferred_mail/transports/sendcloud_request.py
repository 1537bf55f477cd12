"""A letter as a request to SendCloud, and what a request to SendCloud cannot hold.

The form's fields always stand in the same order. ``xsmtpapi`` and ``headers`` are JSON inside a
field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Letter, Part, Recipient
from ..reference import NAME
from .extras import refuse_ours

#: All attachments and inline images of a mail together, in bytes (code 40819).
MAX_ATTACHMENTS = 10_485_760
#: The whole ``xsmtpapi`` field, in bytes.
MAX_XSMTPAPI = 1_048_576
MAX_REPLY_TO = 3
MAX_LABEL = 255

# What we set ourselves, and what would take the recipients out of our hands.
_NOT_EXTRA = frozenset(
    (
        *("apiUser", "apiKey", "from", "fromName", "to", "cc", "bcc", "replyTo", "subject"),
        *("templateInvokeName", "html", "plain", "xsmtpapi", "headers", "labelName"),
        *("embeddedCid", "embeddedImage", "attachments", "sendRequestId", "respEmailId"),
        "useAddressList",
    )
)
_BINARY = "application/octet-stream"

Fields = list[tuple[str, str]]
Files = list[tuple[str, tuple[str, bytes, str]]]


def fields_of(
    letter: Letter,
    recipients: Sequence[Recipient],
    *,
    extra_headers: Sequence[tuple[str, str]] = (),
    request_id: str | None = None,
) -> Fields:
    """The form that mails this letter to these of its recipients; the login is not in it."""
    private = is_private(letter, recipients)
    fields = {
        "from": letter.sender.email,
        "fromName": letter.sender.name,
        **({} if private else _visible(recipients)),
        "replyTo": ";".join(address.email for address in letter.reply_to),
        "subject": letter.subject,
        "templateInvokeName": letter.template_id or "",
        "html": letter.html or "",
        "plain": letter.text or "",
        "xsmtpapi": _xsmtpapi(letter, recipients) if private else "",
        "headers": _headers(letter, extra_headers),
        "labelName": letter.tags[0] if letter.tags else "",
        "embeddedCid": ";".join(part.content_id or "" for part in letter.inline_parts),
        "sendRequestId": request_id or "",
    }
    given = [(name, value) for name, value in fields.items() if value]
    extra = [(name, _as_text(value)) for name, value in letter.esp_extra.items()]
    return [*given, *extra, ("respEmailId", "true")]


def is_private(letter: Letter, recipients: Sequence[Recipient]) -> bool:
    """Whether each recipient gets a mail of its own.

    Templates know nothing else. And if nobody is left for ``to``, which SendCloud demands, then
    own mails are the one form in which no Bcc recipient is shown to another.
    """
    if letter.private_copies or letter.template_id is not None:
        return True
    return not any(recipient.kind == "to" for recipient in recipients)


def _visible(recipients: Sequence[Recipient]) -> dict[str, str]:
    return {
        kind: ";".join(r.email for r in recipients if r.kind == kind)
        for kind in ("to", "cc", "bcc")
    }


def _xsmtpapi(letter: Letter, recipients: Sequence[Recipient]) -> str:
    """Recipients, and one column of values per variable, in the same order."""
    content: dict[str, Any] = {"to": [recipient.email for recipient in recipients]}
    rows = [
        {**letter.merge_global_data, **letter.merge_data.get(recipient.email, {})}
        for recipient in recipients
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    if names:
        content["sub"] = {
            f"%{name.strip('%')}%": [_as_text(row.get(name)) for row in rows] for name in names
        }
    return json.dumps(content, ensure_ascii=False)


def _headers(letter: Letter, extra: Sequence[tuple[str, str]]) -> str:
    """Header fields as JSON. SendCloud returns those named ``SC-Custom-*`` in its webhooks."""
    fields = dict(letter.headers)
    fields.update((f"SC-Custom-{name}", value) for name, value in letter.metadata.items())
    fields.update(extra)
    return json.dumps(fields, ensure_ascii=False) if fields else ""


def files_of(letter: Letter) -> Files:
    """Attachments, then the images shown in the HTML, in the order of ``embeddedCid``."""
    files: Files = [
        ("attachments", (_file_name(part, number), part.data, part.content_type))
        for number, part in enumerate(letter.attachments, 1)
    ]
    # Matched with embeddedCid by position; the name shown is the content id.
    files += [
        ("embeddedImage", (quote(part.content_id or "", "@"), part.data, _BINARY))
        for part in letter.inline_parts
    ]
    return files


def _file_name(part: Part, number: int) -> str:
    name = part.filename or f"attachment-{number}"
    return name if name.isascii() else quote(name, " ")


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def check(letter: Letter) -> None:
    """Refuse what SendCloud would refuse, or would silently leave out. Sizes of calls apart.

    :raises UnsupportedFeature: see :meth:`.sendcloud.SendCloudTransport.check`.
    :raises MessageTooLarge: over 10 MiB of attachments.
    """
    _check_tags(letter)
    _check_copies(letter)
    refuse_ours(letter.esp_extra, _NOT_EXTRA)
    _check_headers(letter)
    _check_body(letter)
    _check_sizes(letter)


def _check_tags(letter: Letter) -> None:
    if len(letter.tags) > 1:
        raise UnsupportedFeature(
            "tags", f"SendCloud has one label per mail, this one has {len(letter.tags)} tags"
        )
    if letter.tags and len(letter.tags[0]) > MAX_LABEL:
        raise UnsupportedFeature("tags", f"a SendCloud label has at most {MAX_LABEL} characters")


def _check_copies(letter: Letter) -> None:
    """SendCloud substitutes, and fills templates, only in mails that go to one person each."""
    others = [r for r in letter.recipients if r.kind != "to"]
    alone = len(letter.recipients) == 1 and not others
    for field, wanted in (
        ("template_id", letter.template_id is not None),
        ("merge_data", bool(letter.merge_data)),
        ("merge_global_data", bool(letter.merge_global_data)),
    ):
        if wanted and others:
            raise UnsupportedFeature(field, "SendCloud cannot combine it with cc or bcc")
        needs_copies = not alone or field != "template_id"
        if wanted and needs_copies and not letter.private_copies:
            raise UnsupportedFeature(field, "with SendCloud it needs private_copies=True")


def is_metadata(name: str) -> bool:
    """Whether a name of metadata can be part of a header's name, and is not ours."""
    return re.fullmatch("[!-9;-~]+", name) is not None and name.lower() != NAME


def _check_headers(letter: Letter) -> None:
    for name in letter.metadata:
        if not is_metadata(name):
            raise UnsupportedFeature(
                "metadata",
                f"SendCloud has it in header fields, whose names are ASCII without blanks and "
                f"colons, and one of which is ours; not {name!r}",
            )
    names = [name.lower() for name, _ in letter.headers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedFeature(
            "extra_headers", f"SendCloud takes each header field once, not {', '.join(twice)}"
        )


def _check_body(letter: Letter) -> None:
    if letter.template_id is None:
        if not letter.text and not letter.html:
            raise UnsupportedFeature("body", "SendCloud refuses mails without text and HTML")
    elif letter.text or letter.html:
        raise UnsupportedFeature(
            "template_id", "SendCloud's template is the whole body; leave out body and html"
        )


def _check_sizes(letter: Letter) -> None:
    if len(letter.reply_to) > MAX_REPLY_TO:
        raise UnsupportedFeature(
            "reply_to", f"SendCloud takes {MAX_REPLY_TO} addresses, this mail has more"
        )
    size = sum(len(part.data) for part in letter.parts)
    if size > MAX_ATTACHMENTS:
        raise MessageTooLarge(
            "attachments", f"SendCloud takes {MAX_ATTACHMENTS} bytes, these are {size}"
        )


def check_call(letter: Letter, recipients: Sequence[Recipient]) -> None:
    """Refuse more addresses and values than one call can hold.

    :raises MessageTooLarge: over 1 MiB of them.
    """
    if not is_private(letter, recipients):
        return
    size = len(_xsmtpapi(letter, recipients).encode())
    if size > MAX_XSMTPAPI:
        raise MessageTooLarge(
            "merge_data",
            f"SendCloud takes {MAX_XSMTPAPI} bytes of addresses and values for "
            f"{len(recipients)} recipients, these are {size}",
        )
