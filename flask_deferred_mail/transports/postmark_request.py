"""A letter as a request to Postmark, and what such a request cannot hold.

One mail is an object, private copies are a list of such objects, of which each has an answer of
its own. A stored template is the whole mail but for its addresses.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Letter, Part, Recipient
from ..reference import NAME
from .ascii_addresses import refuse_utf8_addresses
from .extras import refuse_ours
from .mailbox import mailbox
from .provider import Stamp

#: Bytes of one mail after base64, and of either of its bodies.
MAX_MESSAGE, MAX_BODY = 10_485_760, 5_242_880
#: Most mails of one call.
MAX_BATCH = 500
#: Entries of metadata (ours is one of them); the longest name and value, in characters.
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE = 10, 20, 80

#: Bytes of all mails of one call: Postmark takes 50 MB, and we can only estimate.
MAX_BATCH_SIZE = 40_000_000
# What we set ourselves, and with it whom the mail is from and for.
_NOT_EXTRA = frozenset(
    (
        *("from", "to", "cc", "bcc", "replyto", "subject", "textbody", "htmlbody", "headers"),
        *("attachments", "tag", "metadata", "templateid", "templatealias", "templatemodel"),
        *("messages", "trackopens"),
    )
)


def copies_in_one_call(letter: Letter) -> int:
    """How many private copies may travel together."""
    return max(1, min(MAX_BATCH, MAX_BATCH_SIZE // weight_of(letter)))


def weight_of(letter: Letter) -> int:
    """Bytes of one mail in a call, not too few."""
    texts = sum(len(body.encode()) for body in (letter.text, letter.html) if body)
    values = max((_weight(own) for own in letter.merge_data.values()), default=0)
    # Texts count twice: JSON escapes quotes and line ends.
    return letter.size + texts + values + _weight(letter.merge_global_data)


def _weight(values: Mapping[str, Any]) -> int:
    return len(json.dumps(dict(values)))


def is_batch(letter: Letter, recipients: Sequence[Recipient]) -> bool:
    """Whether a call is one with several mails.

    So is one to several recipients of Bcc if nobody else is left: in ``To``, which Postmark
    demands, they would see each other.
    """
    hidden = all(recipient.kind == "bcc" for recipient in recipients)
    return len(recipients) > 1 and (letter.private_copies or hidden)


def request_of(
    letter: Letter, recipients: Sequence[Recipient], stamp: Stamp, stream: str
) -> tuple[str, Any]:
    """The path of the call, and its body."""
    template = letter.template_id is not None
    if not is_batch(letter, recipients):
        path = "/email/withTemplate" if template else "/email"
        return path, _mail(letter, recipients, stamp, stream)
    return batch_of([(letter, (recipient,), stamp) for recipient in recipients], stream)


def batch_of(
    mails: Sequence[tuple[Letter, Sequence[Recipient], Stamp]], stream: str
) -> tuple[str, Any]:
    """The path of a call with several mails, and its body. All have a template, or none has."""
    contents = [_mail(letter, recipients, stamp, stream) for letter, recipients, stamp in mails]
    if mails[0][0].template_id is not None:
        return "/email/batchWithTemplates", {"Messages": contents}
    return "/email/batch", contents


def _mail(
    letter: Letter, recipients: Sequence[Recipient], stamp: Stamp, stream: str
) -> dict[str, Any]:
    only = recipients[0].email if letter.private_copies else ""
    fields = {
        "From": mailbox(letter.sender),
        **_destinations(recipients),
        "ReplyTo": ", ".join(map(mailbox, letter.reply_to)),
        "Subject": letter.subject if letter.template_id is None else "",
        "TextBody": letter.text,
        "HtmlBody": letter.html,
        "Headers": _headers(letter, only, stamp),
        "Attachments": [_file(part) for part in (*letter.attachments, *letter.inline_parts)],
        "Tag": letter.tags[0] if letter.tags else "",
        "Metadata": _metadata(letter, only, stamp),
    }
    given = {name: value for name, value in fields.items() if value}
    always = {**_template(letter, only), **_tracking(letter), "MessageStream": stream}
    return {**given, **always, **letter.esp_extra}


def _destinations(recipients: Sequence[Recipient]) -> dict[str, str]:
    """Postmark demands a ``To``. If nobody of it is left, those in Cc, whom all have seen anyway,
    stand there; a recipient of Bcc does only alone.
    """
    found = {
        field: ", ".join(mailbox(r.address) for r in recipients if r.kind == field.lower())
        for field in ("To", "Cc", "Bcc")
    }
    if not found["To"]:
        field = "Cc" if found["Cc"] else "Bcc"
        found["To"], found[field] = found[field], ""
    return found


def _template(letter: Letter, only: str) -> dict[str, Any]:
    """Name or number of the template, and its values, which Postmark demands even if empty."""
    name = letter.template_id
    if name is None:
        return {}
    values = {**letter.merge_global_data, **letter.merge_data.get(only, {})}
    # Aliases begin with a letter.
    key: dict[str, Any] = {"TemplateId": int(name)} if is_number(name) else {"TemplateAlias": name}
    return {**key, "TemplateModel": values}


def is_number(name: str) -> bool:
    """Whether a template is named by its number, not by its alias."""
    return name.isascii() and name.isdecimal()


def _headers(letter: Letter, only: str, stamp: Stamp) -> list[dict[str, str]]:
    own = letter.merge_headers.get(only, {})
    taken = {name.lower() for name in own}
    pairs = [(name, value) for name, value in letter.headers if name.lower() not in taken]
    pairs += own.items()
    if stamp.message_id:
        pairs.append(("Message-ID", stamp.message_id))
    names = {name.lower() for name, _ in pairs}
    if "message-id" in names and "x-pm-keepid" not in names:
        # Without it Postmark puts one of its own there.
        pairs.append(("X-PM-KeepID", "true"))
    return [{"Name": name, "Value": value} for name, value in pairs]


def _file(part: Part) -> dict[str, str]:
    file = {
        "Name": part.filename or part.content_id or "",
        "Content": base64.b64encode(part.data).decode(),
        "ContentType": part.content_type,
    }
    return {**file, "ContentID": f"cid:{part.content_id}"} if part.content_id else file


def _metadata(letter: Letter, only: str, stamp: Stamp) -> dict[str, str]:
    found = {**letter.metadata, **letter.merge_metadata.get(only, {})}
    return {**found, NAME: stamp.reference} if stamp.reference else found


def _tracking(letter: Letter) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if letter.track_opens is not None:
        found["TrackOpens"] = letter.track_opens
    if letter.track_clicks is not None:
        found["TrackLinks"] = "HtmlAndText" if letter.track_clicks else "None"
    return found


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what Postmark would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.postmark.PostmarkTransport.check`.
    :raises MessageTooLarge: over 10 MB after base64, or a body of over 5 MB.
    """
    refuse_utf8_addresses(letter, "Postmark takes nothing but ASCII before the @")
    _check_tags(letter)
    _check_merging(letter)
    _check_metadata(letter)
    _check_body(letter)
    for part in letter.parts:
        _check_file(part)
    _check_extra(letter)
    _check_sizes(letter)


