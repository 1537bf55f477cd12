"""Mails that break whoever sends them (fault table, A16 and A17).

The mail ends `failed` after a bounded number of attempts; other mail flows.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.delivery import attempt
from flask_deferred_mail.errors import HandoverRefused
from tests.support import poison
from tests.support.fault_site import FaultSite, answered
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

MakeSite = Callable[..., FaultSite]
MakeApp = Callable[..., MailApp]

INNOCENT = 6
DEATHS = 3


@pytest.fixture(autouse=True)
def _scheme() -> Iterator[None]:
    """`poison:` is a transport of this process too, and no loop outlives its test."""
    poison.register()
    poison.allow_loops()
    yield
    poison.end_loops()


def url(smtp: SmtpServer) -> str:
    return f"poison://{smtp.host}:{smtp.port}"


@pytest.fixture
def app(make_app: MakeApp, smtp: SmtpServer) -> MailApp:
    """An app in this process whose transport obeys the subject."""
    return make_app(url(smtp))


def innocents(app: MailApp) -> list[str]:
    """Record some ordinary mails; their subjects."""
    names = [f"innocent-{number}" for number in range(INNOCENT)]
    for name in names:
        app.send(subject=name)
    return names


def arrived(smtp: SmtpServer) -> list[str]:
    return sorted(str(message.parsed["Subject"]) for message in smtp.messages)


# -- the process dies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status"), [("kill", -signal.SIGKILL), ("exit", 139)], ids=["SIGKILL", "os._exit"]
)
def test_a_mail_that_kills_its_process_ends_after_some_deaths(
    make_site: MakeSite, smtp: SmtpServer, word: str, status: int
) -> None:
    """A16, A17: sweep after sweep dies of it, then it is failed; everybody else has their mail."""
    site = make_site(transport=url(smtp), DEFERRED_MAIL_MAX_SENDER_DEATHS=DEATHS)
    job = site.rows.send(subject=word, priority="high")
    names = innocents(site.rows)
    for death in range(1, DEATHS + 1):
        assert site.sweep("--concurrency", "2").end() == status
        row = site.row(job.id)
        assert (row["status"], row["attempts"]) == ("sending", death), "counted at the claim"
        assert row["deaths"] == death - 1
        site.rows.end_leases()
    # Whoever killed more often goes later: those that were in hand beside it did not wait for it.
    assert site.statuses() == {"sending": 1, "sent": INNOCENT}
    counts = site.sweep().counts()
    assert (counts["claimed"], counts["failed"]) == (1, 1)
    after = site.rows.job(job)
    assert (after.status, after.attempts) == ("failed", DEATHS)
    assert f"sender died {DEATHS} times" in (after.last_error or "")
    assert site.rows.outcomes(job) == ["unknown"] * DEATHS + ["failed"]
    assert site.by_subject().keys() == set(names)
    # At the first death, a mail may have been in flight on the other connection.
    assert site.extra_copies() <= 1
    assert site.sweep().counts()["claimed"] == 0


def test_a_mail_that_kills_web_workers_does_not_stop_the_site(
    make_site: MakeSite, smtp: SmtpServer
) -> None:
    """A16: the worker dies after its answer; its successor answers and sends."""
    site = make_site(transport=url(smtp))
    server = site.serve()
    worker = server.worker_pids()[0]
    poisoned = answered(server, "/send?id=kill")
    wait_until(lambda: worker not in server.worker_pids(), message="the worker lives")
    job_id = answered(server, "/send?id=innocent")
    wait_until(lambda: site.row(job_id)["status"] == "sent")
    assert site.row(poisoned)["status"] == "sending"
    assert arrived(smtp) == ["innocent"]


# -- the attempt breaks -------------------------------------------------------------------------


@pytest.mark.parametrize("name", poison.EXCEPTIONS)
def test_whatever_a_transport_raises_is_the_mails_own_failure(
    app: MailApp, smtp: SmtpServer, name: str
) -> None:
    """A17: exceptions of any class: counted, tried again, failed; the rest goes in that sweep."""
    job = app.send(subject=f"raise {name}", priority="high", max_attempts=2)
    names = innocents(app)
    counts = app.sweep(concurrency=2)
    assert (counts.sent, counts.retry) == (INNOCENT, 1)
    assert arrived(smtp) == names
    app.make_due()
    assert app.sweep().failed == 1
    after = app.job(job)
    assert (after.status, after.attempts) == ("failed", 2)
    assert f"{name}: the mail is poisoned" in (after.last_error or "")
    assert app.outcomes(job) == ["retry", "failed"]
    assert app.runtime.states.all() == {}, "the transport was blamed"


@pytest.mark.parametrize("name", ["ValueError", "SystemExit"])
def test_an_exception_after_the_hand_over_leaves_a_doubt(
    app: MailApp, smtp: SmtpServer, name: str
) -> None:
    """A17 past the point of no return: tried once more by the policy, then held."""
    job = app.send(subject=f"late {name}")
    assert app.sweep().retry == 1
    assert app.statuses(job) == {"ann@example.com": "unknown"}
    app.make_due()
    assert app.sweep().held == 1
    assert app.job(job).status == "held"
    assert app.outcomes(job) == ["unknown", "unknown"]
    app.make_due()
    assert app.sweep().claimed == 0


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt"])
def test_a_call_of_send_now_lets_the_end_of_the_process_pass(app: MailApp, name: str) -> None:
    """In the caller's own thread these are not the mail's doing: the mail is given back."""
    with app.app.app_context(), pytest.raises(poison.EXCEPTIONS[name]):
        app.mail.send_now(subject=f"raise {name}", recipients=["ann@example.com"], body="Hi\n")
    job = app.job(1)
    assert (job.status, job.attempts) == ("pending", 0)
    assert app.runtime.leases.count() == 0


def test_sender_threads_of_a_worker_survive_any_exception(
    make_site: MakeSite, smtp: SmtpServer
) -> None:
    """A17 in a web process: one sender thread, ten poisoned mails, and it still sends."""
    site = make_site(
        transport=url(smtp), DEFERRED_MAIL_SENDER_THREADS=1, DEFERRED_MAIL_BACKOFF=[3600]
    )
    server = site.serve()
    worker = server.worker_pids()
    poisoned = [answered(server, f"/send?id=raise+{name}") for name in poison.EXCEPTIONS]
    job_id = answered(server, "/send?id=innocent")
    wait_until(lambda: site.row(job_id)["status"] == "sent")
    for number in poisoned:
        assert (site.row(number)["status"], site.row(number)["attempts"]) == ("pending", 1)
    assert server.worker_pids() == worker


# -- the attempt does not end -------------------------------------------------------------------


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts count as standing still half a second after their deadlines."""
    monkeypatch.setattr(attempt, "GRACE", 0.5)


