"""Reports of SendCloud: a form (its probes are JSON), signed over timestamp and token only.

Since the signature does not cover what is said, a token is good for one report: another one with
the same token is taken for a repeat, whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from ..tracking import BounceType, EventKind, TrackingEvent
from ..webhook_spec import WebhookSpec
from .reading import address, facts, items, mapping, number, reference_in, seconds, text, words
from .receiver import Refused, WebhookRequest, any_same, hmac_sha256, require_recent

#: Seconds. SendCloud repeats for some hours, and it is not known whether it signs anew each time.
WINDOW = 24 * 3600.0

_KINDS = {
    "request": EventKind.ACCEPTED,
    "deliver": EventKind.DELIVERED,
    "delivered": EventKind.DELIVERED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "report_spam": EventKind.COMPLAINED,
    "spam-report": EventKind.COMPLAINED,
    "invalid": EventKind.BOUNCED,
    "invalid_email": EventKind.BOUNCED,
    "soft_bounce": EventKind.BOUNCED,
}
#: Mail that came in: not about a mail of ours.
_IGNORED = frozenset({"route"})

#: Sub-status of what was bounced that means: SendCloud, or a filter, did not want it.
_REFUSED_CODES = frozenset({"401", "402", "405", "407", "408", "507"})
_SERVER_NOT_REACHED = "403"


class Sendcloud:
    """Receives for one API user."""

    fields: ClassVar[frozenset[str]] = frozenset({"key"})
    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"key"}),)

    def __init__(self, spec: WebhookSpec) -> None:
        self._keys = spec.key

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """See :class:`.receiver.Receiver`. Unsigned probes are answered, and say nothing."""
        if request.method == "GET":
            return ()
        form = _form(request)
        if _is_probe(request, form):
            return ()
        stamp, token = str(form.get("timestamp", "")), str(form.get("token", ""))
        expected = [hmac_sha256(key, stamp + token).hex() for key in self._keys]
        if not token or not any_same(str(form.get("signature", "")), expected):
            raise Refused("its signature is not that of SendCloud")
        moment = seconds(stamp, 0.001 if len(stamp) >= 13 else 1.0)
        require_recent(moment, now, WINDOW)
        return tuple(_events(form, token, moment))


def _form(request: WebhookRequest) -> Mapping[str, Any]:
    if "json" in request.header("content-type"):
        return mapping(request.json)
    try:
        return dict(parse_qsl(request.body.decode("utf-8"), keep_blank_values=True))
    except ValueError:
        raise Refused("the body is not a form", 400) from None


def _is_probe(request: WebhookRequest, form: Mapping[str, Any]) -> bool:
    """What SendCloud sends when the URL is saved: JSON, or nothing, and never a signature."""
    unsigned = not form.get("signature") and not form.get("token")
    return unsigned and (not request.body or "json" in request.header("content-type"))


def _events(form: Mapping[str, Any], token: str, moment: float | None) -> list[TrackingEvent]:
    word = text(form.get("event")).lower()
    if word in _IGNORED:
        return []
    kind, bounce_type = _meaning(word, form)
    return [
        TrackingEvent(
            kind=kind,
            recipient=recipient,
            message_id=message_id,
            event_id=token,
            bounce_type=bounce_type,
            part=part,
            occurred_at=moment,
            reference=reference_in(form.get("userHeaders")),
            detail=words(form.get("cause"), form.get("message"), form.get("subStatDesc")),
            data=facts(
                word=word,
                url=form.get("url"),
                tags=[form.get("labelName")],
                code=_code(form),
                ip=form.get("ip"),
            ),
        )
        for part, (recipient, message_id) in enumerate(_recipients(form))
    ]


def _meaning(word: str, form: Mapping[str, Any]) -> tuple[EventKind, BounceType | None]:
    kind = _KINDS.get(word, EventKind.OTHER)
    if kind is not EventKind.BOUNCED:
        return kind, None
    code = _code(form)
    if code in _REFUSED_CODES:
        return EventKind.REJECTED, None
    soft = word == "soft_bounce" or code == _SERVER_NOT_REACHED
    return EventKind.BOUNCED, "soft" if soft else "hard"


def _code(form: Mapping[str, Any]) -> str:
    return words(form.get("subStat"), form.get("substat"))


def _recipients(form: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    """Address and number of everybody that a report is about: of a request, all at once."""
    ids = [number(item) for item in _array(form.get("emailIds"))]
    found = [address(item) for item in _array(form.get("recipientArray"))]
    if not ids and not found:
        return [(address(form.get("recipient")), number(form.get("emailId")))]
    whole = text(form.get("messageId"))
    if not found:
        found = [address((one or "").rpartition("$")[2]) for one in ids]
    if len(ids) != len(found):
        # As the answer to our request would have made them.
        ids = [number(f"{whole}{i}${one}") if whole else None for i, one in enumerate(found)]
    return list(zip(found, ids, strict=True))


def _array(value: Any) -> list[Any]:
    """A JSON array, or the text of one."""
    if isinstance(value, str):
        try:
            value = WebhookRequest("", {}, value.encode("utf-8", "surrogatepass")).json
        except Refused:
            return []
    return items(value)
