"""Who may use a transport that something was wrong with, and what two replies have in common."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from flask_deferred_mail.delivery.pacing import Leave, Pacing, Rest, gist
from flask_deferred_mail.errors import StoreError
from flask_deferred_mail.outcome import Fate, Outcome, RecipientResult
from flask_deferred_mail.store.transport_state import TransportState

TROUBLE = TransportState(
    name="default",
    failures=2,
    kind="unreachable",
    reason="connection refused",
    since=0.0,
    rests_for=-1.0,
    has_streak=False,
)


class States:
    """The shared state, in memory; it can be told to fail, and counts what it is asked."""

    def __init__(self, *known: TransportState) -> None:
        self.known = {state.name: state for state in known}
        self.prober: str | None = None
        self.noted: list[Any] = []
        self.broken = False

    def all(self) -> dict[str, TransportState]:
        return dict(self.known)

    def try_probe(self, _name: str, token: str, _seconds: float) -> bool:
        if self.prober is not None:
            return False
        self.prober = token
        return True

    def drop_probe(self, name: str, token: str) -> None:
        if self.broken:
            raise StoreError("gone")
        self.noted.append(("drop", name))
        if self.prober == token:
            self.prober = None

    def recovered(self, name: str, *, keep_streaks: bool, after_outage: bool) -> bool:
        if self.broken:
            raise StoreError("gone")
        if name not in self.known:
            return False
        assert after_outage == bool(self.known[name].failures)
        self.noted.append(("recovered", keep_streaks))
        self.known.pop(name)
        return True

    def server_wide(self, _name: str, job_id: int, reply: str) -> bool:
        seen = any(other != job_id and text == reply for other, text in self.noted)
        self.noted.append((job_id, reply))
        return seen

    def rest(self, name: str, *_how: object) -> int:
        self.known[name] = replace(TROUBLE, name=name, rests_for=60.0)
        return 1


def pacing(states: States) -> Pacing:
    return Pacing(states, [60.0], 30.0, random.Random(1))  # type: ignore[arg-type] # a stand-in


# --- leave -------------------------------------------------------------------------------------


def test_a_transport_that_nothing_is_wrong_with_may_be_used_by_everybody() -> None:
    """Leave without a probe, as often as it is asked for; giving it back asks no database."""
    states = States()
    pace = pacing(states)
    leaves = [pace.ask("default") for _ in range(3)]
    assert leaves == [Leave("default")] * 3
    for leave in leaves:
        assert isinstance(leave, Leave)
        pace.drop(leave)
    assert states.noted == []


def test_a_resting_transport_is_left_alone() -> None:
    """The answer says for how long, and why."""
    answer = pacing(States(replace(TROUBLE, rests_for=42.0))).ask("default")
    assert isinstance(answer, Rest)
    assert 30 < answer.seconds <= 42
    assert answer.reason == "connection refused"


def test_after_the_rest_one_may_try_and_whoever_comes_next_once_that_is_over() -> None:
    """The probe is one sender's until it is given back."""
    states = States(TROUBLE)
    pace = pacing(states)
    first = pace.ask("default")
    assert isinstance(first, Leave)
    assert first.probe is not None
    waits = pace.ask("default")
    assert isinstance(waits, Rest)
    assert "one mail is trying it now" in waits.reason
    pace.drop(first)
    second = pace.ask("default")
    assert isinstance(second, Leave)
    assert second.probe not in (None, first.probe)


def test_a_probe_that_is_given_back_late_takes_nothing_from_its_successor() -> None:
    """Dropping it again changes nothing for the one who has it by then."""
    states = States(TROUBLE)
    pace = pacing(states)
    first = pace.ask("default")
    assert isinstance(first, Leave)
    pace.drop(first)
    pace.ask("default")
    pace.drop(first)
    assert isinstance(pace.ask("default"), Rest)


