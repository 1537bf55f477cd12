"""Part E of the fault table for Mailgun, Postmark, SES and Resend: what each adapter makes of it.

How far a request got is the base class's business and shown in ``test_sendcloud_faults.py``; each
trouble is met here all the same, because an adapter could undo it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.letter import Part
from flask_deferred_mail.outcome import FaultKind, Outcome
from flask_deferred_mail.transports.provider import ProviderTransport
from tests.support.http_provider import HttpProvider, Recorded, Reply, unused_port
from tests.support.json_providers import built
from tests.support.transport_calls import a_letter, fates, send
from tests.support.waiting import wait_until

ANN, BOB = "ann@example.net", "bob@example.net"
KEY = "hush-this-is-secret"
URLS = {
    "mailgun": f"mailgun://{KEY}@mg.example.com?endpoint=",
    "postmark": f"postmark://{KEY}@default?endpoint=",
    "ses": f"ses://AKIDEXAMPLE:{KEY}@us-east-1?endpoint=",
    "resend": f"resend://{KEY}@default?endpoint=",
}
ACCEPTED = {
    "mailgun": Reply({"id": "m-1", "message": "Queued. Thank you."}),
    "postmark": Reply({"MessageID": "m-1", "ErrorCode": 0, "Message": "OK"}),
    "ses": Reply({"MessageId": "m-1"}),
    "resend": Reply({"id": "m-1"}),
}
#: An acceptance by any of them, to be cut short or dripped.
TAKEN = json.dumps(
    {"id": "m", "message": "Queued", "MessageID": "m", "ErrorCode": 0, "MessageId": "m"}
)


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture(params=sorted(URLS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def transport(name: str, provider: HttpProvider) -> Iterator[ProviderTransport]:
    transport = built(URLS[name] + provider.url)
    yield transport
    transport.close()


def refusal(name: str, code: Any, status: int, text: str = "words") -> Reply:
    """A refusal in the way of the provider: Mailgun has no codes."""
    body: dict[str, Any] = {"message": text}
    headers = {}
    if name == "postmark":
        body = {"ErrorCode": code, "Message": text}
    elif name == "ses":
        headers["x-amzn-ErrorType"] = code
    elif name == "resend":
        body |= {"statusCode": status, "name": code}
    return Reply(body, status, headers)


def is_unknown(outcome: Outcome) -> bool:
    return set(fates(outcome).values()) == {"unknown"} and outcome.fault is None


def is_put_off(outcome: Outcome, kind: FaultKind | None) -> bool:
    fault = outcome.fault.kind if outcome.fault else None
    return set(fates(outcome).values()) == {"deferred"} and fault is kind


def test_an_accepted_mail_is_accepted(transport, name, provider):
    """The plain case: one id for everybody in the call."""
    provider.script(ACCEPTED[name])
    outcome = send(transport, a_letter(ANN, BOB))
    assert {r.provider_message_id for r in outcome.results} == {"m-1"}
    assert set(fates(outcome).values()) == {"accepted"}
    assert KEY not in provider.requests[0].body.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "provider.invalid"])
def test_e1_a_provider_that_cannot_be_reached_rests_the_transport(name, host):
    """Refused, or without an address: not sent, and nobody was asked to hand over."""
    asked: list[int] = []
    outcome = send(
        built(f"{URLS[name]}http://{host}:{unused_port()}"), hand_over=lambda: asked.append(1)
    )
    assert is_put_off(outcome, FaultKind.UNREACHABLE)
    assert asked == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hang="after_body"),
        Reply(reset="after_body"),
        Reply(drop="after_body"),
        Reply(TAKEN[:-1], content_length=500),
        Reply(hang="before_body"),
        Reply(reset="before_body"),
        Reply(TAKEN, trickle="headers"),
        Reply(TAKEN, trickle="body"),
        Reply(b"x" * 3_000_000),
    ],
    ids=["silent", "reset", "closed", "short", "unread", "unread reset", "drip", "drops", "huge"],
)
def test_e2_e3_e11_a_request_without_a_whole_answer_is_unknown(transport, provider, reply):
    """It may be there, and it is not tried again by itself."""
    provider.script(reply)
    assert is_unknown(send(transport, patience=0.7))
    wait_until(lambda: provider.requests, message="the provider never had it")
    assert len(provider.requests) == 1


def test_e3_a_request_that_never_left_as_a_whole_was_not_sent(transport, provider):
    """The peer stops reading a large mail: the mail pays, and nothing is in doubt."""
    provider.script(Reply(reset="before_body"))
    letter = a_letter(parts=(Part(b"x" * 9_000_000, "application/pdf", "a.pdf"),))
    outcome = send(transport, letter, seconds=120)
    assert is_put_off(outcome, None)
    assert outcome.costs_attempt


def test_leave_to_hand_over_is_refused(transport, name, provider):
    """The provider never has a whole request."""

    def refuse() -> None:
        raise HandoverRefused("the lease is about to end")

    with pytest.raises(HandoverRefused):
        send(transport, hand_over=refuse)
    wait_until(lambda: provider.connections == 1, message="nobody connected")
    wait_until(lambda: not provider.open_connections, message="the connection stayed open")
    assert provider.requests == []


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("120", 120, 120),
        (None, None, None),
        ("31536000", 3600, 3600),
        ("-5", None, None),
        ("soon", None, None),
        ("date", 200, 300),
    ],
)
def test_e4_429_rests_the_transport_for_a_believable_time(transport, provider, value, least, most):
    """Also where nothing but the status says so."""
    if value == "date":
        value = formatdate(time.time() + 300, usegmt=True)
    provider.script(Reply("slow down", 429, {"Retry-After": value} if value else {}))
    outcome = send(transport)
    assert is_put_off(outcome, FaultKind.RATE_LIMITED)
    pause = outcome.fault.retry_after
    assert pause is None if least is None else least <= pause <= most


@pytest.mark.parametrize("status", [500, 502, 504])
def test_e5_a_server_error_is_unknown_and_its_page_is_not_kept(transport, provider, status):
    """Without a code of the provider nobody knows what happened behind the gateway."""
    page = f"<html><script>alert(1)</script><h1>\x1b[31mBad {KEY}</h1></html>" + "x" * 5000
    provider.script(Reply(page, status, {"Content-Type": "text/html"}))
    outcome = send(transport)
    assert is_unknown(outcome)
    assert "<" not in outcome.detail
    assert "\x1b" not in outcome.detail
    assert KEY not in repr(outcome)


def test_e5_503_was_not_sent(transport, provider):
    """A bare one is the mail's, one with a time is the service's."""
    provider.script(Reply("", 503), Reply("", 503, {"Retry-After": "30"}))
    assert is_put_off(send(transport), None)
    assert is_put_off(send(transport), FaultKind.UNREACHABLE)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_e6_a_refused_request_is_refused_for_good(transport, provider, status):
    """Without a code of the provider the status speaks."""
    provider.script(Reply("no", status))
    assert fates(send(transport)) == {ANN: "refused"}


@pytest.mark.parametrize("status", [401, 403, 404, 405, 302])
def test_e6_e10_account_and_url_faults_rest_the_transport(transport, provider, status):
    """A redirect is one of them: it is not followed."""
    with HttpProvider() as elsewhere:
        provider.script(Reply("no", status, {"Location": f"{elsewhere.url}/?key={KEY}"}))
        outcome = send(transport)
        assert is_put_off(outcome, FaultKind.ACCOUNT)
        assert KEY not in outcome.detail
        assert elsewhere.connections == 0


@pytest.mark.parametrize("status", [408, 425])
def test_e6_408_and_425_are_temporary(transport, provider, status):
    """Not sent; the mail pays."""
    provider.script(Reply("later", status))
    assert is_put_off(send(transport), None)


@pytest.mark.parametrize(
    ("name", "code", "status", "text"),
    [
        ("mailgun", 0, 403, "Please add the address to authorized recipients."),
        ("postmark", 400, 422, "The 'From' address is not a Sender Signature."),
        ("postmark", 1101, 422, "The 'TemplateId' is not valid or was not found."),
        ("ses", "NotFoundException", 404, "Template x does not exist"),
        ("ses", "MessageRejected", 400, "Email address is not verified."),
        ("resend", "validation_error", 403, "The example.com domain is not verified."),
    ],
    indirect=["name"],
)
def test_e6_a_code_about_the_mail_outranks_the_status(
    transport, name, provider, code, status, text
):
    """This mail ends, the transport goes on; the provider's words are kept."""
    provider.script(refusal(name, code, status, text))
    outcome = send(transport)
    assert fates(outcome) == {ANN: "failed"}
    assert outcome.message_config
    assert outcome.fault is None
    assert text in outcome.detail


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        '{"id": tr',
        "[]",
        "null",
        '"ok"',
        "{}",
        '{"id": 1}',
        '{"ErrorCode": 0}',
        "[" * 100_000,
    ],
)
def test_e7_e8_a_200_that_makes_no_sense_is_unknown(transport, provider, body):
    """No crash, and no claim either way."""
    provider.script(Reply(body))
    assert is_unknown(send(transport))


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_e12_a_closed_connection_costs_nothing(transport, name, provider, how):
    """The next mail takes a new one, and goes out once."""
    provider.script(Reply(ACCEPTED[name].body, close=how), ACCEPTED[name])
    assert fates(send(transport)) == {ANN: "accepted"}
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    assert fates(send(transport)) == {ANN: "accepted"}
    assert len(provider.requests) == provider.connections == 2


