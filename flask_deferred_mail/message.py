"""What a view writes: a :class:`Message`, with Flask-Mail's fields and those of a queue.

A message is a plain, changeable object; nothing is checked until it is handed over. Then
:meth:`Message.check` makes a frozen :class:`~flask_deferred_mail.letter.Submission` of it, or
raises in the view, naming the field.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from .address import AddressLike
from .attachment import Attachment, Data, Headers, new_content_id
from .checking import as_list, check
from .errors import MessageError, NotYetAvailable
from .letter import Address, OnUnknown, Submission
from .rendering import render_template_message

if TYPE_CHECKING:
    import jinja2

#: A point in time: an aware datetime, an ISO 8601 text with an offset, or epoch seconds.
Moment: TypeAlias = datetime | str | float
#: A length of time: a timedelta or seconds.
Span: TypeAlias = timedelta | float
#: Which mail goes first; the names stand for -10, 0, 10 and 100.
Priority: TypeAlias = Literal["low", "medium", "high", "now"] | int


@dataclass(slots=True)  # not frozen: each mail makes one
class Defaults:
    """What the application's settings say where a message says nothing."""

    #: From ``MAIL_DEFAULT_SENDER``.
    sender: Address | None = None
    #: From ``DEFERRED_MAIL_ENVELOPE_SENDER``; an addr-spec.
    envelope_sender: str | None = None
    #: From ``DEFERRED_MAIL_DEFAULT_HEADERS``; a message's own field of that name wins.
    default_headers: tuple[tuple[str, str], ...] = ()
    #: From ``DEFERRED_MAIL_MESSAGE_ID_DOMAIN``; without it, the domain of the sender.
    message_id_domain: str | None = None
    #: The time of recording, in seconds since the epoch.
    now: float = 0.0
    #: The transport of a message that names none.
    transport: str = "default"
    #: From ``MAIL_ASCII_ATTACHMENTS``: file names are reduced to ASCII.
    ascii_attachments: bool = False


class _Connection(Protocol):
    """Flask-Mail's connection object, as far as :meth:`Message.send` knows it."""

    def send(self, message: Any) -> Any: ...


