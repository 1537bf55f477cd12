"""Reports of Postmark: JSON, one event each, not signed: a login or a header proves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .login import FIELDS, NEEDS, Login
from .reading import address, facts, iso_time, mapping, number, reference_in, text, words
from .receiver import WebhookRequest, require_recent

#: Seconds. Postmark repeats for about eleven hours.
WINDOW = 24 * 3600.0

_KINDS = {
    "Delivery": EventKind.DELIVERED,
    "SpamComplaint": EventKind.COMPLAINED,
    "Open": EventKind.OPENED,
    "Click": EventKind.CLICKED,
}
_BOUNCES: Mapping[str, tuple[EventKind, BounceType | None]] = {
    "HardBounce": (EventKind.BOUNCED, "hard"),
    "BadEmailAddress": (EventKind.BOUNCED, "hard"),
    "SoftBounce": (EventKind.BOUNCED, "soft"),
    "Transient": (EventKind.DEFERRED, None),
    "DnsError": (EventKind.DEFERRED, None),
    "Blocked": (EventKind.REJECTED, None),
    "DMARCPolicy": (EventKind.REJECTED, None),
    "ManuallyDeactivated": (EventKind.REJECTED, None),
    "SpamNotification": (EventKind.COMPLAINED, None),
    "SpamComplaint": (EventKind.COMPLAINED, None),
    "Unsubscribe": (EventKind.UNSUBSCRIBED, None),
}
#: Why an address is not mailed any more, where that is no wish of its owner.
_SUPPRESSED: Mapping[str, tuple[EventKind, BounceType | None]] = {
    "HardBounce": (EventKind.BOUNCED, "hard"),
    "SpamComplaint": (EventKind.COMPLAINED, None),
}
_TIMES = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")


class Postmark:
    """Receives for one server."""

    fields: ClassVar[frozenset[str]] = FIELDS
    needs: ClassVar[tuple[frozenset[str], ...]] = NEEDS

    def __init__(self, spec: WebhookSpec) -> None:
        self._login = Login(spec)

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`."""
        self._login.require(request)
        body = mapping(request.json)
        moment = next((m for name in _TIMES if (m := iso_time(body.get(name)))), None)
        if moment is not None:
            require_recent(moment, now, WINDOW)
        return (_event(body, moment),)


def _event(body: Mapping[str, Any], moment: float | None) -> TrackingEvent:
    kind, bounce_type = _meaning(body)
    message_id = number(body.get("MessageID"))
    recipient = address(words(body.get("Recipient"), body.get("Email")))
    record = text(body.get("RecordType"))
    number_ = text(body.get("ID"))
    stamp = f"{moment or 0:.6f}"
    names = [record, text(body.get("Type")), number_, message_id, recipient, stamp]
    # Only bounces have a number of their own, and a complaint may have that of a bounce.
    has_own = record == "Bounce" and number_ not in ("", "0")
    return TrackingEvent(
        kind=kind,
        recipient=recipient,
        message_id=message_id,
        event_id=number_ if has_own else "|".join(name or "" for name in names),
        bounce_type=bounce_type,
        occurred_at=moment,
        reference=reference_in(body.get("Metadata")),
        detail=words(body.get("Details"), body.get("Description"), body.get("Name")),
        data=facts(
            word=" ".join(filter(None, (record, text(body.get("Type"))))),
            url=body.get("OriginalLink"),
            tags=[body.get("Tag")],
        ),
    )


def _meaning(body: Mapping[str, Any]) -> tuple[EventKind, BounceType | None]:
    record = text(body.get("RecordType"))
    if record == "Bounce":
        return _BOUNCES.get(text(body.get("Type")), (EventKind.OTHER, None))
    if record == "SubscriptionChange":
        if body.get("SuppressSending") is not True:
            return EventKind.OTHER, None
        reason = text(body.get("SuppressionReason"))
        return _SUPPRESSED.get(reason, (EventKind.UNSUBSCRIBED, None))
    return _KINDS.get(record, EventKind.OTHER), None
