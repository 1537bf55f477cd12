"""A letter as a request to Mailgun, and what such a request cannot hold.

Who is in ``recipient-variables`` gets a mail of its own; without that field everybody sees the
others. Its values are filled in wherever ``%recipient.name%`` stands, in other fields of the form
too, and so values of one recipient get into a stored template, its metadata and its header fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Letter, Recipient
from ..mime import address_needs_utf8
from ..reference import NAME
from .extras import plain, refuse_ours
from .mailbox import mailbox
from .provider import Stamp

#: Bytes of one mail, after base64.
MAX_MESSAGE = 26_214_400
#: Bytes of all fields named ``o:``, ``h:``, ``v:`` and ``t:`` together.
MAX_OPTIONS = 16_384
MAX_TAGS = 10
MAX_TAG = 128
#: The one alternative that Mailgun has a place for.
AMP = "text/x-amp-html"

# What we set ourselves, and with it whom the mail is from and for, and when.
_NOT_EXTRA = frozenset(
    (
        *("from", "to", "cc", "bcc", "subject", "text", "html", "amp-html", "template"),
        *("recipient-variables", "attachment", "inline", "message", "sender_domain"),
        *("o:tag", "o:deliverytime", "o:tracking-opens", "t:variables"),
    )
)
# As long as what a call puts on a mail can get.
_LONGEST = Stamp(reference="0" * 36, send_at=0.0)

Fields = list[tuple[str, str]]
Files = list[tuple[str, tuple[str, bytes, str]]]


def fields_of(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> Fields:
    """The form that mails this letter to these of its recipients."""
    private = is_private(letter, recipients)
    own = _variables(letter, recipients) if private else {}
    plain = {
        "subject": letter.subject,
        "template": letter.template_id or "",
        "text": letter.text or "",
        "html": letter.html or "",
        "amp-html": "".join(content for _, content in letter.alternatives),
    }
    fields = [("from", mailbox(letter.sender)), *_destinations(recipients, private)]
    fields += [(name, value) for name, value in plain.items() if value]
    fields += _options(letter, recipients, stamp)
    if private:
        fields.append(("recipient-variables", json.dumps(own)))
    return fields


def is_private(letter: Letter, recipients: Sequence[Recipient]) -> bool:
    """Whether each recipient gets a mail of its own.

    So do those of Bcc if nobody else is left: Mailgun demands a ``to``, where they would see each
    other.
    """
    return letter.private_copies or all(recipient.kind == "bcc" for recipient in recipients)


def _destinations(recipients: Sequence[Recipient], private: bool) -> Fields:
    """Mailgun demands a ``to``. If nobody of it is left, those in Cc, whom all have seen anyway,
    stand there.
    """
    if private:
        return [("to", mailbox(recipient.address)) for recipient in recipients]
    has_to = any(recipient.kind == "to" for recipient in recipients)
    return [
        ("to" if kind == "cc" and not has_to else kind, mailbox(recipient.address))
        for kind in ("to", "cc", "bcc")
        for recipient in recipients
        if recipient.kind == kind
    ]


def _options(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> Fields:
    """The fields that have a limit of their own, all of them together."""
    options = [
        *_headers(letter, recipients, stamp),
        *(("o:tag", tag) for tag in letter.tags),
        *_tracking(letter),
        *_template_values(letter, recipients),
        *((f"v:{name}", value) for name, value in _metadata(letter, recipients, stamp).items()),
    ]
    if stamp.send_at is not None:
        moment = datetime.fromtimestamp(int(stamp.send_at), UTC)
        options.append(("o:deliverytime", format_datetime(moment)))
    for name, value in letter.esp_extra.items():
        values = value if isinstance(value, list) else [value]
        options += [(name, _as_text(one)) for one in values]
    return options


def _headers(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> Fields:
    fields: Fields = []
    if letter.reply_to:
        fields.append(("h:Reply-To", ", ".join(map(mailbox, letter.reply_to))))
    own = _names(letter.merge_headers, recipients)
    taken = {name.lower() for name in own}
    fields += [(f"h:{n}", value) for n, value in letter.headers if n.lower() not in taken]
    fields += [(f"h:{name}", f"%recipient.h:{name}%") for name in own]
    if stamp.message_id:
        fields.append(("h:Message-Id", stamp.message_id))
    return fields


def _tracking(letter: Letter) -> Fields:
    wanted = (("o:tracking-clicks", letter.track_clicks), ("o:tracking-opens", letter.track_opens))
    return [(name, "yes" if value else "no") for name, value in wanted if value is not None]


def _template_values(letter: Letter, recipients: Sequence[Recipient]) -> Fields:
    """What a stored template is filled with: the same for all, or each value by a detour."""
    if letter.template_id is None:
        return []
    if not any(letter.merge_data.values()):
        values = letter.merge_global_data
        return [("t:variables", json.dumps(dict(values)))] if values else []
    names = _value_names(letter, recipients)
    return [(f"v:{name}", f"%recipient.{name}%") for name in names]


def _metadata(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> dict[str, str]:
    own = _names(letter.merge_metadata, recipients)
    found = {**letter.metadata, **{name: f"%recipient.v:{name}%" for name in own}}
    return {**found, NAME: stamp.reference} if stamp.reference else found


def _variables(
    letter: Letter, recipients: Sequence[Recipient]
) -> dict[str, dict[str, str | int | float]]:
    """For each recipient what is filled in for it. Everybody has every name: what is missing
    would be mailed as ``%recipient.name%``.
    """
    by_detour = letter.template_id is None or any(letter.merge_data.values())
    values = _value_names(letter, recipients) if by_detour else []
    metadata = _names(letter.merge_metadata, recipients)
    headers = _names(letter.merge_headers, recipients)
    found: dict[str, dict[str, str | int | float]] = {}
    for email in (recipient.email for recipient in recipients):
        row = {**letter.merge_global_data, **letter.merge_data.get(email, {})}
        tags = {**letter.metadata, **letter.merge_metadata.get(email, {})}
        own = letter.merge_headers.get(email, {})
        found[email] = {
            **{name: _scalar(row.get(name)) for name in values},
            **{f"v:{name}": tags.get(name, "") for name in metadata},
            **{f"h:{name}": own[name] for name in headers},
        }
    return found


def _value_names(letter: Letter, recipients: Sequence[Recipient]) -> list[str]:
    return list(dict.fromkeys([*_names(letter.merge_data, recipients), *letter.merge_global_data]))


def _names(table: Mapping[str, Mapping[str, Any]], recipients: Iterable[Recipient]) -> list[str]:
    """Every name that one of these recipients has a value for, in order of appearance."""
    return list(dict.fromkeys(name for r in recipients for name in table.get(r.email, {})))


def together(letter: Letter, recipients: Sequence[Recipient]) -> list[list[Recipient]]:
    """The private copies that can share a call: those whose own header fields have the same names.

    In one call with others a recipient would get a field without a value.
    """
    groups: dict[frozenset[str], list[Recipient]] = {}
    for recipient in recipients:
        names = frozenset(letter.merge_headers.get(recipient.email, {}))
        groups.setdefault(names, []).append(recipient)
    return list(groups.values())


def _scalar(value: object) -> str | int | float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return _as_text(value)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def files_of(letter: Letter) -> Files:
    """Attachments, then the images shown in the HTML. The name of an image is its content id."""
    files: Files = [
        ("attachment", (part.filename or "", part.data, part.content_type))
        for part in letter.attachments
    ]
    files += [
        ("inline", (part.content_id or "", part.data, part.content_type))
        for part in letter.inline_parts
    ]
    return files


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what Mailgun would refuse, or would silently leave out. Sizes of calls apart.

    :raises UnsupportedFeature: see :meth:`.mailgun.MailgunTransport.check`.
    :raises MessageTooLarge: over 25 MB after base64.
    """
    _check_addresses(letter)
    _check_tags(letter)
    _check_merging(letter)
    _check_values(letter)
    _check_names(letter)
    _check_headers(letter)
    _check_body(letter)
    _check_extra(letter)
    if any(not part.filename for part in letter.attachments):
        raise UnsupportedFeature("attachments", "Mailgun drops files that have no name")
    if letter.size > MAX_MESSAGE:
        raise MessageTooLarge(
            "attachments", f"Mailgun takes {MAX_MESSAGE} bytes a mail, this one has {letter.size}"
        )


