"""explanation.py: every state of a mail has a sentence that says what it waits for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flask_deferred_mail.explanation import Evidence, explain
from flask_deferred_mail.job import Job, JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.settings import Settings
from flask_deferred_mail.store.inspection import Standing
from flask_deferred_mail.store.reports import Sighting
from flask_deferred_mail.store.transport_state import TransportState
from flask_deferred_mail.transport_report import TransportReport

NOW = datetime(2024, 5, 17, 8, 30, tzinfo=UTC)
SETTINGS = Settings.from_mapping(
    {"DEFERRED_MAIL_TRANSPORT": "null:"}, instance_path="/srv", debug=False, testing=False
)
ANN = JobRecipient("ann@example.com", "to")
JOB = Job(
    id=7,
    status=JobStatus.PENDING,
    message_id="<7@example.com>",
    attempts=0,
    next_attempt_at=NOW,
    created_at=NOW,
    sent_at=None,
    last_error=None,
    recipients=(ANN,),
)
STANDING = Standing(
    job=JOB,
    due_in=-5.0,
    scheduled=True,
    leased=False,
    lease_owner=None,
    unstarted=False,
    spent=0,
    max_attempts=None,
    deaths=0,
    first_due_ago=5.0,
    expires_in=None,
    too_new=False,
)
RESTING = TransportState(
    name="default",
    failures=3,
    kind="account",
    reason="535 wrong \x1bpassword",
    since=None,
    rests_for=40.0,
    has_streak=False,
)


def told(*, job=None, standing=None, **evidence):
    """The explanation of such a mail, in one text."""
    known = {
        "standing": replace(STANDING, job=replace(JOB, **(job or {})), **(standing or {})),
        "attempts": [],
        "settings": SETTINGS,
        "transport": None,
        "sweep": Sighting("sweep", "web1", 9, NOW.timestamp() - 20),
        "suppressed": False,
        "now": NOW,
    }
    return "\n".join(explain(Evidence(**{**known, **evidence})))


def in_state(status, recipient):
    """A mail with this status whose only recipient has that one."""
    return {"status": status, "recipients": (replace(ANN, status=recipient, detail="so it is"),)}


def test_a_due_mail_waits_for_a_sweep():
    """Nothing else keeps it, and the last sweep is named."""
    text = told()
    assert "nothing is in its way" in text
    assert "last sweep was seen 20 s ago" in text
    assert "0 of 20 attempts" in text
    assert "2024-05-22 08:29:55Z at the latest" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sweep": None}, "No sweep has ever been seen"),
        ({"sweep": Sighting("sweep", "web1", 9, NOW.timestamp() - 4_000)}, "for 1 h 6 min"),
        ({"transport": RESTING}, "rests for 40 s more (account, 3 faults in a row): 535 wrong"),
        ({"transport": replace(RESTING, rests_for=-1.0)}, "one mail at a time tries it"),
        ({"suppressed": True}, "Sending is suppressed"),
        ({"job": {"transport": "bulk"}}, "'bulk' is not configured"),
        ({"standing": {"too_new": True}}, "by a newer flask-deferred-mail"),
        ({"standing": {"deaths": 2}}, "2 senders died over it"),
        ({"standing": {"due_in": 90.0}}, "It is for later: it leaves from"),
        ({"standing": {"due_in": 90.0, "scheduled": False}}, "waits for its next attempt"),
        ({"job": {"last_error": "451 later"}}, "did not get through: 451 later"),
        ({"standing": {"expires_in": 61.0}}, "It expires in 1 min 1 s"),
        ({"standing": {"max_attempts": 3, "spent": 1}}, "1 of 3 attempts"),
    ],
)
def test_a_waiting_mail_tells_what_it_waits_for(changes, words):
    """Each reason has its own sentence, and none drives the terminal."""
    text = told(**changes)
    assert words in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_mail_in_hand_names_who_has_it():
    """Host and process, and how long its lease lasts; a lease that has ended is another story."""
    sending = {"leased": True, "lease_owner": "web1:9", "due_in": 30.0}
    job = {"status": JobStatus.SENDING}
    assert "being sent at this moment by web1:9" in told(job=job, standing=sending)
    dead = told(job=job, standing=sending | {"due_in": -12.0})
    assert "its lease ended 12 s ago" in dead
    unstarted = told(standing=sending | {"unstarted": True})
    assert "once its response is out" in unstarted


@pytest.mark.parametrize(
    ("job", "words", "retry"),
    [
        (in_state(JobStatus.SENT, RecipientStatus.SENT), "every recipient was accepted", False),
        (in_state(JobStatus.PARTIAL, RecipientStatus.REJECTED), "for some", True),
        (in_state(JobStatus.FAILED, RecipientStatus.REJECTED), "is rejected: so it is", True),
        (in_state(JobStatus.CANCELLED, RecipientStatus.FAILED), "was cancelled", False),
        (in_state(JobStatus.EXPIRED, RecipientStatus.FAILED), "It expired", True),
    ],
)
def test_an_ended_mail_says_how_it_ended(job, words, retry):
    """What can be done about it is said where something can."""
    text = told(job=job)
    assert words in text
    assert ("flask mail retry 7" in text) is retry


def test_a_held_mail_says_why_and_what_to_do():
    """Held by hand, or since nobody can know: the second needs the Message-ID."""
    by_hand = told(job=in_state(JobStatus.HELD, RecipientStatus.PENDING))
    assert "asked for that" in by_hand
    assert "--as-sent" not in by_hand
    unknown = told(job=in_state(JobStatus.HELD, RecipientStatus.UNKNOWN))
    assert "nobody can know" in unknown
    assert "<7@example.com>" in unknown
    assert "release 7 --as-sent" in unknown


def test_the_time_to_give_up_counts_from_the_first_due_time():
    """As delivery counts it."""
    old = told(standing={"first_due_ago": timedelta(days=4).total_seconds()})
    assert "2024-05-18 08:30:00Z at the latest" in old


@pytest.mark.parametrize(
    "standing", [{"leased": True, "due_in": 30.0}, {}, {"status": JobStatus.HELD}]
)
def test_a_transport_with_batches_tells_how_wide_a_doubt_can_be(standing):
    """As long as the mail has not ended: the window of a lost answer is the request."""
    way = TransportReport("default/postmark", "Postmark", "default", None, {}, None, None, 25)
    job = {"status": standing["status"]} if "status" in standing else {}
    how = {name: value for name, value in standing.items() if name != "status"}
    words = "By 'default/postmark' it may share a request with up to 24 other mails."
    assert words in told(job=job, standing=how, ways=(way,))
    assert "share a request" not in told(job=job, standing=how, ways=(replace(way, batch=None),))
    assert "share a request" not in told(job={"status": JobStatus.SENT}, ways=(way,))
