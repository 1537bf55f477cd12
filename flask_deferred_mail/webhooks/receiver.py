"""The contract of a webhook: a request in, events out, or a refusal.

A receiver checks first that the request comes from the provider (on the raw bytes, in constant
time), then that it is not an old one, and only then reads what it says.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ..tracking import TrackingEvent
from ..webhook_spec import WebhookSpec

#: Bytes of a report that are read; providers send far less.
LARGEST = 1_000_000

#: Seconds by which a provider's clock, and ours, may be ahead.
CLOCKS_APART = 300.0


class Refused(Exception):
    """The request is not taken. The text says why, and holds no secret; ``status`` is the answer's.

    A provider tries again what is refused, unless its own receiver says with which status it stops.
    """

    def __init__(self, why: str, status: int = 403) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """What came in. ``headers`` have lower-case names."""

    method: str
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header; empty if there is none."""
        return self.headers.get(name.lower(), "")

    @property
    def json(self) -> Any:
        """The body as JSON.

        :raises Refused: it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Refused("the body is not JSON", 400) from None


class Receiver(Protocol):
    """Takes in what one provider reports."""

    #: Fields of DEFERRED_MAIL_WEBHOOKS that it can use, and sets of which one must be there whole.
    fields: ClassVar[frozenset[str]]
    needs: ClassVar[tuple[frozenset[str], ...]]

    def __init__(self, spec: WebhookSpec) -> None:
        """Made once; connects to nothing.

        :raises ValueError: a field cannot be what it says; the text names it and no value.
        """

    def read(self, request: WebhookRequest, now: float) -> tuple[TrackingEvent, ...]:
        """What a request says; empty if it is only a probe. ``now``: seconds since the epoch.

        :raises Refused: it is not the provider's, is too old, or cannot be read.
        """


def same(given: str | bytes, expected: str | bytes) -> bool:
    """Whether two texts are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(_bytes(given), _bytes(expected))


def any_same(given: str | bytes, expected: Iterable[str | bytes]) -> bool:
    """:func:`same` for one of several; all of them are looked at."""
    found = False
    for one in expected:
        found |= same(given, one)
    return found


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def hmac_sha256(key: str | bytes, message: str | bytes) -> bytes:
    return hmac.digest(_bytes(key), _bytes(message), "sha256")


def from_base64(text: str) -> bytes | None:
    """What base64 text stands for; ``None`` if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def require_recent(moment: float | None, now: float, window: float, status: int = 403) -> None:
    """Refuse what was signed more than ``window`` seconds ago, in the future, or at no time.

    :raises Refused: it was.
    """
    if moment is None:
        raise Refused("its time cannot be read", status)
    if moment < now - window:
        raise Refused("it is too old: somebody may be repeating what was sent before", status)
    if moment > now + CLOCKS_APART:
        raise Refused("it is from the future: is one of the clocks wrong?", status)
