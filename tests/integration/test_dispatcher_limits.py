"""Where the sender threads of a process end: no thread to be had, a failing database, the close."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.delivery import runtime as runtime_module
from flask_deferred_mail.delivery.attempt import Delivered
from flask_deferred_mail.delivery.dispatcher import Dispatcher
from flask_deferred_mail.delivery.leases import Holding
from flask_deferred_mail.errors import StoreError
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}
GIVEN_BACK = ("pending", 0, None)


def send(app: MailApp, number: int = 1, **fields: Any) -> list[Job]:
    """What a view does: record so many mails."""
    return [app.mail.send_after_response(**HELLO, **fields) for _ in range(number)]


def row(app: MailApp, job: Job) -> tuple[Any, ...]:
    """Status, attempts and token of a mail's row."""
    return app.sql(
        "SELECT status, attempts, lease_token FROM deferred_mail_job WHERE id=?", job.id
    )[0]


@contextmanager
def no_sender_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No further sender thread can be started, as at the limit of a container."""
    start = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        if thread.name.startswith("deferred-mail-sender"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        yield


# --- no thread to be had ---------------------------------------------------------------------


def test_a_bell_without_a_thread_leaves_the_mail_to_the_sweep(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is not renewed for ever; within a lease it is anybody's."""
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=1)
    with no_sender_threads(monkeypatch):
        [job] = Visits(app.app)(lambda: send(app))
        wait_until(lambda: row(app, job) == GIVEN_BACK)
    assert app.runtime.leases.count() == 0
    assert app.sweep().sent == 1


def test_what_waits_behind_the_last_thread_is_given_back_when_that_stands_still(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is written off and no other can be started: nobody would come for the rest."""
    smtp.hold("dot")
    app = make_app(smtp.url(), DEFERRED_MAIL_LEASE=2, DEFERRED_MAIL_SENDER_THREADS=1)
    first, second = Visits(app.app)(lambda: send(app, 2))
    smtp.wait_held("dot")
    [stuck] = [h for h in app.runtime.leases.in_hand() if h.claim.job_id == first.id]
    with no_sender_threads(monkeypatch):
        for told in app.runtime.deliverer.on_written_off:
            told(stuck, Delivered("retry"))
        wait_until(lambda: row(app, second) == GIVEN_BACK)
    smtp.release("dot")
    wait_until(lambda: app.job(first).status == "sent")
    assert app.sweep().sent == 1


# --- a database that fails -------------------------------------------------------------------


def test_a_process_that_sends_nothing_gives_back_what_is_queued(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outcome that could not be written, no further mail of the queue is begun."""
    app = make_app(smtp.url(), DEFERRED_MAIL_SENDER_THREADS=1)
    begun: list[int] = []
    failing = threading.Event()

    def deliver(holding: Holding, _letter: object, **_how: object) -> Delivered:
        begun.append(holding.claim.job_id)
        assert failing.wait(10)
        app.runtime.leases.let_go(holding)
        raise StoreError("database or disk is full")

    monkeypatch.setattr(app.runtime.deliverer, "deliver", deliver)

    def view() -> list[Job]:
        return [*send(app, 3), *send(app, max_attempts=1)]

    first, second, third, unleased = Visits(app.app)(view)
    failing.set()
    wait_until(lambda: [row(app, job) for job in (second, third)] == [GIVEN_BACK] * 2)
    wait_until(lambda: app.runtime.dispatcher._pool.pending == 0)
    assert row(app, unleased) == GIVEN_BACK
    assert begun == [first.id]
    assert app.runtime.leases.count() == 0


# --- one of each, and none afterwards --------------------------------------------------------


def test_first_requests_at_once_share_one_dispatcher(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would be two pools, each with all the threads and places."""
    made: list[Dispatcher] = []
    both_in = threading.Barrier(2)

    class Slow(Dispatcher):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            with suppress(threading.BrokenBarrierError):
                both_in.wait(0.5)  # only a second maker ends the wait early
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(runtime_module, "Dispatcher", Slow)
    runtime = make_app("null:").runtime
    got: list[Dispatcher] = []
    threads = [threading.Thread(target=lambda: got.append(runtime.dispatcher)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert got == made * 4


def test_a_closed_app_leaves_no_thread(make_app: Make, smtp: SmtpServer) -> None:
    """Neither the senders nor the heartbeat, and none of a sweep."""
    before = set(threading.enumerate())

    def ours() -> list[str]:
        new = set(threading.enumerate()) - before
        return [thread.name for thread in new if thread.name.startswith("deferred-mail")]

    app = make_app(smtp.url())
    [job] = Visits(app.app)(lambda: send(app))
    wait_until(lambda: app.job(job).status == "sent")
    app.send()
    assert app.sweep().sent == 1
    assert {name.rpartition("-")[0] for name in ours()} >= {"deferred-mail", "deferred-mail-sender"}
    app.close()
    wait_until(lambda: not ours(), message=f"left behind: {ours()}")


def test_a_closed_app_takes_nothing_in_hand(make_app: Make, smtp: SmtpServer) -> None:
    """A request that is still under way records its mail for the sweep."""
    app = make_app(smtp.url())
    visit = Visits(app.app)
    visit(lambda: send(app))
    app.close()
    [job] = visit(lambda: send(app))
    assert row(app, job) == GIVEN_BACK
    assert app.runtime.leases.count() == 0
