"""Reports of Resend: JSON, signed as Svix does it, over number, time and body."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .reading import (
    addresses,
    facts,
    iso_time,
    mapping,
    number,
    numbered_tags,
    reference_in,
    seconds,
    text,
    words,
)
from .receiver import (
    Refused,
    WebhookRequest,
    any_same,
    from_base64,
    hmac_sha256,
    require_recent,
)

#: Seconds. Each repeat is signed anew.
WINDOW = 300.0

_KINDS = {
    "email.sent": EventKind.ACCEPTED,
    "email.scheduled": EventKind.ACCEPTED,
    "email.delivered": EventKind.DELIVERED,
    "email.delivery_delayed": EventKind.DEFERRED,
    "email.bounced": EventKind.BOUNCED,
    "email.complained": EventKind.COMPLAINED,
    "email.opened": EventKind.OPENED,
    "email.clicked": EventKind.CLICKED,
    "email.failed": EventKind.FAILED,
    "email.suppressed": EventKind.REJECTED,
}
#: Not about a mail of ours.
_IGNORED = ("email.received", "domain.", "contact.")
_PREFIX = "whsec_"


class Resend:
    """Receives for one endpoint, by its signing secret."""

    fields: ClassVar[frozenset[str]] = frozenset({"key"})
    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"key"}),)

    def __init__(self, spec: WebhookSpec) -> None:
        self._keys = [_secret(key) for key in spec.key]

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`."""
        event_id, stamp = request.header("svix-id"), request.header("svix-timestamp")
        signed = f"{event_id}.{stamp}.".encode() + request.body
        expected = [base64.b64encode(hmac_sha256(key, signed)) for key in self._keys]
        # Several signatures while a secret is exchanged, of several versions.
        given = [s[3:] for s in request.header("svix-signature").split()[:20] if s[:3] == "v1,"]
        fits = any(any_same(signature, expected) for signature in given)
        if not fits or not event_id:
            raise Refused("its signature is not that of Resend")
        require_recent(seconds(stamp), now, WINDOW)
        body = mapping(request.json)
        if text(body.get("type")).startswith(_IGNORED):
            return ()
        return (_event(body, text(event_id)),)


def _secret(key: str) -> bytes:
    secret = from_base64(key.removeprefix(_PREFIX))
    if not secret:
        raise ValueError("'key' is not a signing secret of Resend (whsec_... in base64)")
    return secret


def _event(body: Mapping[str, Any], event_id: str) -> TrackingEvent:
    data = mapping(body.get("data"))
    bounce = mapping(data.get("bounce"))
    word = text(body.get("type"))
    kind = _KINDS.get(word, EventKind.OTHER)
    bounce_type: BounceType | None = None
    if kind is EventKind.BOUNCED:
        bounce_type = "hard" if text(bounce.get("type")) == "Permanent" else "soft"
    among = addresses(data.get("to"))
    return TrackingEvent(
        kind=kind,
        # These are all of To. Resend tells neither which of them it is about, nor of Cc and Bcc.
        recipient=among[0] if len(among) == 1 else None,
        by_heading=True,
        message_id=number(data.get("email_id")),
        event_id=event_id,
        bounce_type=bounce_type,
        occurred_at=iso_time(body.get("created_at")),
        reference=reference_in(data.get("tags")),
        detail=words(bounce.get("message"), mapping(data.get("failed")).get("reason")),
        among=among,
        data=facts(
            word=word,
            url=mapping(data.get("click")).get("link"),
            tags=numbered_tags(data.get("tags")),
            metadata=data.get("tags"),
        ),
    )