def test_a_probe_that_cannot_be_given_back_is_nobodys_misfortune() -> None:
    """The database fails: the probe ends by itself, the mail's outcome stands."""
    states = States(TROUBLE)
    pace = pacing(states)
    leave = pace.ask("default")
    assert isinstance(leave, Leave)
    states.broken = True
    pace.drop(leave)


# --- how it went -------------------------------------------------------------------------------


def test_that_a_transport_is_back_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Three processes that knew of the outage have an answer at the same moment: one log line."""
    states = States(TROUBLE)
    paces = [pacing(states) for _ in range(3)]
    for pace in paces:
        pace.known()
    for pace in paces:
        pace.went_well("default", True)
    assert caplog.messages == ["transport default is back"]


@pytest.mark.parametrize("accepted", [True, False])
def test_an_answer_about_a_mail_means_that_the_transport_is_back(accepted: bool) -> None:
    """Also a refusal; but only an accepted mail ends what is being counted in a row."""
    states = States(replace(TROUBLE, has_streak=True))
    pace = pacing(states)
    pace.ask("default")
    pace.went_well("default", accepted)
    assert states.noted == [("recovered", not accepted)]
    assert pace.ask("default") == Leave("default")


@pytest.mark.parametrize(("accepted", "notes"), [(True, 1), (False, 0)])
def test_good_news_is_written_only_if_it_is_news(accepted: bool, notes: int) -> None:
    """Nothing rests and something is counted in a row: a refusal changes nothing of that."""
    states = States(replace(TROUBLE, failures=0, has_streak=True))
    pace = pacing(states)
    pace.ask("default")
    pace.went_well("default", accepted)
    pace.went_well("elsewhere", accepted)
    assert len(states.noted) == notes


def test_good_news_that_cannot_be_written_is_only_logged() -> None:
    """The mail was sent whatever the database says."""
    states = States(TROUBLE)
    pace = pacing(states)
    pace.ask("default")
    states.broken = True
    pace.went_well("default", True)


@pytest.mark.parametrize(("second", "same"), [(1, False), (2, True)])
def test_the_same_words_to_another_mail_let_the_transport_rest(second: int, same: bool) -> None:
    """With another session id in them; one mail alone, however often, does not."""
    states = States()
    pace = pacing(states)
    for job_id, number in ((1, "x1a.17"), (second, "x9.4")):
        text = f"451 4.3.0 Temporary system problem ({number}) - gsmtp"
        results = (RecipientResult("a@x.test", Fate.DEFERRED, text),)
        pace.learn("default", job_id, Outcome(results, server_wide=text))
    assert isinstance(pace.ask("default"), Rest) is same


# --- the gist of a reply -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("421 4.3.2 try later x1-20020a05.1 - gsmtp", "421 4.3.2 try later y7-30b.99 - gsmtp"),
        ("421-4.3.2 load is 17.2", "421-4.3.2 load is 18.9"),
        ("451 busy [192.0.2.1]", "451 busy [192.0.2.77]"),
        ("451 4.3.0 <q4F2D@mx3> no space", "451 4.3.0 <q91@mx1> no space"),
    ],
)
def test_the_same_reply_to_two_mails_has_one_gist(one: str, other: str) -> None:
    """Session ids, loads and addresses differ from mail to mail; the words do not."""
    assert gist(one) == gist(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("421 4.3.2 shutting down", "451 4.3.2 shutting down"),
        ("451 4.3.0 try later", "451 4.3.2 try later"),
        ("451 4.3.0 no space left", "451 4.3.0 cannot reach the scanner"),
        ("451 try later", "451 4.3.0 try later"),
        ("421", "451"),
    ],
)
def test_different_replies_differ_in_their_gist(one: str, other: str) -> None:
    """Codes are numbers too, and count; so do the words."""
    assert gist(one) != gist(other)


def test_the_gist_keeps_codes_and_words() -> None:
    """What a person reads in the row still says what the server said."""
    assert gist("451 4.3.0 Temporary problem 17ab, try later") == (
        "451 4.3.0 Temporary problem try later"
    )
    assert gist("no code at all") == "no code at all"
    assert gist("") == ""
