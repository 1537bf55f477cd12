"""rates.py: what a limit lets through, and when."""

from __future__ import annotations

import pytest

from flask_deferred_mail.rates import Bucket, Limit, limits_from


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("14/s", ["14/s"]),
        ("50000/d,600/m", ["600/m", "50000/d"]),
        ("1/h", ["1/h"]),
    ],
)
def test_limits_are_read_and_shown_as_they_are_written(text: str, found: list[str]) -> None:
    """The shortest window first."""
    assert [str(limit) for limit in limits_from(text) or ()] == found


@pytest.mark.parametrize(
    "text", ["", "14", "0/s", "14/w", "1.5/s", "-1/s", "1/s,2/s", "1/s,", "/s"]
)
def test_what_is_no_limit_is_not_read_as_one(text: str) -> None:
    """Nor a limit that is given twice."""
    assert limits_from(text) is None


@pytest.mark.parametrize("limit", [Limit(14, 1), Limit(1, 1), Limit(600, 60), Limit(3, 60)])
def test_no_window_sees_more_than_a_tenth_too_many(limit: Limit) -> None:
    """However greedily they are taken, also after a long rest."""
    bucket, taken = Bucket(limit.room, 0.0), []
    steps = 2000
    for step in range(steps * 3):
        now = step * limit.seconds / steps
        bucket = limit.now_in(bucket, now)
        if bucket.tokens >= 1:
            bucket = Bucket(bucket.tokens - 1, now)
            taken.append(now)
    most = max(sum(begin <= at < begin + limit.seconds for at in taken) for begin in taken)
    assert most <= limit.number * 1.1 + 1
    # And it is used: nothing was lost on the way.
    assert len(taken) >= limit.number * 3


def test_a_quota_may_be_used_at_once_and_begins_with_its_first_use() -> None:
    """Then there is nothing until the window is over."""
    day = Limit(100, 86_400)
    bucket = day.now_in(Bucket(100, 0.0), 50_000.0)
    assert bucket == Bucket(100, 50_000.0)
    used = Bucket(0, bucket.filled_at)
    assert day.now_in(used, 50_000.0 + 86_399) == used
    assert day.wait(used, 50_000.0 + 86_000) == pytest.approx(400)
    assert day.now_in(used, 50_000.0 + 86_400).tokens == 100


@pytest.mark.parametrize("limit", [Limit(14, 1), Limit(100, 86_400)])
def test_a_clock_that_was_set_back_keeps_no_bucket_empty(limit: Limit) -> None:
    """It is full, or fills, as from now."""
    bucket = limit.now_in(Bucket(0.0, 10_000.0), 500.0)
    bucket = limit.now_in(Bucket(bucket.tokens, 500.0), 501.0)
    assert bucket.tokens >= 1


def test_the_wait_is_until_there_is_a_whole_token() -> None:
    """By then there is one, and not before."""
    limit = Limit(14, 1)
    empty = Bucket(0.25, 100.0)
    wait = limit.wait(empty, 100.0)
    assert limit.now_in(empty, 100.0 + wait).tokens == pytest.approx(1)
    assert limit.wait(Bucket(1.0, 100.0), 100.0) == 0
