"""Die at each point of the line, and look at what the row says then (fault table, A1 to A8).

A real gunicorn worker is killed while it serves a request whose response we read. Another process
sweeps: at once (nothing may be taken that a lease protects), and after the lease. Most tests let
the lease end by moving its end in the row; those with "really" in their name wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.fault_site import SHORT_LEASE, FaultSite, answered, ask
from tests.support.smtp_script import Accept, Drop
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer

MakeSite = Callable[..., FaultSite]
NAME = "the-mail"


def crashing(site: FaultSite, place: str, **env: str) -> tuple[WebServer, int]:
    """A server whose one worker dies at this place; and the worker."""
    server = site.serve(DEFERRED_MAIL_CRASH_AT=place, **env)
    return server, server.worker_pids()[0]


def wait_for_death(server: WebServer, worker: int) -> None:
    wait_until(lambda: worker not in server.worker_pids(), message="the worker lives")


def only_id(site: FaultSite) -> int:
    """The number of the one row that there is."""
    rows = site.rows.sql("SELECT id FROM deferred_mail_job")
    assert len(rows) == 1
    return int(rows[0][0])


def assert_leased_to_the_dead(site: FaultSite, job_id: int, worker: int) -> None:
    """The row is as it was recorded: leased to a process that is gone, no attempt counted."""
    row = site.row(job_id)
    assert (row["status"], row["attempts"], row["deaths"]) == ("sending", 0, 0)
    assert row["lease_owner"].endswith(f":{worker}")
    assert row["due_at"] - row["created_at"] >= site.lease
    assert site.rows.job(job_id).status == "pending"
    assert site.intact()


def sweep_after_the_lease(site: FaultSite, job_id: int) -> None:
    """A sweep finds nothing to take while the lease runs; one after its end takes the mail."""
    copies, row = site.copies(NAME), site.row(job_id)
    assert site.rows.sweep().claimed == 0
    assert time.time() < row["due_at"], "this machine is too slow to tell"
    assert site.row(job_id) == row
    site.let_lease_end(job_id)
    counts = site.rows.sweep()
    assert counts.claimed == counts.sent == 1
    assert site.copies(NAME) == copies + 1


def assert_sent_after_a_death(site: FaultSite, job_id: int, outcomes: list[str]) -> None:
    """The row says how it went, the dead sender's attempt included."""
    job = site.rows.job(job_id)
    assert (job.status, job.attempts) == ("sent", 2)
    assert site.row(job_id)["deaths"] == 0
    assert site.rows.outcomes(job_id) == outcomes
    assert "ended without an outcome" in site.rows.log(job_id)[0].detail
    assert site.message_ids(NAME) == {job.message_id}
    assert site.rows.sweep().claimed == 0


# -- before the response ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "path"), [("before-insert", "/send"), ("before-insert-commit", "/attach")]
)
def test_before_the_commit_nobody_is_promised_anything(
    site: FaultSite, place: str, path: str
) -> None:
    """A1: no 2xx reached the client, there is no row and no part of one, and no mail."""
    server, worker = crashing(site, place)
    assert ask(server, f"{path}?id={NAME}") is None
    wait_for_death(server, worker)
    assert site.count_rows() == 0
    assert site.rows.sql("SELECT count(*) FROM deferred_mail_blob") == [(0,)]
    assert site.intact()
    assert site.rows.sweep().claimed == 0
    assert not site.smtp.messages


@pytest.mark.parametrize("path", ["/send", "/attach"])
def test_a_mail_whose_client_saw_an_error_is_sent_all_the_same(site: FaultSite, path: str) -> None:
    """A2: committed, and dead before the response: the mail goes out once, after the lease."""
    server, worker = crashing(site, "after-insert-commit")
    assert ask(server, f"{path}?id={NAME}") is None
    wait_for_death(server, worker)
    job_id = only_id(site)
    assert_leased_to_the_dead(site, job_id, worker)
    assert not site.smtp.messages
    sweep_after_the_lease(site, job_id)
    assert_sent_after_a_death(site, job_id, ["unknown", "sent"])


