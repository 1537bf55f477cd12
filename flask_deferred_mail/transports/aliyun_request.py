"""A letter as the fields of Aliyun's ``SingleSendMail``, and what such fields cannot hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Address, Letter, Recipient
from ..mime import address_needs_utf8
from ..reference import NAME
from .provider import Stamp

#: Recipients who see each other, and blind copies that go along with them.
MAX_RECIPIENTS, MAX_BCC = 100, 2
#: Characters of the sender's name and of the subject.
MAX_ALIAS, MAX_SUBJECT = 15, 256
#: Bytes of the text and the HTML together: about that, says the documentation.
MAX_BODIES = 8_000_000
#: Header fields of one mail, of which two are ours: Message-ID and reference.
MAX_HEADERS, OUR_HEADERS = 10, 2

_OWN = "X-User-"
_METADATA = "X-User-Notify-"
# Fields of the standard that Aliyun takes; all others it wants under a name of its own.
_STANDARD = {
    name.lower(): name for name in ("Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post")
}
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,128}")
# Whom the mail is from and for, what is in it, and how the request is signed.
_NOT_EXTRA = frozenset(
    name.lower()
    for name in (
        *("Action", "Version", "Format", "RegionId", "AccessKeyId", "SecurityToken", "Timestamp"),
        *("Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce"),
        *("AccountName", "FromAlias", "AddressType", "ToAddress", "BccAddress"),
        *("ReplyAddress", "ReplyAddressAlias", "Subject", "HtmlBody", "TextBody"),
        *("TagName", "ClickTrace", "Headers", "Template", "Attachments"),
    )
)


def fields_of(
    letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
) -> list[tuple[str, str]]:
    """The fields of the action itself, without those of the signature.

    Recipients of Bcc without anybody else stand in ``ToAddress``, so there must be one of them.
    """
    to = [r for r in recipients if r.kind != "bcc"] or list(recipients)
    only = to[0].email if letter.private_copies else ""
    reply_to = letter.reply_to[0] if letter.reply_to else Address("")
    headers = _headers(letter, only, stamp)
    fields: list[tuple[str, str]] = [
        ("Action", "SingleSendMail"),
        ("AccountName", letter.sender.email),
        ("FromAlias", letter.sender.name),
        ("AddressType", "1"),
        ("ReplyToAddress", str(letter.esp_extra.get("ReplyToAddress", "false")).lower()),
        ("ReplyAddress", reply_to.email),
        ("ReplyAddressAlias", reply_to.name),
        ("ToAddress", ",".join(r.email for r in to)),
        ("BccAddress", ",".join(r.email for r in recipients if r not in to)),
        ("Subject", letter.subject),
        ("HtmlBody", letter.html or ""),
        ("TextBody", letter.text or ""),
        ("Template", _template(letter, only)),
        ("TagName", letter.tags[0] if letter.tags else ""),
        ("ClickTrace", _tracking(letter)),
        ("Headers", json.dumps(headers) if headers else ""),
    ]
    extra = [(n, _as_text(v)) for n, v in letter.esp_extra.items() if n != "ReplyToAddress"]
    return [pair for pair in fields if pair[1]] + extra


def _template(letter: Letter, only: str) -> str:
    if letter.template_id is None:
        return ""
    values = {**letter.merge_global_data, **letter.merge_data.get(only, {})}
    content: dict[str, Any] = {"TemplateId": letter.template_id}
    if values:
        content["TemplateData"] = values
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _tracking(letter: Letter) -> str:
    """One switch for both: ``1``, ``0``, or nothing if nothing was asked for."""
    asked = {letter.track_opens, letter.track_clicks} - {None}
    return "" if not asked else "1" if True in asked else "0"


def _headers(letter: Letter, only: str, stamp: Stamp) -> dict[str, str]:
    """The header fields by the names that Aliyun wants, those of one copy in their place."""
    own = letter.merge_headers.get(only, {})
    metadata = {**letter.metadata, **letter.merge_metadata.get(only, {})}
    headers = {"Message-ID": stamp.message_id} if stamp.message_id else {}
    replaced = {header_name(name).lower() for name in own}
    for name, value in letter.headers:
        if header_name(name).lower() not in replaced:
            headers[header_name(name)] = value
    headers |= {header_name(name): value for name, value in own.items()}
    headers |= {_METADATA + name: value for name, value in metadata.items()}
    if stamp.reference:
        headers[_METADATA + NAME] = stamp.reference
    return headers


def header_name(name: str) -> str:
    """How Aliyun wants a header field to be called; empty if it takes none of that name."""
    low = name.lower()
    if low in _STANDARD:
        return _STANDARD[low]
    if low.startswith(_OWN.lower()):
        return name
    return _OWN + name[2:] if low.startswith("x-") and len(name) > 2 else ""


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what Aliyun would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.aliyun.AliyunTransport.check`.
    :raises MessageTooLarge: bodies over 8 MB together.
    """
    _check_addresses(letter)
    _check_content(letter)
    _check_tracking(letter)
    _check_merging(letter)
    _check_headers(letter)
    taken = sorted(name for name in letter.esp_extra if name.lower() in _NOT_EXTRA)
    if taken:
        raise UnsupportedFeature("esp_extra", f"{', '.join(taken)} cannot be set this way")


