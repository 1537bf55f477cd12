"""What the row says after troubles of Aliyun and Tencent SES: who pays, and who is left.

What the adapters make of each answer is tested beside them; here it is the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
    UNREACHABLE,
    Row,
    assert_row,
    assert_sent_later,
)

Make = Callable[..., MailApp]
ANN, BOB, CAROL = "ann@example.com", "bob@example.com", "carol@example.com"
SHORT = {"DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 0.7}
TAKEN = {
    "aliyun": Reply({"EnvId": "m-1", "RequestId": "r"}),
    "tencent": Reply({"Response": {"MessageId": "m-1", "RequestId": "r"}}),
}
SUPPRESSED = Row("failed", 1, "suppressed", "failed")


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def aliyun(make_paced: Make, provider: HttpProvider) -> MailApp:
    provider.default = TAKEN["aliyun"]
    return make_paced(f"aliyun://k:hush@cn-hangzhou?endpoint={provider.url}", **SHORT)


@pytest.fixture
def tencent(make_paced: Make, provider: HttpProvider) -> MailApp:
    provider.default = TAKEN["tencent"]
    return make_paced(f"tencentses://k:hush@ap-guangzhou?endpoint={provider.url}", **SHORT)


def by_aliyun(code: str, status: int = 400) -> Reply:
    return Reply({"Code": code, "Message": "words", "RequestId": "r"}, status)


def by_tencent(code: str) -> Reply:
    return Reply({"Response": {"Error": {"Code": code, "Message": "words"}, "RequestId": "r"}})


def name_of(value: Any) -> str:
    if isinstance(value, Row):
        return value.logged
    body = value.body if isinstance(value.body, dict) else {}
    error = body.get("Response", body).get("Error", body)
    return str(error.get("Code", value.status))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (TAKEN["aliyun"], SENT),
        (by_aliyun("InvalidToAddress"), REJECTED),
        (by_aliyun("InvalidToAddress.Spam"), SUPPRESSED),
        (by_aliyun("InvalidMailAddress.NotFound", 404), MISCONFIGURED),
        (by_aliyun("InvalidAccessKeyId.NotFound", 404), ACCOUNT),
        (by_aliyun("Throttling.User"), RATE_LIMITED),
        (by_aliyun("InvalidSendMail.Spam"), QUOTA),
        (by_aliyun("ServiceUnavailable", 503), UNREACHABLE),
        (by_aliyun("InternalError", 500), MAIL_PAYS),
        (by_aliyun("SignatureNonceUsed"), IN_DOUBT),
        (Reply(drop="after_body"), IN_DOUBT),
        (Reply("{}"), IN_DOUBT),
    ],
    ids=name_of,
)
def test_the_row_after_an_answer_of_aliyun(
    aliyun: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """Who pays, whether it is tried again and when; and out it goes once the trouble is over."""
    provider.script(reply)
    job = aliyun.send()
    assert_row(aliyun, job, expected)
    if expected.status == "pending":
        assert_sent_later(aliyun, job, expected.attempts + 1)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (TAKEN["tencent"], SENT),
        (by_tencent("FailedOperation.IncorrectEmail"), REJECTED),
        (by_tencent("FailedOperation.EmailAddrInBlacklist"), SUPPRESSED),
        (by_tencent("FailedOperation.InvalidTemplateID"), MISCONFIGURED),
        (by_tencent("AuthFailure.SecretIdNotFound"), ACCOUNT),
        (by_tencent("RequestLimitExceeded"), RATE_LIMITED),
        (by_tencent("FailedOperation.FrequencyLimit"), MAIL_PAYS),
        (by_tencent("FailedOperation.ExceedSendLimit"), QUOTA),
        (by_tencent("FailedOperation.ServiceNotAvailable"), UNREACHABLE),
        (by_tencent("Brandnew"), MAIL_PAYS),
        (Reply("<html>", 502), IN_DOUBT),
        (Reply('{"Response": {}}'), IN_DOUBT),
    ],
    ids=name_of,
)
def test_the_row_after_an_answer_of_tencent(
    tencent: MailApp, provider: HttpProvider, reply: Reply, expected: Row
) -> None:
    """The same for Tencent."""
    provider.script(reply)
    job = tencent.send(body=None, template_id="7")
    assert_row(tencent, job, expected)
    if expected.status == "pending":
        assert_sent_later(tencent, job, expected.attempts + 1)


def test_private_copies_have_outcomes_of_their_own(aliyun: MailApp, provider: HttpProvider) -> None:
    """A request each: one is refused, the others have their mail, and no request is repeated."""

    def decide(request: Any) -> Reply | None:
        to = request.form["ToAddress"]
        return by_aliyun("InvalidToAddress") if to == BOB else Reply({"EnvId": f"id-{to}"})

    provider.decide = decide
    job = aliyun.send(ANN, BOB, CAROL, private_copies=True)
    assert aliyun.sweep().partial == 1
    assert aliyun.statuses(job) == {ANN: "sent", BOB: "rejected", CAROL: "sent"}
    ids = [r.provider_message_id for r in aliyun.job(job).recipients]
    assert ids == [f"id-{ANN}", None, f"id-{CAROL}"]
    assert len(provider.requests) == 3


def test_cc_that_is_dropped_leaves_nobody_without_the_mail(
    make_paced: Make, provider: HttpProvider
) -> None:
    """Only the header field is lost: Carol gets a blind copy, and her row says so."""
    provider.default = TAKEN["aliyun"]
    url = f"aliyun://k:hush@cn-hangzhou?endpoint={provider.url}"
    app = make_paced(url, DEFERRED_MAIL_ON_UNSUPPORTED="drop")
    job = app.send(ANN, cc=[CAROL])
    assert app.sweep().sent == 1
    [request] = provider.requests
    assert (request.form["ToAddress"], request.form["BccAddress"]) == (ANN, CAROL)
    assert app.statuses(job) == {ANN: "sent", CAROL: "sent"}


def test_a_retry_is_signed_anew(aliyun: MailApp, provider: HttpProvider) -> None:
    """Another nonce, or Aliyun would refuse it; the Message-ID stays."""
    provider.script(by_aliyun("InternalError", 500))
    job = aliyun.send()
    assert_row(aliyun, job, MAIL_PAYS)
    assert_sent_later(aliyun, job, 2)
    first, second = (request.form for request in provider.requests)
    assert first["SignatureNonce"] != second["SignatureNonce"]
    assert json.loads(first["Headers"]) == json.loads(second["Headers"])
    assert json.loads(first["Headers"])["Message-ID"] == aliyun.job(job).message_id
