"""Part E of the fault table for Aliyun and Tencent SES: what each adapter makes of it.

How far a request got is the base class's business and shown in ``test_sendcloud_faults.py``; each
trouble is met here all the same, because an adapter could undo it.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.letter import Letter
from flask_deferred_mail.outcome import FaultKind, Outcome
from flask_deferred_mail.transports.provider import ProviderTransport
from tests.support.http_provider import HttpProvider, Reply, unused_port
from tests.support.json_providers import built
from tests.support.transport_calls import a_letter, fates, send
from tests.support.waiting import wait_until

ANN, BOB = "ann@example.net", "bob@example.net"
KEY = "hush-this-is-secret"
URLS = {
    "aliyun": f"aliyun://LTAItest:{KEY}@cn-hangzhou?endpoint=",
    "tencent": f"tencentses://AKIDtest:{KEY}@ap-guangzhou?endpoint=",
}
ACCEPTED = {
    "aliyun": Reply({"EnvId": "m-1", "RequestId": "r"}),
    "tencent": Reply({"Response": {"MessageId": "m-1", "RequestId": "r"}}),
}


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


def a_mail(*to: str, **fields: Any) -> Letter:
    """A mail that both take: a template without values."""
    return a_letter(*to, **{"text": None, "template_id": "7", **fields})


def refusal(name: str, code: str, status: int, text: str = "words") -> Reply:
    """A refusal in the way of the provider: Tencent's are always HTTP 200."""
    if name == "aliyun":
        return Reply({"Code": code, "Message": text, "RequestId": "r"}, status)
    return Reply({"Response": {"Error": {"Code": code, "Message": text}, "RequestId": "r"}})


def is_unknown(outcome: Outcome) -> bool:
    return set(fates(outcome).values()) == {"unknown"} and outcome.fault is None


def is_put_off(outcome: Outcome, kind: FaultKind | None) -> bool:
    fault = outcome.fault.kind if outcome.fault else None
    return set(fates(outcome).values()) == {"deferred"} and fault is kind


def test_an_accepted_mail_is_accepted(transport, name, provider):
    """The plain case: one id for everybody in the call; the secret is nowhere in it."""
    provider.script(ACCEPTED[name])
    outcome = send(transport, a_mail(ANN, BOB))
    assert {r.provider_message_id for r in outcome.results} == {"m-1"}
    assert set(fates(outcome).values()) == {"accepted"}
    [request] = provider.requests
    assert (request.method, request.path) == ("POST", "/")
    assert KEY not in f"{request.body!r}{request.headers}"


def test_what_arrives_at_aliyun_is_what_was_signed(provider):
    """Blanks, plus signs, line breaks and what is not ASCII come through the form unharmed."""
    transport = built(URLS["aliyun"] + provider.url)
    provider.script(ACCEPTED["aliyun"])
    text = "1 + 1 = 2 & 100% ~*\r\n订单\n"
    send(transport, a_letter(ANN, subject="订单 1+1", text=text))
    [request] = provider.requests
    assert request.body_kind == "form"
    assert (request.form["Subject"], request.form["TextBody"]) == ("订单 1+1", text)
    signed = [pair for pair in request.fields if pair[0] != "Signature"]
    assert request.form["Signature"] == _signature_of_aliyun(signed)


def _signature_of_aliyun(fields: list[tuple[str, str]]) -> str:
    """The signature, written down once more and in another way."""

    def encoded(text: str) -> str:
        return text.replace("+", "%20").replace("*", "%2A").replace("%7E", "~")

    query = encoded(urlencode(sorted(fields)))
    to_sign = f"POST&{quote_plus('/')}&{encoded(quote_plus(query))}"
    return base64.b64encode(hmac.digest(f"{KEY}&".encode(), to_sign.encode(), "sha1")).decode()


def test_what_arrives_at_tencent_is_what_was_signed(provider):
    """Type and host as they were signed, the host once, with the port of the endpoint."""
    transport = built(URLS["tencent"] + provider.url)
    provider.script(ACCEPTED["tencent"])
    send(transport, a_mail(ANN, subject="订单"))
    [request] = provider.requests
    assert request.headers["host"] == f"127.0.0.1:{provider.port}"
    assert request.headers["content-type"] == "application/json"
    assert "SignedHeaders=content-type;host" in request.headers["authorization"]
    assert json.loads(request.body)["Subject"] == "订单"


@pytest.mark.parametrize("host", ["127.0.0.1", "provider.invalid"])
def test_e1_a_provider_that_cannot_be_reached_rests_the_transport(name, host):
    """Refused, or without an address: not sent, and nobody was asked to hand over."""
    asked: list[int] = []
    transport = built(f"{URLS[name]}http://{host}:{unused_port()}")
    outcome = send(transport, a_mail(), hand_over=lambda: asked.append(1))
    assert is_put_off(outcome, FaultKind.UNREACHABLE)
    assert asked == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hang="after_body"),
        Reply(reset="after_body"),
        Reply(drop="after_body"),
        Reply('{"EnvId": "m", "Response": {"MessageId": "m"', content_length=500),
        Reply(hang="before_body"),
        Reply(reset="before_body"),
        Reply('{"EnvId": "m"}', trickle="headers"),
        Reply('{"EnvId": "m", "Response": {"MessageId": "m"}}', trickle="body"),
        Reply(b"x" * 3_000_000),
    ],
    ids=["silent", "reset", "closed", "short", "unread", "unread reset", "drip", "drops", "huge"],
)
def test_e2_e3_e11_a_request_without_a_whole_answer_is_unknown(transport, provider, reply):
    """It may be there, and it is not tried again by itself."""
    provider.script(reply)
    assert is_unknown(send(transport, a_mail(), patience=0.7))
    wait_until(lambda: provider.requests, message="the provider never had it")
    assert len(provider.requests) == 1


