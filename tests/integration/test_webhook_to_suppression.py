"""From a provider's report over HTTP to a mail that is not sent: for every provider."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_deferred_mail.webhooks import aws_fetch
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.webhook_fixtures import WebhookFixture, certificate, webhook_fixtures
from tests.support.webhook_site import WebhookSite

Make = Callable[..., MailApp]

#: What each report that says something of an address leads to; all others lead to nothing.
REASONS = {
    "complaint": "complaint",
    "bounce_hard": "hard_bounce",
    "bounce_hard_nosubstat": "hard_bounce",
    "bounce_hard_v2": "hard_bounce",
    "unsubscribe": "unsubscribe",
    "rejected_blacklist": "hard_bounce",
    "suppressed": "hard_bounce",
    "dropped": "hard_bounce",
    "blocked": "hard_bounce",
}
REPORTS = [one for one in webhook_fixtures() if one.expect]


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """SNS gives its certificate."""
    monkeypatch.setattr(aws_fetch, "fetch", lambda _url: certificate())


def reason_of(one: WebhookFixture) -> str | None:
    return REASONS.get(one.name.removeprefix("webhook_"))


@pytest.mark.parametrize("one", REPORTS, ids=lambda one: f"{one.provider}-{one.name}")
def test_what_is_reported_decides_whether_the_next_mail_is_sent(
    make_app: Make, smtp: SmtpServer, one: WebhookFixture
) -> None:
    """After a complaint, a bounce, an unsubscribe, a list of the provider: no connection."""
    site = WebhookSite(make_app, one.provider, smtp.url())
    app, said = site.app, one.expect[0]
    address = said["recipient"] or "ann@example.net"
    app.send(address)
    assert app.sweep().sent == 1
    app.sql("UPDATE deferred_mail_recipient SET provider_message_id = ?", said["message_id"])
    before = smtp.connections
    assert [site.feed(one), site.feed(one)] == [200, 200]
    reason = reason_of(one)
    entries = app.runtime.suppressions.of(address)
    assert {(e.reason.value, e.domain, e.source) for e in entries} == (
        {(reason, "example.com", "default")} if reason else set()
    )
    # Who unsubscribed from the mail of some tags still gets mail without.
    kept_back = any(not entry.tag for entry in entries)
    job = app.send(address)
    app.sweep()
    assert app.statuses(job) == {address: "suppressed" if kept_back else "sent"}
    assert len(smtp.messages) == (1 if kept_back else 2)
    assert smtp.connections == before or not kept_back


@pytest.mark.parametrize(("tag", "status"), [("receipt", "suppressed"), ("invoice", "sent")])
def test_an_unsubscribe_is_for_the_tag_that_the_report_names(
    make_app: Make, tag: str, status: str
) -> None:
    """Mail of another list goes on."""
    site = WebhookSite(make_app, "mailgun")
    site.app.send("ann@example.net")
    site.app.sweep()
    one = next(o for o in REPORTS if (o.provider, reason_of(o)) == ("mailgun", "unsubscribe"))
    number = one.expect[0]["message_id"]
    site.app.sql("UPDATE deferred_mail_recipient SET provider_message_id = ?", number)
    site.feed(one)
    job = site.app.send("ann@example.net", tags=[tag])
    site.app.sweep()
    assert site.app.statuses(job) == {"ann@example.net": status}


def test_every_provider_has_reports_that_keep_mail_back() -> None:
    """Guards the test above against finding nothing."""
    found = {(one.provider, reason_of(one)) for one in REPORTS}
    for provider in {one.provider for one in REPORTS}:
        assert {(provider, "complaint"), (provider, "hard_bounce")} <= found