def _check_addresses(letter: Letter) -> None:
    if any(recipient.kind == "cc" for recipient in letter.recipients):
        raise UnsupportedFeature(
            "cc", "Aliyun's HTTP interface has no Cc; use aliyun+smtp:, or To or Bcc"
        )
    if len(letter.reply_to) > 1:
        raise UnsupportedFeature("reply_to", "Aliyun takes one address, this mail has more")
    for address in (letter.sender, *letter.reply_to, *(r.address for r in letter.recipients)):
        if address_needs_utf8(address.email) or "," in address.email:
            raise UnsupportedFeature(
                "recipients", f"Aliyun takes ASCII without commas before the @: {address.email}"
            )
    if len(letter.sender.name) > MAX_ALIAS:
        raise UnsupportedFeature(
            "sender", f"Aliyun takes {MAX_ALIAS} characters for the name: {letter.sender.name!r}"
        )


def _check_content(letter: Letter) -> None:
    if letter.attachments:
        raise UnsupportedFeature(
            "attachments", "Aliyun's HTTP interface takes no files; use aliyun+smtp:"
        )
    if not letter.subject:
        raise UnsupportedFeature("subject", "Aliyun refuses mails without a subject")
    if len(letter.subject) > MAX_SUBJECT:
        raise UnsupportedFeature("subject", f"Aliyun takes {MAX_SUBJECT} characters")
    bodies = [body for body in (letter.text, letter.html) if body]
    if letter.template_id is None and not bodies:
        raise UnsupportedFeature("body", "Aliyun refuses mails without text and HTML")
    if letter.template_id is not None and bodies:
        raise UnsupportedFeature(
            "template_id", "a template of Aliyun is the whole body; leave out body and html"
        )
    size = sum(len(body.encode()) for body in bodies)
    if size > MAX_BODIES:
        raise MessageTooLarge("body", f"Aliyun takes {MAX_BODIES} bytes of text, these are {size}")


def _check_tracking(letter: Letter) -> None:
    if len({letter.track_opens, letter.track_clicks} - {None}) > 1:
        raise UnsupportedFeature(
            "track_clicks", "Aliyun has one switch for opens and clicks; give both the same value"
        )
    if len(letter.tags) > 1:
        raise UnsupportedFeature("tags", "Aliyun takes one tag, this mail has more")
    if letter.tags and not _TAG.fullmatch(letter.tags[0]):
        raise UnsupportedFeature("tags", f"Aliyun's have A-Z, 0-9, '_', '-': {letter.tags[0]!r}")
    if _tracking(letter) == "1" and not letter.tags:
        raise UnsupportedFeature("tags", "Aliyun tracks only mail that has a tag")


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if getattr(letter, field) and not letter.private_copies:
            raise UnsupportedFeature(field, "with Aliyun it needs private_copies=True")
    for field in ("merge_data", "merge_global_data"):
        if getattr(letter, field) and letter.template_id is None:
            raise UnsupportedFeature(field, "Aliyun fills in nothing but templates")


def _check_headers(letter: Letter) -> None:
    for field, name, value in _named(letter):
        if not is_header(name, value):
            raise UnsupportedFeature(
                field,
                "Aliyun takes List-Unsubscribe, List-Unsubscribe-Post and names that begin with "
                f"X-, in ASCII; not {name}",
            )
    for field, own in _metadata(letter):
        for name, value in own.items():
            if not is_metadata(name, value):
                raise UnsupportedFeature(
                    field, f"Aliyun has it in header fields, in ASCII; not {name!r}"
                )
    _check_names(letter)
    for recipient in letter.recipients:
        only = recipient.email if letter.private_copies else ""
        named = sum(header_name(name) != "Message-ID" for name in _headers(letter, only, Stamp()))
        if named + OUR_HEADERS > MAX_HEADERS:
            raise UnsupportedFeature(
                "extra_headers",
                f"Aliyun leaves out what is over {MAX_HEADERS} header fields, of which metadata "
                f"are some and {OUR_HEADERS} are ours; this mail has {named + OUR_HEADERS}",
            )


def _check_names(letter: Letter) -> None:
    """A name stands once: Aliyun takes them as an object, and X-A is called X-User-A there."""
    names = [header_name(name).lower() for name, _ in letter.headers]
    names += [(_METADATA + name).lower() for name in letter.metadata]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedFeature(
            "extra_headers", f"Aliyun takes each field once, not {', '.join(twice)}"
        )


def _named(letter: Letter) -> Iterator[tuple[str, str, str]]:
    yield from (("extra_headers", name, value) for name, value in letter.headers)
    for own in letter.merge_headers.values():
        yield from (("merge_headers", name, value) for name, value in own.items())


def _metadata(letter: Letter) -> Iterator[tuple[str, Mapping[str, str]]]:
    yield "metadata", letter.metadata
    for own in letter.merge_metadata.values():
        yield "merge_metadata", own


def is_header(name: str, value: str) -> bool:
    """Whether Aliyun carries a header field, by whatever name."""
    return bool(header_name(name)) and value.isascii()


def is_metadata(name: str, value: str) -> bool:
    """Whether Aliyun carries this entry: it is a part of a header field's name, and its value."""
    return name != NAME and bool(_NAME.fullmatch(name)) and value.isascii()


def is_tag(tag: str) -> bool:
    """Whether a tag may exist there."""
    return _TAG.fullmatch(tag) is not None
