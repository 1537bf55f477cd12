"""A report settles what no answer said: the mail is not sent a second time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail.outcome import Fate, Outcome
from flask_deferred_mail.signals import mail_failed
from flask_deferred_mail.transports.base import Call
from flask_deferred_mail.webhooks import aws_fetch
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import ScriptedTransport, accept, answer, to
from tests.support.webhook_fixtures import PROVIDERS, certificate, fixture
from tests.support.webhook_site import WebhookSite

Make = Callable[..., MailApp]
#: Reports of which there is no fixture.
NOT_RECORDED = {("ses", "unsubscribe"), ("resend", "unsubscribe")}
UNRESOLVED = {"DEFERRED_MAIL_BACKOFF": [0.0]}


def silent(call: Call) -> Outcome:
    """Everything is handed over, and no answer comes."""
    return answer(call, Fate.UNKNOWN, "no answer")


@pytest.fixture
def site(make_app: Make) -> WebhookSite:
    return WebhookSite(make_app, now=None, **UNRESOLVED)


def test_the_retry_of_an_unknown_outcome_is_left_out(site: WebhookSite) -> None:
    """The provider has it: the row ends sent, with one copy."""
    transport = ScriptedTransport(site.app, silent)
    job = site.app.send()
    site.app.sweep()
    assert site.app.statuses(job) == {"ann@example.com": "unknown"}
    assert site.report(job, "request") == 200
    assert site.app.job(job).status == "sent"
    assert site.app.sweep().claimed == 0
    assert len(transport.asked) == 1


def test_a_held_mail_ends_when_the_last_doubt_is_gone(make_app: Make) -> None:
    """Nobody has to look it up at the provider."""
    site = WebhookSite(make_app, now=None, DEFERRED_MAIL_ON_UNKNOWN="hold")
    ScriptedTransport(site.app, silent)
    ended: list[str] = []

    def receiver(_app: Any, job: Any, **_: Any) -> None:
        ended.append(job.status)

    mail_failed.connect(receiver, sender=site.app.app)
    taken, dropped = site.app.send(), site.app.send("bob@example.com")
    site.app.sweep()
    assert [site.app.job(job).status for job in (taken, dropped)] == ["held", "held"]
    site.report(taken, "delivered")
    site.report(dropped, "error", "bob@example.com", reason="no template")
    assert [site.app.job(job).status for job in (taken, dropped)] == ["sent", "failed"]
    assert ended == ["failed"]


def test_a_report_in_the_middle_of_the_second_try_is_not_lost(site: WebhookSite) -> None:
    """The try ends in doubt again; the sweep then knows better, and tries no third time."""
    transport = ScriptedTransport(site.app, silent)
    job = site.app.send()
    site.app.sweep()

    def reported_meanwhile(call: Call) -> Outcome:
        call.hand_over()
        assert site.report(job, "delivered") == 200
        assert site.app.statuses(job) == {"ann@example.com": "unknown"}
        return silent(call)

    transport.script = reported_meanwhile
    site.app.sql("UPDATE deferred_mail_job SET due_at = 0 WHERE id = ?", job.id)
    site.app.sweep()
    assert site.app.job(job).status == "held"
    site.app.sweep()
    assert site.app.job(job).status == "sent"
    assert site.app.statuses(job) == {"ann@example.com": "delivered"}
    assert (len(transport.asked), len(site.heard)) == (2, 1)


def test_a_report_that_comes_before_the_answer_is_joined_by_the_sweep(site: WebhookSite) -> None:
    """By the provider's number, which the row learns with the answer."""

    def reported_first(call: Call) -> Outcome:
        call.hand_over()
        assert site.brevo("delivered", to(call)[0], message_id="<9@brevo>") == 200
        outcome = accept(call)
        result = outcome.results[0]
        return Outcome((type(result)(result.address, result.fate, "", "<9@brevo>"),))

    ScriptedTransport(site.app, reported_first)
    job = site.app.send()
    site.app.sweep()
    assert (site.app.statuses(job), site.heard) == ({"ann@example.com": "sent"}, [])
    site.app.sweep()
    assert site.app.statuses(job) == {"ann@example.com": "delivered"}
    assert [(j.id, e.kind) for j, e in site.heard] == [(job.id, "delivered")]


def test_show_and_explain_tell_what_was_reported(site: WebhookSite) -> None:
    """As text and as JSON; a bounce is named by explain."""
    job = site.app.send()
    site.app.sweep()
    site.report(job, "delivered")
    site.report(job, "hard_bounce", reason="550 5.1.1 no \x1b[31mAnn", tags=["news"])
    runner = site.app.app.test_cli_runner()
    text = runner.invoke(args=["mail", "show", str(job.id)]).output
    assert "bounced hard" in text
    assert "\x1b" not in text
    shown = json.loads(runner.invoke(args=["mail", "show", str(job.id), "--json"]).output)
    assert [e["kind"] for e in shown["events"]] == ["delivered", "bounced"]
    assert shown["events"][1]["bounce_type"] == "hard"
    assert shown["events"][1]["data"]["tags"] == ["news"]
    assert shown["recipients"][0]["status"] == "bounced"
    assert (
        "ann@example.com is bounced: 550 5.1.1"
        in runner.invoke(args=["mail", "explain", str(job.id)]).output
    )


def test_show_looks_for_what_came_too_early(site: WebhookSite) -> None:
    """A person who looks sees it at once, without a sweep."""
    job = site.app.send()
    with_number = "<9@brevo>"

    def numbered(call: Call) -> Outcome:
        result = accept(call).results[0]
        return Outcome((type(result)(result.address, result.fate, "", with_number),))

    site.brevo("delivered", message_id=with_number)
    ScriptedTransport(site.app, numbered)
    site.app.sweep()
    runner = site.app.app.test_cli_runner()
    shown = json.loads(runner.invoke(args=["mail", "show", str(job.id), "--json"]).output)
    assert [e["kind"] for e in shown["events"]] == ["delivered"]


@pytest.mark.parametrize(
    ("provider", "reported"),
    [
        (provider, reported)
        for provider in PROVIDERS
        for reported in ("complaint", "bounce_hard", "unsubscribe")
        if (provider, reported) not in NOT_RECORDED
    ],
)
def test_whom_a_provider_reports_gets_no_more_mail(
    make_app: Make, monkeypatch: pytest.MonkeyPatch, provider: str, reported: str
) -> None:
    """Its recorded report, byte for byte; the next mail ends before any call."""
    monkeypatch.setattr(aws_fetch, "fetch", lambda _url: certificate())
    site = WebhookSite(make_app, provider)
    one = fixture(provider, reported)

    def numbered(call: Call) -> Outcome:
        result = accept(call).results[0]
        number = one.expect[0]["message_id"]
        return Outcome((type(result)(result.address, result.fate, "", number),))

    transport = ScriptedTransport(site.app, numbered)
    before = site.app.send("ann@example.net")
    site.app.sweep()
    assert site.feed(one) == 200
    words = {"complaint": "complained", "bounce_hard": "bounced", "unsubscribe": "sent"}
    assert site.app.statuses(before) == {"ann@example.net": words[reported]}
    tagged = site.kept(before)[0].event.data.get("tags", []) if reported == "unsubscribe" else []
    after = site.app.send("ann@example.net", tags=tagged)
    site.app.sweep()
    assert site.app.statuses(after) == {"ann@example.net": "suppressed"}
    assert len(transport.asked) == 1
