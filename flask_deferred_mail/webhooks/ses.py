"""Reports of Amazon SES, which come through SNS: as notifications, or by event publishing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .reading import (
    address,
    addresses,
    facts,
    iso_time,
    items,
    mapping,
    number,
    numbered_tags,
    reference_in,
    text,
    words,
)
from .receiver import WebhookRequest
from .sns import Envelopes

#: The event's word -> what it means, the part of the message that tells more, and the list of the
#: recipients there. Without such a list it is about all of the mail's.
_KINDS: Mapping[str, tuple[EventKind, str, str]] = {
    "Send": (EventKind.ACCEPTED, "send", ""),
    "Delivery": (EventKind.DELIVERED, "delivery", "recipients"),
    "DeliveryDelay": (EventKind.DEFERRED, "deliveryDelay", "delayedRecipients"),
    "Bounce": (EventKind.BOUNCED, "bounce", "bouncedRecipients"),
    "Complaint": (EventKind.COMPLAINED, "complaint", "complainedRecipients"),
    "Reject": (EventKind.REJECTED, "reject", ""),
    "Rendering Failure": (EventKind.FAILED, "failure", ""),
    "Open": (EventKind.OPENED, "open", ""),
    "Click": (EventKind.CLICKED, "click", ""),
    "Subscription": (EventKind.UNSUBSCRIBED, "subscription", ""),
}
#: What one recipient did, though the report lists all of them.
_BY_ONE = frozenset({EventKind.OPENED, EventKind.CLICKED, EventKind.UNSUBSCRIBED, EventKind.OTHER})
_LISTED = frozenset({"Suppressed", "OnAccountSuppressionList"})


class Ses:
    """Receives for some topics."""

    fields: ClassVar[frozenset[str]] = frozenset({"topics"})
    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"topics"}),)

    def __init__(self, spec: WebhookSpec) -> None:
        self.envelopes = Envelopes(spec.topics)

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`. Confirms a subscription to a topic of ours."""
        opened = self.envelopes.open(request, now)
        if opened is None:
            return ()
        event_id, message = opened
        return tuple(_events(message, event_id))


def _events(message: Mapping[str, Any], event_id: str) -> Iterable[TrackingEvent]:
    mail = mapping(message.get("mail"))
    if not mail:
        return
    word = words(message.get("eventType"), message.get("notificationType"))
    kind, part_name, list_name = _KINDS.get(word, (EventKind.OTHER, "", ""))
    about = mapping(message.get(part_name))
    bounce_type: BounceType | None = None
    if kind is EventKind.BOUNCED:
        kind, bounce_type = _bounced(about)
    among = addresses(mail.get("destination"))
    for part, (recipient, detail) in enumerate(_recipients(about, list_name, among, kind)):
        yield TrackingEvent(
            kind=kind,
            recipient=recipient,
            message_id=number(mail.get("messageId")),
            event_id=event_id,
            bounce_type=bounce_type,
            part=part,
            occurred_at=iso_time(about.get("timestamp")) or iso_time(mail.get("timestamp")),
            reference=reference_in(mail.get("tags")),
            detail=detail or _words(about),
            among=among,
            data=facts(
                word=word,
                url=about.get("link"),
                code=about.get("bounceSubType"),
                tags=numbered_tags(mail.get("tags")),
                metadata=_metadata(mail.get("tags")),
                ip=about.get("ipAddress"),
            ),
        )


def _bounced(bounce: Mapping[str, Any]) -> tuple[EventKind, BounceType | None]:
    if text(bounce.get("bounceSubType")) in _LISTED:
        return EventKind.REJECTED, None
    permanent = text(bounce.get("bounceType")) == "Permanent"
    return EventKind.BOUNCED, "hard" if permanent else "soft"


def _recipients(
    about: Mapping[str, Any], list_name: str, among: tuple[str, ...], kind: EventKind
) -> list[tuple[str | None, str]]:
    """Whom it is about, each with the words of his server."""
    listed: list[tuple[str | None, str]] = []
    for entry in items(about.get(list_name)) if list_name else ():
        named = mapping(entry)
        found = address(named.get("emailAddress") if named else entry)
        if found is not None:
            listed.append((found, words(named.get("diagnosticCode"), named.get("status"))))
    if listed:
        return listed
    if kind in _BY_ONE and len(among) != 1:
        return [(None, "")]
    return [(one, "") for one in among] or [(None, "")]


def _words(about: Mapping[str, Any]) -> str:
    return words(
        about.get("smtpResponse"),
        about.get("errorMessage"),
        about.get("reason"),
        about.get("complaintFeedbackType"),
        about.get("delayType"),
    )


def _metadata(tags: Any) -> dict[str, str]:
    return {str(name): words(*items(value)) for name, value in mapping(tags).items()}
