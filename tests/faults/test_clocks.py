"""Clocks that are set while mail is under way (fault table, B4).

``time.time`` is moved by an hour, as the host's wall clock would be; the monotonic clock goes on.
SQLite has no clock of its own: the database's is the host's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.deadline import Deadline
from tests.support.background import Background
from tests.support.http_provider import unused_port
from tests.support.mail_app import MailApp
from tests.support.smtp_script import Hang
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]
HOUR = 3600.0
BOTH_WAYS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])


class WallClock:
    """The wall clock of the whole process, which a test may set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self._shift = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: self._real() + self._shift)

    def set_by(self, seconds: float) -> None:
        """Set it forward, or back."""
        self._shift += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


def due_in(app: MailApp, job: object) -> float:
    """Seconds until somebody may take a mail."""
    [(due,)] = app.sql("SELECT due_at FROM deferred_mail_job WHERE id = ?", job.id)  # type: ignore[attr-defined]
    return float(due) - time.time()


# -- while a mail is in hand ----------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("stage", ["banner", "rcpt", "dot"])
def test_b4_an_ordinary_mail_does_not_notice(
    make_app: Make, smtp: SmtpServer, clock: WallClock, stage: str, jump: float
) -> None:
    """The clock is set while the server thinks: sent once, in one attempt of a sane duration."""
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=3)
    job = app.send()
    smtp.hold(stage)
    sweep = Background(app)
    smtp.wait_held(stage)
    clock.set_by(jump)
    # Longer than the next beat of the heart, which has to put the lease right.
    asked = time.monotonic()
    wait_until(lambda: time.monotonic() - asked > 1.2)
    smtp.release(stage)
    assert sweep.end().sent == 1
    assert len(smtp.messages) == 1
    assert app.outcomes(job) == ["sent"]
    assert 1 <= app.log(job)[0].seconds < 30
    assert app.job(job).status == "sent"


