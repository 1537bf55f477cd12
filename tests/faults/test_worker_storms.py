"""Signals and kills rain on two workers of two processes each, while mail comes in in batches.

The order of events comes from a seed that is printed; where they fall in the line is up to the
machine. What must hold does not depend on it: all mail is sent, and of a mail there is a second
copy only where a process died, or was told by QUIT to leave, with that mail at its dot.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.databases import DATABASES
from tests.support.fault_site import FaultSite, is_gone, kill_and_wait
from tests.support.smtp_script import Accept, Delay, Say
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess

Shared = Callable[..., FaultSite]
Start = Callable[..., WorkerProcess]
WORKERS, PROCESSES, THREADS = 2, 2, 4
#: Of rough events there are always some of each.
GENTLE = ("hup", "term", "hup", "term")
ROUGH = ("kill child", "kill parent", "quit", "hup", "term", "kill child")
#: Database -> most batches, an event in each, and mails in each.
BATCHES = {"sqlite": (6, 60), "postgresql": (6, 60), "mariadb": (4, 25)}


class Storm:
    """Two workers, and what happens to them and to those that take their places."""

    def __init__(self, site: FaultSite, start: Start, rng: random.Random) -> None:
        self.site, self.rng = site, rng
        self._start = start
        self.recorded = 0
        #: Connections that may have left a mail in doubt.
        self.cut = 0
        #: Those at work, and those that have been told to end, with the exit code that is due.
        self.workers: list[WorkerProcess] = []
        self._leaving: list[tuple[WorkerProcess, int]] = []
        for _ in range(WORKERS):
            self._begin()

    def _begin(self) -> None:
        options = ("--processes", str(PROCESSES), "--concurrency", str(THREADS))
        self.workers.append(self._start(self.site, *options))

    def wait_until_complete(self) -> None:
        """Wait until all processes that there should be are at work, and can take signals."""
        wait_until(self._complete, 40, "".join(worker.log() for worker in self.workers))

    def _complete(self) -> bool:
        seen = self.workers[0].at_work()
        return all(
            worker.must_run() and len(seen.intersection(self._alive(worker))) == PROCESSES
            for worker in self.workers
        )

    def _busiest(self) -> tuple[WorkerProcess, int]:
        """The worker and the process of it that have most mail in hand, else any."""
        query = (
            "SELECT lease_owner, count(*) FROM deferred_mail_job WHERE status = 'sending' "
            "GROUP BY lease_owner"
        )
        in_hand = {int(str(o).rpartition(":")[2]): n for o, n in self.site.rows.sql(query)}
        found = [(worker, pid) for worker in self.workers for pid in self._alive(worker)]
        self.rng.shuffle(found)
        return max(found, key=lambda pair: in_hand.get(pair[1], 0))

    @staticmethod
    def _alive(worker: WorkerProcess) -> list[int]:
        return [pid for pid in worker.started() if not is_gone(pid)]

    def record(self, number: int) -> None:
        """A batch of mail comes in."""
        names = [f"mail-{n}" for n in range(self.recorded, self.recorded + number)]
        self.recorded += number
        mails = [{"subject": n, "recipients": ["ann@example.com"], "body": "Hi\n"} for n in names]
        with self.site.rows.app.app_context():
            self.site.rows.mail.send_many(mails)

    def wait_for_more(self, number: int) -> None:
        """Wait until so many mails more have arrived, or all."""
        enough = min(len(self.site.smtp.messages) + number, self.recorded)
        wait_until(
            lambda: len(self.site.smtp.messages) >= enough or not self.site.waiting(),
            40,
            "".join(worker.log() for worker in self.workers),
        )

    def let(self, event: str) -> None:
        """Something happens to who has most in hand."""
        worker, process = self._busiest()
        if event == "hup":
            worker.signal(signal.SIGHUP)
        elif event == "kill child":
            kill_and_wait(process)
            self.cut += THREADS
        else:
            self._replace(worker, event)

    def _replace(self, worker: WorkerProcess, event: str) -> None:
        if event == "kill parent":  # what its children have in hand they finish
            kill_and_wait(worker.pid)
        else:
            worker.signal(signal.SIGQUIT if event == "quit" else signal.SIGTERM)
        self.cut += PROCESSES * THREADS if event == "quit" else 0
        self.workers.remove(worker)
        self._leaving.append((worker, -signal.SIGKILL if event == "kill parent" else 0))
        self._begin()

    def end(self) -> None:
        """All workers stop, in order; nothing is left of any of them."""
        for worker in self.workers:
            worker.wait_for_log("started", PROCESSES)  # before, a signal ends it
            worker.signal(signal.SIGTERM)
            self._leaving.append((worker, 0))
        for worker, code in self._leaving:
            assert worker.end() == code, worker.log()
            pids = worker.started()
            wait_until(lambda pids=pids: all(map(is_gone, pids)), 40, worker.log())


def slow_server(site: FaultSite, rng: random.Random) -> None:
    """Answers are a few ms late; a mail is taken at once and said to be taken later."""
    site.smtp.script("mail", lambda turn: Delay(rng.uniform(0, 0.005)))
    site.smtp.script("dot", lambda turn: Accept(Delay(rng.uniform(0, 0.06), Say(None))))


def storm(site: FaultSite, start: Start, kind: str, events: tuple[str, ...], seed: int) -> Storm:
    """Mail in batches, an event after each, and the end of all workers."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    slow_server(site, random.Random(seed + 100))
    batches, size = BATCHES[kind]
    happens = Storm(site, start, rng)
    order = rng.sample(events, len(events))
    for event in order[:batches]:
        happens.wait_until_complete()
        happens.record(size)
        happens.wait_for_more(rng.randint(1, size // 3))
        happens.let(event)
    happens.end()
    return happens


def sweep_to_the_end(site: FaultSite) -> None:
    """Take over what the dead have left, and send the rest."""
    site.rows.end_leases()
    for _ in range(5):
        site.rows.sweep(concurrency=8)
        if not site.waiting():
            return
        site.rows.make_due()


def check(happens: Storm) -> int:
    """All mail is sent and has arrived; how many copies there are too many."""
    site = happens.site
    assert site.statuses() == {"sent": happens.recorded}
    mails = site.by_subject()
    assert mails.keys() == {f"mail-{n}" for n in range(happens.recorded)}
    extra = site.extra_copies()
    query = "SELECT count(*) FROM deferred_mail_attempt WHERE outcome = 'unknown'"
    print(f"{happens.recorded} mails, {happens.cut} connections cut, {extra} extra copies")
    assert extra <= min(happens.cut, int(site.rows.sql(query)[0][0]))
    return extra


@pytest.mark.parametrize("kind", DATABASES)
def test_a_storm_of_kills(shared: Shared, start: Start, kind: str) -> None:
    """Children and parents die, others are told to leave at once: all mail is sent, and there is
    one copy too many at most for each connection that was cut."""
    config: dict[str, Any] = {
        # Taken over while the storm goes on.
        "DEFERRED_MAIL_LEASE": 4,
        "DEFERRED_MAIL_MAX_SENDER_DEATHS": 20,
    }
    site = shared(kind, **config)
    happens = storm(site, start, kind, ROUGH, seed=len(kind))
    sweep_to_the_end(site)
    check(happens)


@pytest.mark.parametrize("kind", DATABASES)
def test_a_storm_of_gentle_signals(shared: Shared, start: Start, kind: str) -> None:
    """HUP, and TERM with another worker in its place, again and again: each mail is sent once, in
    its first attempt."""
    site = shared(kind)
    happens = storm(site, start, kind, GENTLE, seed=len(kind))
    sweep_to_the_end(site)
    assert check(happens) == 0
    assert site.rows.sql("SELECT DISTINCT attempts, deaths FROM deferred_mail_job") == [(1, 0)]
