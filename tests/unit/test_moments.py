"""Points in time as a view may write them."""

from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.errors import MessageError
from flask_deferred_mail.moments import header_date, instant, span

NOON = 1_900_000_000.0


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        int(NOON),
        datetime.fromtimestamp(NOON, UTC),
        datetime.fromtimestamp(NOON, timezone(timedelta(hours=5, minutes=45))),
        "2030-03-17T17:46:40Z",
        "2030-03-17T17:46:40+00:00",
        "2030-03-17T19:46:40+02:00",
    ],
)
def test_ways_to_write_an_instant(value):
    """Aware datetimes, numbers and ISO 8601 texts say the same."""
    assert instant(value, "send_at") == NOON


@pytest.mark.parametrize(
    "value",
    [
        datetime(2030, 1, 1),
        "2030-01-01T00:00:00",
        "2030-01-01",
        "tomorrow",
        date(2030, 1, 1),
        timedelta(hours=1),
        True,
        b"2030",
        float("nan"),
        float("inf"),
        -1,
        1_900_000_000_000,
        10**400,
        None,
    ],
)
def test_what_is_no_instant(value):
    """Naive times above all: local or UTC is a guess, and the mail leaves at the wrong hour."""
    with pytest.raises(MessageError, match=r"^send_at: "):
        instant(value, "send_at")


def test_a_naive_time_is_told_what_to_do():
    """The error names the way out."""
    with pytest.raises(MessageError, match=r"datetime\.now\(timezone\.utc\)"):
        instant(datetime(2030, 1, 1), "send_at")


def test_a_timedelta_counts_from_where_it_is_told():
    """Only where a beginning is known does a length of time name an instant."""
    assert instant(timedelta(minutes=1), "expires_at", after=NOON) == NOON + 60


@pytest.mark.parametrize(("value", "seconds"), [(0, 0), (1.5, 1.5), (timedelta(hours=1), 3600)])
def test_spans(value, seconds):
    """Seconds or a timedelta."""
    assert span(value, "delay") == seconds


@pytest.mark.parametrize("value", [-1, timedelta(days=-1), float("inf"), True, "5", None, 10**400])
def test_what_is_no_span(value):
    """Nothing negative, nothing endless, no text."""
    with pytest.raises(MessageError, match=r"^delay: "):
        span(value, "delay")


@given(st.integers(0, 253_402_300_799))
def test_the_date_header_reads_back_as_the_same_second(epoch):
    """In UTC, with the offset written out."""
    text = header_date(epoch)
    assert text.endswith(" +0000")
    assert parsedate_to_datetime(text).timestamp() == epoch