def _check_addresses(letter: Letter) -> None:
    for field, members in (("sender", (letter.sender,)), ("reply_to", letter.reply_to)):
        for address in members:
            if address_needs_utf8(address.email):
                raise UnsupportedFeature(
                    field, f"Mailgun breaks addresses with more than ASCII: {address.email}"
                )


def _check_tags(letter: Letter) -> None:
    if len(letter.tags) > MAX_TAGS:
        raise UnsupportedFeature(
            "tags", f"Mailgun takes {MAX_TAGS} of them, this mail has {len(letter.tags)}"
        )
    for tag in letter.tags:
        if not is_tag(tag):
            raise UnsupportedFeature("tags", f"Mailgun takes {MAX_TAG} ASCII characters, not {tag}")


def is_tag(text: str) -> bool:
    """Whether a text may be a tag."""
    return text.isascii() and len(text) <= MAX_TAG


def _check_merging(letter: Letter) -> None:
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if any(getattr(letter, field).values()) and not letter.private_copies:
            raise UnsupportedFeature(field, "with Mailgun it needs private_copies=True")
    if letter.merge_global_data and letter.template_id is None and not letter.private_copies:
        raise UnsupportedFeature(
            "merge_global_data", "with Mailgun it needs private_copies=True or a template_id"
        )
    metadata = {*letter.metadata, *(n for own in letter.merge_metadata.values() for n in own)}
    if NAME in metadata:
        raise UnsupportedFeature("metadata", f"{NAME!r} is a name that we use ourselves")
    if letter.template_id is not None and any(letter.merge_data.values()):
        both = sorted({NAME, *metadata} & {*_value_names(letter, letter.recipients)})
        if both:
            raise UnsupportedFeature(
                "merge_data", f"Mailgun keeps it where metadata is, and {both[0]!r} is in both"
            )


