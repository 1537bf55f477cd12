"""A letter as a request to SES v2, and what such a request cannot hold.

There are three forms. *Simple* names subject, bodies and files, and SES writes the mail; *Raw* is
the whole mail as we would hand it to an SMTP server, for everything that Simple has no place for;
*Template* is one that SES keeps, and goes to many in one call.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Address, Letter, Part, Recipient
from ..mime import render
from ..mime_headers import addresses
from ..reference import NAME
from .ascii_addresses import refuse_utf8_addresses
from .extras import refuse_ours
from .provider import Stamp
from .tag_characters import MAX_TAG, is_tag

SINGLE = "/v2/email/outbound-emails"
BULK = "/v2/email/outbound-bulk-emails"

#: Bytes of one mail, after base64.
MAX_MESSAGE = 41_943_040
MAX_HEADERS = 15
#: Characters of a header's value: 995 in the service's model, 870 in older copies of its page.
MAX_HEADER_VALUE = 870
MAX_HEADER_NAME = 126
MAX_TEMPLATE_DATA = 262_144
MAX_FILE_NAME, MAX_CONTENT_ID, MAX_CONTENT_TYPE = 255, 78, 78

_HEADER_VALUE = re.compile(rf"[ -~]{{1,{MAX_HEADER_VALUE}}}")
# What we set ourselves, and with it whom the mail is from and for.
_NOT_EXTRA = frozenset(
    (
        *("FromEmailAddress", "Destination", "ReplyToAddresses", "Content", "EmailTags"),
        *("DefaultEmailTags", "DefaultContent", "BulkEmailEntries"),
    )
)


def is_bulk(letter: Letter) -> bool:
    """Whether the copies of this letter travel together: only those of a template can."""
    return letter.private_copies and letter.template_id is not None


def request_of(
    letter: Letter, recipients: Sequence[Recipient], stamp: Stamp, configuration_set: str | None
) -> tuple[str, dict[str, Any]]:
    """The path of the call, and its body."""
    named = {"ConfigurationSetName": configuration_set} if configuration_set else {}
    if is_bulk(letter):
        return BULK, {**_bulk(letter, recipients, stamp), **named, **letter.esp_extra}
    only = recipients[0] if letter.private_copies else None
    return SINGLE, {**_single(letter, recipients, only, stamp), **named, **letter.esp_extra}


def _single(
    letter: Letter, recipients: Sequence[Recipient], only: Recipient | None, stamp: Stamp
) -> dict[str, Any]:
    copy = _personal(letter, only)
    body: dict[str, Any]
    if _needs_raw(copy, recipients, only):
        body = {"Destination": _destination(recipients), "Content": raw(copy, only)}
    else:
        body = {
            "FromEmailAddress": mailbox(copy.sender),
            "Destination": _destination(recipients),
            **_reply_to(copy),
            "Content": {"Template": _template(copy)} if copy.template_id else _simple(copy),
        }
    tags = _tags(copy, stamp)
    return {**body, "EmailTags": tags} if tags else body


def _bulk(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> dict[str, Any]:
    tags = _tags(letter, stamp)
    return {
        "FromEmailAddress": mailbox(letter.sender),
        **_reply_to(letter),
        **({"DefaultEmailTags": tags} if tags else {}),
        "DefaultContent": {"Template": _template(letter)},
        "BulkEmailEntries": [_entry(letter, recipient, stamp) for recipient in recipients],
    }


def _entry(letter: Letter, recipient: Recipient, stamp: Stamp) -> dict[str, Any]:
    # Whether SES adds an entry's values to the default ones or puts them in their place is not
    # said of data and tags, so each entry has all of its own. Of headers it is said: they add up.
    own = _personal(letter, recipient)
    content = {"ReplacementTemplateData": _data(own.merge_global_data)}
    entry: dict[str, Any] = {
        "Destination": {"ToAddresses": [mailbox(recipient.address)]},
        "ReplacementEmailContent": {"ReplacementTemplate": content},
    }
    if letter.merge_headers.get(recipient.email):
        headers = letter.merge_headers[recipient.email].items()
        entry["ReplacementHeaders"] = [{"Name": n, "Value": v} for n, v in headers]
    if letter.merge_metadata.get(recipient.email):
        entry["ReplacementTags"] = _tags(own, stamp)
    return entry


def _personal(letter: Letter, only: Recipient | None) -> Letter:
    """The letter with what it has for this one recipient put in its places."""
    if only is None:
        return letter
    email = only.email
    own = letter.merge_headers.get(email, {})
    names = {name.lower() for name in own}
    kept = [pair for pair in letter.headers if pair[0].lower() not in names]
    return replace(
        letter,
        headers=(*kept, *own.items()),
        metadata={**letter.metadata, **letter.merge_metadata.get(email, {})},
        merge_global_data={**letter.merge_global_data, **letter.merge_data.get(email, {})},
    )


# The parts of a request


def mailbox(address: Address) -> str:
    """An address with its name, in ASCII and on one line: SES knows no SMTPUTF8."""
    return addresses("X", (address,))[1].removeprefix("X: ").replace("\r\n", "")


def _destination(recipients: Iterable[Recipient]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, field in (("to", "ToAddresses"), ("cc", "CcAddresses"), ("bcc", "BccAddresses")):
        members = [mailbox(r.address) for r in recipients if r.kind == kind]
        if members:
            found[field] = members
    return found


def _reply_to(letter: Letter) -> dict[str, list[str]]:
    members = [mailbox(address) for address in letter.reply_to]
    return {"ReplyToAddresses": members} if members else {}


def raw(letter: Letter, only: Recipient | None) -> dict[str, Any]:
    """The whole mail as content. Who gets it stands in the destination, Bcc only there."""
    return {"Raw": {"Data": base64.b64encode(render(letter, only)).decode()}}


def _simple(letter: Letter) -> dict[str, Any]:
    bodies = {"Text": letter.text, "Html": letter.html}
    content: dict[str, Any] = {
        "Subject": _utf8(letter.subject),
        "Body": {name: _utf8(text) for name, text in bodies.items() if text},
    }
    return {"Simple": {**content, **_headers_and_files(letter)}}


def _template(letter: Letter) -> dict[str, Any]:
    name = letter.template_id or ""
    field = "TemplateArn" if name.startswith("arn:") else "TemplateName"
    data = _data(letter.merge_global_data)
    return {field: name, "TemplateData": data, **_headers_and_files(letter)}


def _headers_and_files(letter: Letter) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if letter.headers:
        found["Headers"] = [{"Name": name, "Value": value} for name, value in letter.headers]
    if letter.parts:
        found["Attachments"] = [_file(part) for part in letter.parts]
    return found


def _utf8(text: str) -> dict[str, str]:
    # Without a charset SES takes the text for ASCII and breaks the rest.
    return {"Data": text, "Charset": "UTF-8"}


def _file(part: Part) -> dict[str, str]:
    content_id = {"ContentId": part.content_id} if part.content_id else {}
    return {
        "RawContent": base64.b64encode(part.data).decode(),
        "FileName": part.filename or "",
        "ContentType": part.content_type,
        "ContentDisposition": part.disposition.upper(),
        **content_id,
        "ContentTransferEncoding": "BASE64",
    }


def _tags(letter: Letter, stamp: Stamp) -> list[dict[str, str]]:
    """Metadata, tags under made-up names, and our reference: SES has one list for all of them."""
    pairs = [*letter.metadata.items(), *numbered(letter.tags)]
    if stamp.reference:
        pairs.append((NAME, stamp.reference))
    return [{"Name": name, "Value": value} for name, value in pairs]


def numbered(tags: Sequence[str]) -> list[tuple[str, str]]:
    """``tag1``, ``tag2``, ... with the tags."""
    return [(f"tag{number}", tag) for number, tag in enumerate(tags, 1)]


def _data(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), ensure_ascii=False)


# Which form


def _needs_raw(letter: Letter, recipients: Sequence[Recipient], only: Recipient | None) -> bool:
    """Whether Simple has no place for something, or would show other people than the mail does."""
    if letter.template_id is not None:
        return False
    open_ones = {recipient.email for recipient in recipients}
    hides_somebody = only is None and any(
        r.kind != "bcc" and r.email not in open_ones for r in letter.recipients
    )
    return (
        hides_somebody
        or bool(letter.alternatives)
        or not (letter.text or letter.html)
        or not _has_simple_headers(letter)
        or not all(_is_simple_file(part) for part in letter.parts)
        or bool(letter.inline_parts and not letter.html)
    )


def _has_simple_headers(letter: Letter) -> bool:
    names = [name.lower() for name, _ in letter.headers]
    return (
        len(names) <= MAX_HEADERS
        and len(set(names)) == len(names)
        and all(len(name) <= MAX_HEADER_NAME for name in names)
        and all(_HEADER_VALUE.fullmatch(value) for _, value in letter.headers)
    )


def _is_simple_file(part: Part) -> bool:
    return (
        not part.headers
        and 1 <= len(part.filename or "") <= MAX_FILE_NAME
        and len(part.content_type) <= MAX_CONTENT_TYPE
        and not part.content_type.lower().startswith(("message/", "multipart/"))
        and (part.disposition != "inline" or 1 <= len(part.content_id or "") <= MAX_CONTENT_ID)
    )


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what SES would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.ses.SesTransport.check`.
    :raises MessageTooLarge: over 40 MB after base64, or 256 KiB of a template's values.
    """
    refuse_utf8_addresses(letter, "SES has no SMTPUTF8, so nothing but ASCII before @")
    _check_tags(letter)
    _check_merging(letter)
    _check_template(letter)
    refuse_ours(letter.esp_extra, _NOT_EXTRA)
    if letter.size > MAX_MESSAGE:
        raise MessageTooLarge(
            "attachments", f"SES takes {MAX_MESSAGE} bytes a mail, this one has {letter.size}"
        )


