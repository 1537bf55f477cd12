"""On one connection there is never more than one mail whose outcome is not in its row.

That is what makes "one more copy per killed connection" true (guarantee 2). The test keeps outcomes
from being written.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from flask_deferred_mail.store.claims import Claim
from flask_deferred_mail.store.statements import Verdict
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

MakeApp = Callable[..., MailApp]


class Lock:
    """The database's write lock, in the test's hand."""

    def __init__(self, app: MailApp) -> None:
        self._file = app.folder / "deferred_mail.sqlite3"
        self._free = threading.Event()
        self._taken = threading.Event()
        self._thread = threading.Thread(target=self._keep)

    def take(self) -> None:
        """Go on when nobody else can write any more."""
        self._thread.start()
        assert self._taken.wait(10)

    def _keep(self) -> None:
        with closing(sqlite3.connect(self._file, timeout=10, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._taken.set()
            self._free.wait(30)
            connection.execute("ROLLBACK")

    def free(self) -> None:
        self._free.set()
        if self._taken.is_set():
            self._thread.join(10)


@pytest.fixture
def app(make_app: MakeApp, smtp: SmtpServer) -> MailApp:
    return make_app(smtp.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=30)


@pytest.fixture
def lock(app: MailApp) -> Iterator[Lock]:
    held = Lock(app)
    yield held
    held.free()


@contextmanager
def sweeping(app: MailApp, concurrency: int) -> Iterator[None]:
    """A pass in a thread; it has to end by itself."""
    thread = threading.Thread(target=app.sweep, kwargs={"concurrency": concurrency})
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def test_the_next_dot_waits_for_the_outcome_of_the_last_one(
    app: MailApp, smtp: SmtpServer, lock: Lock
) -> None:
    """One sender, two mails: while the first outcome cannot be written, no second dot comes."""
    smtp.script("dot", lambda turn: lock.take() if turn.count == 0 else None)
    jobs = [app.send(subject=f"mail-{number}") for number in range(2)]
    with sweeping(app, 1):
        smtp.wait_for(1)
        with pytest.raises(AssertionError):
            smtp.wait_for(2, timeout=0.7)
        lock.free()
    assert {str(app.job(job).status) for job in jobs} == {"sent"}
    assert [message.connection for message in smtp.messages] == [1, 1]


def test_another_sender_does_not_use_a_connection_with_a_mail_in_doubt(
    app: MailApp, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection used last would be taken first, but its mail's outcome is not written yet."""
    first, second, third = (app.send(subject=name) for name in ("first", "second", "third"))
    reached = {job.id: threading.Event() for job in (first, second, third)}
    go_on = threading.Event()
    write = app.runtime.jobs.record

    def record(claim: Claim, verdict: Verdict, *patience: float) -> bool:
        reached[claim.job_id].set()
        if claim.job_id == second.id:
            assert reached[first.id].wait(10)
        elif claim.job_id == first.id:
            assert go_on.wait(10)
        return write(claim, verdict)

    def dot(turn: Any) -> None:
        if b"Subject: first" in turn.argument:
            assert reached[second.id].wait(10)

    monkeypatch.setattr(app.runtime.jobs, "record", record)
    smtp.script("dot", dot)
    with sweeping(app, 2):
        wait_until(lambda: app.job(third).status == "sent")
        assert app.job(first).status == "sending"
        go_on.set()
    connections = {str(m.parsed["Subject"]): m.connection for m in smtp.messages}
    assert connections["third"] == connections["second"] != connections["first"]
