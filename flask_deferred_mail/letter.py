"""A mail as it was accepted: checked, complete and frozen.

A view writes a :class:`~flask_deferred_mail.message.Message`; checking it once gives a
:class:`Letter` (what is mailed) inside a :class:`Submission` (how it is to be treated). The row
stores them, transports receive the letter, and nothing changes them any more: every attempt hands
over the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["to", "cc", "bcc"]
Disposition = Literal["attachment", "inline"]
OnUnknown = Literal["retry", "hold"]


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: an addr-spec, its domain in A-labels, and the name shown beside it."""

    email: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who is to get the letter, and in which header field (``bcc``: in none)."""

    address: Address
    kind: Kind = "to"

    @property
    def email(self) -> str:
        return self.address.email


@dataclass(frozen=True, slots=True)
class Part:
    """A file that travels with the letter: an attachment, or an image shown inside the HTML.

    ``content_id`` is without angle brackets, and only inline parts have one.
    """

    data: bytes = field(repr=False)
    content_type: str
    filename: str | None = None
    disposition: Disposition = "attachment"
    content_id: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the content in hex: equal content is stored once under this name."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Letter:
    """What is mailed. Everything in it has been checked; see :mod:`.message` for the rules."""

    sender: Address
    recipients: tuple[Recipient, ...]
    #: The address in ``MAIL FROM``. It never changes between attempts: greylisting compares it.
    envelope_sender: str
    #: With angle brackets, as it stands in the header.
    message_id: str
    #: The ``Date`` header, in RFC 5322 form.
    date: str
    subject: str = ""
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    #: Further alternatives as (content type, content), e.g. ``("text/calendar", "BEGIN:...")``.
    alternatives: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    reply_to: tuple[Address, ...] = ()
    #: Further header fields, in the order in which they were given.
    headers: tuple[tuple[str, str], ...] = ()
    parts: tuple[Part, ...] = ()
    charset: str = "utf-8"
    #: Each of ``recipients`` gets a copy that shows only itself.
    private_copies: bool = False
    # What follows has django-anymail's meaning; most of it needs a provider that knows it.
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    template_id: str | None = None
    #: addr-spec -> variables of that recipient's copy.
    merge_data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    merge_global_data: Mapping[str, Any] = field(default_factory=dict)
    merge_metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    merge_headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    track_opens: bool | None = None
    track_clicks: bool | None = None
    esp_extra: Mapping[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: Kind) -> tuple[Address, ...]:
        """The addresses that stand in one header field."""
        return tuple([r.address for r in self.recipients if r.kind == kind])

    def headers_of(self, only: Recipient | None) -> tuple[tuple[str, str], ...]:
        """The further fields of one recipient's private copy: its own instead of those by the same
        name. ``None``: of the mail that all see."""
        own = self.merge_headers.get(only.email, {}) if only is not None else {}
        if not own:
            return self.headers
        taken = {name.lower() for name in own}
        kept = [pair for pair in self.headers if pair[0].lower() not in taken]
        return (*kept, *own.items())

    @property
    def inline_parts(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.disposition == "inline")

    @property
    def attachments(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.disposition == "attachment")

    @property
    def size(self) -> int:
        """A close estimate, in bytes, of what goes over the wire (base64 grows by a third)."""
        size = 2048 + octets(self.text or "") + octets(self.html or "")
        for _, content in self.alternatives:
            size += octets(content)
        for part in self.parts:
            size += len(part.data) * 4 // 3
        return size


def octets(text: str) -> int:
    """The length of a text in UTF-8, without a copy of it where it is ASCII."""
    return len(text) if text.isascii() else len(text.encode())


@dataclass(frozen=True, slots=True)
class Submission:
    """A letter together with how it is to be treated. Times are seconds since the epoch."""

    letter: Letter
    #: Name of the configured transport.
    transport: str = "default"
    #: Higher goes first.
    priority: int = 0
    #: Unique per database and tenant until the row is purged.
    key: str | None = None
    tenant: str = ""
    send_at: float | None = None
    expires_at: float | None = None
    max_attempts: int | None = None
    on_unknown: OnUnknown | None = None
    transactional: bool = False
