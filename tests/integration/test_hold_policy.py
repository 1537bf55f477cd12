"""Mail that must not go twice: the row is in doubt exactly while a last byte may be out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.delivery.leases import Holding
from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.outcome import Outcome
from flask_deferred_mail.transports.base import Call
from tests.support.deaths import attempt_and_die
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import ScriptedTransport, accept

Make = Callable[..., MailApp]

THREE = ["ann@example.com", "bob@example.com", "eve@example.com"]


@pytest.fixture
def app(make_app: Make) -> MailApp:
    return make_app("null:", DEFERRED_MAIL_ON_UNKNOWN="hold")


def handing_over(app: MailApp, job: Job) -> bool:
    """What the row says to whoever finds it after a death."""
    sql = "SELECT handing_over FROM deferred_mail_job WHERE id = ?"
    return bool(app.sql(sql, job.id)[0][0])


def test_a_mail_given_back_before_its_last_byte_is_in_no_doubt(
    app: MailApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row said that it was about to be handed over, then it was not: it is simply sent."""
    transport = ScriptedTransport(app, accept)
    job = app.send()
    said: list[bool] = []

    def refused(_holding: Holding) -> None:
        said.append(handing_over(app, job))
        raise HandoverRefused("the lease could not be renewed in time")

    with monkeypatch.context() as patch:
        patch.setattr(Holding, "hand_over", refused)
        assert app.sweep().returned == 1
    assert said == [True]
    assert not handing_over(app, job)
    assert app.sweep().sent == 1
    assert transport.accepted == ["ann@example.com"]


def test_between_two_envelopes_nothing_is_in_doubt(app: MailApp) -> None:
    """The first copy is answered; the second is stopped before its last byte: nobody is held."""

    def stopped_once(call: Call) -> Outcome:
        if len(transport.asked) == 2:
            raise HandoverRefused("the process ends")
        return accept(call)

    transport = ScriptedTransport(app, stopped_once)
    job = app.send(*THREE, private_copies=True)
    assert app.sweep().returned == 1
    assert list(app.statuses(job).values()) == ["sent", "pending", "pending"]
    assert app.sweep().sent == 1
    assert transport.accepted == THREE


def test_a_death_between_two_envelopes_leaves_no_doubt(app: MailApp) -> None:
    """Killed before the second copy's last byte: the first is known as sent, the rest follows."""

    def die_once(call: Call) -> Outcome:
        if len(transport.asked) == 2:
            raise SystemExit
        return accept(call)

    transport = ScriptedTransport(app, die_once)
    job = app.send(*THREE, private_copies=True)
    attempt_and_die(app, job)
    assert not handing_over(app, job)
    assert app.sweep().sent == 1
    assert transport.accepted == THREE


def test_a_death_with_the_last_byte_out_is_held(app: MailApp) -> None:
    """Killed after the second copy was handed over: nobody sends it again, a person decides."""

    def die_late(call: Call) -> Outcome:
        outcome = accept(call)
        if len(transport.asked) == 2:
            raise SystemExit
        return outcome

    transport = ScriptedTransport(app, die_late)
    job = app.send(*THREE, private_copies=True)
    attempt_and_die(app, job)
    assert handing_over(app, job)
    assert app.sweep().held == 1
    assert app.statuses(job)["ann@example.com"] == "sent"
    assert transport.accepted == ["ann@example.com"]