def _check_values(letter: Letter) -> None:
    """Only a template gets lists and mappings, and only values that are the same for all."""
    rows = list(letter.merge_data.values())
    if letter.template_id is None or any(rows):
        rows.append(letter.merge_global_data)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, (dict, list)):
                raise UnsupportedFeature(
                    "merge_data", f"Mailgun fills in single values, and {name!r} is not one"
                )


def _check_names(letter: Letter) -> None:
    """What is filled in stands between two ``%``."""
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        names = {name for own in getattr(letter, field).values() for name in own}
        odd = sorted(name for name in names if "%" in name)
        if odd:
            raise UnsupportedFeature(field, f"Mailgun takes no '%' in a name, as in {odd[0]!r}")


def _check_headers(letter: Letter) -> None:
    names = [name.lower() for name, _ in letter.headers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedFeature(
            "extra_headers", f"Mailgun takes each header field once, not {', '.join(twice)}"
        )
    if "x-mailgun-variables" in names:
        raise UnsupportedFeature("extra_headers", "X-Mailgun-Variables is for metadata=")


def _check_body(letter: Letter) -> None:
    others = [content_type for content_type, _ in letter.alternatives]
    if any(content_type.lower() != AMP for content_type in others) or len(others) > 1:
        raise UnsupportedFeature("alternatives", f"Mailgun takes one, which is {AMP}")
    if letter.template_id is None:
        if not letter.text and not letter.html:
            raise UnsupportedFeature("body", "Mailgun refuses mails without text and HTML")
    elif letter.text or letter.html:
        raise UnsupportedFeature(
            "template_id", "a template of Mailgun is the whole body; leave out body and html"
        )


def _check_extra(letter: Letter) -> None:
    clicks = () if letter.track_clicks is None else ("o:tracking-clicks",)
    names = (name for name in map(plain, letter.esp_extra) if name.startswith(("h:", "v:")))
    refuse_ours(letter.esp_extra, (*_NOT_EXTRA, *clicks, *names))


def check_call(letter: Letter, recipients: Sequence[Recipient]) -> None:
    """Refuse more options than one call can hold.

    :raises MessageTooLarge: over 16 kB of them.
    """
    stamp = Stamp(letter.message_id, _LONGEST.reference, "", _LONGEST.send_at)
    pairs = _options(letter, recipients, stamp)
    size = sum(len(name.encode()) + len(value.encode()) for name, value in pairs)
    if size > MAX_OPTIONS:
        raise MessageTooLarge(
            "metadata",
            f"Mailgun takes {MAX_OPTIONS} bytes of header fields, tags, metadata and values of a "
            f"template together, these are {size}",
        )
