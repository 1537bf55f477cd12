"""What a row says after an attempt, as one value to compare with."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from flask_deferred_mail import Job
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

#: Schedule of the tests that look at ``next_attempt_at``. From when a mail is due again one can
#: tell who pays: 40 s is the mail's own, 5 s the rest of an unreachable transport, 60 s that of a
#: broken account, 30 s and 3600 s the limits of a provider.
SCHEDULE = [40, 300]


@dataclass(frozen=True)
class Row:
    """How a mail to one recipient stands after one attempt."""

    status: str
    attempts: int
    recipient: str
    #: Word of the attempt log.
    logged: str
    #: Why the transport rests; ``None``: it does not.
    rests: str | None = None
    #: Seconds until the next attempt, before jitter; ``None``: there is none.
    due: float | None = None
    jitter: float = 0.25


SENT = Row("sent", 1, "sent", "sent")
#: The attempt counts, and the schedule says when the next one is.
MAIL_PAYS = Row("pending", 1, "pending", "retry", due=40)
#: Nothing was burned: the transport rests, and the mail with it.
UNREACHABLE = Row("pending", 0, "pending", "returned", "unreachable", 5)
ACCOUNT = Row("pending", 0, "pending", "returned", "account", 60)
RATE_LIMITED = Row("pending", 0, "pending", "returned", "rate_limited", 30)
QUOTA = Row("pending", 0, "pending", "returned", "quota", 3600)
REJECTED = Row("failed", 1, "rejected", "failed")
#: Wrongly configured, this mail alone.
MISCONFIGURED = Row("failed", 1, "failed", "failed")
#: Handed over without an answer: once more after the first delay, exactly.
IN_DOUBT = Row("pending", 1, "unknown", "unknown", due=40, jitter=0)


def attempt(app: MailApp, job: Job) -> Row:
    """Sweep once; the row of a mail to one recipient afterwards, and the mail's transport.

    ``due`` is what is expected of the three figures that jitter makes of it, see :func:`settled`.
    """
    before = time.time()
    counts = app.sweep()
    assert counts.claimed == 1, counts
    after = app.job(job)
    [recipient] = after.recipients
    state = app.runtime.states.all().get(after.transport)
    due = None
    if after.next_attempt_at is not None:
        due = after.next_attempt_at.timestamp() - before
    return Row(
        status=str(after.status),
        attempts=after.attempts,
        recipient=str(recipient.status),
        logged=app.outcomes(job)[-1],
        rests=state.kind if state is not None and state.failures else None,
        due=due,
    )


def assert_row(app: MailApp, job: Job, expected: Row) -> Job:
    """Sweep once, and hold the row against what it should say; the job as it is then."""
    before = time.time()
    row = attempt(app, job)
    spent = time.time() - before
    assert replace(row, due=None, jitter=expected.jitter) == replace(expected, due=None)
    if expected.due is None:
        assert row.due is None
    else:
        assert row.due is not None
        longest = expected.due * (1 + expected.jitter) + spent
        assert expected.due - 0.1 <= row.due <= longest + 0.1
    assert (app.job(job).last_error is None) == (expected.status == "sent")
    return app.job(job)


def assert_sent_later(app: MailApp, job: Job, attempts: int) -> None:
    """Once the trouble is over the mail goes out, its transport is well, and nothing is left."""
    app.make_due()
    assert app.sweep().sent == 1
    after = app.job(job)
    assert (after.status, after.attempts) == ("sent", attempts)
    assert all(not state.failures for state in app.runtime.states.all().values())
    assert app.sweep().claimed == 0


def assert_repaired(app: MailApp, job: Job, expected: Row, server: SmtpServer) -> None:
    """Once the server is well again the mail arrives, if it waits for that; one Message-ID."""
    if expected.status == "pending":
        assert_sent_later(app, job, expected.attempts + 1)
    assert {m.parsed["Message-ID"] for m in server.messages} <= {app.job(job).message_id}


def dump(app: MailApp) -> list[tuple[Any, ...]]:
    """Everything that the tables hold, as text."""
    names = app.sql("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [row for (name,) in names for row in app.sql(f"SELECT * FROM {name}")]