# Temporary keys of AWS


EXPIRED = refusal("ses", "ExpiredTokenException", 403, "The security token is expired")


@pytest.fixture
def chained(provider: HttpProvider, monkeypatch: pytest.MonkeyPatch) -> ProviderTransport:
    """SES with the keys of the environment."""
    keys(monkeypatch, "1")
    return built(f"ses://us-east-1?endpoint={provider.url}")


def keys(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"ASIA{number}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"hush-{number}")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"token-{number}")


def tokens(provider: HttpProvider) -> list[str]:
    return [request.headers["x-amz-security-token"] for request in provider.requests]


def test_an_expired_token_is_renewed_and_the_mail_goes_out(chained, provider, monkeypatch):
    """In the same attempt, signed anew; leave to hand over is asked for again."""
    asked: list[int] = []
    provider.script(Reply({"MessageId": "m-0"}), EXPIRED, Reply({"MessageId": "m-1"}))
    send(chained)
    keys(monkeypatch, "2")
    outcome = send(chained, hand_over=lambda: asked.append(1))
    assert fates(outcome) == {ANN: "accepted"}
    assert tokens(provider) == ["token-1", "token-1", "token-2"]
    assert len(asked) == 2


def test_an_expired_token_without_another_is_tried_once(chained, provider):
    """The same keys again would be refused again: the transport rests."""
    provider.default = EXPIRED
    assert is_put_off(send(chained), FaultKind.ACCOUNT)
    assert tokens(provider) == ["token-1"]


def test_a_new_token_that_is_expired_too_ends_it(chained, provider, monkeypatch):
    """One renewal in an attempt, no more."""
    provider.decide = lambda request: _next_keys(monkeypatch, request)
    assert is_put_off(send(chained), FaultKind.ACCOUNT)
    assert tokens(provider) == ["token-1", "token-2"]


def _next_keys(monkeypatch: pytest.MonkeyPatch, request: Recorded) -> Reply:
    """Refuse, and put other keys into the environment."""
    number = int(request.headers["x-amz-security-token"].partition("-")[2])
    keys(monkeypatch, str(number + 1))
    return EXPIRED


def test_silence_after_a_renewal_is_unknown(chained, provider, monkeypatch):
    """The second request may have been taken, whatever became of the first."""
    provider.script(Reply({"MessageId": "m-0"}), EXPIRED, Reply(drop="after_body"))
    send(chained)
    keys(monkeypatch, "2")
    assert is_unknown(send(chained))


# Batches of Resend


def test_e9_a_batch_of_resend_is_answered_mail_by_mail(provider):
    """One is taken, one is refused: each recipient has its own fate and id."""
    transport = built(URLS["resend"] + provider.url)
    provider.script(Reply({"data": [{"id": "m-1"}], "errors": [{"index": 0, "message": "bad to"}]}))
    outcome = send(transport, a_letter(ANN, BOB, private_copies=True))
    assert fates(outcome) == {ANN: "refused", BOB: "accepted"}
    [request] = provider.requests
    assert [mail["to"] for mail in json.loads(request.body)] == [[ANN], [BOB]]


def test_e9_a_bulk_call_is_answered_entry_by_entry(provider):
    """The quota ends in the middle: who was taken is taken, and the transport rests."""
    transport = built(URLS["ses"] + provider.url)
    entries: list[Any] = [
        {"Status": "SUCCESS", "MessageId": "m-1"},
        {"Status": "ACCOUNT_DAILY_QUOTA_EXCEEDED", "Error": "quota"},
    ]
    provider.script(Reply({"BulkEmailEntryResults": entries}))
    letter = a_letter(ANN, BOB, text=None, template_id="t", private_copies=True)
    outcome = send(transport, letter)
    assert fates(outcome) == {ANN: "accepted", BOB: "deferred"}
    assert outcome.fault.kind is FaultKind.QUOTA


# Mailgun and Postmark: one call, many recipients


def test_e7_an_error_inside_a_200_is_an_error(provider):
    """Mailgun's greeting is not an acceptance, and Postmark's code counts whatever the status."""
    mailgun, postmark = (built(URLS[name] + provider.url) for name in ("mailgun", "postmark"))
    provider.script(Reply("Mailgun Magnificent API"), Reply({"ErrorCode": 405, "Message": "no"}))
    assert is_put_off(send(mailgun), FaultKind.ACCOUNT)
    outcome = send(postmark)
    assert is_put_off(outcome, FaultKind.QUOTA)
    assert outcome.detail == "Postmark 405: no"


def test_e9_a_batch_of_postmark_is_answered_mail_by_mail(provider):
    """One is taken, one is refused: each recipient has its own fate and id."""
    transport = built(URLS["postmark"] + provider.url)
    items = [{"ErrorCode": 300, "Message": "Invalid 'To'"}, ACCEPTED["postmark"].body]
    provider.script(Reply(json.dumps(items)))
    outcome = send(transport, a_letter(ANN, BOB, private_copies=True))
    assert fates(outcome) == {ANN: "refused", BOB: "accepted"}
    [request] = provider.requests
    assert [mail["To"] for mail in json.loads(request.body)] == [ANN, BOB]


def test_e9_private_copies_share_one_id_and_one_fate(provider):
    """Mailgun takes a call as a whole, or refuses it over somebody in it."""
    transport = built(URLS["mailgun"] + provider.url)
    words = "'to' parameter is not a valid address. please check documentation"
    provider.script(ACCEPTED["mailgun"], Reply({"message": words}, 400))
    letter = a_letter(ANN, BOB, private_copies=True)
    outcome = send(transport, letter)
    assert {r.provider_message_id for r in outcome.results} == {"m-1"}
    assert send(transport, letter).divisible