# -- after the response -------------------------------------------------------------------------


def test_answered_and_dead_before_the_claim(site: FaultSite) -> None:
    """A3: the response is out and nobody has begun: sent once, no earlier than the lease's end."""
    server, worker = crashing(site, "before-claim")
    job_id = answered(server, f"/send?id={NAME}")
    wait_for_death(server, worker)
    assert_leased_to_the_dead(site, job_id, worker)
    sweep_after_the_lease(site, job_id)
    assert_sent_after_a_death(site, job_id, ["unknown", "sent"])


def test_rows_that_nobody_had_leased_need_no_waiting(site: FaultSite) -> None:
    """A3: mails of ``send_many`` are not leased before they are claimed: the next sweep sends."""
    server, worker = crashing(site, "before-claim")
    answer = ask(server, f"/many?id={NAME}")
    assert answer is not None
    assert answer.status == 200
    wait_for_death(server, worker)
    assert site.statuses() == {"pending": 2}
    assert site.rows.sweep().sent == 2
    assert [site.copies(f"{NAME}-{number}") for number in (1, 2)] == [1, 1]
    assert site.rows.sql("SELECT DISTINCT attempts FROM deferred_mail_job") == [(1,)]


@pytest.mark.parametrize("place", ["after-claim", "smtp.connected", "smtp.before_dot"])
def test_dead_before_the_final_dot(site: FaultSite, place: str) -> None:
    """A4, A5: in hand, but not handed over: one copy, no earlier than the lease's end."""
    server, worker = crashing(site, place)
    job_id = answered(server, f"/send?id={NAME}")
    wait_for_death(server, worker)
    assert_leased_to_the_dead(site, job_id, worker)
    assert not site.smtp.messages
    sweep_after_the_lease(site, job_id)
    assert_sent_after_a_death(site, job_id, ["unknown", "sent"])
    assert site.copies(NAME) == 1


@pytest.mark.parametrize(
    "stage", ["banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body"]
)
def test_killed_by_the_server_in_the_middle_of_the_conversation(
    make_site: MakeSite, stage: str
) -> None:
    """A4, A5: whatever the mail server was just asked, half a mail is no mail: one copy."""
    with SmtpServer(tls="starttls", credentials={"shop": "secret"}) as smtp:
        site = make_site(smtp=smtp, transport=smtp.url("shop", "secret"))
        server = site.serve()
        worker = server.worker_pids()[0]
        site.kill_at(stage, lambda: worker, Drop())
        job_id = answered(server, f"/send?id={NAME}")
        wait_for_death(server, worker)
        assert_leased_to_the_dead(site, job_id, worker)
        sweep_after_the_lease(site, job_id)
        assert_sent_after_a_death(site, job_id, ["unknown", "sent"])
        assert site.copies(NAME) == 1


@dataclass(frozen=True)
class Doubt:
    """A death after the dot: where, and whether the mail server had taken the mail."""

    copies: int
    #: A crash point; else the mail server kills at the dot and then does ``item``.
    place: str | None = None
    item: Any = None


DOUBTS = {
    "A6 leave was given, the dot is not out": Doubt(0, place="handed-over"),
    "A6 the server died with us": Doubt(0, item=Drop()),
    "A6 taken, and nobody read the 250": Doubt(1, item=Accept(Drop())),
    "A7 the 250 was read": Doubt(1, place="smtp.after_final_reply"),
    "A7 the outcome was about to be written": Doubt(1, place="before-outcome"),
    "A8 inside the transaction of the outcome": Doubt(1, place="in-outcome"),
}


def die_in_doubt(site: FaultSite, doubt: Doubt, query: str = "") -> tuple[int, int]:
    """One mail whose sender dies in this way; its number and the process."""
    if doubt.place is not None:
        server, worker = crashing(site, doubt.place)
    else:
        server = site.serve()
        worker = server.worker_pids()[0]
        site.kill_at("dot", lambda: worker, doubt.item)
    job_id = answered(server, f"/send?id={NAME}{query}")
    wait_for_death(server, worker)
    # What the kernel still had for the mail server arrives after the death.
    wait_until(lambda: site.smtp.open_connections == 0)
    return job_id, worker


