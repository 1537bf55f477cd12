"""A server that is gone for a while, a thousand mails, ten senders (F1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.fault_site import FaultSite, SweepProcess
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

MAILS = 1_000
PROCESSES = 5
#: Of each process.
SENDERS = 2
#: Seconds for all of it, on a busy machine.
PATIENCE = 120.0
GONE = "421 4.3.2 closing"


@pytest.fixture
def other() -> Iterator[SmtpServer]:
    """The server that works all the time."""
    with SmtpServer() as server:
        yield server


def _record(site: FaultSite) -> None:
    with site.rows.app.app_context():
        site.rows.mail.send_many(
            {"subject": f"mail-{n}", "recipients": ["ann@example.com"], "body": "Hi\n"}
            for n in range(MAILS)
        )


def _senders(site: FaultSite) -> list[SweepProcess]:
    options = ("--wait", str(PATIENCE), "--concurrency", str(SENDERS))
    return [site.sweep(*options) for _ in range(PROCESSES)]


def _end(sweeps: list[SweepProcess]) -> None:
    for sweep in sweeps:
        sweep.must_run()
        sweep.process.terminate()
    assert all(sweep.end() == 0 for sweep in sweeps)


def _attempts(site: FaultSite) -> set[int]:
    return {row[0] for row in site.rows.sql("SELECT DISTINCT attempts FROM deferred_mail_job")}


def _failures(site: FaultSite) -> int:
    rows = site.rows.sql("SELECT failures FROM deferred_mail_transport")
    return max((int(row[0]) for row in rows), default=0)


def test_all_mail_leaves_by_the_other_member_while_one_is_gone(
    make_site: Callable[..., FaultSite], smtp: SmtpServer, other: SmtpServer
) -> None:
    """The one that is gone sees each sender once, and a probe now and then; no mail pays."""
    smtp.script("banner", GONE)
    transport = f"failover({smtp.url()} {other.url()})"
    site = make_site(transport=transport, DEFERRED_MAIL_BACKOFF=[60])
    _record(site)
    sweeps = _senders(site)
    wait_until(lambda: not site.waiting(), PATIENCE)
    _end(sweeps)
    subjects = Counter(str(message.parsed["Subject"]) for message in other.messages)
    print(f"{smtp.connections} connections to the server that was gone")
    assert subjects == {f"mail-{n}": 1 for n in range(MAILS)}
    # Each rest is longer than the one before: 5 s, 10 s, 20 s, ...
    assert smtp.connections <= PROCESSES * SENDERS + 5
    assert _attempts(site) == {1}
    assert site.statuses() == {"sent": MAILS}


def test_all_mail_leaves_once_the_only_server_is_back(
    make_site: Callable[..., FaultSite], smtp: SmtpServer
) -> None:
    """While it is gone it sees one probe for each rest; then it is loaded little by little."""
    smtp.script("banner", GONE)
    site = make_site(DEFERRED_MAIL_BACKOFF=[1])
    _record(site)
    sweeps = _senders(site)
    # The first fault is found by whoever was there first, each later one by a single probe.
    wait_until(lambda: _failures(site) >= 3, PATIENCE)
    during = smtp.connections
    smtp.script("banner", None)
    wait_until(lambda: not site.waiting(), PATIENCE)
    _end(sweeps)
    arrivals = sorted(message.at for message in smtp.messages)
    first_second = sum(at < arrivals[0] + 1 for at in arrivals)
    print(f"{during} connections while it was gone; {first_second} mails in the first second")
    assert during <= PROCESSES * SENDERS + 3
    # The probe, then 1, 2, 4, ... a second, each for half a second; a tenth may be saved up.
    assert first_second <= 10
    assert Counter(str(message.parsed["Subject"]) for message in smtp.messages) == {
        f"mail-{n}": 1 for n in range(MAILS)
    }
    assert _attempts(site) == {1}
