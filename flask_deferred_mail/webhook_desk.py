"""Where reports of providers come in: proven, read, stored, answered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .cleaning import clean
from .delivery.tracking import Tracking
from .errors import StoreError
from .webhook_spec import WebhookSpec
from .webhooks import registry
from .webhooks.receiver import Receiver, Refused, WebhookRequest

log = logging.getLogger("flask_deferred_mail.webhooks")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the provider is answered. The text is for whoever looks at the provider's log."""

    status: int
    text: str


class WebhookDesk:
    """Takes in what is posted to one app. Safe for threads."""

    def __init__(
        self,
        specs: Mapping[str, WebhookSpec],
        tracking: Callable[[], Tracking],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._specs = specs
        self._tracking = tracking
        #: Seconds since the epoch: a report must not be too old.
        self.clock = clock
        self._receivers: dict[str, Receiver] = {}
        self._lock = threading.Lock()

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def take(self, name: str, request: WebhookRequest) -> Reply:
        """Take in one request for the webhook of that name.

        What is not proven is refused; if it cannot be stored the provider is to come again.
        """
        if name not in self._specs:
            return Reply(404, "no webhook is configured under this name")
        try:
            events = self._receiver(name).read(request, self.clock())
        except Refused as refused:
            log.warning("a report for the webhook %s was refused: %s", name, clean(str(refused)))
            return Reply(refused.status, "refused")
        try:
            self._tracking().take_in(name, events)
        except StoreError as error:
            log.error("a report for the webhook %s could not be stored: %s", name, error)
            return Reply(503, "not stored; come again")
        return Reply(200, "ok")

    def _receiver(self, name: str) -> Receiver:
        with self._lock:
            if name not in self._receivers:
                spec = self._specs[name]
                assert spec.provider is not None  # the settings have seen to it
                self._receivers[name] = registry.build(spec.provider, spec)
            return self._receivers[name]
