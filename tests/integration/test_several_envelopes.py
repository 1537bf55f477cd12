"""Mail that takes several envelopes: each is settled by itself, and who is to blame stays exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.delivery import runtime as runtime_module
from flask_deferred_mail.errors import StoreError
from flask_deferred_mail.outcome import Fate, FaultKind, Outcome, ServerNote
from flask_deferred_mail.signals import email_dispatched
from flask_deferred_mail.transports.base import Call
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import (
    ScriptedTransport,
    accept,
    answer,
    to,
    unreachable,
    until_the_deadline,
)
from tests.support.smtp_script import Hang
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits

Make = Callable[..., MailApp]

THREE = ["ann@example.com", "bob@example.com", "eve@example.com"]
MANY = [f"r{number}@example.com" for number in range(7)]


def rests(app: MailApp) -> bool:
    """Whether anything is held against the transport."""
    return any(state.failures for state in app.runtime.states.all().values())


# --- what is known is kept ---------------------------------------------------------------------


def test_a_failed_progress_write_loses_no_acceptance(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first copy was accepted and could not be noted between two: it is noted at the end."""
    app = make_app("null:")
    transport = ScriptedTransport(app, accept)
    job = app.send(*THREE, private_copies=True)

    def fails(*_args: object) -> bool:
        raise StoreError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(app.runtime.jobs, "progress", fails)
        assert app.sweep().returned == 1
    assert transport.accepted == THREE[:1]
    assert list(app.statuses(job).values()) == ["sent", "pending", "pending"]
    assert app.sweep().sent == 1
    assert transport.accepted == THREE
    assert app.job(job).attempts == 1


def test_the_last_envelope_does_not_say_why_somebody_has_no_mail(make_app: Make) -> None:
    """Of three copies the last is accepted: the row tells of who has none, above all in doubt."""
    app = make_app("null:")
    said = {THREE[0]: (Fate.UNKNOWN, "no answer"), THREE[1]: (Fate.REFUSED, "550 not here")}

    def script(call: Call) -> Outcome:
        call.hand_over()
        fate, words = said.get(to(call)[0], (Fate.ACCEPTED, "250 ok"))
        return Outcome.for_all(call.recipients, fate, words, server=ServerNote(reply=words))

    ScriptedTransport(app, script)
    held = app.send(*THREE, private_copies=True, on_unknown="hold")
    partial = app.send(*THREE[1:], private_copies=True)
    app.sweep()
    ended = [(app.job(job).status, app.job(job).last_error) for job in (held, partial)]
    assert ended == [("held", "no answer"), ("partial", "550 not here")]
    assert [app.log(job)[0].detail for job in (held, partial)] == ["no answer", "550 not here"]


def test_the_last_envelope_does_not_decide_whether_something_was_dispatched(
    make_app: Make,
) -> None:
    """Whoever listens hears of a mail of which the first copy was accepted and the last refused."""

    def last_refused(call: Call) -> Outcome:
        if to(call) == THREE[-1:]:
            return answer(call, Fate.REFUSED, "550 no such user")
        return accept(call)

    app = make_app("null:")
    ScriptedTransport(app, last_refused)
    heard: list[int] = []

    def receiver(_sender: object, job: Any, **_extra: object) -> None:
        heard.append(job.id)

    job = app.send(*THREE, private_copies=True)
    with email_dispatched.connected_to(receiver):
        assert app.sweep().partial == 1
    assert heard == [job.id]


# --- who pays ----------------------------------------------------------------------------------


def test_a_rate_limit_in_the_middle_is_refunded(make_app: Make) -> None:
    """Every third call meets the limit: the rest waits for it, and one attempt is counted."""

    def limited(call: Call) -> Outcome:
        if len(transport.asked) % 3:
            return accept(call)
        text = "454 4.7.0 maximum sending rate exceeded"
        return Outcome.not_sent(call.recipients, FaultKind.RATE_LIMITED, text, retry_after=60)

    app = make_app("null:")
    transport = ScriptedTransport(app, limited)
    job = app.send(*MANY, private_copies=True, max_attempts=2)
    for _ in range(3):
        assert app.sweep().returned == 1
        assert app.job(job).attempts == 0
        app.make_due()
    assert app.sweep().sent == 1
    assert transport.accepted == MANY
    assert app.job(job).attempts == 1