class Message:
    """A mail as the application writes it.

    The first thirteen parameters are Flask-Mail's, in its order; all others are keyword-only.
    ``docs/reference/message.md`` has a line for each.

    :raises TypeError: for a keyword that is no field; it names the keyword.
    :raises MessageError: for ``mail_options`` and ``rcpt_options``, or two names of one field.
    :raises NotYetAvailable: for ``mail_class``.
    """

    # Slots: a mistyped attribute raises instead of being quietly ignored.
    __slots__ = (
        "__weakref__",
        "alts",
        "attachments",
        "bcc",
        "body",
        "cc",
        "charset",
        "context",
        "date",
        "delay",
        "envelope_sender",
        "esp_extra",
        "expires_at",
        "extra_headers",
        "key",
        "language",
        "max_attempts",
        "merge_data",
        "merge_global_data",
        "merge_headers",
        "merge_metadata",
        "metadata",
        "on_unknown",
        "priority",
        "private_copies",
        "recipients",
        "reply_to",
        "send_at",
        "sender",
        "subject",
        "tags",
        "template",
        "template_id",
        "tenant",
        "track_clicks",
        "track_opens",
        "transactional",
        "transport",
    )

    def __init__(
        self,
        subject: str = "",
        recipients: Iterable[AddressLike] | AddressLike | None = None,
        body: str | None = None,
        html: str | None = None,
        alts: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        sender: AddressLike | None = None,
        cc: Iterable[AddressLike] | AddressLike | None = None,
        bcc: Iterable[AddressLike] | AddressLike | None = None,
        attachments: Iterable[Attachment] | None = None,
        reply_to: AddressLike | Sequence[AddressLike] | None = None,
        date: Moment | None = None,
        charset: str | None = None,
        extra_headers: Headers | None = None,
        mail_options: object = None,
        rcpt_options: object = None,
        *,
        template: str | None = None,
        context: Mapping[str, Any] | None = None,
        language: str | None = None,
        send_at: Moment | None = None,
        scheduled_time: Moment | None = None,
        delay: Span | None = None,
        expires_at: Moment | timedelta | None = None,
        priority: Priority = "medium",
        key: str | None = None,
        transport: str | None = None,
        max_attempts: int | None = None,
        on_unknown: OnUnknown | None = None,
        tenant: str | None = None,
        transactional: bool = False,
        private_copies: bool | None = None,
        envelope_sender: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, str | float] | None = None,
        template_id: str | int | None = None,
        merge_data: Mapping[str, Mapping[str, Any]] | None = None,
        merge_global_data: Mapping[str, Any] | None = None,
        merge_metadata: Mapping[str, Mapping[str, str | float]] | None = None,
        merge_headers: Mapping[str, Mapping[str, str]] | None = None,
        track_opens: bool | None = None,
        track_clicks: bool | None = None,
        esp_extra: Mapping[str, Any] | None = None,
        mail_class: object = None,
    ) -> None:
        _refuse_reserved(mail_options, rcpt_options, mail_class)
        self.subject = subject
        self.recipients: list[AddressLike] = as_list(recipients, "recipients")
        self.body = body
        self.alts: dict[str, str] = _alternatives(alts)
        if html is not None:
            self.html = html
        self.sender = sender
        self.cc: list[AddressLike] = as_list(cc, "cc")
        self.bcc: list[AddressLike] = as_list(bcc, "bcc")
        self.attachments: list[Attachment] = as_list(attachments, "attachments")
        self.reply_to = reply_to
        self.date = date
        self.charset = charset
        self.extra_headers = extra_headers
        self.template = template
        self.context = context
        self.language = language
        self.send_at = _one_of(send_at, scheduled_time)
        self.delay = delay
        self.expires_at = expires_at
        self.priority: Priority = priority
        self.key = key
        self.transport = transport
        self.max_attempts = max_attempts
        self.on_unknown: OnUnknown | None = on_unknown
        self.tenant = tenant
        self.transactional = transactional
        self.private_copies = private_copies
        self.envelope_sender = envelope_sender
        self.tags = tags
        self.metadata = metadata
        self.template_id = template_id
        self.merge_data = merge_data
        self.merge_global_data = merge_global_data
        self.merge_metadata = merge_metadata
        self.merge_headers = merge_headers
        self.track_opens = track_opens
        self.track_clicks = track_clicks
        self.esp_extra = esp_extra

    def __repr__(self) -> str:
        # Neither subject nor addresses: one often holds a code, the others are personal.
        count = len(self.recipients) + len(self.cc) + len(self.bcc)
        return f"<Message to {count} recipient{'' if count == 1 else 's'}>"

    @property
    def html(self) -> str | None:
        """The HTML body; as in Flask-Mail, it lives in ``alts`` under ``"html"``."""
        return self.alts.get("html")

    @html.setter
    def html(self, value: str | None) -> None:
        if value is None:
            self.alts.pop("html", None)
        else:
            self.alts["html"] = value

    @property
    def scheduled_time(self) -> Moment | None:
        """Another name of ``send_at``."""
        return self.send_at

    @scheduled_time.setter
    def scheduled_time(self, value: Moment | None) -> None:
        self.send_at = value

    @property
    def send_to(self) -> set[AddressLike]:
        """Everybody who is to get it, as they were written (Flask-Mail's name)."""
        return {*self.recipients, *self.cc, *self.bcc}

    def add_recipient(self, recipient: AddressLike) -> None:
        """Add somebody to ``recipients``."""
        self.recipients.append(recipient)

    def attach(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Data | None = None,
        disposition: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Attach a file; see :class:`~flask_deferred_mail.attachment.Attachment`."""
        self.attachments.append(Attachment(filename, content_type, data, disposition, headers))

    def inline(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Data | None = None,
        content_id: str | None = None,
    ) -> str:
        """Add an image that the HTML shows as ``<img src="cid:...">``.

        :param content_id: its name in the HTML, without angle brackets; made up if missing.
        :returns: the content id.
        """
        content_id = new_content_id() if content_id is None else content_id
        headers = {"Content-ID": f"<{content_id}>"}
        self.attachments.append(Attachment(filename, content_type, data, "inline", headers))
        return content_id

    def send(self, connection: _Connection) -> None:
        """Flask-Mail's other way round: ``message.send(connection)``."""
        connection.send(self)

    def render(
        self, env: jinja2.Environment, extra_context: Mapping[str, Any] | None = None
    ) -> Message:
        """A copy in which the template has been rendered; without a template, the message itself.

        The message does not change, so that one with a template can be sent again with another
        context. Neither template nor context is in the copy. Subject, body and HTML that the
        message has already win over the template's.

        :param extra_context: further variables; those of ``context`` win over them.
        :raises MessageError: no such template, or a name or language that cannot be one.
        """
        if self.template is None:
            return self
        context = {**(extra_context or {}), **(self.context or {})}
        rendered = render_template_message(env, self.template, context, self.language)
        copied = copy.copy(self)
        copied.template = copied.context = copied.language = None
        copied.alts = dict(self.alts)
        copied.subject = self.subject or rendered.subject
        if self.html is None:
            copied.html = rendered.html
        if self.body is None:
            copied.body = rendered.text
        return copied

    def check(self, defaults: Defaults) -> Submission:
        """The frozen letter of this message, everything in it checked.

        :raises MessageError: something in it cannot be mailed; names the field. Its subclasses
            are ``BadHeaderError``, ``AddressError`` and ``MessageTooLarge``.
        """
        return check(self, defaults)


def _refuse_reserved(mail_options: object, rcpt_options: object, mail_class: object) -> None:
    for name, value in (("mail_options", mail_options), ("rcpt_options", rcpt_options)):
        if value:
            raise MessageError(
                name,
                "ESMTP options are not taken from a message; SIZE, SMTPUTF8 and the like are set "
                "by the transport",
            )
    if mail_class is not None:
        raise NotYetAvailable("Message(mail_class=...) is a reserved name without a meaning yet")


def _one_of(send_at: Moment | None, scheduled_time: Moment | None) -> Moment | None:
    if send_at is not None and scheduled_time is not None:
        raise MessageError("scheduled_time", "is another name of send_at; give one of the two")
    return scheduled_time if send_at is None else send_at


def _alternatives(alts: Mapping[str, str] | Iterable[tuple[str, str]] | None) -> dict[str, str]:
    try:
        return dict(alts or ())
    except (TypeError, ValueError):
        raise MessageError(
            "alts", 'must be a mapping such as {"calendar": "BEGIN:VCALENDAR..."}, or its pairs'
        ) from None
