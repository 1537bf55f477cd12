"""Limits of a transport hold when their holders die, and when the clock is set (D13, A9, B4)."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.support.background import Background
from tests.support.fault_site import SHORT_LEASE, FaultSite, SweepProcess
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

Shared = Callable[..., FaultSite]
PROCESSES, THREADS, KILLS = 3, 4, 4
#: Mails a second.
RATE = 14
#: Seconds over which arrivals are counted.
WINDOW = 5.0
HOUR = 3600.0


def most_in_a_window(smtp: SmtpServer, seconds: float = WINDOW) -> int:
    """Most mails that came within so many seconds."""
    arrivals = sorted(message.at for message in smtp.messages)
    return max(
        sum(begin <= at < begin + seconds for at in arrivals[number:])
        for number, begin in enumerate(arrivals)
    )


def record(app: MailApp, number: int) -> None:
    mails = [
        {"subject": f"mail-{n}", "recipients": ["ann@example.com"], "body": "Hi\n"}
        for n in range(number)
    ]
    with app.app.app_context():
        app.mail.send_many(mails)


def wait_for_more(smtp: SmtpServer, number: int) -> None:
    smtp.wait_for(len(smtp.messages) + number, timeout=40)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_who_dies_takes_no_more_than_what_he_had(shared: Shared, kind: str) -> None:
    """Senders of a limited transport are killed one after the other, and others begin: the server
    sees as many mails as it allows and no more, and mail flows on afterwards."""
    rng = random.Random(len(kind))
    site = shared(kind, DEFERRED_MAIL_LEASE=SHORT_LEASE, DEFERRED_MAIL_MAX_SENDER_DEATHS=20)
    site.config["DEFERRED_MAIL_TRANSPORT"] = f"{site.smtp.url()}&rate={RATE}/s"
    record(site.rows, 600)

    def begin() -> SweepProcess:
        return site.sweep("--wait", "90", "--concurrency", str(THREADS))

    sweeps = [begin() for _ in range(PROCESSES)]
    for _ in range(KILLS):
        wait_for_more(site.smtp, rng.randint(5, 15))
        victim = sweeps.pop(rng.randrange(PROCESSES))
        victim.signal(signal.SIGKILL)
        assert victim.end() == -signal.SIGKILL
        sweeps.append(begin())
    wait_for_more(site.smtp, 3 * RATE)
    for sweep in sweeps:
        sweep.must_run()
        sweep.process.terminate()
    assert all(sweep.end() == 0 for sweep in sweeps)
    assert most_in_a_window(site.smtp) <= RATE * WINDOW * 1.2
    assert site.extra_copies() <= KILLS * THREADS


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_b4_a_limit_is_kept_while_the_clock_is_set(
    make_app: Callable[..., MailApp],
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    jump: float,
) -> None:
    """In the middle of a sweep: at most what a full bucket holds leaves early. None waits for the
    clock to be where it was: what was not due any more, the next sweep sends."""
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    app = make_app(f"{smtp.url()}&rate={RATE}/s")
    record(app, RATE * 8)
    sweep = Background(app, concurrency=THREADS)
    smtp.wait_for(2 * RATE, timeout=30)
    shift[0] += jump
    assert sweep.end().sent + app.sweep(concurrency=THREADS).sent == RATE * 8
    assert most_in_a_window(smtp) <= RATE * WINDOW * 1.2
