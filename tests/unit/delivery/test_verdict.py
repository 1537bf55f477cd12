"""The policy: who pays, when a mail ends, what becomes of an unknown outcome. Pure functions."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from flask_deferred_mail.delivery.verdict import (
    Course,
    Policy,
    Tally,
    after_attempt,
    apply,
    before_attempt,
    still_open,
    without_late_doubts,
)
from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.outcome import Fate, RecipientResult
from flask_deferred_mail.store.claims import Claim
from flask_deferred_mail.store.statements import Verdict

NOW = 1_000_000.0
POLICY = Policy(
    backoff=(60.0, 300.0),
    max_attempts=3,
    give_up_after=5000.0,
    max_sender_deaths=5,
    on_unknown="retry",
)
COURSE = Course(NOW, 0.5)


def a_claim(*recipients: JobRecipient, **fields: Any) -> Claim:
    base = Claim(
        job_id=7,
        token="t",
        leased_at=0.0,
        claimed_at=NOW,
        transport="default",
        number=1,
        spent=1,
        max_attempts=None,
        deaths=0,
        died_handing_over=False,
        generation=0,
        died_generation=None,
        on_unknown=None,
        first_due_at=NOW,
        expires_at=None,
        size=1000,
        message_id="<1@example.com>",
        recipients=recipients or (JobRecipient("a@x.test", "to"),),
    )
    return base._replace(**fields)


def a_tally(recipients: tuple[JobRecipient, ...], **fields: Any) -> Tally:
    base = Tally(
        recipients=recipients,
        costs_attempt=True,
        rests_for=None,
        interrupted=False,
        unknown=False,
        generation=1,
        detail="451 later",
    )
    return replace(base, **fields)


def verdict(claim: Claim, tally: Tally, policy: Policy = POLICY) -> Verdict:
    return after_attempt(claim, policy, tally, NOW, COURSE, random.Random(1))


def entry(status: RecipientStatus = RecipientStatus.PENDING, **fields: Any) -> JobRecipient:
    return JobRecipient("a@x.test", "to", status=status, **fields)


@pytest.mark.parametrize(
    ("fate", "status"),
    [
        (Fate.ACCEPTED, RecipientStatus.SENT),
        (Fate.REFUSED, RecipientStatus.REJECTED),
        (Fate.FAILED, RecipientStatus.FAILED),
        (Fate.SUPPRESSED, RecipientStatus.SUPPRESSED),
        (Fate.DEFERRED, RecipientStatus.PENDING),
        (Fate.UNTRIED, RecipientStatus.PENDING),
        (Fate.UNKNOWN, RecipientStatus.UNKNOWN),
    ],
)
def test_each_fate_has_its_status(fate: Fate, status: RecipientStatus) -> None:
    """What a call came to for a recipient becomes the recipient's status."""
    after = apply((entry(),), [RecipientResult("a@x.test", fate)], "key", True, NOW)
    assert after[0].status is status


@pytest.mark.parametrize(
    "decided",
    [RecipientStatus.SENT, RecipientStatus.REJECTED, RecipientStatus.FAILED],
)
def test_what_is_decided_stays(decided: RecipientStatus) -> None:
    """No later result changes a recipient that was accepted or refused."""
    for fate in Fate:
        after = apply((entry(decided),), [RecipientResult("a@x.test", fate)], "key", True, NOW)
        assert after[0].status is decided


def test_a_doubt_keeps_its_key_until_an_answer_says_not_sent() -> None:
    """No answer: the same key again. An answer that says "not sent": a new key, the doubt stays."""
    unknown = [RecipientResult("a@x.test", Fate.UNKNOWN)]
    later = [RecipientResult("a@x.test", Fate.DEFERRED)]
    doubtful = apply((entry(),), unknown, "key", False, NOW)
    assert (doubtful[0].doubt, doubtful[0].unknowns) == ("key", 1)
    unreachable = apply(doubtful, later, "key", False, NOW)
    assert (unreachable[0].status, unreachable[0].doubt) == ("unknown", "key")
    refused = apply(doubtful, later, "key", True, NOW)
    assert (refused[0].status, refused[0].doubt) == ("unknown", None)


