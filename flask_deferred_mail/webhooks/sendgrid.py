"""Reports of SendGrid: a JSON array, signed with a key pair (ECDSA) over time and body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .reading import address, facts, items, mapping, number, reference_in, seconds, text, words
from .receiver import Refused, WebhookRequest, from_base64, require_recent
from .signatures import is_signed_by, public_key

#: Seconds. SendGrid repeats for a day, and it is not known whether it signs anew each time.
WINDOW = 25 * 3600.0

_HEADER = "x-twilio-email-event-webhook-"
_KINDS = {
    "processed": EventKind.ACCEPTED,
    "deferred": EventKind.DEFERRED,
    "delivered": EventKind.DELIVERED,
    "bounce": EventKind.BOUNCED,
    "dropped": EventKind.REJECTED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "spamreport": EventKind.COMPLAINED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "group_unsubscribe": EventKind.UNSUBSCRIBED,
}


class Sendgrid:
    """Receives for one account, by the public key of its Signed Event Webhook."""

    fields: ClassVar[frozenset[str]] = frozenset({"key"})
    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"key"}),)

    def __init__(self, spec: WebhookSpec) -> None:
        self._keys = [public_key(key) for key in spec.key]

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`."""
        stamp = request.header(f"{_HEADER}timestamp")
        signature = from_base64(request.header(f"{_HEADER}signature"))
        signed = stamp.encode() + request.body
        if not signature or not any(is_signed_by(key, signature, signed) for key in self._keys):
            raise Refused("its signature is not that of SendGrid")
        require_recent(seconds(stamp), now, WINDOW)
        return tuple(_event(mapping(item)) for item in items(request.json) if mapping(item))


def _event(event: Mapping[str, Any]) -> TrackingEvent:
    word = text(event.get("event")).lower()
    kind = _KINDS.get(word, EventKind.OTHER)
    bounce_type: BounceType | None = None
    if kind is EventKind.BOUNCED:
        # What was blocked may pass another time: SendGrid does not put it on its list either.
        bounce_type = "soft" if text(event.get("type")) == "blocked" else "hard"
    recipient = address(event.get("email"))
    # The answer to our request had the part before the first dot.
    message_id = number(text(event.get("sg_message_id")).partition(".")[0])
    category = event.get("category")
    composed = "|".join([word, message_id or "", recipient or "", text(event.get("timestamp"))])
    return TrackingEvent(
        kind=kind,
        recipient=recipient,
        message_id=message_id,
        event_id=text(event.get("sg_event_id")) or composed,
        bounce_type=bounce_type,
        occurred_at=seconds(event.get("timestamp")),
        # Metadata stands among the fields of the event itself.
        reference=reference_in(event),
        own_message_id=number(event.get("smtp-id")),
        detail=words(event.get("reason"), event.get("response")),
        data=facts(
            word=word,
            url=event.get("url"),
            tags=category if isinstance(category, list) else [category],
            code=event.get("status"),
            ip=event.get("ip"),
        ),
    )
