"""`flask mail worker`: told to stop, killed, replaced, many at once (fault table, A10 to A12, A16).

Real processes around one table and one mail server; what is shown is the order of events.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_deferred_mail.store.database import Database
from tests.support.databases import DATABASES, fresh_database
from tests.support.fault_site import FaultSite, is_gone, kill_and_wait
from tests.support.own_servers import own_server
from tests.support.smtp_script import Accept, Hang
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT
from tests.support.worker_process import WorkerProcess

MakeSite = Callable[..., FaultSite]
Start = Callable[..., WorkerProcess]
ROWS, THREADS = 20, 3
_MAIL = {"recipients": ["ann@example.com"], "body": "Hi\n"}


def record(site: FaultSite, number: int, start: int = 0) -> list[str]:
    """Record so many mails; their subjects."""
    names = [f"mail-{i}" for i in range(start, start + number)]
    with site.rows.app.app_context():
        site.rows.mail.send_many([{"subject": name, **_MAIL} for name in names])
    return names


def wait_for_all_sent(site: FaultSite, number: int, timeout: float = 40.0) -> None:
    wait_until(lambda: site.statuses()["sent"] == number, timeout, str(site.statuses()))


def held(site: FaultSite, stage: str, start: Start, *options: str) -> WorkerProcess:
    """A worker at work, all of whose threads are held by the mail server at this stage."""
    site.smtp.hold(stage)
    worker = start(site, "--concurrency", str(THREADS), *options)
    wait_until(lambda: worker.must_run() and site.smtp.held(stage) == THREADS, 30, worker.log())
    return worker


# -- at work ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("processes", [1, 2])
def test_it_sends_what_comes_in_while_it_runs(
    shared: Callable[[str], FaultSite], start: Start, kind: str, processes: int
) -> None:
    """Mail recorded before and after it has begun; each once; it is seen, and says goodbye."""
    site = shared(kind)
    record(site, 5)
    worker = start(site, "--processes", str(processes)).wait_until_ready(processes)
    wait_for_all_sent(site, 5)
    for batch in range(1, 4):
        record(site, 5, batch * 5)
        wait_for_all_sent(site, (batch + 1) * 5)
    worker.must_run()
    assert worker.at_work() == set(worker.started() or [worker.pid])
    worker.stop()
    assert worker.at_work() == set()
    assert Counter(map(len, site.by_subject().values())) == {1: ROWS}
    assert "sent at attempt" not in worker.log(), "a line for each mail"


def test_new_mail_does_not_wait_for_a_server_that_is_slow_with_another(
    site: FaultSite, start: Start
) -> None:
    """One mail gets no answer to its dot; what is recorded afterwards leaves all the same."""
    site.smtp.script("dot", [Accept(Hang())])
    record(site, 1)
    worker = start(site)
    wait_until(lambda: worker.must_run() and len(site.smtp.messages) == 1, 30)
    record(site, 3, 1)
    wait_for_all_sent(site, 3, 15)
    assert site.statuses() == {"sent": 3, "sending": 1}


MANY = 500


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_workers_share_500_mails(
    shared: Callable[[str], FaultSite], start: Start, kind: str
) -> None:
    """Four processes of two workers: each mail is sent once, and both workers have sent some."""
    site = shared(kind)
    names = record(site, MANY)
    site.smtp.hold("mail")
    workers = [start(site, "--processes", "2", "--concurrency", "4") for _ in range(2)]
    query = "SELECT DISTINCT lease_owner FROM deferred_mail_job WHERE status = 'sending'"
    wait_until(lambda: len(site.rows.sql(query)) == 4, 40, "".join(w.log() for w in workers))
    site.smtp.release("mail")
    wait_for_all_sent(site, MANY, 60)
    for worker in workers:
        worker.stop()
    assert site.by_subject().keys() == set(names)
    assert site.extra_copies() == 0
    assert site.rows.sql("SELECT DISTINCT attempts, deaths FROM deferred_mail_job") == [(1, 0)]


# -- told to stop -------------------------------------------------------------------------------


def assert_untouched(site: FaultSite, number: int) -> None:
    """So many rows are as if nobody had begun with them."""
    query = (
        "SELECT attempts, deaths, lease_token, count(*) FROM deferred_mail_job "
        "WHERE status = 'pending' GROUP BY attempts, deaths, lease_token"
    )
    assert site.rows.sql(query) == [(0, 0, None, number)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("forked", [False, True])
def test_the_first_signal_finishes_what_is_in_hand(
    site: FaultSite, start: Start, number: signal.Signals, forked: bool
) -> None:
    """A11: three mails are at their dots: these are sent, the rest comes back at once."""
    record(site, ROWS)
    worker = held(site, "dot", start, *(["--max-jobs", "1000"] if forked else []))
    worker.signal(number)
    wait_until(lambda: site.statuses()["pending"] == ROWS - THREADS, 20, worker.log())
    assert_untouched(site, ROWS - THREADS)
    worker.must_run()
    site.smtp.release("dot")
    assert worker.end() == 0, worker.log()
    assert site.statuses() == {"sent": THREADS, "pending": ROWS - THREADS}
    assert_untouched(site, ROWS - THREADS)
    assert site.extra_copies() == 0
    assert all(is_gone(pid) for pid in worker.started())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_one_signal(
    site: FaultSite, start: Start, number: signal.Signals
) -> None:
    """As a terminal and some service managers send it: parent and children get it, once each."""
    record(site, ROWS)
    worker = held(site, "dot", start, "--max-jobs", "1000")
    os.killpg(worker.pid, number)
    wait_until(lambda: site.statuses()["pending"] == ROWS - THREADS, 20, worker.log())
    site.smtp.release("dot")
    assert worker.end() == 0, worker.log()
    assert site.statuses() == {"sent": THREADS, "pending": ROWS - THREADS}


@pytest.mark.parametrize("forked", [False, True])
def test_the_second_signal_leaves_at_once(site: FaultSite, start: Start, forked: bool) -> None:
    """A12: like a death, but what had not been begun was given back at the first signal."""
    record(site, ROWS)
    worker = held(site, "dot", start, *(["--max-jobs", "1000"] if forked else []))
    worker.signal(signal.SIGTERM)
    wait_until(lambda: site.statuses()["pending"] == ROWS - THREADS, 20, worker.log())
    worker.signal(signal.SIGTERM)
    assert worker.end() == 128 + signal.SIGTERM
    assert all(is_gone(pid) for pid in worker.started())
    assert site.statuses() == {"sending": THREADS, "pending": ROWS - THREADS}


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize(("stage", "in_doubt"), [("rcpt", 0), ("dot", THREADS)])
def test_quit_does_not_wait(
    site: FaultSite, start: Start, stage: str, in_doubt: int, forked: bool
) -> None:
    """Whatever was not handed over is as before; what was is left to its lease."""
    record(site, ROWS)
    worker = held(site, stage, start, *(["--max-jobs", "1000"] if forked else []))
    worker.signal(signal.SIGQUIT)
    assert worker.end() == 0, worker.log()
    assert site.statuses()["sending"] == in_doubt
    assert_untouched(site, ROWS - in_doubt)


def test_the_grace_is_over(site: FaultSite, start: Start) -> None:
    """A11: a server that does not answer does not keep the worker: the mail is given back."""
    record(site, ROWS)
    worker = held(site, "rcpt", start, "--grace", "0.2")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0, worker.log()
    assert "the time to stop in is over" in worker.log()
    assert_untouched(site, ROWS)


# -- replaced -----------------------------------------------------------------------------------


def test_hup_replaces_all_processes(site: FaultSite, start: Start) -> None:
    """What is in hand is finished; the parent stays; others send what comes next."""
    worker = start(site, "--processes", "2", "--concurrency", "1").wait_until_ready(2)
    before = set(worker.started())
    site.smtp.hold("dot")
    record(site, 1)
    wait_until(lambda: worker.must_run() and site.smtp.held("dot") == 1, 30, worker.log())
    worker.signal(signal.SIGHUP)
    worker.wait_for_log("was told to stop")
    site.smtp.release("dot")
    worker.wait_for_log("all 2 processes are ready", 2)
    assert all(is_gone(pid) for pid in before)
    assert worker.at_work() == set(worker.started()) - before
    record(site, 10, 1)
    wait_for_all_sent(site, 11)
    worker.stop()
    assert site.extra_copies() == 0
    assert site.rows.sql("SELECT DISTINCT attempts FROM deferred_mail_job") == [(1,)]


def test_hup_lets_a_single_process_connect_anew(site: FaultSite, start: Start) -> None:
    """It stays the same process, and its next mail leaves by a new connection."""
    worker = start(site).wait_until_ready()
    record(site, 1)
    wait_for_all_sent(site, 1)
    worker.signal(signal.SIGHUP)
    worker.wait_for_log("opened anew")
    record(site, 1, 1)
    wait_for_all_sent(site, 2)
    assert len({message.connection for message in site.smtp.messages}) == 2
    worker.stop()


@pytest.mark.parametrize(
    "limit", [("--max-jobs", "3"), ("--max-seconds", "0.3"), ("--max-memory", "1")]
)
def test_processes_that_have_done_their_share_are_replaced(
    site: FaultSite, start: Start, limit: tuple[str, str]
) -> None:
    """By mails, age and memory, as often as it takes; no mail is lost or sent twice over it."""
    worker = start(site, *limit, "--concurrency", "2").wait_until_ready()
    for batch in range(1, 5):
        record(site, 5, batch * 5)
        wait_for_all_sent(site, batch * 5)
        worker.wait_for_log(" ended\n", batch)
    worker.must_run()
    worker.stop()
    assert len(worker.started()) >= 4
    assert site.statuses() == {"sent": ROWS}
    assert site.extra_copies() == 0
    if limit[0] == "--max-jobs":
        assert len(worker.started()) >= ROWS / 3


# -- deaths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_child_is_killed(shared: Callable[[str], FaultSite], start: Start, kind: str) -> None:
    """A10, A16: another takes its place, and its mail over once its lease has ended."""
    site = shared(kind)
    record(site, 2)
    worker = held_one_by_one(site, start)
    first = worker.started()[0]
    kill_and_wait(first)
    worker.wait_for_log("another one starts", 1)
    wait_until(lambda: len(worker.started()) == 3)
    site.smtp.release("rcpt")
    wait_for_all_sent(site, 1)
    assert site.statuses() == {"sent": 1, "sending": 1}, "taken before the lease was over"
    site.rows.end_leases()
    wait_for_all_sent(site, 2)
    worker.stop()
    assert f"process {first} was ended by SIGKILL" in worker.log()
    assert site.extra_copies() == 0


def held_one_by_one(site: FaultSite, start: Start) -> WorkerProcess:
    """Two children, each of which is held with one mail before it is handed over."""
    site.smtp.hold("rcpt")
    # One mail each: the first to come must not take both.
    worker = start(site, "--processes", "2", "--concurrency", "1", "--max-jobs", "1")
    wait_until(lambda: worker.must_run() and site.smtp.held("rcpt") == 2, 30, worker.log())
    return worker


def test_the_parent_is_killed(site: FaultSite, start: Start) -> None:
    """Its children notice, finish what they have in hand, and end: nobody sends unsupervised."""
    record(site, 2)
    worker = held_one_by_one(site, start)
    children = worker.started()
    kill_and_wait(worker.pid)
    worker.wait_for_log("has lost its parent", 2)
    assert not any(is_gone(pid) for pid in children)
    site.smtp.release("rcpt")
    wait_until(lambda: all(is_gone(pid) for pid in children), 30, worker.log())
    assert site.statuses() == {"sent": 2}
    record(site, 1, 2)
    assert site.sweep().counts()["sent"] == 1


def test_a_mail_that_kills_its_process_ends_and_other_mail_flows(
    make_site: MakeSite, start: Start
) -> None:
    """A16: children die over it again and again, the parent stays, all other mail is sent."""
    site = make_site(DEFERRED_MAIL_MAX_SENDER_DEATHS=3)
    site.config["DEFERRED_MAIL_TRANSPORT"] = f"poison://127.0.0.1:{site.smtp.port}"
    with site.rows.app.app_context():
        bad = site.rows.mail.send_after_response(subject="kill", **_MAIL)
    names = record(site, 5)
    worker = start(site, "--max-jobs", "1000", "--concurrency", "1")
    deaths = 0

    def ended() -> bool:
        nonlocal deaths
        worker.must_run()
        killed = worker.log().count("was ended by SIGKILL")
        if killed > deaths:
            deaths = killed
            site.rows.end_leases()
        return site.statuses() == {"sent": len(names), "failed": 1}

    wait_until(ended, 60, worker.log())
    worker.stop()
    assert "sender died" in str(site.rows.job(bad.id).last_error)
    assert deaths == 3


# -- what it says -------------------------------------------------------------------------------


def test_tables_that_are_missing_end_it(make_site: MakeSite, start: Start, tmp_path: Path) -> None:
    """Exit code 3, with what to do; the parent does not start one child after the other."""
    site = make_site()
    with fresh_database("postgresql", tmp_path) as url:
        site.config["DEFERRED_MAIL_DATABASE_URI"] = url
        worker = start(site, "--processes", "2")
        assert worker.end() == 3, worker.log()
    assert "init-db" in worker.log()
    assert len(worker.started()) <= 2


def test_nothing_is_sent_while_sending_is_suppressed(site: FaultSite, start: Start) -> None:
    """It says so, stays, and stops when it is told to."""
    record(site, 1)
    worker = start(site, FLASK_MAIL_SUPPRESS_SEND="true")
    worker.wait_for_log("sending is suppressed")
    worker.stop()
    assert site.statuses() == {"pending": 1}


# -- the parent alone ---------------------------------------------------------------------------

_CRASHES = """
import logging, os, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from flask_deferred_mail.delivery import supervisor
from flask_deferred_mail.sd_notify import ServiceManager
outcome = supervisor.Supervisor(1, 1.0, ServiceManager({})).run()
os._exit(outcome if isinstance(outcome, int) else 7)
"""


def test_a_child_that_crashes_at_once_is_started_ever_more_seldom() -> None:
    """The pauses double, the parent stays, and stops at once when it is told to."""
    command = [sys.executable, "-c", _CRASHES]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stderr is not None
        pauses: list[str] = []
        while len(pauses) < 4:
            line = parent.stderr.readline()
            assert line, "the parent ended"
            pauses += re.findall(r"ended with 7; another one starts in (\S+) s", line)
        assert pauses == ["0.5", "1.0", "2.0", "4.0"]
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(10) == 0


# -- what it tells the service manager ----------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_the_service_manager_hears_of_it(site: FaultSite, start: Start, processes: int) -> None:
    """Ready once the database answers, signs of life, renewed, stopping: by the main process."""
    name = f"@deferred-mail-test-{os.getpid()}-{processes}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:])
        listener.settimeout(30)
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000"}
        worker = start(site, "--processes", str(processes), **env)

        def next_word() -> str:
            while (word := listener.recv(999).decode().split("\n")[0]) == "WATCHDOG=1":
                signs.append(word)
            return word

        signs: list[str] = []
        assert next_word() == "READY=1"
        assert len(worker.at_work()) == processes
        worker.signal(signal.SIGHUP)
        assert next_word() == "RELOADING=1"
        assert next_word() == "READY=1"
        worker.signal(signal.SIGTERM)
        assert next_word() == "STOPPING=1"
        assert worker.end() == 0
        assert signs


def test_a_database_that_goes_and_comes_back(make_site: MakeSite, start: Start) -> None:
    """C4: the worker stays, says so, and sends what is recorded afterwards."""
    with own_server("postgresql") as server:
        url = server.new_database()
        database = Database(url)
        database.create()
        database.close()
        site = make_site(DEFERRED_MAIL_DATABASE_URI=url)
        worker = start(site).wait_until_ready()
        server.crash()
        worker.wait_for_log("the database failed, another try in")
        server.start()
        record(site, 3)
        wait_for_all_sent(site, 3)
        worker.stop()
        site.rows.close()