def _check_tags(letter: Letter) -> None:
    """One list holds tags, metadata and our reference, and its characters are few."""
    allowed = f"SES takes 1 to {MAX_TAG} of A-Z, a-z, 0-9, '_' and '-'"
    for tag in letter.tags:
        if not is_tag(tag):
            raise UnsupportedFeature("tags", f"{allowed}, not {tag!r}")
    taken = {NAME, *(name for name, _ in numbered(letter.tags))}
    for field, values in (("metadata", (letter.metadata,)), *_merged_metadata(letter)):
        for name, value in (pair for mapping in values for pair in mapping.items()):
            if not is_tag(name) or not is_tag(value):
                raise UnsupportedFeature(field, f"{allowed} in names and values, not in {name!r}")
            if name in taken:
                raise UnsupportedFeature(field, f"{name!r} is a tag that we set ourselves")


def _merged_metadata(letter: Letter) -> list[tuple[str, Iterable[Mapping[str, str]]]]:
    return [("merge_metadata", tuple(letter.merge_metadata.values()))]


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if getattr(letter, field) and not letter.private_copies:
            raise UnsupportedFeature(field, "it needs private_copies=True")
    merged = any(letter.merge_data.values()) or letter.merge_global_data
    if merged and letter.template_id is None:
        field = "merge_global_data" if letter.merge_global_data else "merge_data"
        raise UnsupportedFeature(field, "SES fills in templates only; give template_id")


def _check_template(letter: Letter) -> None:
    """Where there is a template there is no raw form to fall back to."""
    if letter.template_id is None:
        return
    if letter.text or letter.html or letter.alternatives:
        raise UnsupportedFeature(
            "template_id", "the template of SES is the whole body; leave out body, html and alts"
        )
    if not all(map(_is_simple_file, letter.parts)):
        raise UnsupportedFeature(
            "attachments", "with a template SES takes files with a name and without own headers"
        )
    for only in letter.recipients if letter.private_copies else (None,):
        copy = _personal(letter, only)
        if not _has_simple_headers(copy):
            raise UnsupportedFeature(
                "extra_headers",
                f"with a template SES takes {MAX_HEADERS} header fields, each name once, each "
                f"value in printable ASCII of up to {MAX_HEADER_VALUE} characters",
            )
        size = len(_data(copy.merge_global_data))
        if size > MAX_TEMPLATE_DATA:
            raise MessageTooLarge(
                "merge_data", f"SES takes {MAX_TEMPLATE_DATA} characters, these are {size}"
            )
