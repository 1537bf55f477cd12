"""A letter as a request to SendGrid's ``mail/send``, and what such a request cannot hold.

A request is one content and a list of *personalizations*: each of them is a mail, with recipients
who see each other and with values of its own.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
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
MAX_MESSAGE = 31_457_280
MAX_RECIPIENTS = 1000
MAX_TAGS = 10
#: Bytes of ``custom_args``, and of one mail's ``substitutions``.
MAX_ARGUMENTS = MAX_SUBSTITUTIONS = 10_000
#: In ``esp_extra``, as django-anymail has it: how a name of ``merge_data`` stands in the text.
MERGE_FORMAT = "merge_field_format"

#: Header fields that SendGrid keeps for itself, in lower case.
RESERVED_HEADERS = frozenset(
    (
        *("x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type"),
        *("content-transfer-encoding", "to", "from", "subject", "reply-to", "cc", "bcc"),
    )
)
#: Custom arguments come back beside SendGrid's own fields of a report, and would overwrite them.
RESERVED_ARGUMENTS = frozenset(
    (
        *("email", "timestamp", "event", "type", "status", "reason", "response", "attempt"),
        *("sg_event_id", "sg_message_id", "sg_template_id", "sg_template_name", "smtp-id"),
        *("category", "url", "url_offset", "useragent", "ip", "tls", "asm_group_id"),
        *("bounce_classification", "sg_machine_open", NAME),
    )
)
# What we set ourselves, and with it whom the mail is from and for, and when.
_NOT_EXTRA = frozenset(
    (
        *("personalizations", "from", "reply_to", "reply_to_list", "subject", "content"),
        *("headers", "attachments", "categories", "custom_args", "template_id", "send_at"),
    )
)
_TRACKING = "tracking_settings"
_BARE_NAME = re.compile(r"\w*")
# What a type may say besides, because it changes nothing: UTF-8 is what SendGrid assumes, a
# calendar's method stands in the calendar too, a file's name in its own field.
_HARMLESS = re.compile(r"charset=\"?(utf-8|us-ascii)\"?|method=.*|name=.*", re.IGNORECASE)


def content_of(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> dict[str, Any]:
    """The body of the request that mails this letter to these of its recipients."""
    mails = headings(letter, recipients)
    files = [*letter.attachments, *letter.inline_parts]
    fields: dict[str, Any] = {
        "personalizations": [_personalization(letter, mail, stamp) for mail in mails],
        "from": _person(letter.sender),
        **_reply_to(letter.reply_to),
        "subject": letter.subject,
        "template_id": letter.template_id,
        "content": _content(letter),
        "headers": _headers(letter, {}, stamp),
        "attachments": [_file(part, number) for number, part in enumerate(files, 1)],
        "categories": list(letter.tags),
        "custom_args": _arguments(letter, {}, stamp.reference),
        "send_at": None if stamp.send_at is None else int(stamp.send_at),
    }
    given = {name: value for name, value in fields.items() if value}
    return given | _extra(letter)


def is_dynamic(letter: Letter) -> bool:
    """Whether it has a template of the newer kind, with a subject and whole parts of its own."""
    return letter.template_id is not None and letter.template_id.startswith("d-")


def _personalization(letter: Letter, mail: Heading, stamp: Stamp) -> dict[str, Any]:
    """One mail: whom it is for, and what it has of its own."""
    only = mail.to[0].email if letter.private_copies else ""
    own_headers = letter.merge_headers.get(only)
    own_arguments = letter.merge_metadata.get(only)
    values = {**letter.merge_global_data, **letter.merge_data.get(only, {})}
    fields: dict[str, Any] = {
        "to": [_person(recipient.address) for recipient in mail.to],
        "cc": [_person(recipient.address) for recipient in mail.cc],
        "bcc": [_person(recipient.address) for recipient in mail.bcc],
        # What stands here replaces the common ones, so the common ones stand here too.
        "headers": _headers(letter, own_headers, stamp) if own_headers else None,
        "custom_args": _arguments(letter, own_arguments, stamp.reference)
        if own_arguments
        else None,
    }
    if is_dynamic(letter):
        fields["dynamic_template_data"] = values
    else:
        fields["substitutions"] = _substitutions(letter, values)
    return {name: value for name, value in fields.items() if value}


def _person(address: Address) -> dict[str, str]:
    name = {"name": address.name} if address.name else {}
    return {"email": address.email, **name}


def _reply_to(addresses: Sequence[Address]) -> dict[str, Any]:
    if len(addresses) == 1:
        return {"reply_to": _person(addresses[0])}
    return {"reply_to_list": [_person(address) for address in addresses]} if addresses else {}


def _content(letter: Letter) -> list[dict[str, str]]:
    """The bodies in the order that SendGrid demands. An empty one would be refused."""
    bodies = [("text/plain", letter.text), ("text/html", letter.html)]
    bodies += [(_bare(kind), body) for kind, body in letter.alternatives]
    return [{"type": kind, "value": body} for kind, body in bodies if body]


def _headers(letter: Letter, own: Mapping[str, str], stamp: Stamp) -> dict[str, str]:
    """The letter's fields, those of one copy in their place, and our Message-ID."""
    names = {name.lower() for name in own}
    kept = [(name, value) for name, value in letter.headers if name.lower() not in names]
    if stamp.message_id:
        kept.append(("Message-ID", stamp.message_id))
    return {name: _encoded(value) for name, value in [*kept, *own.items()]}