def test_e3_a_request_that_never_left_as_a_whole_was_not_sent(provider):
    """The peer stops reading a large mail: the mail pays, and nothing is in doubt."""
    transport = built(URLS["aliyun"] + provider.url)
    provider.script(Reply(reset="before_body"))
    outcome = send(transport, a_letter(ANN, html="<p>" * 2_500_000), seconds=120)
    assert is_put_off(outcome, None)
    assert outcome.costs_attempt


def test_leave_to_hand_over_is_refused(transport, provider):
    """The provider never has a whole request."""

    def refuse() -> None:
        raise HandoverRefused("the lease is about to end")

    with pytest.raises(HandoverRefused):
        send(transport, a_mail(), hand_over=refuse)
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
    outcome = send(transport, a_mail())
    assert is_put_off(outcome, FaultKind.RATE_LIMITED)
    pause = outcome.fault.retry_after
    assert pause is None if least is None else least <= pause <= most


@pytest.mark.parametrize("status", [500, 502, 504])
def test_e5_a_server_error_is_unknown_and_its_page_is_not_kept(transport, provider, status):
    """Without a code of the provider nobody knows what happened behind the gateway."""
    page = f"<html><script>alert(1)</script><h1>\x1b[31mBad {KEY}</h1></html>" + "x" * 5000
    provider.script(Reply(page, status, {"Content-Type": "text/html"}))
    outcome = send(transport, a_mail())
    assert is_unknown(outcome)
    assert "<" not in outcome.detail
    assert "\x1b" not in outcome.detail
    assert KEY not in repr(outcome)


def test_e5_503_was_not_sent(transport, provider):
    """A bare one is the mail's, one with a time is the service's."""
    provider.script(Reply("", 503), Reply("", 503, {"Retry-After": "30"}))
    assert is_put_off(send(transport, a_mail()), None)
    assert is_put_off(send(transport, a_mail()), FaultKind.UNREACHABLE)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_e6_a_refused_request_is_refused_for_good(transport, provider, status):
    """Without a code of the provider the status speaks."""
    provider.script(Reply("no", status))
    assert fates(send(transport, a_mail())) == {ANN: "refused"}


@pytest.mark.parametrize("status", [401, 403, 404, 405, 302])
def test_e6_e10_account_and_url_faults_rest_the_transport(transport, provider, status):
    """A redirect is one of them: it is not followed."""
    with HttpProvider() as elsewhere:
        provider.script(Reply("no", status, {"Location": f"{elsewhere.url}/?key={KEY}"}))
        outcome = send(transport, a_mail())
        assert is_put_off(outcome, FaultKind.ACCOUNT)
        assert KEY not in outcome.detail
        assert elsewhere.connections == 0


@pytest.mark.parametrize("status", [408, 425])
def test_e6_408_and_425_are_temporary(transport, provider, status):
    """Not sent; the mail pays."""
    provider.script(Reply("later", status))
    assert is_put_off(send(transport, a_mail()), None)


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("aliyun", "InvalidMailAddress.NotFound", 404),
        ("aliyun", "InvalidTemplate.NotFound", 404),
        ("tencent", "FailedOperation.InvalidTemplateID", 200),
        ("tencent", "FailedOperation.NotAuthenticatedSender", 200),
    ],
    indirect=["name"],
)
def test_e6_a_code_about_the_mail_outranks_the_status(transport, name, provider, code, status):
    """This mail ends, the transport goes on; the provider's words are kept."""
    provider.script(refusal(name, code, status, "look at it"))
    outcome = send(transport, a_mail())
    assert fates(outcome) == {ANN: "failed"}
    assert outcome.message_config
    assert outcome.fault is None
    assert f"{code}: look at it" in outcome.detail


@pytest.mark.parametrize(
    "body", ["", "{", '{"EnvId": tr', "[]", "null", '"ok"', "{}", '{"Response": 1}', "[" * 100_000]
)
def test_e7_e8_a_200_that_makes_no_sense_is_unknown(transport, provider, body):
    """No crash, and no claim either way."""
    provider.script(Reply(body))
    assert is_unknown(send(transport, a_mail()))


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_e12_a_closed_connection_costs_nothing(transport, name, provider, how):
    """The next mail takes a new one, and goes out once."""
    provider.script(Reply(ACCEPTED[name].body, close=how), ACCEPTED[name])
    assert fates(send(transport, a_mail())) == {ANN: "accepted"}
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    assert fates(send(transport, a_mail())) == {ANN: "accepted"}
    assert len(provider.requests) == provider.connections == 2


def test_the_probe_shows_whether_the_key_is_known(transport, name, provider):
    """Connect, then the key; no mail is sent, and the secret is not repeated."""
    provider.script(ACCEPTED[name], refusal(name, "AuthFailure" + KEY, 403, f"bad {KEY}"))
    good, bad = list(transport.probe()), list(transport.probe())
    assert [step.ok for step in good] == [True, True]
    assert [step.ok for step in bad] == [True, False]
    assert KEY not in repr(bad)
