"""SIGKILL at random moments, under load: web workers first, then sweeps (guarantees 1, 2 and 5).

The moments come from a seed that is printed; where they fall in the line is up to the machine. What
must hold does not depend on it: an answered request has its mail, and of a mail there is a second
copy only if the first was the last mail on a connection whose sender was killed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.fault_site import SHORT_LEASE, FaultSite, ask, is_gone
from tests.support.smtp_script import Accept, Delay, Say
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer

MakeSite = Callable[..., FaultSite]

CLIENTS = 4
REQUESTS = 20  # of each client
WORKERS = 3
KILLS = 10
SWEEP_KILLS = 4
SENDER_THREADS = 2
SWEEP_THREADS = 4


class Clients:
    """Some clients, each asking one thing after the other; they remember what was answered."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.answered: list[str] = []
        self.cut_off: list[str] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        for turn in range(REQUESTS):
            name = f"mail-{number}-{turn}"
            answer = ask(self.server, f"/send?id={name}")
            if answer is None:
                self.cut_off.append(name)
            else:
                assert answer.status == 200
                self.answered.append(name)

    @property
    def done(self) -> int:
        return len(self.answered) + len(self.cut_off)

    def wait_done(self, number: int) -> None:
        wait_until(lambda: self.done >= number, 60)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
        assert self.done == CLIENTS * REQUESTS


def kill_workers(server: WebServer, clients: Clients, rng: random.Random) -> int:
    """Kill workers at random moments, spread over the requests; how many were killed."""
    killed = 0
    for turn in range(KILLS):
        clients.wait_done(turn * CLIENTS * REQUESTS // KILLS)
        time.sleep(rng.uniform(0, 0.05))  # a moment, not a condition: that is the point
        victims = wait_until(server.worker_pids, message="no worker is left")
        try:
            os.kill(rng.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
    return killed


def kill_sweeps(site: FaultSite, rng: random.Random) -> int:
    """Start sweeps and kill each at a random moment after its first mail."""
    killed = 0
    for _ in range(SWEEP_KILLS):
        sweep = site.sweep("--wait", "20", "--concurrency", str(SWEEP_THREADS))
        wait_for_more(site, rng.randint(1, 8))
        time.sleep(rng.uniform(0, 0.03))  # as above
        sweep.signal(signal.SIGKILL)
        assert sweep.end() == -signal.SIGKILL
        assert is_gone(sweep.pid)
        killed += 1
        if not site.waiting():
            break
    return killed


def wait_for_more(site: FaultSite, number: int) -> None:
    """Wait until that many mails more have been taken, or there are none left."""
    enough = len(site.smtp.messages) + number
    wait_until(lambda: len(site.smtp.messages) >= enough or not site.waiting(), 30)


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_and_sweeps_killed_at_random_lose_nothing(make_site: MakeSite, seed: int) -> None:
    """Every request that was answered has its mail; extra copies: one per connection killed."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    site = make_site(
        DEFERRED_MAIL_LEASE=SHORT_LEASE,
        DEFERRED_MAIL_SENDER_THREADS=SENDER_THREADS,
        # Eight deaths over one mail would be bad luck, not poison.
        DEFERRED_MAIL_MAX_SENDER_DEATHS=20,
    )
    # The mail is taken at once and said to be taken later: the moment in which copies arise.
    slow = random.Random(seed + 100)
    site.smtp.script("dot", lambda turn: Accept(Delay(slow.uniform(0, 0.06), Say(None))))
    server = site.serve("--preload", workers=WORKERS)
    clients = Clients(server)
    killed = kill_workers(server, clients, rng)
    clients.join()
    server.stop(signal.SIGKILL)
    sweeps_killed = kill_sweeps(site, rng)
    site.sweep_until_ended()

    mails = site.by_subject()
    assert set(clients.answered) <= set(mails), "answered, and no mail"
    statuses = site.statuses()
    assert set(statuses) == {"sent"}
    assert set(mails) <= set(clients.answered) | set(clients.cut_off)
    assert len(mails) == statuses.total() == site.count_rows()
    extra = site.extra_copies()
    # The server's end killed the workers that were left.
    deaths = (killed + WORKERS) * SENDER_THREADS + sweeps_killed * SWEEP_THREADS
    print(
        f"{len(clients.answered)} answered, {len(clients.cut_off)} cut off, {len(mails)} mails, "
        f"{killed} workers and {sweeps_killed} sweeps killed, {extra} extra copies"
    )
    assert extra <= deaths
    assert site.intact()
    assert killed >= KILLS // 2
    died = "SELECT count(*) FROM deferred_mail_attempt WHERE outcome = 'unknown'"
    assert site.rows.sql(died)[0][0], "no mail was in hand at any of the kills"
