"""An app with webhooks, and requests as providers make them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import select

from flask_deferred_mail import Job
from flask_deferred_mail.reference import reference
from flask_deferred_mail.signals import mail_tracking
from flask_deferred_mail.store.events import KeptEvent
from flask_deferred_mail.store.schema import events
from flask_deferred_mail.tracking import TrackingEvent
from tests.support.mail_app import MailApp
from tests.support.webhook_fixtures import NOW, WebhookFixture, setting

PREFIX = "/mail/events"


class WebhookSite:
    """An app whose webhook ``default`` is one provider's; its clock is that of the fixtures."""

    def __init__(
        self,
        make_app: Callable[..., MailApp],
        provider: str = "brevo",
        transport: str = "memory:",
        now: float | None = NOW,
        **config: Any,
    ) -> None:
        entry = {"provider": provider, **setting(provider)}
        self.app = make_app(transport, DEFERRED_MAIL_WEBHOOKS={"default": entry}, **config)
        self.app.app.register_blueprint(self.app.mail.webhooks, url_prefix=PREFIX)
        self.state = self.app.mail.for_app(self.app.app)
        if now is not None:
            self.state.webhooks.clock = lambda: now
        self.client: FlaskClient = self.app.app.test_client()
        self.heard: list[tuple[Job, TrackingEvent]] = []
        mail_tracking.connect(self._hear, sender=self.app.app)

    def _hear(self, _app: Any, job: Job, event: TrackingEvent, **_: Any) -> None:
        self.heard.append((job, event))

    def post(self, body: bytes, headers: dict[str, str], name: str = "default") -> int:
        return self.client.post(f"{PREFIX}/{name}", data=body, headers=headers).status_code

    def feed(self, one: WebhookFixture) -> int:
        """Post a fixture as it is; the status of the answer."""
        return self.post(one.body, one.headers)

    def brevo(self, event: str, address: str = "ann@example.com", **fields: Any) -> int:
        """Post a report as Brevo makes them, of just now."""
        content = {
            "event": event,
            "email": address,
            "ts_epoch": round(time.time() * 1000),
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        return self.post(json.dumps(content).encode(), {"Authorization": "Bearer hook-token"})

    def report(self, job: Job, event: str, address: str = "ann@example.com", **fields: Any) -> int:
        """:meth:`brevo`, with our reference of that mail in it."""
        carried = json.dumps({"deferred-mail-job": reference(job.id, job.message_id)})
        return self.brevo(event, address, X_Mailin_custom=carried, **fields)

    def kept(self, job: Job | int) -> list[KeptEvent]:
        return self.state.runtime.tracking.of(job if isinstance(job, int) else job.id)

    def stored(self) -> int:
        """How many reports there are."""
        return len(self.rows())

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """These columns of all reports, in the order in which they came in."""
        wanted = [events.c[name] for name in columns or ("id",)]
        query = select(*wanted).order_by(events.c.id)
        return self.state.runtime.database.read(lambda c: [tuple(r) for r in c.execute(query)])
