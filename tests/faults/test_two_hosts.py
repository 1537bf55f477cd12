"""Two hosts, whose clocks are an hour apart, share a database; processes die (B3, B5, A10).

Each process has a name for its host and a clock of its own: a start-up module of the interpreter
moves ``time.time`` before anything else is imported.
"""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from tests.support.databases import fresh_database
from tests.support.fault_site import FaultSite, SweepProcess, is_gone
from tests.support.transport_calls import a_letter
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT

_CLOCK = """
import os, socket, time
_real, _shift = time.time, float(os.environ["TEST_CLOCK_SHIFT"])
time.time = lambda: _real() + _shift
socket.gethostname = lambda: os.environ["TEST_HOST"]
"""

HOUR = 3600
PROCESSES = 4
#: Senders of each process: ten and more in all.
SENDERS = 3
KILLS = 5
LEASE = 5.0
#: Seconds for all of it, on a busy machine.
PATIENCE = 150.0


class Hosts:
    """Two hosts with sweeps on them, kept at the same number; they remember who was killed."""

    def __init__(self, site: FaultSite, folder: Path, shifts: dict[str, int]) -> None:
        (folder / "sitecustomize.py").write_text(_CLOCK, "utf-8")
        self.site, self.folder, self.shifts = site, folder, shifts
        names = sorted(shifts)
        self.running = [self._start(names[i % len(names)]) for i in range(PROCESSES)]
        self.killed: set[str] = set()

    def _start(self, host: str) -> tuple[str, SweepProcess]:
        env = {
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            "TEST_CLOCK_SHIFT": str(self.shifts[host]),
            "TEST_HOST": host,
        }
        options = ("--wait", str(PATIENCE), "--concurrency", str(SENDERS))
        return host, self.site.sweep(*options, **env)

    def kill_one(self, rng: random.Random) -> None:
        """Kill a process, and let its host start another."""
        host, sweep = self.running.pop(rng.randrange(len(self.running)))
        sweep.must_run()
        sweep.signal(signal.SIGKILL)
        assert sweep.end() == -signal.SIGKILL
        assert is_gone(sweep.pid)
        self.killed.add(f"{host}:{sweep.pid}")
        self.running.append(self._start(host))

    def stop(self) -> None:
        """Let all end in order."""
        for _, sweep in self.running:
            sweep.must_run()
            sweep.signal(signal.SIGTERM)
        for _, sweep in self.running:
            # One that a kill has just replaced may still be starting, and has nothing in hand.
            assert sweep.end() in (0, -signal.SIGTERM), sweep.stderr


class Rows:
    """The rows, seen from the test's own process."""

    def __init__(self, url: str, number: int) -> None:
        self.database = Database(url)
        self.database.create()
        self.subjects = {f"mail-{i}" for i in range(number)}
        letters = [
            a_letter(subject=subject, message_id=f"<{subject}@example.com>")
            for subject in sorted(self.subjects)
        ]
        JobStore(self.database).add_many([Submission(letter) for letter in letters])

    def ask(self, query: str) -> list[Any]:
        return list(self.database.read(lambda c: c.scalars(text(query)).all()))

    def waiting(self) -> int:
        query = "SELECT count(*) FROM deferred_mail_job WHERE status IN ('pending', 'sending')"
        return int(self.ask(query)[0])

    def owners_taken_over(self) -> set[str]:
        """Whose leases ended without an outcome."""
        details = self.ask("SELECT detail FROM deferred_mail_attempt WHERE outcome = 'unknown'")
        found = [re.match(r"the lease of (\S+) ended", detail) for detail in details]
        assert all(found), details
        return {match[1] for match in found if match}


@pytest.mark.parametrize(
    ("kind", "shifts", "number"),
    [
        ("postgresql", {"east": 0, "west": HOUR}, 5_000),
        ("mariadb", {"east": -HOUR, "west": 0}, 5_000),
        # One host, since a SQLite file has no clock of its own.
        ("sqlite", {"here": 0}, 5_000),
    ],
)
def test_every_mail_goes_out_once_whoever_is_killed(
    kind: str,
    shifts: dict[str, int],
    number: int,
    make_site: Callable[..., FaultSite],
    tmp_path: Path,
) -> None:
    """Twelve senders: extra copies only of what was in doubt; only the dead lose their leases."""
    rng = random.Random(7)
    with fresh_database(kind, tmp_path) as url:
        rows = Rows(url, number)
        site = make_site(
            DEFERRED_MAIL_DATABASE_URI=url,
            DEFERRED_MAIL_LEASE=LEASE,
            DEFERRED_MAIL_MAX_SENDER_DEATHS=20,
        )
        hosts = Hosts(site, tmp_path, shifts)
        for turn in range(1, KILLS + 1):
            enough = number * turn // (KILLS + 2)
            wait_until(lambda enough=enough: len(site.smtp.messages) >= enough, PATIENCE)
            hosts.kill_one(rng)
        wait_until(lambda: not rows.waiting(), PATIENCE)
        hosts.stop()

        statuses = rows.ask("SELECT DISTINCT status FROM deferred_mail_job")
        taken_over = rows.owners_taken_over()
        rows.database.close()
        site.rows.close()
    assert statuses == ["sent"]
    assert set(site.by_subject()) == rows.subjects
    extra = site.extra_copies()
    print(f"{number} mails, {KILLS} kills, {len(taken_over)} taken over from, {extra} extra copies")
    assert extra <= KILLS * SENDERS
    assert taken_over <= hosts.killed, "a lease was taken from somebody alive"
    assert taken_over, "nothing was in hand at any of the kills"