def _check_tags(letter: Letter) -> None:
    if len(letter.tags) > 1:
        raise UnsupportedFeature(
            "tags", f"Postmark has one tag per mail, this one has {len(letter.tags)}"
        )


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if any(getattr(letter, field).values()) and not letter.private_copies:
            raise UnsupportedFeature(field, "with Postmark it needs private_copies=True")
    merged = any(letter.merge_data.values()) or letter.merge_global_data
    if merged and letter.template_id is None:
        field = "merge_global_data" if letter.merge_global_data else "merge_data"
        raise UnsupportedFeature(field, "Postmark fills in templates only; give template_id")


def _check_metadata(letter: Letter) -> None:
    for field, found in _all_metadata(letter):
        lower = [name.lower() for name in found]
        if len(set(lower)) < len(lower) or NAME in lower:
            raise UnsupportedFeature(
                field, f"Postmark takes each name once, in upper or lower case; {NAME!r} is ours"
            )
        if not all(is_entry(name, value) for name, value in found.items()):
            raise UnsupportedFeature(
                field,
                f"Postmark takes names of {MAX_METADATA_NAME} and values of {MAX_METADATA_VALUE} "
                "characters",
            )
        if len(found) > MAX_METADATA - 1:
            raise UnsupportedFeature(
                field, f"Postmark takes {MAX_METADATA} entries, of which one is ours"
            )


def _all_metadata(letter: Letter) -> Iterable[tuple[str, Mapping[str, str]]]:
    yield "metadata", letter.metadata
    for own in letter.merge_metadata.values():
        yield "merge_metadata", {**letter.metadata, **own}


def is_entry(name: str, value: str) -> bool:
    """Whether Postmark takes this as metadata."""
    return len(name) <= MAX_METADATA_NAME and len(value) <= MAX_METADATA_VALUE


def _check_body(letter: Letter) -> None:
    if letter.template_id is not None:
        if letter.text or letter.html:
            raise UnsupportedFeature(
                "template_id", "a template of Postmark is the whole body; leave out body and html"
            )
        if letter.subject:
            raise UnsupportedFeature("subject", "Postmark's template brings its own; leave it out")
    elif not letter.text and not letter.html:
        raise UnsupportedFeature("body", "Postmark refuses mails without text and HTML")


def _check_file(part: Part) -> None:
    if not part.filename and not part.content_id:
        raise UnsupportedFeature("attachments", "Postmark refuses files that have no name")
    if part.content_id and (not part.content_id.isascii() or " " in part.content_id):
        raise UnsupportedFeature(
            "inline", f"Postmark takes ASCII without blanks as content id, not {part.content_id!r}"
        )


def _check_extra(letter: Letter) -> None:
    clicks = () if letter.track_clicks is None else ("tracklinks",)
    refuse_ours(letter.esp_extra, (*_NOT_EXTRA, *clicks))


def _check_sizes(letter: Letter) -> None:
    for field, body in (("body", letter.text), ("html", letter.html)):
        if body and len(body.encode()) > MAX_BODY:
            raise MessageTooLarge(field, f"Postmark takes {MAX_BODY} bytes")
    if letter.size > MAX_MESSAGE:
        raise MessageTooLarge(
            "attachments", f"Postmark takes {MAX_MESSAGE} bytes a mail, this one has {letter.size}"
        )
