"""What the row says after each trouble with an HTTP provider (fault table, part E).

The provider does one thing wrong, a sweep meets it, and the whole row is held against what it
should say. What the transport makes of each answer is tested beside it; here it is the row, the
next attempt, and how many requests the provider got.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from tests.support.http_provider import (
    HttpProvider,
    Recorded,
    Reply,
    accepted_by_sendcloud,
    unused_port,
)
from tests.support.mail_app import MailApp
from tests.support.row_facts import (
    ACCOUNT,
    IN_DOUBT,
    MAIL_PAYS,
    MISCONFIGURED,
    QUOTA,
    RATE_LIMITED,
    REJECTED,
    SENT,
    UNREACHABLE,
    Row,
    assert_row,
    assert_sent_later,
)
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]
ANN = "ann@example.com"
ACCEPTED = accepted_by_sendcloud([ANN])
#: Patience with a provider that keeps silent, in seconds.
SHORT = {"DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 0.7}


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        provider.default = ACCEPTED
        yield provider


@pytest.fixture
def app(make_paced: Make, provider: HttpProvider) -> MailApp:
    """An app that mails by this provider, and is not patient with it."""
    return make_paced(url_of(provider.url), **SHORT)


def url_of(endpoint: str) -> str:
    return f"sendcloud://shop:some-key@default?endpoint={endpoint}"


def says(code: int, message: str = "words of the provider", status: int = 200) -> Reply:
    """A refusal in the way of this provider: in the body."""
    return Reply({"result": False, "statusCode": code, "message": message}, status)


def keys(provider: HttpProvider) -> list[str]:
    """The idempotency keys of all requests, in order."""
    return [request.form["sendRequestId"] for request in provider.requests]


def readers(request: Recorded) -> list[str]:
    """Whom a request with private copies is for."""
    addresses: list[str] = json.loads(request.form["xsmtpapi"])["to"]
    return addresses


def _shown(reply: Reply) -> str:
    """A name for a test."""
    trouble = reply.hang or reply.reset or reply.drop or reply.trickle
    code = reply.body.get("statusCode", "") if isinstance(reply.body, dict) else ""
    after = reply.headers.get("Retry-After", "")
    return f"{reply.status}-{code or trouble or after or 'plain'}"


# -- E1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "provider.invalid"])
def test_e1_a_provider_that_cannot_be_reached_costs_no_mail_anything(
    make_paced: Make, host: str
) -> None:
    """Refused, or without an address: the transport rests, the mail waits, unburned."""
    app = make_paced(url_of(f"http://{host}:{unused_port()}"))
    job = app.send()
    after = assert_row(app, job, UNREACHABLE)
    assert host in (after.last_error or "")
    assert app.sweep().claimed == 0


# -- E2 to E8, E10, E11: one answer ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(hang="after_body"), IN_DOUBT),
        (Reply(reset="after_body"), IN_DOUBT),
        (Reply(drop="after_body"), IN_DOUBT),
        (Reply('{"result":', content_length=500), IN_DOUBT),
        (Reply(reset="before_body"), IN_DOUBT),
        (Reply(ACCEPTED.body, trickle="body"), IN_DOUBT),
        (Reply(ACCEPTED.body, trickle="headers"), IN_DOUBT),
        (Reply(b"x" * 3_000_000), IN_DOUBT),
        (Reply(""), IN_DOUBT),
        (Reply("<html>busy</html>"), IN_DOUBT),
        (Reply({"result": "true"}), IN_DOUBT),
        (Reply("<h1>\x1b[31moh</h1>", 500), IN_DOUBT),
        (Reply("", 502), IN_DOUBT),
        (Reply("", 504), IN_DOUBT),
        (Reply("", 503), MAIL_PAYS),
        (Reply("", 503, {"Retry-After": "30"}), replace(UNREACHABLE, due=30)),
        (Reply("", 408), MAIL_PAYS),
        (Reply("", 425), MAIL_PAYS),
        (Reply("", 429), RATE_LIMITED),
        (Reply("", 429, {"Retry-After": "soon"}), RATE_LIMITED),
        (Reply("", 429, {"Retry-After": "-5"}), RATE_LIMITED),
        (Reply("", 429, {"Retry-After": "120"}), replace(RATE_LIMITED, due=120)),
        (Reply("", 429, {"Retry-After": "31536000"}), replace(RATE_LIMITED, due=3600)),
        (Reply("", 400), REJECTED),
        (Reply("", 413), REJECTED),
        (Reply("", 422), REJECTED),
        (Reply("", 401), ACCOUNT),
        (Reply("", 403), ACCOUNT),
        (Reply("", 404), ACCOUNT),
        (Reply("", 402), QUOTA),
        (Reply("", 302, {"Location": "http://127.0.0.1:9/"}), ACCOUNT),
        (says(40824, status=403), MISCONFIGURED),
        (says(40005), ACCOUNT),
        (says(40904), QUOTA),
        (says(40902), MAIL_PAYS),
        (says(40806), REJECTED),
        (says(40824), MISCONFIGURED),
        (says(99999), MAIL_PAYS),
        (says(40000), MAIL_PAYS),
    ],
    ids=lambda value: "" if isinstance(value, Row) else _shown(value),
)
def test_e2_to_e11_what_the_row_says(
    app: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """Who pays, what is in doubt, when it is tried again; one request, and never a raw page."""
    provider.script(reply)
    job = app.send()
    began = time.monotonic()
    after = assert_row(app, job, expected)
    assert time.monotonic() - began < 20
    assert len(provider.requests) == 1
    assert after.last_error
    assert after.last_error.isprintable()
    assert "<" not in after.last_error
    assert len(after.last_error) <= 500
    if expected.status == "pending":
        assert_sent_later(app, job, expected.attempts + 1)
    assert len(provider.requests) == 1 + (expected.status == "pending")
    assert app.sweep().claimed == 0


def test_e4_a_date_in_retry_after_is_honoured(app: MailApp, provider: HttpProvider) -> None:
    """The whole transport waits, other mail with it, and nobody's attempt counts."""
    date = formatdate(time.time() + 300, usegmt=True)
    provider.script(Reply("", 429, {"Retry-After": date}))
    job, other = app.send(), app.send()
    app.sweep(concurrency=1)
    assert len(provider.requests) == 1
    assert (app.job(job).attempts, app.job(other).attempts) == (0, 0)
    rest = app.runtime.states.all()["default"].rests_for
    assert 280 <= rest <= 380