def _encoded(value: str) -> str:
    """A header value in ASCII: SendGrid leaves that to us."""
    return value if value.isascii() else " ".join(encoded_words(value))


def _file(part: Part, number: int) -> dict[str, str]:
    inline = {"content_id": part.content_id} if part.content_id else {}
    return {
        "content": base64.b64encode(part.data).decode(),
        "type": _bare(part.content_type),
        # It may not be without one.
        "filename": part.filename or f"attachment-{number}",
        "disposition": part.disposition,
        **inline,
    }


def _bare(content_type: str) -> str:
    """A type without parameters: SendGrid refuses every semicolon in it."""
    return content_type.partition(";")[0].strip()


def _arguments(letter: Letter, own: Mapping[str, str], reference: str) -> dict[str, str]:
    """What SendGrid gives back in its reports. Every value is a text."""
    ours = {NAME: reference} if reference else {}
    return {**letter.metadata, **own, **ours}


def _substitutions(letter: Letter, values: Mapping[str, Any]) -> dict[str, str]:
    form = str(letter.esp_extra.get(MERGE_FORMAT, "{}"))
    return {form.replace("{}", name): _as_text(value) for name, value in values.items()}


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _extra(letter: Letter) -> dict[str, Any]:
    """Fields that only SendGrid knows; the letter's own wishes about tracking go before."""
    extra = {name: value for name, value in letter.esp_extra.items() if name != MERGE_FORMAT}
    wishes = {"click_tracking": letter.track_clicks, "open_tracking": letter.track_opens}
    ours = {name: {"enable": wish} for name, wish in wishes.items() if wish is not None}
    tracking = {**extra.pop(_TRACKING, {}), **ours}
    return {**extra, **({_TRACKING: tracking} if tracking else {})}


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what SendGrid would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.sendgrid.SendGridTransport.check`.
    :raises MessageTooLarge: over 30 MB after base64, or 10000 bytes of metadata or substitutions.
    """
    _check_addresses(letter)
    _check_tags(letter)
    _check_headers("extra_headers", letter.headers)
    for own in letter.merge_headers.values():
        _check_headers("merge_headers", own.items())
    _check_arguments(letter)
    _check_merging(letter)
    _check_body(letter)
    _check_files(letter)
    _check_extra(letter.esp_extra)
    if letter.size > MAX_MESSAGE:
        raise MessageTooLarge(
            "attachments", f"SendGrid takes {MAX_MESSAGE} bytes a mail, this one has {letter.size}"
        )


def _check_addresses(letter: Letter) -> None:
    seen: set[str] = set()
    refuse_utf8_addresses(letter, "SendGrid takes nothing but ASCII before the @")
    for recipient in letter.recipients:
        if recipient.email.lower() in seen:
            raise UnsupportedFeature(
                "recipients", f"SendGrid takes each address once: {recipient.email}"
            )
        seen.add(recipient.email.lower())


def _check_tags(letter: Letter) -> None:
    if len(letter.tags) > MAX_TAGS:
        raise UnsupportedFeature(
            "tags", f"SendGrid takes {MAX_TAGS} categories, this mail has {len(letter.tags)} tags"
        )


def _check_headers(field: str, headers: Iterable[tuple[str, str]]) -> None:
    names = [name.lower() for name, _ in headers]
    reserved = sorted(RESERVED_HEADERS.intersection(names))
    if reserved:
        raise UnsupportedFeature(field, f"SendGrid keeps {', '.join(reserved)} for itself")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedFeature(
            field, f"SendGrid takes each header field once, not {', '.join(twice)}"
        )


def _check_arguments(letter: Letter) -> None:
    given: list[tuple[str, Mapping[str, str]]] = [("metadata", letter.metadata)]
    given += [("merge_metadata", own) for own in letter.merge_metadata.values()]
    for field, own in given:
        taken = sorted(RESERVED_ARGUMENTS.intersection(own))
        if taken:
            raise UnsupportedFeature(
                field, f"in SendGrid's reports {', '.join(taken)} would overwrite its own fields"
            )
        # Room for a reference of the longest kind.
        size = len(_as_text(_arguments(letter, own, "0" * 36)).encode())
        if size > MAX_ARGUMENTS:
            raise MessageTooLarge(field, f"SendGrid takes {MAX_ARGUMENTS} bytes, these are {size}")


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if getattr(letter, field) and not letter.private_copies:
            raise UnsupportedFeature(field, "with SendGrid it needs private_copies=True")
    if not is_dynamic(letter):
        _check_substitutions(letter)


def _check_substitutions(letter: Letter) -> None:
    """Without a dynamic template SendGrid replaces every occurrence of a name in the text."""
    for own in [letter.merge_global_data, *letter.merge_data.values()]:
        values = _substitutions(letter, {**letter.merge_global_data, **own})
        bare = sorted(name for name in values if _BARE_NAME.fullmatch(name))
        if bare:
            raise UnsupportedFeature(
                "merge_data",
                f"SendGrid would replace the plain word {bare[0]!r} wherever it stands; name it as "
                f"in the text, such as '-{bare[0]}-', "
                f"or give esp_extra={{'{MERGE_FORMAT}': '-{{}}-'}}",
            )
        size = len(_as_text(values).encode())
        if size > MAX_SUBSTITUTIONS:
            raise MessageTooLarge(
                "merge_data", f"SendGrid takes {MAX_SUBSTITUTIONS} bytes a mail, these are {size}"
            )


def _check_body(letter: Letter) -> None:
    if is_dynamic(letter):
        if letter.subject:
            raise UnsupportedFeature(
                "subject", "a dynamic template of SendGrid has its own; leave it out"
            )
        if letter.text or letter.html or letter.alternatives:
            raise UnsupportedFeature(
                "template_id", "a dynamic template is the whole body; leave out body and html"
            )
    elif letter.template_id is None:
        if not letter.text and not letter.html:
            raise UnsupportedFeature("body", "SendGrid refuses mails without text and HTML")
        if not letter.subject:
            raise UnsupportedFeature("subject", "SendGrid refuses mails without a subject")


def _check_files(letter: Letter) -> None:
    for part in letter.parts:
        if part.filename and re.search(r"[;,\r\n]", part.filename):
            raise UnsupportedFeature(
                "attachments",
                f"SendGrid takes no ';' and no ',' in a file's name: {part.filename!r}",
            )
        _check_type("attachments", part.content_type)
    for kind, _ in letter.alternatives:
        _check_type("alternatives", kind)


def _check_type(field: str, content_type: str) -> None:
    _, *parameters = content_type.split(";")
    for parameter in parameters:
        if not _HARMLESS.fullmatch(parameter.strip()):
            raise UnsupportedFeature(
                field, f"SendGrid takes types without parameters, not {content_type!r}"
            )


def _check_extra(extra: Mapping[str, Any]) -> None:
    refuse_ours(extra, _NOT_EXTRA)
    for field in (_TRACKING, "mail_settings"):
        if not isinstance(extra.get(field, {}), Mapping):
            raise UnsupportedFeature("esp_extra", f"{field} must be a mapping")
    # It would mail somebody whom the row does not know.
    if "bcc" in extra.get("mail_settings", {}):
        raise UnsupportedFeature("esp_extra", "mail_settings.bcc cannot be set; use bcc")