def test_a_doubt_that_the_provider_has_forgotten_waits_for_a_person() -> None:
    """Outside the idempotency window a repeat would be a second copy."""
    doubtful = (entry(RecipientStatus.UNKNOWN, unknowns=1, doubt="k", doubted_at=NOW - 100),)
    assert without_late_doubts(doubtful, None, NOW) == doubtful
    assert without_late_doubts(doubtful, 200.0, NOW) == doubtful
    late = without_late_doubts(doubtful, 50.0, NOW)
    assert still_open(late, hold_unknown=False) == []


def test_an_unknown_recipient_is_open_once_more() -> None:
    """One more try after the first doubt, none after the second, none at all under hold."""
    once = entry(RecipientStatus.UNKNOWN, unknowns=1)
    twice = entry(RecipientStatus.UNKNOWN, unknowns=2)
    assert still_open([once, twice], hold_unknown=False) == [once]
    assert still_open([once, twice], hold_unknown=True) == []


def test_everybody_accepted_is_sent() -> None:
    """The mail ends, without an error."""
    result = verdict(a_claim(), a_tally((entry(RecipientStatus.SENT),), detail="250 ok"))
    assert (result.status, result.last_error, result.delay) == (JobStatus.SENT, None, None)


def test_some_accepted_some_refused_is_partial() -> None:
    """The mail ends as partial, with the refusal's words."""
    both = (entry(RecipientStatus.SENT), entry(RecipientStatus.REJECTED))
    result = verdict(a_claim(*both), a_tally(both, detail="550 no"))
    assert (result.status, result.last_error) == (JobStatus.PARTIAL, "550 no")


def test_a_deferral_waits_by_the_schedule() -> None:
    """The first retry after the first entry, jitter only lengthening it by up to a quarter."""
    result = verdict(a_claim(), a_tally((entry(),)))
    assert result.status is JobStatus.PENDING
    assert result.delay is not None
    assert 60 <= result.delay <= 75
    assert (result.refund, result.note.outcome) == (False, "retry")


def test_a_fault_of_the_transport_is_refunded() -> None:
    """The mail waits as long as the transport rests, and its attempt is given back."""
    tally = a_tally((entry(),), costs_attempt=False, rests_for=17.0, generation=0)
    result = verdict(a_claim(), tally)
    assert (result.delay, result.refund, result.note.outcome) == (17.0, True, "returned")
    assert result.generation == 0


def test_a_refunded_attempt_never_ends_the_mail() -> None:
    """Even the last attempt of the budget is given back when the transport was to blame."""
    claim = a_claim(number=3, spent=3)
    tally = a_tally((entry(),), costs_attempt=False, rests_for=17.0)
    assert verdict(claim, tally).status is JobStatus.PENDING


def test_the_last_attempt_ends_the_mail() -> None:
    """The budget is spent: failed, and the recipient says why."""
    result = verdict(a_claim(number=3, spent=3), a_tally((entry(),)))
    assert result.status is JobStatus.FAILED
    assert result.recipients[0].status is RecipientStatus.FAILED
    assert "3 attempts" in (result.last_error or "")


def test_the_messages_own_budget_goes_first() -> None:
    """``max_attempts`` of the message overrides the setting."""
    claim = a_claim(number=1, spent=1, max_attempts=1)
    assert verdict(claim, a_tally((entry(),))).status is JobStatus.FAILED


def test_a_first_doubt_is_retried_inside_the_providers_window() -> None:
    """With a window of 40 s the retry comes within it; without one, by the schedule."""
    doubtful = (entry(RecipientStatus.UNKNOWN, unknowns=1, doubt="k"),)
    without = verdict(a_claim(), a_tally(doubtful, unknown=True))
    within = verdict(a_claim(), a_tally(doubtful, unknown=True, idempotency_window=40.0))
    assert (without.delay, within.delay) == (60.0, 20.0)
    assert without.note.outcome == "unknown"


