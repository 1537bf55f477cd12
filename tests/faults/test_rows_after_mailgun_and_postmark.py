"""What the row says after troubles of Mailgun and Postmark: the next attempt, and who is left.

What the adapters make of each answer is tested beside them; here it is the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.support.http_provider import HttpProvider, Recorded, Reply
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

Make = Callable[..., MailApp]
ANN, BOB = "ann@example.com", "bob@example.com"
SHORT = {"DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 0.7}
QUEUED = Reply({"id": "<1@mg.example.com>", "message": "Queued. Thank you."})
TAKEN: dict[str, Any] = {"MessageID": "m-1", "ErrorCode": 0, "Message": "OK"}
INACTIVE = "Found inactive addresses: {}.\nInactive recipients are ones that have complained."


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def mailgun(make_paced: Make, provider: HttpProvider) -> MailApp:
    provider.default = QUEUED
    return make_paced(f"mailgun://key@mg.example.com?endpoint={provider.url}", **SHORT)


@pytest.fixture
def postmark(make_paced: Make, provider: HttpProvider) -> MailApp:
    provider.default = Reply(TAKEN)
    return make_paced(f"postmark://token@default?endpoint={provider.url}", **SHORT)


def by_mailgun(status: int, words: str = "words") -> Reply:
    return Reply({"message": words}, status)


def by_postmark(code: int, status: int = 422, words: str = "words") -> Reply:
    return Reply({"ErrorCode": code, "Message": words}, status)


def copies_to(request: Recorded) -> list[str]:
    """Whom a request to Mailgun is for."""
    return [value for name, value in request.fields if name == "to"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (QUEUED, SENT),
        (by_mailgun(400, "'to' parameter is not a valid address"), REJECTED),
        (by_mailgun(403, "add the address to authorized recipients"), MISCONFIGURED),
        (by_mailgun(404, "Domain not found"), ACCOUNT),
        (Reply("Forbidden", 401), ACCOUNT),
        (Reply("Mailgun Magnificent API"), ACCOUNT),
        (by_mailgun(402), QUOTA),
        (by_mailgun(429), RATE_LIMITED),
        (by_mailgun(420, "recipient limit exceeded"), RATE_LIMITED),
        (Reply("", 503), MAIL_PAYS),
        (Reply("Internal Server Error", 500), IN_DOUBT),
        (Reply({"message": "Hello"}), IN_DOUBT),
        (Reply(drop="after_body"), IN_DOUBT),
    ],
    ids=lambda value: value.logged if isinstance(value, Row) else str(value.status),
)
def test_the_row_after_an_answer_of_mailgun(
    mailgun: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """Who pays, whether it is tried again and when; and out it goes once the trouble is over."""
    provider.script(reply)
    job = mailgun.send()
    assert_row(mailgun, job, expected)
    if expected.status == "pending":
        assert_sent_later(mailgun, job, expected.attempts + 1)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(TAKEN), SENT),
        (by_postmark(300), REJECTED),
        (by_postmark(400), MISCONFIGURED),
        (by_postmark(1101), MISCONFIGURED),
        (by_postmark(10, 401), ACCOUNT),
        (by_postmark(413), ACCOUNT),
        (by_postmark(405), QUOTA),
        (by_postmark(429, 429), RATE_LIMITED),
        (by_postmark(100, 503), UNREACHABLE),
        (by_postmark(98765, 200), MAIL_PAYS),
        (Reply("<html>", 500), IN_DOUBT),
        (Reply("{}"), IN_DOUBT),
        (Reply(drop="after_body"), IN_DOUBT),
    ],
    ids=lambda value: value.logged if isinstance(value, Row) else str(value.status),
)
def test_the_row_after_an_answer_of_postmark(
    postmark: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """The same for Postmark."""
    provider.script(reply)
    job = postmark.send()
    assert_row(postmark, job, expected)
    if expected.status == "pending":
        assert_sent_later(postmark, job, expected.attempts + 1)


@pytest.mark.parametrize("name", ["mailgun", "postmark"])
def test_a_repeat_after_silence_has_the_same_message_id(
    request: pytest.FixtureRequest, provider: HttpProvider, name: str
) -> None:
    """Neither has an idempotency key: a second copy can at least be recognised."""
    app = request.getfixturevalue(name)
    provider.script(Reply(drop="after_body"))
    job = app.send()
    assert_row(app, job, IN_DOUBT)
    assert_sent_later(app, job, 2)
    first, second = provider.requests
    assert first.body == second.body
    assert app.job(job).message_id.strip("<>") in first.body.decode().replace("%40", "@")


def test_a_limit_of_recipients_rests_mailgun_until_the_time_that_it_names(
    mailgun: MailApp, provider: HttpProvider
) -> None:
    """The time stands in the words only; no mail pays."""
    again = (datetime.now(UTC) + timedelta(seconds=300)).strftime("%a, %d %b %Y %H:%M:%S UTC")
    words = f"Domain x is not allowed to send: recipient limit exceeded, try again after {again}"
    provider.script(by_mailgun(420, words))
    job = mailgun.send()
    mailgun.sweep()
    assert mailgun.job(job).attempts == 0
    assert 280 <= mailgun.runtime.states.all()["default"].rests_for <= 380


def test_private_copies_that_mailgun_refuses_are_divided_until_only_the_guilty_is_left(
    mailgun: MailApp, provider: HttpProvider
) -> None:
    """No address is named, so halves are tried; everybody else gets one mail."""
    everybody = [f"r{i}@example.com" for i in range(8)]
    guilty = everybody[5]
    provider.decide = lambda request: (
        by_mailgun(400, "to parameter is not a valid address")
        if guilty in copies_to(request)
        else None
    )
    job = mailgun.send(*everybody, private_copies=True)
    assert mailgun.sweep().partial == 1
    assert mailgun.statuses(job) == {r: "rejected" if r == guilty else "sent" for r in everybody}
    taken = [r for q in provider.requests if guilty not in copies_to(q) for r in copies_to(q)]
    assert sorted(taken) == sorted(set(everybody) - {guilty})


def test_a_batch_of_postmark_is_settled_mail_by_mail(
    postmark: MailApp, provider: HttpProvider
) -> None:
    """Taken, on its list, and put off: only the last is tried again, and alone."""
    carol = "carol@example.com"
    items = [
        TAKEN,
        {"ErrorCode": 406, "Message": INACTIVE.format(BOB)},
        {"ErrorCode": 98765, "Message": "odd"},
    ]
    provider.script(Reply(json.dumps(items)), Reply({**TAKEN, "MessageID": "m-3"}))
    job = postmark.send(ANN, BOB, carol, private_copies=True)
    postmark.sweep()
    assert postmark.statuses(job) == {ANN: "sent", BOB: "suppressed", carol: "pending"}
    postmark.make_due()
    assert postmark.sweep().partial == 1
    assert postmark.statuses(job) == {ANN: "sent", BOB: "suppressed", carol: "sent"}
    ids = [r.provider_message_id for r in postmark.job(job).recipients]
    assert ids == ["m-1", None, "m-3"]
    assert json.loads(provider.requests[1].body)["To"] == carol


def test_a_visible_list_goes_at_once_to_those_whom_postmark_does_not_block(
    postmark: MailApp, provider: HttpProvider
) -> None:
    """Refused over one of them: the other gets the mail in the same attempt."""
    provider.script(by_postmark(406, words=INACTIVE.format(BOB)))
    job = postmark.send(ANN, BOB)
    assert postmark.sweep().partial == 1
    assert postmark.statuses(job) == {ANN: "sent", BOB: "suppressed"}
    assert postmark.job(job).attempts == 1
    assert json.loads(provider.requests[1].body)["To"] == ANN


def test_mailgun_keeps_a_mail_until_its_time_if_it_is_near(
    make_paced: Make, provider: HttpProvider
) -> None:
    """Within three days; a later one waits in our own queue."""
    provider.default = QUEUED
    app = make_paced(f"mailgun://k@mg.example.com?schedule=native&endpoint={provider.url}")
    soon = datetime.now(UTC) + timedelta(hours=2)
    app.send(send_at=soon)
    app.send(send_at=datetime.now(UTC) + timedelta(days=4))
    assert app.sweep().claimed == 1
    [request] = provider.requests
    moment = parsedate_to_datetime(dict(request.fields)["o:deliverytime"])
    assert abs((moment - soon).total_seconds()) <= 1
