"""A letter as a request to Resend, and what such a request cannot hold.

One mail is an object, private copies are a list of such objects. The same letter to the same
recipients always gives the same bytes: Resend compares them when it sees a key again.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Letter, Part, Recipient
from ..reference import NAME
from .ascii_addresses import refuse_utf8_addresses
from .extras import refuse_ours
from .mailbox import mailbox
from .provider import Stamp
from .tag_characters import MAX_TAG, is_tag

#: Bytes of one mail, after base64.
MAX_MESSAGE = 41_943_040
MAX_BATCH = 100
#: Bytes of all mails of a batch; our own guess at what a server takes in one request.
MAX_BATCH_SIZE = 10_000_000

# What we set ourselves, and with it whom the mail is from and for, and when.
_NOT_EXTRA = frozenset(
    (
        *("from", "to", "cc", "bcc", "reply_to", "replyTo", "subject", "text", "html", "react"),
        *("headers", "attachments", "tags", "scheduled_at", "scheduledAt", "template"),
    )
)
# Without the host's own tables: what is refused must not depend on where the code runs.
_TYPES = mimetypes.MimeTypes()
# Pairs that are the same thing, or which the library knows under another name.
_SAME_TYPE = (
    frozenset({"text/xml", "application/xml"}),
    frozenset({"text/javascript", "application/javascript"}),
    frozenset({"audio/wav", "audio/x-wav"}),
    frozenset({"application/zip", "application/x-zip-compressed"}),
    frozenset({"image/jpeg", "image/jpg"}),
)


def copies_in_one_call(letter: Letter) -> int:
    """How many private copies may travel together: files cannot go into a batch."""
    return 1 if letter.parts else max(1, min(MAX_BATCH, MAX_BATCH_SIZE // letter.size))


def is_batch(letter: Letter, recipients: Sequence[Recipient]) -> bool:
    """Whether a call is one with several mails."""
    return letter.private_copies and len(recipients) > 1


def content_of(
    letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
) -> dict[str, Any] | list[dict[str, Any]]:
    """The body of the request that mails this letter to these of its recipients."""
    if is_batch(letter, recipients):
        return batch_of([(letter, (recipient,), stamp) for recipient in recipients])
    return _mail(letter, recipients, stamp)


def batch_of(
    mails: Iterable[tuple[Letter, Sequence[Recipient], Stamp]],
) -> list[dict[str, Any]]:
    """The body of a request with several mails."""
    return [_mail(letter, recipients, stamp) for letter, recipients, stamp in mails]


def _mail(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> dict[str, Any]:
    only = recipients[0].email if letter.private_copies else ""
    fields = {
        "from": mailbox(letter.sender),
        **_destinations(recipients),
        "reply_to": [mailbox(address) for address in letter.reply_to],
        "subject": letter.subject,
        "text": letter.text,
        "html": letter.html,
        "template": _template(letter, only),
        "headers": _headers(letter, only),
        "attachments": [_file(part) for part in (*letter.attachments, *letter.inline_parts)],
        "tags": _tags(letter, only, stamp),
        "scheduled_at": None if stamp.send_at is None else _moment(stamp.send_at),
    }
    return {**{name: value for name, value in fields.items() if value}, **letter.esp_extra}


def _destinations(recipients: Sequence[Recipient]) -> dict[str, list[str]]:
    """Resend demands a ``to``. If nobody of it is left, those in Cc, whom all have seen, stand
    there; a recipient of Bcc does only alone (:meth:`.resend.ResendTransport.calls`).
    """
    found = {
        kind: [mailbox(r.address) for r in recipients if r.kind == kind]
        for kind in ("to", "cc", "bcc")
    }
    if not found["to"]:
        kind = "cc" if found["cc"] else "bcc"
        found["to"], found[kind] = found[kind], []
    return found


def _template(letter: Letter, only: str) -> dict[str, Any] | None:
    if letter.template_id is None:
        return None
    values = {**letter.merge_global_data, **letter.merge_data.get(only, {})}
    variables = {"variables": values} if values else {}
    return {"id": letter.template_id, **variables}


def _headers(letter: Letter, only: str) -> dict[str, str]:
    own = letter.merge_headers.get(only, {})
    names = {name.lower() for name in own}
    kept = {name: value for name, value in letter.headers if name.lower() not in names}
    return {**kept, **own}


def _file(part: Part) -> dict[str, str]:
    found = {
        "filename": part.filename or "",
        "content": base64.b64encode(part.data).decode(),
    }
    # "Just bytes" would contradict nearly every extension; without a type Resend goes by the name.
    if part.content_type.lower() != "application/octet-stream":
        found["content_type"] = part.content_type
    if part.content_id:
        found["content_id"] = part.content_id
    return found


def _tags(letter: Letter, only: str, stamp: Stamp) -> list[dict[str, str]]:
    """Metadata, tags under made-up names, and our reference: there is one list for all."""
    metadata = {**letter.metadata, **letter.merge_metadata.get(only, {})}
    pairs = [*metadata.items(), *_numbered(letter.tags)]
    if stamp.reference:
        pairs.append((NAME, stamp.reference))
    return [{"name": name, "value": value} for name, value in pairs]


def _numbered(tags: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"tag{number}", tag) for number, tag in enumerate(tags, 1)]


def _moment(seconds: float) -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what Resend would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.resend.ResendTransport.check`.
    :raises MessageTooLarge: over 40 MB after base64.
    """
    refuse_utf8_addresses(letter, "Resend takes nothing but ASCII before the @")
    _check_tags(letter)
    _check_merging(letter)
    _check_headers(letter)
    _check_body(letter)
    for part in letter.parts:
        _check_file(part)
    refuse_ours(letter.esp_extra, _NOT_EXTRA)
    if letter.size > MAX_MESSAGE:
        raise MessageTooLarge(
            "attachments", f"Resend takes {MAX_MESSAGE} bytes a mail, this one has {letter.size}"
        )