def test_a_doubt_at_the_end_is_held_never_failed() -> None:
    """Second doubt, spent budget or hold policy: a person decides."""
    twice = (entry(RecipientStatus.UNKNOWN, unknowns=2),)
    assert verdict(a_claim(), a_tally(twice, unknown=True)).status is JobStatus.HELD
    once = (entry(RecipientStatus.UNKNOWN, unknowns=1),)
    assert verdict(a_claim(spent=3, number=3), a_tally(once)).status is JobStatus.HELD
    hold = a_claim(on_unknown="hold")
    assert verdict(hold, a_tally(once, unknown=True)).status is JobStatus.HELD


def test_an_interrupted_attempt_goes_on_at_once() -> None:
    """The clock ran out between two envelopes: due now, and the attempt is given back."""
    result = verdict(a_claim(), a_tally((entry(),), interrupted=True))
    assert (result.delay, result.refund) == (0.0, True)


def test_the_next_attempt_is_never_after_the_end() -> None:
    """A retry that would come too late comes at the very end, so that the mail ends then."""
    assert verdict(a_claim(expires_at=NOW + 10), a_tally((entry(),))).delay == 10
    given_up = a_claim(first_due_at=NOW - 4990)
    assert verdict(given_up, a_tally((entry(),))).delay == 10


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"expires_at": NOW}, JobStatus.EXPIRED, "expired"),
        ({"first_due_at": NOW - 5000}, JobStatus.FAILED, "given up"),
        ({"deaths": 5}, JobStatus.FAILED, "sender died 5 times"),
    ],
)
def test_what_must_not_be_tried_any_more_ends(
    fields: dict[str, Any], status: JobStatus, words: str
) -> None:
    """Expired, given up, poisoned: the end is told without an attempt being counted."""
    result = before_attempt(a_claim(**fields), POLICY, NOW, COURSE)
    assert result is not None
    assert (result.status, result.refund) == (status, True)
    assert words in (result.last_error or "")


def test_a_mail_with_copies_out_ends_as_partial_not_expired() -> None:
    """``expired`` only if nobody was mailed."""
    claim = a_claim(entry(RecipientStatus.SENT), entry(), expires_at=NOW)
    result = before_attempt(claim, POLICY, NOW, COURSE)
    assert result is not None
    assert result.status is JobStatus.PARTIAL


def test_a_death_while_handing_over_holds_what_must_not_go_twice() -> None:
    """Under hold, the row's mark "about to hand over" is an unknown outcome."""
    claim = a_claim(deaths=1, died_handing_over=True, on_unknown="hold")
    result = before_attempt(claim, POLICY, NOW, COURSE)
    assert result is not None
    assert result.status is JobStatus.HELD
    assert result.recipients[0].status is RecipientStatus.UNKNOWN
    assert before_attempt(claim._replace(on_unknown="retry"), POLICY, NOW, COURSE) is None


def test_nothing_stands_against_a_fresh_mail() -> None:
    """The usual case: go on."""
    assert before_attempt(a_claim(), POLICY, NOW, COURSE) is None


def test_words_of_another_package_are_made_fit_for_any_database() -> None:
    """NUL and half a character would keep the outcome of the whole mail from being written."""
    result = RecipientResult(
        "a@x.test", Fate.ACCEPTED, "250 fine\x00", provider_message_id="\ud800 7\n"
    )
    (entry,) = apply((JobRecipient("a@x.test", "to"),), [result], "key", True, NOW)
    assert entry.status is RecipientStatus.SENT
    assert entry.detail == "250 fine\N{REPLACEMENT CHARACTER}"
    assert entry.provider_message_id == "\N{REPLACEMENT CHARACTER} 7"
