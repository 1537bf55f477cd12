"""The envelope in which Amazon's SNS posts what SES reports: who signed it, and for which topic.

Anybody can point a topic of his own at our URL, and SNS signs that just as well. So a report counts
only for a topic that the application has named.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from . import aws_fetch
from .aws_fetch import Certificates, is_of_sns, region_of
from .reading import iso_time, mapping, text
from .receiver import Refused, WebhookRequest, from_base64, require_recent
from .signatures import is_signed_by_rsa, require_library

log = logging.getLogger("flask_deferred_mail.webhooks")

#: Seconds. SNS repeats for an hour at most, with the signature of the first time.
WINDOW = 2 * 3600.0

_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}
_SIGNED["UnsubscribeConfirmation"] = _SIGNED["SubscriptionConfirmation"]


_FILE = re.compile(r"https://[a-z0-9.-]+/[A-Za-z0-9_-]+\.pem")


class Envelopes:
    """Opens envelopes of some topics."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        """:raises ValueError: one of them is not the name (ARN) of a topic."""
        require_library()
        if any(region_of(topic) is None for topic in topics):
            raise ValueError("'topics' has something else than ARNs (arn:aws:sns:REGION:ID:NAME)")
        self._topics = frozenset(topics)
        self.certificates = Certificates()

    def open(self, request: WebhookRequest, now: float) -> tuple[str, Mapping[str, Any]] | None:
        """Number of a notification, and its message if that is a JSON object (else empty).

        ``None``: it was about the subscription itself, and has been seen to.

        :raises Refused: it is of another topic, or not signed by SNS.
        """
        envelope = mapping(request.json)
        kind, topic = envelope.get("Type"), envelope.get("TopicArn")
        if not isinstance(kind, str) or kind not in _SIGNED or not isinstance(topic, str):
            raise Refused("it is no message of SNS (raw message delivery has no signature)")
        if topic not in self._topics:
            raise Refused("its topic is not among those of DEFERRED_MAIL_WEBHOOKS")
        require_recent(iso_time(envelope.get("Timestamp")), now, WINDOW)
        self._require_signature(envelope, kind, topic)
        if kind != "Notification":
            self._about_subscription(envelope, kind, topic)
            return None
        return text(envelope.get("MessageId")), _message(envelope)

    def _require_signature(self, envelope: Mapping[str, Any], kind: str, topic: str) -> None:
        url, signature = envelope.get("SigningCertURL"), envelope.get("Signature")
        if not isinstance(url, str) or not isinstance(signature, str):
            raise Refused("it is not signed")
        # A file there, and nothing that the API of SNS would answer under the same name.
        if not is_of_sns(url, topic) or not _FILE.fullmatch(url):
            raise Refused("its certificate is not one of SNS")
        key = self.certificates.key(url)
        version = text(envelope.get("SignatureVersion"))
        raw = from_base64(signature)
        if not raw or not is_signed_by_rsa(key, raw, string_to_sign(envelope, kind), version):
            raise Refused("its signature is not that of SNS")

    def _about_subscription(self, envelope: Mapping[str, Any], kind: str, topic: str) -> None:
        if kind == "UnsubscribeConfirmation":
            log.warning("the topic %s was unsubscribed from this webhook", topic)
            return
        url = envelope.get("SubscribeURL")
        if not isinstance(url, str) or not is_of_sns(url, topic) or not url.isprintable():
            raise Refused("the URL to confirm the subscription is not one of SNS")
        try:
            aws_fetch.fetch(url)
        except OSError as error:
            raise Refused(
                f"the subscription could not be confirmed ({type(error).__name__})", 503
            ) from error
        log.info("the subscription to the topic %s is confirmed", topic)


def string_to_sign(envelope: Mapping[str, Any], kind: str) -> bytes:
    """What the signature of an envelope is over."""
    lines = []
    for name in _SIGNED[kind]:
        value = envelope.get(name)
        if isinstance(value, str):
            lines.append(f"{name}\n{value}\n")
    return "".join(lines).encode("utf-8", "surrogatepass")


def _message(envelope: Mapping[str, Any]) -> Mapping[str, Any]:
    message = envelope.get("Message")
    if not isinstance(message, str):
        return {}
    try:
        return mapping(WebhookRequest("", {}, message.encode("utf-8", "surrogatepass")).json)
    except Refused:
        # "Successfully validated SNS topic ...": words for people.
        return {}
