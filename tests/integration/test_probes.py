"""A transport in trouble is tried by one mail at a time; that one must not keep the others."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy import event

from flask_deferred_mail import Job
from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.outcome import Fate, Outcome
from flask_deferred_mail.transports.base import Call
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import ScriptedTransport, accept, answer, unreachable

Make = Callable[..., MailApp]


def trouble(app: MailApp, seconds: float = -1.0) -> None:
    """Something was wrong with the transport; its rest ends in so many seconds."""
    app.runtime.states.rest("default", "unreachable", "down", {1: seconds})
    app.runtime.pacing.forget()


def failures(app: MailApp) -> int:
    return app.runtime.states.all()["default"].failures


def probe(app: MailApp) -> str | None:
    """Who is trying the transport now."""
    token: str | None = app.sql("SELECT probe_token FROM deferred_mail_transport")[0][0]
    return token


def expire(app: MailApp, job: Job) -> None:
    app.sql("UPDATE deferred_mail_job SET expires_at = 1 WHERE id = ?", job.id)


def wait_no_more(app: MailApp) -> None:
    """The rest is over, and so is every mail's delay; who waited longer is still ahead."""
    now = time.time()
    app.sql("UPDATE deferred_mail_job SET due_at = ? WHERE due_at > ?", now, now)
    app.sql("UPDATE deferred_mail_transport SET resting_until = 0")
    app.runtime.pacing.forget()


@pytest.mark.parametrize("ordinary", [0, 2])
def test_suspects_of_a_transport_in_trouble_are_sent_once_its_rest_is_over(
    make_app: Make, ordinary: int
) -> None:
    """Mails whose sender died go too, whether or not an ordinary one is there to try it first."""
    app = make_app("null:")
    transport = ScriptedTransport(app, accept)
    suspects = [app.send() for _ in range(2)]
    for job in suspects:
        assert app.runtime.claims.take_one(job.id)
    app.end_leases()
    for _ in range(ordinary):
        app.send()
    trouble(app)
    assert app.sweep().sent == 2 + ordinary
    assert len(transport.accepted) == 2 + ordinary
    assert failures(app) == 0


def test_a_probe_that_finds_nothing_to_send_is_given_back(make_app: Make) -> None:
    """Somebody else has taken the last mail: the pass keeps nothing from the next sender."""
    app = make_app("null:")
    ScriptedTransport(app, accept)
    app.send()
    trouble(app)
    before = app.runtime.claims.now()
    assert app.runtime.claims.take("default", 1)
    assert not app.runtime.sweep()._claim_from("default", before)
    assert probe(app) is None
    app.send()
    assert app.sweep().sent == 1


def refuse_handover(call: Call) -> Outcome:
    raise HandoverRefused("the lease could not be renewed in time")


def wrong_sender(call: Call) -> Outcome:
    return answer(call, Fate.FAILED, "553 sender not allowed", message_config=True)


def no_such_user(call: Call) -> Outcome:
    return answer(call, Fate.REFUSED, "550 no such user")


@pytest.mark.parametrize(
    ("first", "counted"),
    [(refuse_handover, "returned"), (wrong_sender, "failed"), (no_such_user, "failed")],
)
def test_a_probe_that_says_nothing_of_the_transport_frees_it_for_others(
    make_app: Make, first: Callable[[Call], Outcome], counted: str
) -> None:
    """Given back, or failed for its own configuration: the next mail goes in the same pass."""
    app = make_app("null:")
    transport = ScriptedTransport(app, lambda c: first(c) if c.job_id == 1 else accept(c))
    assert app.send().id == 1
    other = app.send()
    trouble(app)
    counts = app.sweep()
    assert (counts.sent, getattr(counts, counted)) == (1, 1)
    assert [call.job_id for call in transport.asked] == [1, other.id]
    assert probe(app) is None


def test_a_probe_whose_mail_had_ended_frees_it_for_others(make_app: Make) -> None:
    """It expired without a call, so it says nothing; the next mail goes in the same pass."""
    app = make_app("null:")
    transport = ScriptedTransport(app, accept)
    late = app.send(expires_at=time.time() + 3000)
    expire(app, late)
    other = app.send()
    trouble(app)
    counts = app.sweep()
    assert (counts.expired, counts.sent) == (1, 1)
    assert [call.job_id for call in transport.asked] == [other.id]


def test_an_urgent_mail_that_draws_a_fault_each_time_does_not_keep_others_waiting(
    make_app: Make,
) -> None:
    """A probe is the mail that waits longest, so each rest lets another one through."""
    app = make_app("null:")
    transport = ScriptedTransport(
        app, lambda c: unreachable(c) if c.letter.subject == "poison" else accept(c)
    )
    poison = app.send(subject="poison", priority="high")
    others = [app.send() for _ in range(3)]
    for _ in range(10):
        app.sweep(concurrency=1)
        wait_no_more(app)
    assert [app.job(job).status for job in others] == ["sent"] * 3
    assert len(transport.accepted) == 3
    assert (app.job(poison).status, app.job(poison).attempts) == ("pending", 0)


def test_a_sweep_that_waits_does_not_spin_while_a_transport_rests(make_app: Make) -> None:
    """Due mail of a resting transport is looked at about once a second, not all the time.

    Writing is what counts: it takes the lock that web requests wait for.
    """
    app = make_app("null:")
    transport = ScriptedTransport(app, accept)
    for _ in range(3):
        app.send()
    trouble(app, 600.0)
    begun: list[str] = []
    app.runtime.database.close()  # open connections are not watched

    @event.listens_for(app.runtime.database.engine, "checkout")
    def watch(connection: object, *_rest: object) -> None:
        connection.set_trace_callback(  # type: ignore[attr-defined] # SQLite's own
            lambda statement: begun.append(statement) if statement == "BEGIN IMMEDIATE" else None
        )

    assert app.runtime.sweep().run(wait=2.5).claimed == 0
    assert 1 <= len(begun) <= 12, f"{len(begun)} writing transactions in a few seconds"
    assert not transport.asked