# -- E2: the idempotency key ----------------------------------------------------------------------


def test_e2_a_repeat_has_the_same_key_and_a_duplicate_then_settles_it(
    app: MailApp, provider: HttpProvider
) -> None:
    """No answer, then "I have seen this key": the first one was taken, and the mail is sent."""
    provider.script(Reply(drop="after_body"), says(40000, "duplicate"))
    job = app.send()
    assert_row(app, job, IN_DOUBT)
    assert_sent_later(app, job, 2)
    first, second = keys(provider)
    assert first == second
    assert app.outcomes(job) == ["unknown", "sent"]


def test_e2_the_repeat_comes_while_the_provider_still_knows_the_key(
    make_app: Make, provider: HttpProvider
) -> None:
    """However long the schedule is, an unknown outcome is tried again within half an hour."""
    provider.script(Reply(drop="after_body"))
    app = make_app(url_of(provider.url), DEFERRED_MAIL_BACKOFF=[7200])
    assert_row(app, app.send(), Row("pending", 1, "unknown", "unknown", due=1800, jitter=0))


def test_e2_a_second_silence_is_for_a_person(app: MailApp, provider: HttpProvider) -> None:
    """Unknown twice: held, and no sweep touches it again."""
    provider.script(Reply(drop="after_body"), Reply(drop="after_body"))
    job = app.send()
    assert_row(app, job, IN_DOUBT)
    app.make_due()
    assert_row(app, job, Row("held", 2, "unknown", "unknown"))
    app.make_due()
    assert app.sweep().claimed == 0
    assert len(provider.requests) == 2


def test_e2_hold_means_one_request_only(app: MailApp, provider: HttpProvider) -> None:
    """``on_unknown="hold"``: held at the first doubt."""
    provider.script(Reply(reset="after_body"))
    job = app.send(on_unknown="hold")
    assert_row(app, job, Row("held", 1, "unknown", "unknown"))
    assert app.sweep().claimed == 0
    assert len(provider.requests) == 1


@pytest.mark.parametrize("answer", [says(40902), Reply("", 503), says(40005), Reply("", 429)])
def test_an_answer_that_says_not_sent_ends_the_key(
    app: MailApp, provider: HttpProvider, answer: Reply
) -> None:
    """Else the provider would call the next, rightful try a duplicate, and the mail were lost."""
    provider.script(answer)
    job = app.send()
    app.sweep()
    assert_sent_later(app, job, app.job(job).attempts + 1)
    first, second = keys(provider)
    assert first != second


def test_retry_by_a_person_takes_a_new_key(app: MailApp, provider: HttpProvider) -> None:
    """A refused mail that is opened again is no duplicate of itself."""
    provider.script(says(40806))
    job = app.send()
    assert_row(app, job, REJECTED)
    with app.app.app_context():
        app.mail.retry(job.id)
    assert app.sweep().sent == 1
    first, second = keys(provider)
    assert first != second


def test_a_not_sent_between_two_silences_is_told_apart(
    app: MailApp, provider: HttpProvider
) -> None:
    """Unknown, then "not sent" to the same key: it was not there, and the next key is new."""
    provider.script(Reply(drop="after_body"), says(40902))
    job = app.send()
    assert_row(app, job, IN_DOUBT)
    app.make_due()
    app.sweep()
    app.make_due()
    assert app.sweep().sent == 1
    first, second, third = keys(provider)
    assert first == second != third


