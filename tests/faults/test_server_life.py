"""The application server's own ways of ending a worker (fault table, A11 and A13 to A15).

gunicorn aborts a worker that takes too long, ends it gently or at once, replaces it after some
requests, starts all anew on HUP, and forks it from a master that has used the application already.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fault_app import AT_START, MARK
from tests.support.fault_site import SHORT_LEASE, FaultSite, answered, ask, is_gone
from tests.support.services import require_service
from tests.support.smtp_script import Accept, Hang
from tests.support.waiting import wait_until
from tests.support.web_server import GUNICORNS, WebServer

MakeSite = Callable[..., FaultSite]
NAME = "the-mail"


def wait_replaced(server: WebServer, worker: int) -> None:
    """Wait until a worker is gone and another one is there."""
    wait_until(
        lambda: server.worker_pids() and worker not in server.worker_pids(),
        timeout=20,
        message="the worker was not replaced",
    )


def assert_whole_rest_is_swept(site: FaultSite, names: list[str]) -> None:
    """Everything ends sent, once, without waiting for any lease but those of the dead."""
    site.rows.end_leases()
    site.rows.sweep()
    assert site.statuses() == {"sent": len(names)}
    assert {name: site.copies(name) for name in names} == dict.fromkeys(names, 1)


# -- the worker takes too long ------------------------------------------------------------------


def test_a_worker_aborted_while_it_sends_inline_gives_the_mail_back(make_site: MakeSite) -> None:
    """A13: SystemExit inside ``close()``, before the dot: not swallowed, the attempt refunded."""
    site = make_site(DEFERRED_MAIL_DISPATCH="inline")
    site.smtp.hold("rcpt")
    server = site.serve("--timeout=2")
    worker = server.worker_pids()[0]
    job_id = answered(server, f"/marked?id={NAME}")
    wait_replaced(server, worker)
    assert "WORKER TIMEOUT" in server.log()
    assert not (site.folder / MARK).exists(), "the hook went on after SystemExit"
    # The worker's own last words: SystemExit came through, it was not killed a second later.
    assert f"Worker exiting (pid: {worker})" in server.log()
    row = site.row(job_id)
    assert (row["status"], row["attempts"], row["deaths"]) == ("pending", 0, 0)
    site.smtp.release("rcpt")
    assert site.rows.sweep().sent == 1
    assert site.copies(NAME) == 1
    assert site.rows.outcomes(job_id) == ["sent"]


@pytest.mark.parametrize(
    ("policy", "status", "copies"), [("retry", "sent", 2), ("hold", "held", 1)]
)
def test_a_worker_aborted_while_it_waits_for_the_250_leaves_the_mail_to_its_lease(
    make_site: MakeSite, policy: str, status: str, copies: int
) -> None:
    """A13: SystemExit after the dot: in doubt, so the row stays leased and the policy decides."""
    site = make_site(DEFERRED_MAIL_DISPATCH="inline")
    site.smtp.script("dot", [Accept(Hang())])
    server = site.serve("--timeout=2")
    worker = server.worker_pids()[0]
    job_id = answered(server, f"/send?id={NAME}&unknown={policy}")
    wait_replaced(server, worker)
    assert site.row(job_id)["status"] == "sending"
    assert site.rows.sweep().claimed == 0
    site.let_lease_end(job_id)
    assert site.rows.sweep().claimed == 1
    assert site.rows.job(job_id).status == status
    assert site.copies(NAME) == copies
    assert len(site.message_ids(NAME)) == 1


def test_a_view_that_is_aborted_after_it_recorded_has_its_mail_sent(site: FaultSite) -> None:
    """A13: no answer, but the row was committed: one copy."""
    server = site.serve("--timeout=2")
    worker = server.worker_pids()[0]
    answer = ask(server, f"/slow?id={NAME}")
    assert answer is None or answer.status >= 500
    wait_replaced(server, worker)
    assert site.count_rows() == 1
    assert site.statuses()["sent"] + site.waiting() == 1
    assert_whole_rest_is_swept(site, [NAME])


# -- the server is told to stop -----------------------------------------------------------------


@pytest.mark.parametrize("kind", GUNICORNS)
def test_a_gentle_stop_finishes_the_mail_in_hand_and_gives_the_rest_back(
    make_site: MakeSite, kind: str
) -> None:
    """A11, A14: TERM; of six answered requests one mail is at its dot, five have not begun."""
    site = make_site(DEFERRED_MAIL_SENDER_THREADS=1)
    site.smtp.hold("dot")
    server = site.serve(kind=kind)
    names = [f"mail-{number}" for number in range(6)]
    for name in names:
        answered(server, f"/send?id={name}")
    site.smtp.wait_held("dot")
    assert site.statuses() == {"sending": 6}
    server.send_signal(signal.SIGTERM)
    wait_until(lambda: site.statuses()["pending"] == 5, message="nothing was given back")
    site.smtp.release("dot")
    assert server.stop() == 0
    assert site.statuses() == {"sent": 1, "pending": 5}
    columns = "attempts, deaths, lease_token"
    query = f"SELECT DISTINCT {columns} FROM deferred_mail_job WHERE status = 'pending'"
    assert site.rows.sql(query) == [(0, 0, None)], "given back means: as if nobody had begun"
    counts = site.rows.sweep()
    assert counts.claimed == counts.sent == 5
    assert {name: site.copies(name) for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_does_not_wait_for_a_server_that_hangs(
    site: FaultSite, number: signal.Signals
) -> None:
    """A14: told to stop while the mail server is silent before the dot: given back, sent once."""
    site.smtp.hold("rcpt")
    server = site.serve()
    job_id = answered(server, f"/send?id={NAME}")
    site.smtp.wait_held("rcpt")
    assert server.stop(number) == 0
    row = site.row(job_id)
    assert (row["status"], row["attempts"]) == ("pending", 0)
    site.smtp.release("rcpt")
    assert_whole_rest_is_swept(site, [NAME])
    assert site.rows.outcomes(job_id) == ["sent"]


def test_a_stop_while_the_250_is_awaited_leaves_the_mail_to_its_lease(site: FaultSite) -> None:
    """A14: past the dot nobody can give a mail back: it is left to its lease, as after a death."""
    site.smtp.script("dot", [Accept(Hang())])
    server = site.serve()
    job_id = answered(server, f"/send?id={NAME}")
    site.smtp.wait_for(1)
    assert server.stop() == 0
    assert site.row(job_id)["status"] == "sending"
    assert site.rows.sweep().claimed == 0
    site.let_lease_end(job_id)
    assert site.rows.sweep().sent == 1
    assert site.copies(NAME) == 2
    assert len(site.message_ids(NAME)) == 1


# -- the server goes on, its workers do not -----------------------------------------------------


def test_workers_replaced_after_some_requests_lose_nothing(site: FaultSite) -> None:
    """A14: ``--max-requests``: each worker serves three requests; every mail goes out once."""
    server = site.serve("--max-requests=3", workers=2)
    first = set(server.worker_pids())
    names = [f"mail-{number}" for number in range(20)]
    for name in names:
        answered(server, f"/send?id={name}")
    wait_until(lambda: server.worker_pids() and not first & set(server.worker_pids()))
    assert server.stop() == 0
    assert_whole_rest_is_swept(site, names)


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_a_reload_loses_nothing(site: FaultSite, preload: tuple[str, ...]) -> None:
    """A14: HUP between requests: the old worker ends gently, the new one goes on."""
    server = site.serve(*preload)
    names = [f"mail-{number}" for number in range(12)]
    for number, name in enumerate(names):
        if number % 4 == 2:
            worker = server.worker_pids()[0]
            server.send_signal(signal.SIGHUP)
        answered(server, f"/send?id={name}")
        if number % 4 == 2:
            wait_replaced(server, worker)
    assert server.stop() == 0
    assert_whole_rest_is_swept(site, names)


def test_an_upgrade_on_the_fly_loses_nothing(site: FaultSite) -> None:
    """A14: USR2 starts a new master beside the old one; both serve until the old one ends."""
    pid_file = site.folder / "pid"
    # The new master is started as a script, whose folder would hide modules of Python's own.
    server = site.serve("--pid", str(pid_file), PYTHONSAFEPATH="1")
    names = [f"mail-{number}" for number in range(8)]
    answered(server, f"/send?id={names[0]}")
    server.send_signal(signal.SIGUSR2)
    wait_until(lambda: server.log().count("Booting worker") == 2, 20, "no new worker came up")
    for name in names[1:5]:
        answered(server, f"/send?id={name}")
    server.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    for name in names[5:]:
        answered(server, f"/send?id={name}")
    successor = wait_until(lambda: pid_file.exists() and int(pid_file.read_text()))
    assert successor != server.pid
    os.kill(successor, signal.SIGTERM)
    wait_until(lambda: is_gone(successor), message="the new master did not stop")
    assert_whole_rest_is_swept(site, names)


# -- the fork -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["thread", "inline"])
def test_nothing_that_was_open_before_the_fork_is_used_after_it(
    make_site: MakeSite, dispatch: str
) -> None:
    """A15: the master has sent a mail before it forked; workers have connections of their own."""
    site = make_site(DEFERRED_MAIL_DISPATCH=dispatch)
    server = site.serve("--preload", workers=2, **{AT_START: "1"})
    site.smtp.wait_for(1)
    names = [f"mail-{number}" for number in range(30)]
    for name in names:
        answered(server, f"/send?id={name}")
    mails = {str(m.parsed["Subject"]): m for m in site.smtp.wait_for(31, timeout=20)}
    inherited = mails["at-start"].connection
    assert [m for m in mails.values() if m.connection == inherited] == [mails["at-start"]]
    verbs = [c.verb for c in site.smtp.commands if c.connection == inherited]
    assert verbs == ["EHLO", "MAIL", "RCPT", "DATA"], "a worker has spoken on the master's line"
    assert len({str(m.parsed["Message-ID"]) for m in mails.values()}) == 31
    wait_until(lambda: site.statuses() == {"sent": 31})
    assert server.stop() == 0
    assert site.intact()


def test_a_worker_renews_its_leases_although_its_master_did_so_before(make_site: MakeSite) -> None:
    """A15: threads do not cross a fork: sender threads and heartbeat start anew in the worker."""
    site = make_site(DEFERRED_MAIL_LEASE=SHORT_LEASE)
    server = site.serve("--preload", **{AT_START: "1"})
    site.smtp.hold("dot")
    job_id = answered(server, f"/send?id={NAME}")
    site.smtp.wait_held("dot")
    first = site.row(job_id)
    wait_until(lambda: site.row(job_id)["due_at"] > first["due_at"] + SHORT_LEASE)
    assert site.row(job_id)["lease_token"] == first["lease_token"]
    assert first["lease_owner"].endswith(f":{server.worker_pids()[0]}")
    site.smtp.release("dot")
    wait_until(lambda: site.row(job_id)["status"] == "sent")


def test_the_database_file_is_not_open_across_the_fork(site: FaultSite) -> None:
    """A15: SQLite handles must not be shared: the master closes its own before it forks."""
    server = site.serve("--preload", workers=2, **{AT_START: "1"})
    for number in range(6):
        answered(server, f"/send?id=mail-{number}")
    assert not open_files(server.pid, "sqlite3")


def open_files(pid: int, word: str) -> list[str]:
    """Names of the files that a process has open, as far as they hold this word."""
    folder = Path(f"/proc/{pid}/fd")
    require_service("/proc", folder.is_dir())
    return [name for entry in folder.iterdir() if word in (name := os.readlink(entry))]
