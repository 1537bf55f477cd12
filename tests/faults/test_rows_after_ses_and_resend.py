"""What the row says after troubles of SES and Resend: the next attempt, its key, and who is left.

What the adapters make of each answer is tested beside them; here it is the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flask_deferred_mail import Attachment
from tests.support.http_provider import HttpProvider, Reply
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
    Row,
    assert_row,
    assert_sent_later,
)

Make = Callable[..., MailApp]
ANN, BOB = "ann@example.com", "bob@example.com"
SHORT = {"DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 0.7}
TAKEN = {"ses": Reply({"MessageId": "m-1"}), "resend": Reply({"id": "m-1"})}


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def resend(make_paced: Make, provider: HttpProvider) -> MailApp:
    provider.default = TAKEN["resend"]
    return make_paced(f"resend://key@default?endpoint={provider.url}", **SHORT)


@pytest.fixture
def ses(make_paced: Make, provider: HttpProvider) -> MailApp:
    provider.default = TAKEN["ses"]
    return make_paced(f"ses://AKID:hush@us-east-1?endpoint={provider.url}", **SHORT)


def by_aws(kind: str, status: int = 400, text: str = "words") -> Reply:
    return Reply({"message": text}, status, {"x-amzn-ErrorType": kind})


def by_resend(name: str, status: int) -> Reply:
    return Reply({"statusCode": status, "name": name, "message": "words"}, status)


def keys(provider: HttpProvider) -> list[str]:
    return [request.headers["idempotency-key"] for request in provider.requests]


def people(provider: HttpProvider) -> list[list[str]]:
    """Whom each request to Resend is for."""
    found = []
    for request in provider.requests:
        content = json.loads(request.body)
        mails = content if isinstance(content, list) else [content]
        found.append([to for mail in mails for to in mail["to"]])
    return found


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (TAKEN["ses"], SENT),
        (by_aws("MessageRejected", text="contains a virus"), REJECTED),
        (by_aws("MessageRejected", text="Email address is not verified."), MISCONFIGURED),
        (by_aws("NotFoundException", 404), MISCONFIGURED),
        (by_aws("AccountSuspendedException"), ACCOUNT),
        (by_aws("ExpiredTokenException", 403), ACCOUNT),
        (by_aws("ThrottlingException", text="Maximum sending rate exceeded."), RATE_LIMITED),
        (by_aws("ThrottlingException", text="Daily message quota exceeded."), QUOTA),
        (by_aws("RequestTimeoutException", 408), MAIL_PAYS),
        (by_aws("InternalFailure", 500), IN_DOUBT),
        (Reply(drop="after_body"), IN_DOUBT),
        (Reply("{}"), IN_DOUBT),
    ],
    ids=lambda value: value.logged if isinstance(value, Row) else str(value.status),
)
def test_the_row_after_an_answer_of_ses(
    ses: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """Who pays, whether it is tried again and when; and out it goes once the trouble is over."""
    provider.script(reply)
    job = ses.send()
    assert_row(ses, job, expected)
    if expected.status == "pending":
        assert_sent_later(ses, job, expected.attempts + 1)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (TAKEN["resend"], SENT),
        (by_resend("validation_error", 422), REJECTED),
        (by_resend("validation_error", 403), MISCONFIGURED),
        (by_resend("invalid_api_key", 403), ACCOUNT),
        (by_resend("rate_limit_exceeded", 429), RATE_LIMITED),
        (by_resend("monthly_quota_exceeded", 429), QUOTA),
        (by_resend("application_error", 500), MAIL_PAYS),
        (Reply("<html>", 502), IN_DOUBT),
        (Reply(drop="after_body"), IN_DOUBT),
    ],
    ids=lambda value: value.logged if isinstance(value, Row) else str(value.status),
)
def test_the_row_after_an_answer_of_resend(
    resend: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """The same for Resend."""
    provider.script(reply)
    job = resend.send()
    assert_row(resend, job, expected)
    if expected.status == "pending":
        assert_sent_later(resend, job, expected.attempts + 1)


def test_a_mail_in_doubt_is_repeated_under_the_same_key_with_the_same_bytes(
    resend: MailApp, provider: HttpProvider
) -> None:
    """Only so does Resend recognise it; a repeat with other bytes would be refused."""
    provider.script(Reply(drop="after_body"))
    job = resend.send(tags=["receipt"], metadata={"order": "1"}, extra_headers={"X-A": "1"})
    assert_row(resend, job, IN_DOUBT)
    assert_sent_later(resend, job, 2)
    first, second = provider.requests
    assert keys(provider)[0] == keys(provider)[1]
    assert first.body == second.body


def test_a_refused_mail_is_repeated_under_another_key(
    resend: MailApp, provider: HttpProvider
) -> None:
    """Resend would give back the stored refusal for the old one."""
    provider.script(by_resend("application_error", 500))
    job = resend.send()
    assert_row(resend, job, MAIL_PAYS)
    assert_sent_later(resend, job, 2)
    assert keys(provider)[0] != keys(provider)[1]


def test_a_key_that_resend_knows_with_another_body_ends_with_a_person(
    resend: MailApp, provider: HttpProvider
) -> None:
    """The first try got there, and nobody says what came of it: held, not failed, not sent."""
    provider.script(Reply(drop="after_body"), by_resend("invalid_idempotent_request", 409))
    job = resend.send()
    assert_row(resend, job, IN_DOUBT)
    resend.make_due()
    assert resend.sweep().held == 1
    assert resend.statuses(job) == {ANN: "unknown"}
    assert "invalid_idempotent_request" in (resend.job(job).last_error or "")


def test_a_batch_in_which_one_is_refused_is_not_repeated(
    resend: MailApp, provider: HttpProvider
) -> None:
    """Permissive mode: the others have their mail and their ids, and that is the end of it."""
    provider.script(Reply({"data": [{"id": "m-1"}], "errors": [{"index": 0, "message": "bad to"}]}))
    job = resend.send(ANN, BOB, private_copies=True)
    assert resend.sweep().partial == 1
    assert resend.statuses(job) == {ANN: "rejected", BOB: "sent"}
    assert [r.provider_message_id for r in resend.job(job).recipients] == [None, "m-1"]
    assert len(provider.requests) == 1


def test_a_batch_refused_as_a_whole_is_divided_until_only_the_guilty_is_left(
    resend: MailApp, provider: HttpProvider
) -> None:
    """No address is named, so halves are tried; everybody else gets one mail."""
    everybody = [f"r{i}@example.com" for i in range(4)]

    def decide(request: Any) -> Reply:
        content = json.loads(request.body)
        mails = content if isinstance(content, list) else [content]
        if any(mail["to"] == ["r2@example.com"] for mail in mails):
            return by_resend("validation_error", 422)
        ids = [{"id": mail["to"][0]} for mail in mails]
        return Reply({"data": ids} if isinstance(content, list) else ids[0])

    provider.decide = decide
    job = resend.send(*everybody, private_copies=True)
    assert resend.sweep().partial == 1
    statuses = resend.statuses(job)
    assert statuses.pop("r2@example.com") == "rejected"
    assert set(statuses.values()) == {"sent"}
    ids = {r.address: r.provider_message_id for r in resend.job(job).recipients}
    assert ids == {who: None if who == "r2@example.com" else who for who in everybody}


def test_a_bulk_call_of_ses_that_ends_in_the_middle_is_finished_later(
    ses: MailApp, provider: HttpProvider
) -> None:
    """Who was taken is not mailed again, the rest waits with the transport and pays nothing."""
    taken = {"Status": "SUCCESS", "MessageId": "m-1"}
    provider.script(
        Reply({"BulkEmailEntryResults": [taken, {"Status": "ACCOUNT_THROTTLED"}]}),
        Reply({"BulkEmailEntryResults": [{**taken, "MessageId": "m-2"}]}),
    )
    job = ses.send(ANN, BOB, body=None, template_id="receipt", private_copies=True)
    ses.sweep()
    assert ses.statuses(job) == {ANN: "sent", BOB: "pending"}
    ses.make_due()
    assert ses.sweep().sent == 1
    entries = json.loads(provider.requests[1].body)["BulkEmailEntries"]
    assert [entry["Destination"]["ToAddresses"] for entry in entries] == [[BOB]]
    assert [r.provider_message_id for r in ses.job(job).recipients] == ["m-1", "m-2"]


def test_resend_keeps_a_plain_mail_until_its_time_and_we_keep_the_others(
    make_paced: Make, provider: HttpProvider
) -> None:
    """With files, or as several copies, a scheduled mail waits in our own queue."""
    provider.default = TAKEN["resend"]
    app = make_paced(f"resend://key@default?schedule=native&endpoint={provider.url}")
    later = datetime.now(UTC) + timedelta(hours=2)
    plain = app.send(send_at=later)
    app.send(ANN, BOB, private_copies=True, send_at=later)
    app.send(attachments=[Attachment("a.pdf", "application/pdf", b"1")], send_at=later)
    assert app.sweep().claimed == 1
    assert app.job(plain).status == "sent"
    [request] = provider.requests
    moment = datetime.fromisoformat(json.loads(request.body)["scheduled_at"])
    assert abs((moment - later).total_seconds()) < 1
