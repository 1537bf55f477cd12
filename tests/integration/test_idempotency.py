"""Idempotency keys: new after every answer that says "not sent", the same over every silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.outcome import Fate, Outcome
from flask_deferred_mail.transports.base import Call
from tests.support.deaths import attempt_and_die
from tests.support.http_provider import HttpProvider, Reply, accepted_by_sendcloud
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import ScriptedTransport, accept, answer, to

Make = Callable[..., MailApp]

ANN, BOB = "ann@example.com", "bob@example.com"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "sendcloud"
HOUR = 3600.0


@pytest.fixture
def app(make_app: Make) -> MailApp:
    return make_app("null:")


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def shop(make_app: Make, provider: HttpProvider) -> MailApp:
    """An app that sends by SendCloud, which knows a repeated request for an hour."""
    return make_app(f"sendcloud://shop:key@default?endpoint={provider.url}")


def reply(name: str) -> Reply:
    """An answer of SendCloud's."""
    return Reply(json.loads((FIXTURES / f"response_{name}.json").read_text("utf-8"))["json"])


def later(call: Call) -> Outcome:
    return answer(call, Fate.DEFERRED, "451 later")


def silence(call: Call) -> Outcome:
    return answer(call, Fate.UNKNOWN, "no answer to the last byte")


# --- an answer: a new key ----------------------------------------------------------------------


def test_every_answered_not_sent_is_followed_by_a_new_key(app: MailApp) -> None:
    """The provider may remember what it refused under a key."""
    transport = ScriptedTransport(app, later)
    app.send(ANN)
    for _ in range(3):
        app.sweep()
        app.make_due()
    assert len(set(transport.keys(ANN))) == 3
    assert not any(call.in_doubt for call in transport.asked)


def test_a_give_back_after_an_answer_does_not_bring_the_key_back(app: MailApp) -> None:
    """Ann's copy was answered "later", then the process had to stop: her next key is new."""

    def stopped(call: Call) -> Outcome:
        if len(transport.asked) == 2:
            raise HandoverRefused("the process ends")
        return later(call) if len(transport.asked) == 1 else accept(call)

    transport = ScriptedTransport(app, stopped)
    app.send(ANN, BOB, private_copies=True)
    assert app.sweep().returned == 1
    assert app.sweep().sent == 1
    assert len(set(transport.keys(ANN))) == 2
    assert not any(call.in_doubt for call in transport.asked)


def test_a_death_after_an_answer_does_not_bring_the_key_back(
    app: MailApp,
) -> None:
    """Ann's copy was answered "later", then the process was killed: her next key is new."""

    def dies(call: Call) -> Outcome:
        if len(transport.asked) == 2:
            raise SystemExit
        return later(call) if len(transport.asked) == 1 else accept(call)

    transport = ScriptedTransport(app, dies)
    job = app.send(ANN, BOB, private_copies=True)
    attempt_and_die(app, job)
    assert app.sweep().sent == 1
    assert len(set(transport.keys(ANN))) == 2


# --- no answer: the same key -------------------------------------------------------------------


def test_the_envelope_that_a_killed_sender_had_out_goes_again_under_its_key(
    app: MailApp,
) -> None:
    """Bob's copy may have arrived: the provider can tell, also when Ann's is answered before."""

    def dies(call: Call) -> Outcome:
        outcome = later(call) if len(transport.asked) == 1 else accept(call)
        if len(transport.asked) == 2:
            raise SystemExit
        return outcome

    transport = ScriptedTransport(app, dies)
    job = app.send(ANN, BOB, private_copies=True)
    attempt_and_die(app, job)
    assert app.sweep().sent == 1
    assert [to(call) for call in transport.asked] == [[ANN], [BOB], [ANN], [BOB]]
    first, second = [call for call in transport.asked if to(call) == [BOB]]
    assert first.idempotency_key == second.idempotency_key
    assert (first.in_doubt, second.in_doubt) == (False, True)


def test_a_request_that_breaks_off_keeps_the_key_of_the_doubt_before_it(
    shop: MailApp, provider: HttpProvider
) -> None:
    """No answer, then a request that did not get through: the third is still a repeat."""
    provider.script(
        Reply(drop="after_body"),
        Reply(reset="before_body"),
        reply("error_duplicate"),
    )
    # Large enough that the second request cannot be out before the connection is reset.
    job = shop.send(ANN, body="x" * 9_000_000)
    keys = [_doubt(shop, job)]
    for _ in range(2):
        assert shop.sweep().retry == 1
        keys.append(_doubt(shop, job))
        shop.make_due()
    assert keys[0] is None
    assert keys[1] == keys[2] is not None
    assert shop.sweep().sent == 1
    assert shop.statuses(job) == {ANN: "sent"}


def _doubt(app: MailApp, job: Job) -> str | None:
    """The key of the call that stayed without an answer."""
    return app.job(job).recipients[0].doubt


# --- "I have seen this key" --------------------------------------------------------------------


def test_a_repeat_without_a_doubt_is_not_taken_for_accepted(
    shop: MailApp, provider: HttpProvider
) -> None:
    """We never left that key in doubt, so it was refused; the next try has a new one."""
    provider.script(reply("error_duplicate"), accepted_by_sendcloud([ANN]))
    job = shop.send(ANN)
    assert shop.sweep().retry == 1
    assert shop.statuses(job) == {ANN: "pending"}
    shop.make_due()
    assert shop.sweep().sent == 1
    keys = [request.form["sendRequestId"] for request in provider.requests]
    assert len(set(keys)) == 2


def test_a_repeat_in_doubt_is_what_was_sent_before(shop: MailApp, provider: HttpProvider) -> None:
    """The first request was taken and its answer lost: nobody is mailed twice."""
    provider.script(Reply(drop="after_body"), reply("error_duplicate"))
    shop.send(ANN)
    assert shop.sweep().retry == 1
    shop.make_due()
    assert shop.sweep().sent == 1
    keys = [request.form["sendRequestId"] for request in provider.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1


# --- the provider forgets ----------------------------------------------------------------------


@pytest.mark.parametrize(("window", "result"), [(HOUR, "sent"), (-HOUR, "held"), (None, "sent")])
def test_a_doubt_older_than_the_providers_window_is_held(
    app: MailApp, window: float | None, result: str
) -> None:
    """A repeat that the provider would not recognise is a second copy: a person decides."""
    transport = ScriptedTransport(app, silence)
    transport.idempotency_window = HOUR  # type: ignore[misc] # only of this one
    job = app.send(ANN)
    assert app.sweep().retry == 1
    transport.script = accept
    transport.idempotency_window = window  # type: ignore[misc]
    app.make_due()
    assert getattr(app.sweep(), result) == 1
    assert app.job(job).status == result
    assert len(transport.asked) == (1 if result == "held" else 2)
