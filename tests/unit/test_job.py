"""The state machine of a mail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flask_deferred_mail.job import (
    ENDED,
    TRANSITIONS,
    JobRecipient,
    JobStatus,
    RecipientStatus,
    ended_status,
)


def test_the_statuses_are_closed() -> None:
    """Eight statuses of a job, ten of a recipient: dashboards rely on them."""
    assert {str(status) for status in JobStatus} == {
        "pending",
        "sending",
        "sent",
        "partial",
        "failed",
        "held",
        "cancelled",
        "expired",
    }
    assert {str(status) for status in RecipientStatus} == {
        "pending",
        "sent",
        "rejected",
        "failed",
        "unknown",
        "suppressed",
        "delivered",
        "deferred",
        "bounced",
        "complained",
    }


def test_every_status_says_what_may_follow() -> None:
    """No status is forgotten, and a sent mail never changes again."""
    assert set(TRANSITIONS) == set(JobStatus)
    assert TRANSITIONS[JobStatus.SENT] == frozenset()
    assert all(status not in TRANSITIONS[status] for status in JobStatus)


def test_only_pending_follows_an_end() -> None:
    """What has ended can only be opened again."""
    for status in ENDED - {JobStatus.SENT}:
        assert TRANSITIONS[status] == {JobStatus.PENDING}


@pytest.mark.parametrize(
    ("statuses", "ends"),
    [
        (["sent"], "sent"),
        (["sent", "delivered", "bounced"], "sent"),
        (["sent", "rejected"], "partial"),
        (["rejected", "failed", "suppressed"], "failed"),
        (["sent", "unknown"], "held"),
        (["failed", "unknown"], "held"),
    ],
)
def test_the_end_of_a_mail_follows_from_its_recipients(statuses: list[str], ends: str) -> None:
    """Everybody: sent; some: partial; nobody: failed; a doubt: held."""
    recipients = tuple(JobRecipient("a@x.test", "to", RecipientStatus(s)) for s in statuses)
    assert ended_status(recipients) == ends


def test_the_drawing_in_the_docs_is_the_state_machine() -> None:
    """Each arrow of the table in docs/how-it-works.md is allowed, and each allowed one is there."""
    page = Path(__file__).parents[2] / "docs" / "how-it-works.md"
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", page.read_text(), re.M)
    drawn = {(source, target) for source, cell in rows for target in re.findall(r"`(\w+)`", cell)}
    allowed = {(str(a), str(b)) for a, targets in TRANSITIONS.items() for b in targets}
    assert drawn == allowed
