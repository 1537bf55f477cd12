"""Limits that all processes hold together, on every database (D13)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flask_deferred_mail.store.database import Database
from tests.support.databases import DATABASES, fresh_database
from tests.support.fault_site import FaultSite
from tests.support.waiting import wait_until

PROCESSES = 4
#: Mails a second.
RATE = 14
#: Seconds over which arrivals are counted, after the processes have found their pace.
WINDOW = 8.0
#: Seconds that the test may take to see a window as full as it may be.
LONGEST = 50.0
WARMING = 1.0


def _make_tables(url: str) -> None:
    database = Database(url)
    database.create()
    database.close()


@pytest.mark.parametrize("kind", DATABASES)
def test_four_processes_keep_a_limit_together(
    kind: str, make_site: Callable[..., FaultSite], tmp_path: Path
) -> None:
    """As many as allowed and no more, within a tenth; none twice, and no attempt is spent."""
    with fresh_database(kind, tmp_path) as url:
        _make_tables(url)
        site = make_site(DEFERRED_MAIL_DATABASE_URI=url)
        transport = f"{site.smtp.url()}&rate={RATE}/s"
        site.config["DEFERRED_MAIL_TRANSPORT"] = transport
        jobs = [site.rows.send(subject=f"mail-{n}") for n in range(int(RATE * LONGEST))]
        sweeps = [site.sweep("--wait", "60") for _ in range(PROCESSES)]
        # On a busy machine a window may see fewer than allowed; none may see more.
        wait_until(lambda: max(_windows(site), default=0) >= RATE * WINDOW * 0.9, LONGEST)
        for sweep in sweeps:
            sweep.must_run()
            sweep.process.terminate()
        assert all(sweep.end() == 0 for sweep in sweeps)
        arrivals = [message.at for message in site.smtp.messages]
        counted = _windows(site)
        print(f"{kind}: up to {max(counted)} mails in {WINDOW:.0f} s")
        assert max(counted) <= RATE * WINDOW * 1.1
        assert len(set(site.by_subject())) == len(arrivals)
        attempts = {site.rows.job(job).attempts for job in jobs}
        assert attempts <= {0, 1}
        site.rows.close()


def _windows(site: FaultSite) -> list[int]:
    """How many mails came in each whole window, one beginning with each mail, after the start."""
    arrivals = sorted(message.at for message in site.smtp.messages)
    return [
        sum(begin <= at < begin + WINDOW for at in arrivals[number:])
        for number, begin in enumerate(arrivals)
        if arrivals[0] + WARMING <= begin <= arrivals[-1] - WINDOW
    ]
