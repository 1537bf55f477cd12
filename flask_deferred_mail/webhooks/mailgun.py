"""Reports of Mailgun: JSON, signed over timestamp and token only.

Since the signature does not cover what is said, a token is good for one report: another one with
the same token is taken for a repeat, whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .reading import address, facts, mapping, number, reference_in, seconds, text, words
from .receiver import Refused, WebhookRequest, any_same, hmac_sha256, require_recent

#: Seconds. Mailgun repeats for eight hours, and it is not known whether it signs anew each time.
WINDOW = 12 * 3600.0

#: With this status Mailgun does not try again.
NOT_AGAIN = 406

_KINDS = {
    "accepted": EventKind.ACCEPTED,
    "delivered": EventKind.DELIVERED,
    "opened": EventKind.OPENED,
    "clicked": EventKind.CLICKED,
    "complained": EventKind.COMPLAINED,
    "unsubscribed": EventKind.UNSUBSCRIBED,
    "rejected": EventKind.REJECTED,
}
#: Mailgun's own codes for an address that is on one of its lists.
_LISTED_CODES = frozenset({"605", "606", "607", "625"})


class Mailgun:
    """Receives for one account, by its webhook signing key."""

    fields: ClassVar[frozenset[str]] = frozenset({"key"})
    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"key"}),)

    def __init__(self, spec: WebhookSpec) -> None:
        self._keys = spec.key

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`."""
        body = mapping(request.json)
        signature = mapping(body.get("signature"))
        stamp, token = text(signature.get("timestamp")), text(signature.get("token"))
        expected = [hmac_sha256(key, stamp + token).hex() for key in self._keys]
        if not token or not any_same(text(signature.get("signature")), expected):
            raise Refused("its signature is not that of Mailgun", NOT_AGAIN)
        require_recent(seconds(stamp), now, WINDOW, NOT_AGAIN)
        event = mapping(body.get("event-data"))
        return (_event(event, token),) if event else ()


def _event(event: Mapping[str, Any], token: str) -> TrackingEvent:
    status = mapping(event.get("delivery-status"))
    headers = mapping(mapping(event.get("message")).get("headers"))
    kind, bounce_type = _meaning(event, text(status.get("code")))
    number_ = number(headers.get("message-id"))
    message_id = None if number_ is None else f"<{number_.strip('<>')}>"
    return TrackingEvent(
        kind=kind,
        recipient=address(event.get("recipient")),
        message_id=message_id,
        event_id=token,
        bounce_type=bounce_type,
        occurred_at=seconds(event.get("timestamp")),
        reference=reference_in(event.get("user-variables")),
        own_message_id=message_id,
        detail=words(
            status.get("message"),
            status.get("description"),
            mapping(event.get("reject")).get("reason"),
            event.get("reason"),
        ),
        data=facts(
            word=event.get("event"),
            url=event.get("url"),
            tags=event.get("tags"),
            code=status.get("code"),
            ip=event.get("ip"),
        ),
    )


def _meaning(event: Mapping[str, Any], code: str) -> tuple[EventKind, BounceType | None]:
    word = text(event.get("event")).lower()
    if word != "failed":
        return _KINDS.get(word, EventKind.OTHER), None
    if text(event.get("severity")) == "temporary":
        return EventKind.DEFERRED, None
    if code in _LISTED_CODES or text(event.get("reason")).startswith("suppress-"):
        return EventKind.REJECTED, None
    return EventKind.BOUNCED, "hard"
