"""A letter as a request to Tencent's ``SendEmail``, and what such a request cannot hold."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Address, Letter, Recipient
from .ascii_addresses import refuse_utf8_addresses
from .headings import headings
from .provider import Stamp

#: Recipients in each field.
MAX_TO, MAX_CC, MAX_BCC = 50, 20, 20
#: Files of one mail, and their bytes together before base64.
MAX_FILES, MAX_FILE_BYTES = 10, 4 * 1024 * 1024
#: Characters of a file's name.
MAX_FILE_NAME = 255

# Whom the mail is from and for, and what is in it.
_NOT_EXTRA = frozenset(
    (
        *("FromEmailAddress", "HeaderFrom", "Destination", "Cc", "Bcc", "ReplyToAddresses"),
        *("Subject", "Template", "Simple", "Attachments", "SmtpMessageId"),
    )
)
# A colon is forbidden (documented); the others would end or begin the address.
_ODD = re.compile(r'[:<>",;@\\]|=\?')


def content_of(letter: Letter, recipients: Sequence[Recipient], stamp: Stamp) -> dict[str, Any]:
    """The body of the request that mails this letter to these of its recipients."""
    heading = headings(letter, recipients)[0]
    only = heading.to[0].email if letter.private_copies else ""
    fields: dict[str, Any] = {
        "FromEmailAddress": _sender(letter.sender),
        "Destination": [r.email for r in heading.to],
        "Cc": [r.email for r in heading.cc],
        "Bcc": [r.email for r in heading.bcc],
        "Subject": letter.subject,
        "ReplyToAddresses": letter.reply_to[0].email if letter.reply_to else "",
        "Template": _template(letter, only),
        "Attachments": [
            {"FileName": part.filename, "Content": base64.b64encode(part.data).decode()}
            for part in letter.attachments
        ],
        "SmtpMessageId": stamp.message_id,
        # The way of single mails at once, not that of campaigns.
        "TriggerType": 1,
    }
    return {**{name: value for name, value in fields.items() if value}, **letter.esp_extra}


def _sender(sender: Address) -> str:
    return f"{sender.name} <{sender.email}>" if sender.name else sender.email


def _template(letter: Letter, only: str) -> dict[str, Any]:
    values: Mapping[str, Any] = {**letter.merge_global_data, **letter.merge_data.get(only, {})}
    template: dict[str, Any] = {"TemplateID": int(letter.template_id or 0)}
    if values:
        template["TemplateData"] = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return template


# What cannot be carried


def check(letter: Letter) -> None:
    """Refuse what Tencent would refuse, or would silently leave out.

    :raises UnsupportedFeature: see :meth:`.tencent_ses.TencentSesTransport.check`.
    :raises MessageTooLarge: too many recipients or files, or 4 MB of them.
    """
    _check_addresses(letter)
    _check_content(letter)
    _check_files(letter)
    taken = sorted(_NOT_EXTRA.intersection(letter.esp_extra))
    if taken:
        raise UnsupportedFeature("esp_extra", f"{', '.join(taken)} cannot be set this way")


def _check_addresses(letter: Letter) -> None:
    if not letter.private_copies:
        for kind, most in (("to", MAX_TO), ("cc", MAX_CC), ("bcc", MAX_BCC)):
            count = sum(recipient.kind == kind for recipient in letter.recipients)
            if count > most:
                raise MessageTooLarge(
                    "recipients", f"Tencent takes {most} of them in {kind}, this mail has {count}"
                )
    if len(letter.reply_to) > 1:
        raise UnsupportedFeature("reply_to", "Tencent takes one address, this mail has more")
    refuse_utf8_addresses(letter, "Tencent takes nothing but ASCII before the @")
    if not is_name(letter.sender.name):
        raise UnsupportedFeature(
            "sender", f"Tencent takes no punctuation in the name: {letter.sender.name!r}"
        )


def is_name(name: str) -> bool:
    """Whether Tencent takes a sender's name as it is; there is no way to quote it."""
    return _ODD.search(name) is None


def _check_content(letter: Letter) -> None:
    if letter.template_id is None:
        raise UnsupportedFeature(
            "body", "Tencent sends only templates that it has reviewed; give template_id"
        )
    if not re.fullmatch(r"[1-9][0-9]{0,17}", letter.template_id):
        raise UnsupportedFeature(
            "template_id", f"Tencent's templates have numbers, not {letter.template_id!r}"
        )
    if letter.text or letter.html:
        raise UnsupportedFeature(
            "template_id", "a template of Tencent is the whole body; leave out body and html"
        )
    if not letter.subject:
        raise UnsupportedFeature("subject", "Tencent refuses mails without a subject")
    if letter.merge_data and not letter.private_copies:
        raise UnsupportedFeature("merge_data", "with Tencent it needs private_copies=True")
    for name, _ in letter.headers:
        if name.lower() != "message-id":
            raise UnsupportedFeature(
                "extra_headers", f"how Tencent takes them is not documented: {name}"
            )


def _check_files(letter: Letter) -> None:
    files = letter.attachments
    if len(files) > MAX_FILES:
        raise MessageTooLarge("attachments", f"Tencent takes {MAX_FILES} files a mail")
    if any(not part.filename or len(part.filename) > MAX_FILE_NAME for part in files):
        raise UnsupportedFeature(
            "attachments", f"Tencent wants each file to have a name of up to {MAX_FILE_NAME}"
        )
    size = sum(len(part.data) for part in files)
    if size > MAX_FILE_BYTES:
        raise MessageTooLarge(
            "attachments", f"Tencent takes {MAX_FILE_BYTES} bytes of files, these are {size}"
        )
