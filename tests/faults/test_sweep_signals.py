"""Sweeps that are killed, told to stop, or many at once (fault table, A9 to A12 and B5).

Each sweep is a `flask mail sweep` process of its own.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.support.fault_site import FaultSite, SweepProcess, kill_and_wait
from tests.support.smtp_script import Accept, Drop, Hang
from tests.support.waiting import wait_until

MakeSite = Callable[..., FaultSite]
THREADS = 3
ROWS = 20
_RECORD = {"recipients": ["ann@example.com"], "body": "Hi\n"}


def record(site: FaultSite, number: int) -> list[str]:
    """Record so many mails; their subjects."""
    names = [f"mail-{i}" for i in range(number)]
    with site.rows.app.app_context():
        site.rows.mail.send_many([{"subject": name, **_RECORD} for name in names])
    return names


def assert_as_if_nobody_had_begun(site: FaultSite, number: int) -> None:
    """So many rows are due at once, and no attempt is counted for them."""
    query = (
        "SELECT attempts, deaths, lease_token, due_at <= first_due_at + 60, count(*) "
        "FROM deferred_mail_job WHERE status = 'pending' GROUP BY 1, 2, 3, 4"
    )
    assert site.rows.sql(query) == [(0, 0, None, 1, number)]
    assert site.rows.runtime.reports.due()[0] == number


def sweep_at_work(site: FaultSite, stage: str) -> SweepProcess:
    """A sweep all of whose threads are held by the mail server at this stage."""
    site.smtp.hold(stage)
    sweep = site.sweep("--concurrency", str(THREADS))
    wait_until(lambda: sweep.must_run() and site.smtp.held(stage) >= THREADS, 30)
    return sweep


# -- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
def test_a_sweep_killed_in_the_middle_of_its_batch(site: FaultSite, taken: bool) -> None:
    """A9, A10: killed at the eighth dot: another process takes over, one copy more a connection."""
    names = record(site, ROWS)
    sweeps: list[SweepProcess] = []

    def eighth(turn: Any) -> Any:
        if turn.count != 7:
            return None
        kill_and_wait(sweeps[0].pid)
        return Accept(Drop()) if taken else Drop()

    site.smtp.script("dot", eighth)
    sweeps.append(site.sweep("--concurrency", str(THREADS)))
    assert sweeps[0].end() == -signal.SIGKILL
    assert site.statuses()["sending"] >= 1
    assert site.intact()
    before = site.statuses()["sent"]
    # What the dead had in hand is left alone until its lease is over.
    counts = site.sweep().counts()
    assert counts["sent"] == counts["claimed"] == ROWS - before - site.statuses()["sending"]
    assert site.statuses()["sending"] >= 1
    site.rows.end_leases()
    left = site.statuses()["sending"]
    assert site.sweep().counts()["sent"] == left
    assert site.statuses() == {"sent": ROWS}
    assert site.by_subject().keys() == set(names)
    assert int(taken) <= site.extra_copies() <= THREADS


# -- told to stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_finishes_what_is_in_hand_and_gives_the_rest_back(
    site: FaultSite, number: signal.Signals
) -> None:
    """A11: three of twenty mails are at their dots: these are sent, the others are as before."""
    record(site, ROWS)
    sweep = sweep_at_work(site, "dot")
    claimed = site.statuses()["sending"]
    assert claimed > THREADS
    sweep.signal(number)
    # The rest is given back while the mail server still keeps the sweep waiting.
    wait_until(lambda: site.statuses()["pending"] == ROWS - THREADS, message="nothing came back")
    assert_as_if_nobody_had_begun(site, ROWS - THREADS)
    assert sweep.process.poll() is None
    site.smtp.release("dot")
    counts = sweep.counts()
    assert (counts["sent"], counts["returned"]) == (THREADS, claimed - THREADS)
    assert site.statuses() == {"sent": THREADS, "pending": ROWS - THREADS}
    assert_as_if_nobody_had_begun(site, ROWS - THREADS)
    assert site.sweep().counts()["sent"] == ROWS - THREADS
    assert site.statuses() == {"sent": ROWS}
    assert site.extra_copies() == 0


def test_a_sweep_that_waits_for_more_stops_at_once(site: FaultSite) -> None:
    """A11: TERM while nothing is due ends `--wait` with 0."""
    record(site, 1)
    sweep = site.sweep("--wait", "300")
    wait_until(lambda: site.statuses()["sent"] == 1, 20)
    sweep.signal(signal.SIGTERM)
    assert sweep.counts(timeout=10)["sent"] == 1


@pytest.mark.parametrize(
    ("stage", "extra"), [("rcpt", 0), ("dot", THREADS)], ids=["before the dot", "after the dot"]
)
def test_the_second_signal_leaves_at_once(site: FaultSite, stage: str, extra: int) -> None:
    """A12: like a death, but the rest was given back at the first signal."""
    if stage == "dot":
        site.smtp.script("dot", [Accept(Hang())] * THREADS)
    record(site, ROWS)
    if stage == "dot":
        sweep = site.sweep("--concurrency", str(THREADS))
        wait_until(lambda: sweep.must_run() and len(site.smtp.messages) >= THREADS, 30)
    else:
        sweep = sweep_at_work(site, stage)
    sweep.signal(signal.SIGTERM)
    wait_until(lambda: site.statuses()["pending"] == ROWS - THREADS, message="nothing came back")
    sweep.signal(signal.SIGTERM)
    assert sweep.end(timeout=10) == 128 + signal.SIGTERM
    assert site.statuses() == {"sending": THREADS, "pending": ROWS - THREADS}
    if stage == "rcpt":
        site.smtp.release("rcpt")
    assert site.sweep().counts()["sent"] == ROWS - THREADS
    assert site.statuses()["sending"] == THREADS, "taken before the lease was over"
    site.rows.end_leases()
    assert site.sweep().counts()["sent"] == THREADS
    assert site.statuses() == {"sent": ROWS}
    assert site.extra_copies() == extra


# -- many at once -------------------------------------------------------------------------------

MANY = 500
SWEEPS = 10


def test_ten_sweeps_at_once_over_500_rows_are_500_mails(make_site: MakeSite) -> None:
    """B5: ten processes share the rows; each is sent once, and all of them end well."""
    site = make_site(
        DEFERRED_MAIL_LEASE=60,
        DEFERRED_MAIL_ATTEMPT_DEADLINE=60,
    )
    names = record(site, MANY)
    # Nobody gets on before all ten have mails in hand.
    site.smtp.hold("mail")
    sweeps = [site.sweep("--concurrency", "2") for _ in range(SWEEPS)]
    wait_until(lambda: len(lease_owners(site)) == SWEEPS, 50, "not all ten came to work")
    site.smtp.release("mail")
    counts = [sweep.counts(timeout=60) for sweep in sweeps]
    assert sum(count["sent"] for count in counts) == MANY
    assert sum(count["claimed"] for count in counts) == MANY
    assert all(count["sent"] for count in counts)
    assert Counter(map(len, copies(site, names))) == {1: MANY}
    assert site.statuses() == {"sent": MANY}
    assert site.rows.sql("SELECT DISTINCT attempts, deaths FROM deferred_mail_job") == [(1, 0)]


def lease_owners(site: FaultSite) -> list[str]:
    query = "SELECT DISTINCT lease_owner FROM deferred_mail_job WHERE status = 'sending'"
    return [owner for (owner,) in site.rows.sql(query)]


def copies(site: FaultSite, names: Sequence[str]) -> list[list[Any]]:
    """The copies of each of these mails."""
    found = site.by_subject()
    assert found.keys() <= set(names)
    return [found[name] for name in names]