# -- E6: whose configuration ----------------------------------------------------------------------


def test_e6_five_template_faults_in_a_row_are_the_accounts(
    app: MailApp, provider: HttpProvider
) -> None:
    """Four mails fail; with the fifth all five are put back, unburned, and the transport rests."""
    provider.default = says(40824, "no such template")
    jobs = [app.send() for _ in range(7)]
    app.sweep(concurrency=1)
    assert len(provider.requests) == 5
    assert {str(app.job(job).status) for job in jobs} == {"pending"}
    assert app.runtime.states.all()["default"].kind == "account"
    provider.default = ACCEPTED
    app.make_due()
    assert app.sweep().sent == 7
    assert len({*keys(provider)}) == 12


def test_e6_template_faults_among_good_mails_are_their_own(
    app: MailApp, provider: HttpProvider
) -> None:
    """Ten bad ones, each followed by one that is taken: no rest, and all the good ones are out."""
    provider.decide = lambda r: says(40824) if r.form["subject"] == "bad" else None
    for number in range(20):
        app.send(subject="good" if number % 2 else "bad")
    counts = app.sweep(concurrency=1)
    assert (counts.sent, counts.failed) == (10, 10)
    assert not any(state.failures for state in app.runtime.states.all().values())


# -- E9: one of many ------------------------------------------------------------------------------


def test_e9_one_bad_address_among_private_copies_is_found_by_halves(
    app: MailApp, provider: HttpProvider
) -> None:
    """The provider refuses a call over one address: only that one ends rejected, in one attempt,
    and everybody else gets one copy."""
    everybody = [f"r{number}@example.com" for number in range(16)]
    guilty = everybody[11]
    provider.decide = lambda request: (
        says(40806, "bad address") if guilty in readers(request) else None
    )
    job = app.send(*everybody, private_copies=True)
    counts = app.sweep()
    assert (counts.partial, counts.claimed) == (1, 1)
    assert app.statuses(job) == {r: "rejected" if r == guilty else "sent" for r in everybody}
    assert app.job(job).attempts == 1
    taken = [
        r
        for request in provider.requests
        if guilty not in readers(request)
        for r in readers(request)
    ]
    assert sorted(taken) == sorted(set(everybody) - {guilty})
    assert len(set(keys(provider))) == len(provider.requests) == 9
    assert [entry.detail for entry in app.job(job).recipients if entry.address == guilty] == [
        "SendCloud 40806: bad address"
    ]


def test_e9_silence_in_one_half_is_the_doubt_of_that_half_alone(
    app: MailApp, provider: HttpProvider
) -> None:
    """Two calls of one mail: the one that was accepted is not repeated with the other."""
    everybody = [f"r{number}@example.com" for number in range(150)]
    provider.script(ACCEPTED, Reply(drop="after_body"))
    job = app.send(*everybody, private_copies=True)
    assert app.sweep().retry == 1
    assert sorted(app.statuses(job).values()) == ["sent"] * 100 + ["unknown"] * 50
    app.make_due()
    assert app.sweep().sent == 1
    calls = [readers(request) for request in provider.requests]
    assert [len(call) for call in calls] == [100, 50, 50]
    assert calls[1] == calls[2]
    assert keys(provider)[1] == keys(provider)[2] != keys(provider)[0]


def test_e9_everybody_has_their_own_id_in_the_row(app: MailApp, provider: HttpProvider) -> None:
    """Webhooks speak of these ids; they are looked up by address."""
    two = [ANN, "bob@example.com"]
    provider.default = accepted_by_sendcloud(reversed(two))
    job = app.send(*two)
    app.sweep()
    ids = [entry.provider_message_id for entry in app.job(job).recipients]
    assert [str(value).rpartition("$")[2] for value in ids] == two


# -- E10, E12 -------------------------------------------------------------------------------------


def test_e10_a_redirect_is_not_followed(app: MailApp, provider: HttpProvider) -> None:
    """The place that it names never hears of us, and the mail is kept."""
    with HttpProvider() as elsewhere:
        elsewhere.default = ACCEPTED
        provider.script(Reply("", 302, {"Location": f"{elsewhere.url}/apiv2/mail/send"}))
        assert_row(app, app.send(), ACCOUNT)
        assert elsewhere.connections == 0


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_e12_a_connection_that_was_closed_between_mails_costs_nothing(
    app: MailApp, provider: HttpProvider, how: Any
) -> None:
    """The next mail takes a new one; nothing is counted, and nothing goes out twice."""
    provider.script(Reply(ACCEPTED.body, close=how))
    first = app.send()
    assert_row(app, first, SENT)
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    second = app.send()
    assert_row(app, second, SENT)
    assert len(provider.requests) == provider.connections == 2
