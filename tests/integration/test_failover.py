"""Transports made of transports, in front of real mail servers and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
from flask_deferred_mail.transports.base import Call, Transport
from flask_deferred_mail.transports.combination import Combination, Share
from tests.support.mail_app import MailApp
from tests.support.scripted_transport import Script, accept, answer, unreachable
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]


@pytest.fixture
def other() -> Iterator[SmtpServer]:
    """A second mail server."""
    with SmtpServer() as server:
        yield server


class Member(Transport):
    """Does what its script says, and remembers the calls."""

    def __init__(self, name: str, script: Script) -> None:
        super().__init__(name)
        self.script = script
        self.asked: list[Call] = []

    def send(self, call: Call) -> Outcome:
        self.asked.append(call)
        return self.script(call)

    @property
    def keys(self) -> list[str]:
        return [call.idempotency_key for call in self.asked]


def combine(app: MailApp, *members: Member, kind: str = "failover", weights: Any = ()) -> None:
    """Let the app's default transport be these members."""
    shares = [
        Share(member, weight)
        for member, weight in zip(members, weights or [1] * len(members), strict=True)
    ]
    app.runtime._transports["default"] = Combination("default", kind, shares)


def pair(app: MailApp, first: Script, second: Script = accept) -> tuple[Member, Member]:
    a, b = Member("default/a", first), Member("default/b", second)
    combine(app, a, b)
    return a, b


def silent(call: Call) -> Outcome:
    """Everything is handed over, and no answer comes."""
    call.hand_over()
    return Outcome.for_all(call.recipients, Fate.UNKNOWN, "no answer")


# --- the first that works ----------------------------------------------------------------------


def test_what_the_first_server_cannot_take_goes_by_the_second(
    make_app: Make, smtp: SmtpServer, other: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """In the same attempt, which costs nothing; log, attempt log and row tell of the switch."""
    smtp.script("banner", "421 4.3.2 closing")
    app = make_app(f"failover({smtp.url()} {other.url()})")
    job = app.send()
    assert app.sweep().sent == 1
    [line] = app.log(job)
    assert (line.outcome, line.transport) == ("sent", f"default/127.0.0.1:{other.port}")
    assert "421 4.3.2 closing" in line.detail
    assert len(other.messages) == 1
    assert any("going on by" in record.message for record in caplog.records)


def test_a_member_that_rests_is_left_out_without_a_connection(
    make_app: Make, smtp: SmtpServer, other: SmtpServer
) -> None:
    """One connection finds the outage; the mails after it go by the other member at once."""
    smtp.script("banner", "421 4.3.2 closing")
    app = make_app(f"failover({smtp.url()} {other.url()})", DEFERRED_MAIL_BACKOFF=[600])
    jobs = [app.send() for _ in range(10)]
    assert app.sweep(concurrency=1).sent == 10
    assert smtp.connections == 1
    assert len(other.messages) == 10
    assert {app.job(job).attempts for job in jobs} == {1}


def test_a_member_that_is_back_is_used_again(
    make_app: Make, smtp: SmtpServer, other: SmtpServer
) -> None:
    """After its rest one mail tries it."""
    smtp.script("banner", "421 4.3.2 closing")
    app = make_app(f"failover({smtp.url()} {other.url()})", DEFERRED_MAIL_BACKOFF=[600])
    app.send()
    app.sweep()
    smtp.script("banner", None)
    app.make_due()
    app.send()
    assert app.sweep().sent == 1
    assert (len(smtp.messages), len(other.messages)) == (1, 1)


def test_all_down_ends_and_waits_for_the_shortest_rest(make_app: Make) -> None:
    """No attempt is spent, and the next sweep asks nobody before somebody has rested."""
    app = make_app("null:", DEFERRED_MAIL_BACKOFF=[600])

    def asks_for_a_minute(call: Call) -> Outcome:
        return Outcome.not_sent(call.recipients, FaultKind.RATE_LIMITED, "slow", retry_after=60)

    def asks_for_an_hour(call: Call) -> Outcome:
        return Outcome.not_sent(call.recipients, FaultKind.RATE_LIMITED, "slow", retry_after=3600)

    a, b = pair(app, asks_for_an_hour, asks_for_a_minute)
    job = app.send()
    assert app.sweep().returned == 1
    assert app.job(job).attempts == 0
    assert 50 < app.runtime.routes.rest_of("default") < 80
    app.send()
    assert app.sweep().claimed == 0
    assert (len(a.asked), len(b.asked)) == (1, 1)


# --- when the next one must not be tried -------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        lambda call: answer(call, Fate.REFUSED, "550 5.1.1 no such user"),
        lambda call: answer(call, Fate.DEFERRED, "451 4.7.1 greylisted"),
        lambda call: answer(call, Fate.FAILED, "sender not verified", message_config=True),
        silent,
    ],
    ids=["refused", "deferred", "misconfigured", "unknown"],
)
def test_an_answer_about_the_mail_is_no_reason_to_try_another_member(
    make_app: Make, script: Script
) -> None:
    """Only a fault of the transport, with nothing handed over, is."""
    app = make_app("null:")
    a, b = pair(app, script)
    app.send()
    app.sweep()
    assert (len(a.asked), len(b.asked)) == (1, 0)


