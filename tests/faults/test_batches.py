"""Different mails in one request, from the row to the row: what a sweep makes of ``?batch=N``.

Guarantee 2 is wider here: an answer that is lost leaves all mails of its request in doubt.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.store.claims import Claim
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.transports import batching
from tests.support.fault_site import FaultSite
from tests.support.http_provider import HttpProvider, Recorded, Reply
from tests.support.mail_app import MailApp
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]
LOST = Reply(drop="after_body")


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        provider.decide = take
        yield provider


@pytest.fixture(params=["postmark", "resend"])
def app(
    request: pytest.FixtureRequest,
    make_app: Make,
    provider: HttpProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> MailApp:
    """An app whose requests have four mails; each goes when it is full."""
    monkeypatch.setattr(batching, "WINDOW", 20.0)
    return make_app(f"{request.param}://key@default?endpoint={provider.url}&batch=4")


def take(request: Recorded) -> Reply:
    """What both providers answer when they take what is in a request."""
    return answer(request, lambda _: True)


def answer(request: Recorded, takes: Callable[[str], bool]) -> Reply:
    """Take those mails of a request whose subject is fine, refuse the others."""
    names, single = subjects(request), not isinstance(json.loads(request.body), list)
    if request.path.startswith("/emails"):
        ids = [{"id": f"id-{name}"} for name in names if takes(name)]
        errors = [{"index": n, "message": "no"} for n, name in enumerate(names) if not takes(name)]
        return Reply(ids[0] if single else {"data": ids, "errors": errors})
    items = [
        {"ErrorCode": 0, "MessageID": f"id-{name}", "Message": "OK"}
        if takes(name)
        else {"ErrorCode": 300, "Message": "no"}
        for name in names
    ]
    return Reply(json.dumps(items[0] if single else items))


def subjects(request: Recorded) -> list[str]:
    """The subjects of the mails in a request."""
    content: Any = json.loads(request.body)
    mails = content if isinstance(content, list) else [content]
    return [mail.get("Subject") or mail["subject"] for mail in mails]


def arrivals(provider: HttpProvider) -> Counter[str]:
    """How many copies of each mail the provider has."""
    return Counter(name for request in provider.requests for name in subjects(request))


def record(app: MailApp, count: int, **fields: Any) -> list[Job]:
    return [app.send(subject=f"mail {number}", **fields) for number in range(count)]


def test_twelve_mails_by_four_threads_are_three_requests(
    app: MailApp, provider: HttpProvider
) -> None:
    """Each row has the id of its own mail."""
    jobs = record(app, 12)
    assert app.sweep(concurrency=4).sent == 12
    assert [len(subjects(request)) for request in provider.requests] == [4, 4, 4]
    assert arrivals(provider) == Counter({f"mail {number}": 1 for number in range(12)})
    for number, job in enumerate(jobs):
        [recipient] = app.job(job).recipients
        assert (recipient.status, recipient.provider_message_id) == ("sent", f"id-mail {number}")


def test_one_that_is_refused_is_refused_alone(app: MailApp, provider: HttpProvider) -> None:
    """The rows of the others know nothing of it."""
    jobs = record(app, 4)
    provider.decide = lambda request: answer(request, lambda name: name != "mail 2")
    counts = app.sweep(concurrency=4)
    assert (counts.sent, counts.failed) == (3, 1)
    assert len(provider.requests) == 1
    statuses = [next(iter(app.statuses(job).values())) for job in jobs]
    assert statuses == ["sent", "sent", "rejected", "sent"]


def test_a_lost_answer_is_a_doubt_about_each_and_each_is_repeated_alone(
    app: MailApp, provider: HttpProvider
) -> None:
    """One extra copy of each at most, and every row says with how many others it went."""
    jobs = record(app, 4)
    provider.decide = lambda request: LOST if len(subjects(request)) > 1 else take(request)
    app.sweep(concurrency=4)
    for job in jobs:
        assert app.outcomes(job) == ["unknown"]
        assert "in one request with 3 other mails" in (app.job(job).last_error or "")
    app.make_due()
    assert app.sweep(concurrency=4).sent == 4
    assert [len(subjects(request)) for request in provider.requests] == [4, 1, 1, 1, 1]
    assert arrivals(provider) == Counter({f"mail {number}": 2 for number in range(4)})
    assert [app.outcomes(job) for job in jobs] == [["unknown", "sent"]] * 4


def test_a_second_doubt_holds_a_mail(app: MailApp, provider: HttpProvider) -> None:
    """As with any other mail, and explain says how wide the first doubt was."""
    [job, *_] = record(app, 4)
    provider.decide = lambda _: LOST
    app.sweep(concurrency=4)
    app.make_due()
    assert app.sweep(concurrency=4).held == 4
    told = app.app.test_cli_runner().invoke(args=["mail", "explain", str(job.id)]).output
    assert "may share a request with up to 3 other mails" in told


def test_mails_that_must_not_go_twice_are_held_at_the_first_doubt(
    app: MailApp, provider: HttpProvider
) -> None:
    """All of the request, since all are in doubt."""
    record(app, 4, on_unknown="hold")
    provider.decide = lambda _: LOST
    assert app.sweep(concurrency=4).held == 4
    assert app.sweep(concurrency=4).claimed == 0
    assert len(provider.requests) == 1


def test_a_mail_that_another_process_took_over_is_not_in_the_request(
    app: MailApp, provider: HttpProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is found lost at the last moment; the others go without it."""
    jobs = record(app, 4, on_unknown="hold")
    really = JobStore.mark_handing_over

    def mark(store: JobStore, claim: Claim) -> bool:
        return claim.job_id != jobs[1].id and really(store, claim)

    monkeypatch.setattr(JobStore, "mark_handing_over", mark)
    counts = app.sweep(concurrency=4)
    assert (counts.sent, counts.returned) == (3, 1)
    assert arrivals(provider) == Counter(["mail 0", "mail 2", "mail 3"])


