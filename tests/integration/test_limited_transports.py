"""Limits at work in one process: sweeps, the web process, and members of combined transports."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail.delivery.pacing import Leave
from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.transports.in_memory import InMemoryTransport
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]


def ways(app: MailApp) -> dict[str, int]:
    """How many attempts went by which member."""
    query = "SELECT transport, count(*) FROM deferred_mail_attempt GROUP BY transport"
    return dict(app.sql(query))  # type: ignore[arg-type] # pairs of two


def attempts(app: MailApp) -> list[int]:
    return [row[0] for row in app.sql("SELECT attempts FROM deferred_mail_job ORDER BY attempts")]


def test_one_pass_goes_on_as_long_as_a_limit_lets_mail_through_soon(make_app: Make) -> None:
    """What cron starts drains the queue at the limit's pace; nobody pays for waiting."""
    app = make_app("null:?rate=30/s")
    for _ in range(40):
        app.send()
    counts = app.sweep()
    assert (counts.sent, counts.returned) == (40, 0)
    assert attempts(app) == [1] * 40
    assert ways(app) == {"default": 40}


def test_a_pass_does_not_wait_for_tomorrow(make_app: Make) -> None:
    """What a daily quota keeps back stays pending and untried; ``explain`` says why."""
    app = make_app("null:?rate=3/d")
    for _ in range(5):
        app.send()
    assert app.sweep().as_dict()["sent"] == 3
    assert app.sweep().claimed == 0
    assert attempts(app) == [0, 0, 1, 1, 1]


def test_private_copies_are_counted_one_by_one(make_app: Make, smtp: SmtpServer) -> None:
    """A limit counts envelopes: the mail goes on where it stopped, and loses no attempt."""
    app = make_app(f"{smtp.url()}&rate=3/d")
    people = [f"p{n}@example.com" for n in range(5)]
    job = app.send(*people, private_copies=True, max_attempts=1)
    app.sweep()
    assert len(smtp.messages) == 3
    assert app.job(job).status is JobStatus.PENDING
    assert sorted(app.statuses(job).values()) == ["pending"] * 2 + ["sent"] * 3
    app.sql("UPDATE deferred_mail_limit SET filled_at = filled_at - 86400")
    app.runtime.allowance._empty_until.clear()
    app.make_due()
    app.sweep()
    assert app.job(job).status is JobStatus.SENT
    assert sorted(m.recipients[0] for m in smtp.messages) == people


def test_a_quota_that_is_used_up_sends_mail_by_the_next_member(make_app: Make) -> None:
    """It is not a matter of a moment."""
    app = make_app("failover(null:?rate=2/d memory:)")
    for _ in range(5):
        app.send()
    assert app.sweep().sent == 5
    assert ways(app) == {"default/null": 2, "default/memory": 3}


def test_a_limit_that_is_reached_for_a_moment_is_waited_for(make_app: Make) -> None:
    """The next member of a failover is for outages."""
    app = make_app("failover(null:?rate=30/s memory:)")
    for _ in range(20):
        app.send()
    assert app.sweep().sent == 20
    assert ways(app) == {"default/null": 20}


def test_members_of_a_round_robin_use_up_all_their_limits(make_app: Make) -> None:
    """And no more; what is left waits, untried and without a line in its log."""
    app = make_app("roundrobin(null:?rate=3/d memory:?rate=4/d)")
    for _ in range(12):
        app.send()
    assert app.sweep().sent == 7
    assert ways(app) == {"default/null": 3, "default/memory": 4}
    assert attempts(app) == [0] * 5 + [1] * 7


def test_the_web_process_keeps_the_limit(make_app: Make, smtp: SmtpServer) -> None:
    """Mail beyond it is recorded like any other, and left to the sweep."""
    app = make_app(f"{smtp.url()}&rate=2/d")
    app.app.add_url_rule("/", "view", lambda: f"recorded {app.send().id}")
    for _ in range(4):
        app.app.test_client().get("/").close()
    wait_until(lambda: app.runtime.leases.count() == 0 and len(smtp.messages) == 2)
    assert attempts(app) == [0, 0, 1, 1]
    query = "SELECT count(*) FROM deferred_mail_job WHERE status = 'pending'"
    assert app.sql(query) == [(2,)]


def test_a_mail_in_the_web_process_waits_a_moment_for_its_slot(make_app: Make) -> None:
    """It need not wait for the next sweep."""
    app = make_app("null:?rate=20/s")
    app.app.add_url_rule("/", "view", lambda: f"recorded {app.send().id}")
    for _ in range(8):
        app.app.test_client().get("/").close()
    wait_until(lambda: attempts(app) == [1] * 8)


@pytest.mark.parametrize("cap", [1, 2])
def test_a_cap_on_connections_is_kept(make_app: Make, smtp: SmtpServer, cap: int) -> None:
    """However many threads a sweep has."""
    app = make_app(f"{smtp.url()}&connections={cap}")
    for _ in range(8):
        app.send()
    assert app.sweep(concurrency=6).sent == 8
    assert 1 <= smtp.connections <= cap


def test_tokens_that_nothing_was_sent_for_are_returned(make_app: Make) -> None:
    """A mail that was claimed and not sent leaves its token to the next one."""
    app = make_app("null:?rate=3/d")
    job = app.send()
    claim = app.runtime.routes.take_one(app.runtime.claims, job.id)
    assert claim is not None
    app.runtime.jobs.give_back([claim])
    app.runtime.allowance.give_back()
    transport: Any = app.runtime.transport("default")
    left = app.runtime.allowance.limits.left({"default": transport.limits})
    assert left == {"default": {"3/d": 3}}


def test_after_an_outage_mail_leaves_slowly_at_first(make_app: Make) -> None:
    """One a second, then two, four, ...; a minute later there is no such limit."""
    app = make_app("null:")
    states, pacing = app.runtime.states, app.runtime.pacing
    states.rest("default", "unreachable", "gone", {1: 0.0})
    states.recovered("default", keep_streaks=False)
    seen = []
    for age in (0.1, 0.6, 1.1, 1.6, 3.9, 4.1, 60):
        app.sql("UPDATE deferred_mail_transport SET ramp_at = ?", time.time() - age)
        pacing.forget()
        pacing.known()
        ramp = pacing.ramp("default")
        seen.append(ramp.number if ramp else None)
    assert seen == [1, 2, 4, 8, 128, None, None]
    assert pacing.ask("default") == Leave("default")


def test_a_transport_without_a_limit_is_never_counted(make_app: Make) -> None:
    """No bucket, no purse."""
    app = make_app("memory:")
    app.send()
    assert app.sweep().sent == 1
    assert isinstance(app.runtime.transport("default"), InMemoryTransport)
    assert app.runtime.routes.purse("default") is None
    assert app.sql("SELECT count(*) FROM deferred_mail_limit") == [(0,)]