def test_a_call_that_reached_somebody_is_not_repeated_elsewhere(make_app: Make) -> None:
    """One recipient was accepted before the server broke off: the other one waits."""

    def half(call: Call) -> Outcome:
        call.hand_over()
        first, rest = call.recipients[:1], call.recipients[1:]
        sent = Outcome.for_all(first, Fate.ACCEPTED, "250 ok")
        fault = Outcome.not_sent(rest, FaultKind.UNREACHABLE, "broke off")
        return Outcome(sent.results + fault.results, fault=fault.fault)

    app = make_app("null:")
    _, b = pair(app, half)
    job = app.send("ann@example.com", "bob@example.com")
    app.sweep()
    assert b.asked == []
    assert app.statuses(job) == {"ann@example.com": "sent", "bob@example.com": "pending"}


# --- doubts belong to one member ---------------------------------------------------------------


def test_a_doubt_is_repeated_at_the_member_that_may_have_the_mail(make_app: Make) -> None:
    """Under the same key, and known there as a repeat; the other member never hears of it."""
    app = make_app("null:")
    a, b = pair(app, silent)
    app.send()
    app.sweep()
    a.script = accept
    app.make_due()
    assert app.sweep().sent == 1
    assert b.asked == []
    assert a.keys[0] == a.keys[1]
    assert [call.in_doubt for call in a.asked] == [False, True]


def test_a_doubt_waits_for_its_member_while_that_one_rests(make_app: Make) -> None:
    """Although another member works; and it costs no attempt."""
    app = make_app("null:", DEFERRED_MAIL_BACKOFF=[600])
    a, b = pair(app, silent)
    job = app.send()
    app.sweep()
    a.script = unreachable
    app.send()
    assert app.sweep().sent == 1
    app.sql("UPDATE deferred_mail_job SET due_at = first_due_at WHERE status = 'pending'")
    before = app.job(job).attempts
    assert app.sweep().returned == 1
    assert (len(a.asked), len(b.asked)) == (2, 1)
    assert app.job(job).attempts == before
    assert app.statuses(job) == {"ann@example.com": "unknown"}
    assert "default/a" in (app.job(job).last_error or "")


def test_a_doubt_whose_member_is_gone_waits_for_a_person(make_app: Make) -> None:
    """Nobody else can tell whether the mail is there."""
    app = make_app("null:")
    pair(app, silent)
    job = app.send()
    app.sweep()
    c = Member("default/c", accept)
    combine(app, c)
    app.make_due()
    app.sweep()
    assert c.asked == []
    assert app.job(job).status == "held"


def test_each_member_sees_a_key_of_its_own(make_app: Make) -> None:
    """What one provider has seen must not look like a repeat to another."""
    app = make_app("null:")
    a, b = pair(app, unreachable)
    app.send()
    app.sweep()
    assert len(a.keys) == len(b.keys) == 1
    assert a.keys != b.keys


def test_what_a_member_answered_is_written_down_before_the_next_one(make_app: Make) -> None:
    """Else a sender that died then would repeat an answered key as if it were in doubt."""
    app = make_app("null:")
    seen: list[Any] = []

    def busy(call: Call) -> Outcome:
        call.hand_over()
        return Outcome.not_sent(call.recipients, FaultKind.RATE_LIMITED, "429 slow down")

    def looks(call: Call) -> Outcome:
        seen.extend(app.sql("SELECT generation FROM deferred_mail_job"))
        return accept(call)

    pair(app, busy, looks)
    app.send()
    app.sweep()
    assert seen == [(1,)]


# --- by turns ----------------------------------------------------------------------------------


def test_shares_follow_the_weights(make_app: Make) -> None:
    """Over many mails, three times as many by the member that weighs three times as much."""
    app = make_app("null:")
    a, b = Member("default/a", accept), Member("default/b", accept)
    combine(app, a, b, kind="roundrobin", weights=[3, 1])
    for _ in range(200):
        app.send()
    assert app.sweep().sent == 200
    # Four standard deviations of a draw with these odds.
    assert 150 - 25 <= len(a.asked) <= 150 + 25
    assert len(a.asked) + len(b.asked) == 200


def test_a_member_of_a_round_robin_stands_in_for_another(make_app: Make) -> None:
    """All mails leave by the one that works."""
    app = make_app("null:", DEFERRED_MAIL_BACKOFF=[600])
    a, b = Member("default/a", unreachable), Member("default/b", accept)
    combine(app, a, b, kind="roundrobin")
    for _ in range(20):
        app.send()
    assert app.sweep(concurrency=1).sent == 20
    assert (len(a.asked), len(b.asked)) == (1, 20)


def test_a_repeat_of_a_mail_finds_its_member_again(make_app: Make) -> None:
    """The order is the mail's own: after the death of a sender it is tried where it may be."""
    app = make_app("null:")
    a, b = Member("default/a", accept), Member("default/b", accept)
    combine(app, a, b, kind="roundrobin")
    transport: Any = app.runtime.transport("default")
    orders = [[way.transport.name for way in transport.ways("<id>")] for _ in range(3)]
    assert orders[0] == orders[1] == orders[2]
    assert Counter(orders[0]) == {"default/a": 1, "default/b": 1}
