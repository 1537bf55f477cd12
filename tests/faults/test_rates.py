"""Limits that all processes hold together, on every database (D13)."""

from __future__ import annotations

from bisect import bisect_left
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
#: Mails that are watched: for twenty seconds, if they come as fast as they may.
ENOUGH = 280
#: Seconds that the test may take to see as many.
LONGEST = 150.0
WARMING = 1.0


def _make_tables(url: str) -> None:
    database = Database(url)
    database.create()
    database.close()


@pytest.mark.parametrize("kind", DATABASES)
def test_four_processes_keep_a_limit_together(
    kind: str, make_site: Callable[..., FaultSite], tmp_path: Path
) -> None:
    """No more than allowed, within a tenth, and not a fraction; none twice, no attempt is spent."""
    with fresh_database(kind, tmp_path) as url:
        _make_tables(url)
        site = make_site(DEFERRED_MAIL_DATABASE_URI=url)
        transport = f"{site.smtp.url()}&rate={RATE}/s"
        site.config["DEFERRED_MAIL_TRANSPORT"] = transport
        fields = {"recipients": ["ann@example.com"], "body": "Hi\n"}
        mails = [fields | {"subject": f"mail-{n}"} for n in range(int(RATE * LONGEST))]
        with site.rows.app.app_context():
            site.rows.mail.send_many(mails)
        sweeps = [site.sweep("--wait", "600") for _ in range(PROCESSES)]
        # On a busy machine a window sees fewer than allowed, since for moments no process has its
        # turn; none may see more. That nothing is lost between turns, tests/unit/test_rates.py has.
        wait_until(lambda: _is_enough(site), LONGEST, "too few mails came")
        for sweep in sweeps:
            sweep.must_run()
            sweep.process.terminate()
        assert all(sweep.end() == 0 for sweep in sweeps)
        arrivals = [message.at for message in site.smtp.messages]
        counted = _windows(site)
        print(f"{kind}: up to {max(counted)} mails in {WINDOW:.0f} s")
        assert max(counted) <= RATE * WINDOW * 1.1
        assert len(set(site.by_subject())) == len(arrivals)
        assert site.rows.sql("SELECT max(attempts) FROM deferred_mail_job") == [(1,)]
        site.rows.close()


def _is_enough(site: FaultSite) -> bool:
    """Whether many have come, half of what is allowed or more in some window."""
    fullest = max(_windows(site), default=0)
    return fullest >= RATE * WINDOW / 2 and len(site.smtp.messages) >= ENOUGH


def _windows(site: FaultSite) -> list[int]:
    """How many mails came in each whole window, one beginning with each mail, after the start."""
    # Counted in few steps: it is asked again and again in the process that is the mail server too.
    arrivals = sorted(message.at for message in site.smtp.messages)
    return [
        bisect_left(arrivals, begin + WINDOW) - number
        for number, begin in enumerate(arrivals)
        if arrivals[0] + WARMING <= begin <= arrivals[-1] - WINDOW
    ]
