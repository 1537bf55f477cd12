"""What ``doctor`` says of webhooks: whether anybody hears of mail that comes back."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, Level
from .settings import Settings
from .webhook_spec import scheme_of
from .webhooks.registry import RECEIVERS


def examine_webhooks(settings: Settings) -> Iterator[Finding]:
    """One line for each webhook, and for each transport that could have one."""
    for name, webhook in settings.webhooks.items():
        proof = " and ".join(sorted(webhook.given))
        yield Finding(Level.OK, f"webhook {name}", f"{webhook.provider}, proven by {proof}")
    heard = {webhook.provider for webhook in settings.webhooks.values()}
    for name, spec in settings.transports.items():
        scheme = scheme_of(spec)
        if scheme in RECEIVERS and scheme not in heard:
            yield Finding(
                Level.OK,
                f"webhook {name}",
                f"none: what {scheme} reports (bounces, complaints) is not heard of",
                "DEFERRED_MAIL_WEBHOOKS and app.register_blueprint(mail.webhooks), see the guide",
            )
