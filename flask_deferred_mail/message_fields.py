"""The fields of a message as keywords, so that a type checker finds the mistyped one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from .address import AddressLike
from .attachment import Attachment, Headers
from .letter import OnUnknown
from .message import Moment, Priority, Span


class MessageFields(TypedDict, total=False):
    """What :class:`~flask_deferred_mail.message.Message` takes, name by name (a test holds that
    the two agree)."""

    subject: str
    recipients: Iterable[AddressLike] | AddressLike | None
    body: str | None
    html: str | None
    alts: Mapping[str, str] | Iterable[tuple[str, str]] | None
    sender: AddressLike | None
    cc: Iterable[AddressLike] | AddressLike | None
    bcc: Iterable[AddressLike] | AddressLike | None
    attachments: Iterable[Attachment] | None
    reply_to: AddressLike | Sequence[AddressLike] | None
    date: Moment | None
    charset: str | None
    extra_headers: Headers | None
    template: str | None
    context: Mapping[str, Any] | None
    language: str | None
    send_at: Moment | None
    scheduled_time: Moment | None
    delay: Span | None
    expires_at: Moment | timedelta | None
    priority: Priority
    key: str | None
    transport: str | None
    max_attempts: int | None
    on_unknown: OnUnknown | None
    tenant: str | None
    transactional: bool
    private_copies: bool | None
    envelope_sender: str | None
    tags: Iterable[str] | None
    metadata: Mapping[str, str | float] | None
    template_id: str | int | None
    merge_data: Mapping[str, Mapping[str, Any]] | None
    merge_global_data: Mapping[str, Any] | None
    merge_metadata: Mapping[str, Mapping[str, str | float]] | None
    merge_headers: Mapping[str, Mapping[str, str]] | None
    track_opens: bool | None
    track_clicks: bool | None
    esp_extra: Mapping[str, Any] | None