def test_without_the_option_each_mail_has_its_own_request(
    make_app: Make, provider: HttpProvider
) -> None:
    """Off is the default."""
    app = make_app(f"postmark://key@default?endpoint={provider.url}")
    record(app, 8)
    assert app.sweep(concurrency=4).sent == 8
    assert [request.path for request in provider.requests] == ["/email"] * 8


@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
def test_a_sweep_killed_with_a_request_in_flight_costs_a_copy_of_each_mail_in_it(
    make_site: Callable[..., FaultSite], provider: HttpProvider, on_unknown: str
) -> None:
    """No mail is lost, none outside of requests in flight comes twice, none three times; with
    ``hold`` none at all comes twice."""
    site = make_site(
        transport=f"postmark://key@default?endpoint={provider.url}&batch=4",
        DEFERRED_MAIL_ON_UNKNOWN=on_unknown,
    )
    jobs = record(site.rows, 24)
    in_flight: list[list[str]] = []

    def kill(request: Recorded) -> Reply:
        # What is answered from now on cannot reach a row any more.
        if in_flight or len(subjects(request)) > 1:
            in_flight.append(subjects(request))
            os.kill(sweep.pid, signal.SIGKILL)
            return LOST
        return take(request)

    provider.decide = kill
    sweep = site.sweep("--concurrency", "4")
    assert sweep.end() == -signal.SIGKILL
    wait_until(lambda: not provider.open_connections)
    provider.decide = take
    before = arrivals(provider)
    assert max(map(len, in_flight)) > 1
    assert set(before.values()) == {1}

    site.rows.end_leases()
    wait_until(lambda: site.rows.sweep(concurrency=4) and not site.waiting())
    copies = arrivals(provider)
    assert set(copies) == {f"mail {number}" for number in range(24)}
    doubted = {name for names in in_flight for name in names}
    # An answer that was on its way when the process died had no row to go to either.
    twice = {name for name, count in copies.items() if count > 1}
    assert max(copies.values()) <= 2
    assert twice <= set(before)
    statuses = Counter(site.rows.job(job).status for job in jobs)
    if on_unknown == "hold":
        assert twice == set()
        assert statuses["held"] >= len(doubted)
        assert statuses["held"] + statuses["sent"] == 24
    else:
        assert twice >= doubted
        assert statuses == {"sent": 24}
