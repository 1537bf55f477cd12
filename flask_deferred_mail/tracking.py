"""What a provider reports of a mail that it took, and what that says of a recipient.

Reports come late, twice and in any order. So what one of them says is held against what is known
already: a status only ever moves towards the weightier one (complained, bounced, delivered,
deferred, sent), and it is the same in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from .job import JobRecipient, RecipientStatus

BounceType = Literal["hard", "soft"]


class EventKind(StrEnum):
    """What a provider reports, in words that are the same for all of them."""

    #: The provider took the mail and will try to deliver it.
    ACCEPTED = "accepted"
    #: The recipient's server took it.
    DELIVERED = "delivered"
    #: The recipient's server put it off; the provider tries again.
    DEFERRED = "deferred"
    #: It came back; ``bounce_type`` says whether it is worth another mail (``soft``).
    BOUNCED = "bounced"
    #: The recipient called it spam.
    COMPLAINED = "complained"
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    #: The provider does not even try: the address is on its own list, or the content is refused.
    REJECTED = "rejected"
    #: The provider could not send it: a template that cannot be rendered, a quota.
    FAILED = "failed"
    #: Something that has no word here.
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TrackingEvent:
    """One report about one recipient of one mail. Texts are cleaned and capped."""

    kind: EventKind
    #: The recipient; ``None``: the provider does not say which of ``among``.
    recipient: str | None
    #: The provider's number of the mail, as the answer to our request had it.
    message_id: str | None
    #: The provider's number of the report; the same one comes twice.
    event_id: str
    bounce_type: BounceType | None = None
    #: Place in its report, where one report tells of several recipients under one number.
    part: int = 0
    #: The provider does not say whom it is about: ``recipient`` is the only one in To.
    by_heading: bool = False
    #: When it happened, by the provider's clock; seconds since the epoch.
    occurred_at: float | None = None
    #: What our request said of the mail (:mod:`.reference`), if the provider gave it back.
    reference: str | None = None
    #: Our Message-ID, where the provider tells it beside its own number.
    own_message_id: str | None = None
    #: Words about it: the server's reply, a reason.
    detail: str = ""
    #: The recipients of the request that the mail was part of, where the provider lists them.
    among: tuple[str, ...] = ()
    #: Name of the transport (or of the entry of DEFERRED_MAIL_WEBHOOKS) that it came in for.
    transport: str = ""
    #: Further facts: the provider's own word, ``url``, ``tags``.
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


_KIND_TO_STATUS = {
    EventKind.ACCEPTED: RecipientStatus.SENT,
    EventKind.DELIVERED: RecipientStatus.DELIVERED,
    EventKind.DEFERRED: RecipientStatus.DEFERRED,
    EventKind.BOUNCED: RecipientStatus.BOUNCED,
    EventKind.COMPLAINED: RecipientStatus.COMPLAINED,
    # Who opened it has it; whether the server's word will come as well, nobody knows.
    EventKind.OPENED: RecipientStatus.SENT,
    EventKind.CLICKED: RecipientStatus.SENT,
    EventKind.UNSUBSCRIBED: RecipientStatus.SENT,
    EventKind.REJECTED: RecipientStatus.REJECTED,
    EventKind.FAILED: RecipientStatus.FAILED,
}

#: The weightier one stays. A refusal by the provider weighs more than its promise to try, and less
#: than the word of the recipient's own server.
_WEIGHT = {
    RecipientStatus.SENT: 0,
    RecipientStatus.DEFERRED: 1,
    RecipientStatus.REJECTED: 2,
    RecipientStatus.FAILED: 2,
    RecipientStatus.DELIVERED: 3,
    RecipientStatus.BOUNCED: 4,
    RecipientStatus.COMPLAINED: 5,
}

_UNDECIDED = (RecipientStatus.UNKNOWN, RecipientStatus.PENDING)
_REFUSALS = (EventKind.REJECTED, EventKind.FAILED)


def about(event: TrackingEvent, recipients: tuple[JobRecipient, ...]) -> TrackingEvent:
    """The report as far as it goes, now that its mail is known.

    If somebody in Cc or Bcc got the same mail as the only one in To, it may be about any of them;
    and what shows that one of them was accepted, shows it of all who were in that call.
    """
    if not event.by_heading or event.recipient is None:
        return event
    if len(recipients) == 1 or all(entry.kind == "to" for entry in recipients):
        return event
    doubts = {entry.doubt for entry in recipients if is_for(event, entry.address)} - {None}
    others = (entry.address for entry in recipients if entry.doubt in doubts)
    among = dict.fromkeys((*event.among, *others))
    return replace(event, recipient=None, among=tuple(among))


def after_event(
    recipients: tuple[JobRecipient, ...], event: TrackingEvent, moment: float, since: float
) -> tuple[JobRecipient, ...]:
    """The recipients after a report.

    ``moment`` is when it happened (or came in), ``since`` when a person last let the mail go once
    more (0: nobody has). A report of something before that is of a copy before: whoever is to get
    the mail since then still is.
    """
    fresh = moment >= since
    if event.recipient is None and len(recipients) == 1:
        event = replace(event, recipient=recipients[0].address)
    return tuple(_after(entry, event, fresh) for entry in recipients)


def _after(entry: JobRecipient, event: TrackingEvent, fresh: bool) -> JobRecipient:
    if not is_for(event, entry.address):
        return _among_others(entry, event, fresh)
    status = _KIND_TO_STATUS.get(event.kind)
    if status is None or entry.status is RecipientStatus.SUPPRESSED:
        return entry
    if entry.status in _UNDECIDED:
        return _settled(entry, status, event) if fresh else entry
    return _settled(entry, status, event) if _WEIGHT[status] > _WEIGHT[entry.status] else entry


def _among_others(entry: JobRecipient, event: TrackingEvent, fresh: bool) -> JobRecipient:
    """One request took them all: what reports of one, shows that the others were accepted too."""
    shown = event.kind in _KIND_TO_STATUS and event.kind not in _REFUSALS
    if shown and fresh and entry.status in _UNDECIDED and _listed(entry.address, event.among):
        return replace(
            entry, status=RecipientStatus.SENT, detail="", provider_message_id=event.message_id
        )
    return entry


def _settled(entry: JobRecipient, status: RecipientStatus, event: TrackingEvent) -> JobRecipient:
    return replace(
        entry,
        status=status,
        detail=event.detail,
        provider_message_id=entry.provider_message_id or event.message_id,
        doubt=None,
        doubted_at=None,
    )


def is_for(event: TrackingEvent, address: str) -> bool:
    """Whether the event tells of this recipient. Case is ignored: providers change it."""
    return event.recipient is not None and _listed(address, (event.recipient,))


def _listed(address: str, among: Iterable[str]) -> bool:
    return address.lower() in (other.lower() for other in among)