def test_b4_forward_another_process_may_take_over_but_only_one_sends(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """The lease is over by the new clock, before the dot: the first owner sees that the clock was
    set, or that its row is gone, and hands nothing over."""
    first = make_app(smtp.url(), DEFERRED_MAIL_LEASE=60)
    second = make_app(smtp.url(), DEFERRED_MAIL_LEASE=60)
    job = first.send()
    smtp.hold("data")
    sweep = Background(first)
    smtp.wait_held("data")
    clock.set_by(HOUR)
    smtp.script("data", None)
    other = Background(second)
    smtp.wait_held("data", 2)
    smtp.release("data")
    assert other.end().sent == 1
    assert sweep.end().returned == 1
    assert len(smtp.messages) == 1
    assert first.job(job).status == "sent"
    assert first.outcomes(job) == ["unknown", "sent"]


def test_b4_forward_with_the_dot_out_is_one_extra_copy_at_most(
    make_app: Make, smtp: SmtpServer, clock: WallClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Taken over while the first owner waits for the final reply: two copies, one Message-ID, and
    the first owner's word comes too late."""
    first = make_app(smtp.url(), DEFERRED_MAIL_LEASE=60)
    second = make_app(smtp.url(), DEFERRED_MAIL_LEASE=60)
    job = first.send()
    smtp.hold("dot")
    sweep = Background(first)
    smtp.wait_held("dot")
    clock.set_by(HOUR)
    other = Background(second)
    smtp.wait_held("dot", 2)
    smtp.release("dot")
    assert other.end().sent == 1
    assert sweep.end().returned == 1
    assert len(smtp.messages) == 2
    assert {message.parsed["Message-ID"] for message in smtp.messages} == {job.message_id}
    assert first.job(job).status == "sent"
    assert "lease lost" in caplog.text


@BOTH_WAYS
def test_b4_deadlines_are_monotonic(
    make_app: Make, smtp: SmtpServer, clock: WallClock, jump: float
) -> None:
    """Neither cut short nor drawn out: a silent server costs the deadline, whatever the clock."""
    smtp.script("rcpt", [Hang()])
    app = make_app(smtp.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=1.5)
    job = app.send()
    began = time.monotonic()
    sweep = Background(app)
    wait_until(lambda: smtp.count("RCPT"))
    clock.set_by(jump)
    assert sweep.end().retry == 1
    assert 1.4 < time.monotonic() - began < 20
    assert 1.4 < app.log(job)[0].seconds < 20


@BOTH_WAYS
def test_b4_a_deadline_does_not_move(clock: WallClock, jump: float) -> None:
    """What is left of a deadline is the same after the clock was set."""
    deadline = Deadline.after(100)
    clock.set_by(jump)
    assert 90 < deadline.left() <= 100


# -- forward --------------------------------------------------------------------------------------


def test_b4_forward_is_at_most_an_early_retry(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """A mail that waits for its retry gets it early: one attempt, counted, nothing else."""
    smtp.script("rcpt", ["451 4.7.1 later"])
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[1800])
    job = app.send()
    app.sweep()
    clock.set_by(HOUR)
    assert app.sweep().sent == 1
    assert (app.job(job).attempts, len(smtp.messages)) == (2, 1)


def test_b4_forward_ends_a_rest_early_with_one_probe(make_app: Make, clock: WallClock) -> None:
    """A resting transport is tried by one mail, and rests again; nobody's attempt is counted."""
    app = make_app(f"smtp://127.0.0.1:{unused_port()}?tls=none", DEFERRED_MAIL_BACKOFF=[600])
    jobs = [app.send() for _ in range(20)]
    app.sweep(concurrency=1)
    clock.set_by(HOUR)
    app.runtime.pacing.forget()
    assert app.sweep(concurrency=4).claimed == 1
    assert {app.job(job).attempts for job in jobs} == {0}
    assert app.runtime.states.all()["default"].failures == 2


# -- back -----------------------------------------------------------------------------------------


def test_b4_back_in_the_middle_of_a_pass_tries_nobody_twice(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """A retry that is due "before the pass began" by the new clock is not due yet."""
    smtp.script("rcpt", "451 4.7.1 later")
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[60])
    jobs = [app.send() for _ in range(30)]
    smtp.hold("rcpt")
    sweep = Background(app, concurrency=1)
    smtp.wait_held("rcpt")
    clock.set_by(-HOUR)
    smtp.release("rcpt")
    counts = sweep.end()
    assert counts.claimed <= len(jobs)
    assert max(app.job(job).attempts for job in jobs) == 1


def test_b4_back_does_not_delay_a_retry_for_longer_than_any_retry_takes(
    make_app: Make, smtp: SmtpServer, clock: WallClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A clock that was a year ahead: the retry waits for the schedule's longest, not for a year."""
    smtp.script("rcpt", ["451 4.7.1 later"])
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[60, 7200])
    job = app.send()
    app.sweep()
    clock.set_by(-365 * 24 * HOUR)
    assert due_in(app, job) > 300 * 24 * HOUR
    assert app.sweep().claimed == 0
    assert due_in(app, job) <= 7200 * 1.25
    assert "the clock was set back" in caplog.text
    clock.set_by(7200 * 1.25)
    assert app.sweep().sent == 1


def test_b4_back_does_not_delay_fresh_mail(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """Recorded a moment ago, an hour in the future: it leaves with the next sweep."""
    app = make_app(smtp.url())
    app.send()
    clock.set_by(-HOUR)
    assert app.sweep().sent == 1


def test_b4_back_leaves_scheduled_mail_where_it_is(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """A time that a view has named means that time, by whatever clock."""
    app = make_app(smtp.url())
    job = app.send(delay=10 * 24 * HOUR)
    clock.set_by(-HOUR)
    assert app.sweep().claimed == 0
    assert due_in(app, job) == pytest.approx(10 * 24 * HOUR + HOUR, abs=30)


def test_b4_back_does_not_protect_a_dead_owner(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """Claimed by a process that is gone: taken over after two leases at most, not after an hour."""
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=60)
    app.send()
    app.runtime.claims.take("default", 1)
    clock.set_by(-HOUR)
    assert app.sweep().claimed == 0
    clock.set_by(120)
    assert app.sweep().sent == 1


def test_b4_back_does_not_silence_a_transport(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """A rest that began in the future is over: one mail finds out that the server is there."""
    smtp.script("banner", ["421 4.3.2 closing"])
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[600])
    jobs = [app.send() for _ in range(3)]
    app.sweep(concurrency=1)
    clock.set_by(-HOUR)
    app.sweep()
    assert app.job(jobs[2]).status == "sent"
    assert not app.runtime.states.all()["default"].failures


def test_b4_the_living_keep_what_they_have_when_the_clock_is_set_back(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """Another sweep shortens leases of the future; the one in hand is renewed all the same."""
    patient = {"DEFERRED_MAIL_LEASE": 2, "DEFERRED_MAIL_ATTEMPT_DEADLINE": 60}
    first = make_app(smtp.url(), **patient)
    second = make_app(smtp.url(), **patient)
    job = first.send()
    smtp.hold("rcpt")
    sweep = Background(first)
    smtp.wait_held("rcpt")
    clock.set_by(-HOUR)
    assert second.runtime.sweep().run(wait=5).claimed == 0
    smtp.release("rcpt")
    assert sweep.end().sent == 1
    assert first.outcomes(job) == ["sent"]


def test_b4_doctor_tells_of_a_clock_that_was_set_back(
    make_app: Make, smtp: SmtpServer, clock: WallClock
) -> None:
    """Until a sweep comes by, ``doctor`` says how many mails wait for too long."""
    smtp.script("rcpt", ["451 4.7.1 later"])
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=[60])
    app.send()
    app.sweep()
    clock.set_by(-30 * 24 * HOUR)
    assert (
        "was the clock set back?" in app.app.test_cli_runner().invoke(mail_group, "doctor").output
    )