def _check_tags(letter: Letter) -> None:
    allowed = f"Resend takes 1 to {MAX_TAG} of A-Z, a-z, 0-9, '_' and '-'"
    for tag in letter.tags:
        if not is_tag(tag):
            raise UnsupportedFeature("tags", f"{allowed}, not {tag!r}")
    taken = {NAME, *(name for name, _ in _numbered(letter.tags))}
    given: list[tuple[str, Mapping[str, str]]] = [("metadata", letter.metadata)]
    given += [("merge_metadata", own) for own in letter.merge_metadata.values()]
    for field, values in given:
        for name, value in values.items():
            if not is_tag(name) or not is_tag(value):
                raise UnsupportedFeature(field, f"{allowed} in names and values, not in {name!r}")
            if name in taken:
                raise UnsupportedFeature(field, f"{name!r} is a tag that we set ourselves")


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if getattr(letter, field) and not letter.private_copies:
            raise UnsupportedFeature(field, "it needs private_copies=True")
    merged = any(letter.merge_data.values()) or letter.merge_global_data
    if merged and letter.template_id is None:
        field = "merge_global_data" if letter.merge_global_data else "merge_data"
        raise UnsupportedFeature(field, "Resend fills in templates only; give template_id")


def _check_headers(letter: Letter) -> None:
    names = [name.lower() for name, _ in letter.headers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedFeature(
            "extra_headers", f"Resend takes each header field once, not {', '.join(twice)}"
        )


def _check_body(letter: Letter) -> None:
    if letter.template_id is not None:
        if letter.text or letter.html:
            raise UnsupportedFeature(
                "template_id", "a template of Resend is the whole body; leave out body and html"
            )
        return
    if not letter.text and not letter.html:
        raise UnsupportedFeature("body", "Resend refuses mails without text and HTML")
    if not letter.subject:
        raise UnsupportedFeature("subject", "Resend refuses mails without a subject")


def _check_file(part: Part) -> None:
    """Resend accepts a mail with such a file, and then drops the whole mail without a word."""
    if not part.filename:
        raise UnsupportedFeature("attachments", "Resend drops mails with a file that has no name")
    given = part.content_type.partition(";")[0].strip().lower()
    guessed, packed = _TYPES.guess_type(part.filename, strict=False)
    if packed or guessed is None or given in ("application/octet-stream", guessed):
        return
    if frozenset({given, guessed}) not in _SAME_TYPE:
        raise UnsupportedFeature(
            "attachments",
            f"Resend drops mails with a file whose extension and type disagree: "
            f"{part.filename!r} should be {guessed}, not {given}",
        )
