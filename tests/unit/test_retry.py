"""retry.py: how long a mail and a transport are left alone."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail import retry
from flask_deferred_mail.outcome import FaultKind

SCHEDULE = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)


class Fixed:
    """A source of randomness that always answers the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


STILL = Fixed(0.0)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 60), (2, 300), (3, 900), (7, 14400), (8, 14400), (500, 14400)]
)
def test_backoff_follows_the_schedule_and_repeats_its_last_entry(attempts, seconds):
    """The delay after attempt n is entry n; past the end, the last one."""
    assert retry.backoff(attempts, SCHEDULE, STILL) == seconds


@given(attempts=st.integers(1, 10**6), seed=st.integers())
def test_jitter_only_lengthens_and_by_at_most_a_quarter(attempts, seed):
    """Whatever the dice say, the delay is between the entry and five quarters of it."""
    base = retry.backoff(attempts, SCHEDULE, STILL)
    delay = retry.backoff(attempts, SCHEDULE, random.Random(seed))
    assert base <= delay <= base * 1.25


def test_jitter_spreads_a_crowd():
    """Mails that failed together do not all come back in the same instant."""
    rng = random.Random(1)
    assert len({retry.backoff(1, SCHEDULE, rng) for _ in range(50)}) > 40


def test_the_default_schedule_passes_the_usual_greylisting_delay_at_the_second_retry():
    """Greylisting usually lasts 300 s: the first two delays together are longer than that."""
    assert retry.backoff(1, SCHEDULE, STILL) + retry.backoff(2, SCHEDULE, STILL) > 300


def test_the_random_module_itself_will_do():
    """Callers without a generator of their own pass the module."""
    assert 60 <= retry.backoff(1, SCHEDULE, random) <= 75


@pytest.mark.parametrize(
    ("kind", "failures", "seconds"),
    [
        (FaultKind.UNREACHABLE, 1, 5),
        (FaultKind.UNREACHABLE, 2, 10),
        (FaultKind.UNREACHABLE, 6, 160),
        (FaultKind.UNREACHABLE, 7, 300),
        (FaultKind.UNREACHABLE, 10**9, 300),
        (FaultKind.ACCOUNT, 1, 60),
        (FaultKind.ACCOUNT, 2, 120),
        (FaultKind.ACCOUNT, 7, 3600),
        (FaultKind.RATE_LIMITED, 1, 30),
        (FaultKind.RATE_LIMITED, 3, 120),
        (FaultKind.RATE_LIMITED, 60, 3600),
        (FaultKind.QUOTA, 1, 3600),
        (FaultKind.QUOTA, 9, 3600),
    ],
)
def test_rests_double_up_to_the_cap_of_their_kind(kind, failures, seconds):
    """Each kind of fault has its first rest and its longest."""
    assert retry.rest(failures, kind, None, SCHEDULE, STILL) == seconds


@pytest.mark.parametrize("kind", list(FaultKind))
def test_every_kind_of_fault_has_a_rest(kind):
    """A kind that is added to outcome.py without a rest here is noticed."""
    assert retry.rest(1, kind, None, SCHEDULE, STILL) > 0


@pytest.mark.parametrize("kind", [FaultKind.UNREACHABLE, FaultKind.ACCOUNT])
def test_a_short_schedule_means_short_rests(kind):
    """Who retries mails every two seconds wants the transport looked at as often."""
    assert retry.rest(9, kind, None, (1.0, 2.0), STILL) == 2


@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMITED, FaultKind.QUOTA])
def test_a_short_schedule_does_not_overrule_the_provider(kind):
    """A rate or a quota is the provider's to set, not our schedule's."""
    assert retry.rest(1, kind, None, (1.0, 2.0), STILL) >= 30


@pytest.mark.parametrize("kind", list(FaultKind))
def test_retry_after_is_honoured(kind):
    """What the server asked for goes before our own growth."""
    assert retry.rest(4, kind, 77.0, SCHEDULE, STILL) == 77
    assert retry.rest(1, kind, 500.0, (1.0,), STILL) == 500


@pytest.mark.parametrize("absurd", [365 * 86400.0, math.inf])
def test_an_absurd_retry_after_is_capped(absurd):
    """A server that asks for a year gets an hour."""
    assert retry.rest(1, FaultKind.RATE_LIMITED, absurd, SCHEDULE, STILL) == 3600


@pytest.mark.parametrize("useless", [0.0, -5.0, math.nan, -math.inf])
def test_a_retry_after_that_cannot_be_waited_for_is_as_none(useless):
    """Zero, the past and not-a-number leave our own growth in force."""
    assert retry.rest(2, FaultKind.RATE_LIMITED, useless, SCHEDULE, STILL) == 60


@given(
    failures=st.integers(-5, 10**9),
    kind=st.sampled_from(list(FaultKind)),
    retry_after=st.none() | st.floats(),
    seed=st.integers(),
)
def test_no_input_makes_a_rest_that_is_not_a_sane_number(failures, kind, retry_after, seed):
    """Always above zero and never more than an hour and a quarter."""
    seconds = retry.rest(failures, kind, retry_after, SCHEDULE, random.Random(seed))
    assert 0 < seconds <= 4500


def test_an_unknown_outcome_is_retried_after_the_first_backoff():
    """Without an idempotency window there is nothing to hurry for."""
    assert retry.unknown_delay(SCHEDULE, None) == 60


@pytest.mark.parametrize(("window", "seconds"), [(3600.0, 60.0), (80.0, 40.0)])
def test_an_unknown_outcome_is_retried_well_inside_the_window(window, seconds):
    """The repeat comes while the provider still recognises the key."""
    assert retry.unknown_delay(SCHEDULE, window) == seconds
