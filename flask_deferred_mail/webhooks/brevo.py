"""Reports of Brevo: JSON, one event each, not signed: a token or a login proves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .login import FIELDS, NEEDS, Login
from .reading import address, facts, mapping, number, reference_in, seconds, text, words
from .receiver import WebhookRequest, require_recent

#: Seconds. For how long Brevo repeats is not documented.
WINDOW = 72 * 3600.0

_KINDS: Mapping[str, tuple[EventKind, BounceType | None]] = {
    "request": (EventKind.ACCEPTED, None),
    "delivered": (EventKind.DELIVERED, None),
    "deferred": (EventKind.DEFERRED, None),
    "soft_bounce": (EventKind.BOUNCED, "soft"),
    "hard_bounce": (EventKind.BOUNCED, "hard"),
    "invalid_email": (EventKind.REJECTED, None),
    "blocked": (EventKind.REJECTED, None),
    "error": (EventKind.FAILED, None),
    "spam": (EventKind.COMPLAINED, None),
    "complaint": (EventKind.COMPLAINED, None),
    "unsubscribe": (EventKind.UNSUBSCRIBED, None),
    "unsubscribed": (EventKind.UNSUBSCRIBED, None),
    "opened": (EventKind.OPENED, None),
    "unique_opened": (EventKind.OPENED, None),
    "proxy_open": (EventKind.OPENED, None),
    "unique_proxy_open": (EventKind.OPENED, None),
    "click": (EventKind.CLICKED, None),
}


class Brevo:
    """Receives for one account."""

    fields: ClassVar[frozenset[str]] = FIELDS
    needs: ClassVar[tuple[frozenset[str], ...]] = NEEDS

    def __init__(self, spec: WebhookSpec) -> None:
        self._login = Login(spec)

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`."""
        self._login.require(request)
        body = mapping(request.json)
        # The other times of a report are in nobody knows which zone.
        moment = seconds(body.get("ts_epoch"), 0.001)
        if moment is not None:
            require_recent(moment, now, WINDOW)
        return (_event(body, moment),)


def _event(body: Mapping[str, Any], moment: float | None) -> TrackingEvent:
    word = text(body.get("event"))
    kind, bounce_type = _KINDS.get(word.lower(), (EventKind.OTHER, None))
    message_id = number(body.get("message-id"))
    recipient = address(body.get("email"))
    stamp = words(body.get("ts_epoch"), body.get("ts_event"))
    return TrackingEvent(
        kind=kind,
        recipient=recipient,
        message_id=message_id,
        event_id="|".join([word, message_id or "", recipient or "", stamp]),
        bounce_type=bounce_type,
        occurred_at=moment,
        reference=reference_in(body.get("X-Mailin-custom")),
        own_message_id=message_id,
        detail=text(body.get("reason")),
        data=facts(word=word, url=body.get("link"), tags=body.get("tags")),
    )