@pytest.fixture
def hasty(make_app: MakeApp, smtp: SmtpServer, short_grace: None) -> MailApp:
    """An app that is short of time: attempts end after a second, answers are awaited for half."""
    return make_app(
        url(smtp),
        DEFERRED_MAIL_LEASE=3,
        DEFERRED_MAIL_ATTEMPT_DEADLINE=1,
        DEFERRED_MAIL_FINAL_REPLY_DEADLINE=0.5,
    )


def loop_forever(app: MailApp) -> Job:
    return app.send(subject="loop", priority="high", max_attempts=2)


def test_an_endless_loop_costs_an_attempt_and_nobody_else_waits(
    hasty: MailApp, smtp: SmtpServer
) -> None:
    """A17: both threads of the sweep can be lost to loops, and the rest is sent all the same."""
    jobs = [loop_forever(hasty), loop_forever(hasty)]
    names = innocents(hasty)
    counts = hasty.sweep(concurrency=2)
    assert (counts.sent, counts.retry) == (INNOCENT, 2)
    assert arrived(smtp) == names
    for job in jobs:
        assert (hasty.job(job).status, hasty.job(job).attempts) == ("pending", 1)
        assert "stood still" in (hasty.job(job).last_error or "")


def test_a_loop_that_ends_after_all_cannot_hand_anything_over(hasty: MailApp) -> None:
    """A17: the attempt was given up on, so the thread that wakes up is refused the last byte."""
    job = loop_forever(hasty)
    assert hasty.sweep().retry == 1
    poison.end_loops()
    wait_until(lambda: poison.after_loops, message="the loop did not end")
    assert isinstance(poison.after_loops[0], HandoverRefused)
    wait_until(lambda: not sender_threads(), message="its thread did not end")
    assert (hasty.job(job).status, hasty.job(job).attempts) == ("pending", 1)


def sender_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("deferred-mail-sweep")]


def test_an_endless_loop_again_and_again_ends_as_failed(hasty: MailApp, smtp: SmtpServer) -> None:
    """A17: after its attempts the mail is failed, with that text."""
    job = loop_forever(hasty)
    for _ in range(2):
        hasty.make_due()
        hasty.sweep()
    after = hasty.job(job)
    assert (after.status, after.attempts) == ("failed", 2)
    assert "stood still" in (after.last_error or "")
    assert not smtp.messages


def test_a_sweep_process_with_a_loop_in_it_ends(make_site: MakeSite, smtp: SmtpServer) -> None:
    """A17: a thread that computes for ever does not keep cron's process alive."""
    site = make_site(
        transport=url(smtp),
        DEFERRED_MAIL_ATTEMPT_DEADLINE=1,
        DEFERRED_MAIL_FINAL_REPLY_DEADLINE=0.5,
    )
    loop_forever(site.rows)
    names = innocents(site.rows)
    started = time.monotonic()
    counts = site.sweep("--concurrency", "2").counts()
    assert time.monotonic() - started < 30
    assert (counts["sent"], counts["retry"]) == (INNOCENT, 1)
    assert arrived(smtp) == names