@pytest.mark.parametrize("silent", ["before MAIL", "after MAIL"])
def test_a_deadline_of_ours_between_two_envelopes_is_nobodys_fault(
    make_app: Make, silent: str
) -> None:
    """The time of the attempt was spent on those before: the rest goes on at once, for free."""

    def second_is_late(call: Call) -> Outcome:
        if len(transport.asked) % 2:
            return accept(call)
        until_the_deadline(call)
        if silent == "before MAIL":
            return unreachable(call)
        detail = "no answer within the time allowed"
        return Outcome.for_all(call.recipients, Fate.DEFERRED, detail, unanswered=True)

    app = make_app("null:", DEFERRED_MAIL_ATTEMPT_DEADLINE=0.2)
    transport = ScriptedTransport(app, second_is_late)
    job = app.send(*THREE, private_copies=True, max_attempts=1)
    for number in (1, 2):
        assert app.sweep().returned == 1
        assert transport.accepted == THREE[:number]
        assert not rests(app)
    assert app.sweep().sent == 1
    assert transport.accepted == THREE
    assert app.job(job).attempts == 1


def test_a_server_that_is_silent_from_the_start_is_at_fault(make_app: Make) -> None:
    """The same silence, with nothing done before it, lets the transport rest."""

    def late(call: Call) -> Outcome:
        until_the_deadline(call)
        return unreachable(call)

    app = make_app("null:", DEFERRED_MAIL_ATTEMPT_DEADLINE=0.2)
    ScriptedTransport(app, late)
    job = app.send(*THREE, private_copies=True)
    assert app.sweep().returned == 1
    assert rests(app)
    assert app.job(job).attempts == 0


def test_refusals_to_be_divided_that_take_longer_than_the_deadline_end(make_app: Make) -> None:
    """They decide nothing, so the mail pays for its attempts and does not go round for ever."""

    def slow(call: Call) -> Outcome:
        if len(call.recipients) == 1:
            return accept(call)
        outcome = answer(call, Fate.REFUSED, "40806 a wrong address", divisible=True)
        until_the_deadline(call)
        return outcome

    app = make_app("null:", DEFERRED_MAIL_ATTEMPT_DEADLINE=0.2)
    transport = ScriptedTransport(app, slow)
    transport.private_copies_in_one_call = True  # type: ignore[misc] # only of this one
    job = app.send(*THREE[:2], private_copies=True, max_attempts=2)
    for _ in range(2):
        app.make_due()
        app.sweep()
    assert (app.job(job).status, app.job(job).attempts) == ("failed", 2)
    assert "clock has run out" in (app.job(job).last_error or "")
    assert transport.accepted == []


def test_a_refusal_to_be_divided_reaches_everybody_else(make_app: Make) -> None:
    """The bad address is found by halves, in one attempt; the others have their copies."""

    def picky(call: Call) -> Outcome:
        if "r3@example.com" in to(call):
            return answer(call, Fate.REFUSED, "40806 a wrong address", divisible=True)
        return accept(call)

    app = make_app("null:")
    transport = ScriptedTransport(app, picky)
    transport.private_copies_in_one_call = True  # type: ignore[misc] # only of this one
    job = app.send(*MANY, private_copies=True)
    assert app.sweep().partial == 1
    assert sorted(transport.accepted) == [r for r in MANY if r != "r3@example.com"]
    assert app.statuses(job)["r3@example.com"] == "rejected"
    keys = [call.idempotency_key for call in transport.asked]
    assert len(set(keys)) == len(keys)


# --- somebody waits for us ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["banner", "mail", "rcpt", "data"])
def test_a_deadline_that_runs_out_inline_is_nobodys_fault(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """What is left of a request's budget says nothing of the server, nor of the mail."""
    monkeypatch.setattr(runtime_module, "INLINE_BUDGET", 0.5)
    smtp.script(stage, Hang())
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="inline")
    job = Visits(app.app)(
        lambda: app.mail.send_after_response(
            subject="Hello", recipients=["ann@example.com"], body="Hi\n"
        )
    )
    assert app.outcomes(job) == ["returned"]
    assert (app.job(job).status, app.job(job).attempts) == ("pending", 0)
    assert not rests(app)
    smtp.script(stage, None)
    assert app.sweep().sent == 1


def test_a_fault_within_the_budget_is_the_transports(make_app: Make) -> None:
    """A refused connect takes no time: it lets the transport rest, also inline."""
    app = make_app("null:")
    ScriptedTransport(app, unreachable)
    job = app.send()
    app.runtime.deliver_now(job.id, Deadline.after(60))
    assert rests(app)