@pytest.mark.parametrize("doubt", DOUBTS.values(), ids=DOUBTS)
def test_dead_after_the_dot_costs_one_more_copy_at_most(site: FaultSite, doubt: Doubt) -> None:
    """A6 to A8: nothing is lost, and a second copy has the Message-ID of the first."""
    job_id, worker = die_in_doubt(site, doubt)
    assert site.copies(NAME) == doubt.copies
    assert_leased_to_the_dead(site, job_id, worker)
    assert site.rows.log(job_id) == []
    sweep_after_the_lease(site, job_id)
    assert_sent_after_a_death(site, job_id, ["unknown", "sent"])
    assert site.copies(NAME) == doubt.copies + 1


@pytest.mark.parametrize("doubt", DOUBTS.values(), ids=DOUBTS)
def test_a_mail_that_must_not_go_twice_is_held(site: FaultSite, doubt: Doubt) -> None:
    """A6 to A8 with ``on_unknown="hold"``: no second copy; the row waits for a person."""
    job_id, _ = die_in_doubt(site, doubt, "&unknown=hold")
    row = site.row(job_id)
    assert (row["status"], row["handing_over"]) == ("sending", 1)
    site.let_lease_end(job_id)
    counts = site.rows.sweep()
    assert (counts.claimed, counts.held) == (1, 1)
    assert site.copies(NAME) == doubt.copies
    assert site.rows.job(job_id).status == "held"
    assert site.rows.statuses(job_id) == {"ann@example.com": "unknown"}
    assert "may have been sent" in (site.rows.job(job_id).last_error or "")
    assert site.rows.sweep().claimed == 0


def test_a_mail_that_must_not_go_twice_and_was_not_handed_over_is_sent(site: FaultSite) -> None:
    """A4 with ``on_unknown="hold"``: a death before the hand-over leaves no doubt."""
    server, worker = crashing(site, "smtp.before_dot")
    job_id = answered(server, f"/send?id={NAME}&unknown=hold")
    wait_for_death(server, worker)
    assert site.row(job_id)["handing_over"] == 0
    sweep_after_the_lease(site, job_id)
    assert_sent_after_a_death(site, job_id, ["unknown", "sent"])
    assert site.copies(NAME) == 1


@pytest.mark.parametrize("place", ["before-claim", "before-outcome"])
def test_the_next_sweep_of_cron_really_takes_over_from_the_dead(
    make_site: MakeSite, place: str
) -> None:
    """A3, A7, A10, by the clock: sweeps again and again; one sends, none before the lease's end."""
    site = make_site(DEFERRED_MAIL_LEASE=SHORT_LEASE)
    server, worker = crashing(site, place)
    job_id = answered(server, f"/send?id={NAME}")
    wait_for_death(server, worker)
    ends = site.row(job_id)["due_at"]
    assert ends - site.row(job_id)["created_at"] >= SHORT_LEASE
    copies = site.copies(NAME)
    counts = [site.sweep("--wait", "0.5").counts()]
    while not counts[-1]["claimed"]:
        counts.append(site.sweep("--wait", "0.5").counts())
    assert counts[-1]["sent"] == 1
    assert site.rows.log(job_id)[-1].started_at >= ends
    assert site.copies(NAME) == copies + 1
    assert_sent_after_a_death(site, job_id, ["unknown", "sent"])


def test_a_death_after_the_outcome_changes_nothing(site: FaultSite) -> None:
    """W4: the row says sent, so nobody ever looks at it again."""
    server, worker = crashing(site, "after-outcome")
    job_id = answered(server, f"/send?id={NAME}")
    wait_for_death(server, worker)
    job = site.rows.job(job_id)
    assert (job.status, job.attempts) == ("sent", 1)
    assert site.row(job_id)["lease_token"] is None
    assert site.rows.outcomes(job_id) == ["sent"]
    assert site.rows.sweep().claimed == 0
    assert site.copies(NAME) == 1
