"""Part E of the fault table, against a provider on loopback that misbehaves on demand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.letter import Part
from flask_deferred_mail.outcome import FaultKind, Outcome
from flask_deferred_mail.transports import timed_http
from flask_deferred_mail.transports.sendcloud import SendCloudTransport
from flask_deferred_mail.transports.timed_http import Connection
from tests.support.certificates import certificates
from tests.support.http_provider import HttpProvider, Reply, accepted_by_sendcloud, unused_port
from tests.support.transport_calls import a_letter, fates, send
from tests.support.waiting import wait_until

ACCEPTED = accepted_by_sendcloud(["ann@example.net"])
KEY = "api_key_that_is_secret"
# More than fits into the socket buffers of both sides on loopback.
LARGE = 9_000_000


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def sendcloud(provider: HttpProvider) -> Iterator[SendCloudTransport]:
    transport = transport_to(provider.url)
    yield transport
    transport.close()


def transport_to(url: str, cafile: str | None = None) -> SendCloudTransport:
    return SendCloudTransport("default", "shop", KEY, endpoint=url, cafile=cafile)


def large_letter() -> object:
    return a_letter(parts=(Part(b"x" * LARGE, "application/pdf", "report.pdf"),))


def is_unknown(outcome: Outcome) -> bool:
    """Nobody can say whether it was sent; the mail's business, not the transport's."""
    return fates(outcome) == {"ann@example.net": "unknown"} and outcome.fault is None


def is_put_off(outcome: Outcome, kind: FaultKind | None) -> bool:
    """Not sent, with the transport at fault (or, for ``None``, the mail paying)."""
    fault = outcome.fault.kind if outcome.fault else None
    return fates(outcome) == {"ann@example.net": "deferred"} and fault is kind


def test_an_accepted_mail_is_accepted(sendcloud, provider):
    """The plain case: id per recipient, the call's id, the server's address and the phases."""
    provider.script(ACCEPTED)
    outcome = send(sendcloud)
    [result] = outcome.results
    assert result.fate == "accepted"
    assert result.provider_message_id.endswith("inbound0$ann@example.net")
    assert outcome.server.queue_id == "1795262400123_4576_32113_9310.sc-10_10_127_105-inbound"
    assert outcome.server.address == f"127.0.0.1:{provider.port}"
    assert list(outcome.server.phases) == ["connect", "request", "answer"]
    assert outcome.fault is None


# E1


def test_e1_a_refused_connection_is_the_transports_fault():
    """Nobody listens: not sent, the transport rests, and the hand-over was never asked for."""
    asked = []
    transport = transport_to(f"http://127.0.0.1:{unused_port()}")
    outcome = send(transport, hand_over=lambda: asked.append(1))
    assert is_put_off(outcome, FaultKind.UNREACHABLE)
    assert "refused" in outcome.detail.lower()
    assert not outcome.costs_attempt
    assert asked == []


def test_e1_a_name_that_does_not_resolve_is_the_transports_fault():
    """A DNS failure: not sent."""
    outcome = send(transport_to("http://provider.invalid"))
    assert is_put_off(outcome, FaultKind.UNREACHABLE)
    assert "provider.invalid" in outcome.detail


@pytest.mark.parametrize("kind", ["self-made", "wrong-host", "expired"])
def test_e1_a_bad_certificate_is_refused_before_the_key_is_shown(kind):
    """Verification is on by default: nothing is sent over a link that anybody could answer."""
    with HttpProvider(certificates().server_context(kind)) as provider:
        outcome = send(transport_to(provider.url, certificates().cafile))
        assert is_put_off(outcome, FaultKind.UNREACHABLE)
        assert "certificate" in outcome.detail.lower()
        assert provider.requests == []


def test_a_good_certificate_is_accepted():
    """The same with a certificate that verifies; the version of TLS is kept with the attempt."""
    with HttpProvider(certificates().server_context()) as provider:
        provider.default = ACCEPTED
        transport = transport_to(provider.url, certificates().cafile)
        outcome = send(transport)
        assert fates(outcome) == {"ann@example.net": "accepted"}
        assert outcome.server.tls.startswith("TLSv1.")
        assert fates(send(transport)) == {"ann@example.net": "accepted"}
        assert provider.connections == 1
        transport.close()


def test_e1_a_handshake_that_hangs_ends_at_the_deadline():
    """TLS against a server that never answers the first flight: not sent, in time."""
    with HttpProvider() as plain:  # it waits for a request and never speaks TLS
        began = time.monotonic()
        outcome = send(transport_to(f"https://127.0.0.1:{plain.port}"), seconds=0.7)
        assert is_put_off(outcome, FaultKind.UNREACHABLE)
        assert time.monotonic() - began < 10


# E2, E3


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hang="after_body"),
        Reply(reset="after_body"),
        Reply(drop="after_body"),
        Reply('{"result":', content_length=500),
        Reply(hang="before_body"),
        Reply(reset="before_body"),
    ],
    ids=["silent", "reset", "closed", "short body", "body unread", "reset, body unread"],
)
def test_e2_e3_no_answer_to_a_whole_request_is_unknown(sendcloud, provider, reply):
    """Everything was handed over: it may be there, whatever the connection did afterwards."""
    provider.script(reply)
    assert is_unknown(send(sendcloud, patience=0.7))
    assert provider.connections == 1, "it was tried again"


@pytest.mark.parametrize("moment", ["hang", "reset"])
def test_e3_a_request_that_never_left_as_a_whole_was_not_sent(sendcloud, provider, moment):
    """The peer stops reading a large mail: its announced length was never reached."""
    asked = []
    provider.script(Reply(**{moment: "before_body"}))
    outcome = send(
        sendcloud, large_letter(), seconds=1.5, hand_over=lambda: asked.append(time.monotonic())
    )
    assert is_put_off(outcome, None)
    assert outcome.costs_attempt
    assert asked == []


def test_e2_the_idempotency_key_is_the_same_in_every_try(sendcloud, provider):
    """The key comes from the call and goes out as sendRequestId; a repeat then settles it."""
    provider.script(
        Reply(drop="after_body"), Reply({"result": False, "statusCode": 40000, "message": "dup"})
    )
    assert is_unknown(send(sendcloud, key="abc123"))
    assert fates(send(sendcloud, key="abc123", in_doubt=True)) == {"ann@example.net": "accepted"}
    assert [r.form["sendRequestId"] for r in provider.requests] == ["abc123", "abc123"]


def test_a_duplicate_that_no_unknown_outcome_explains_was_not_sent(sendcloud, provider):
    """Every call with that key was answered "not sent": the provider remembers a refusal."""
    provider.script(Reply({"result": False, "statusCode": 40000, "message": "dup"}))
    assert is_put_off(send(sendcloud), None)


@pytest.mark.parametrize("size", [0, 100_000])
def test_leave_to_hand_over_is_asked_for_before_the_end_of_the_request(sendcloud, provider, size):
    """It is refused: the connection is dropped, and the provider never has a whole request, of a
    small mail nothing at all."""
    letter = a_letter(text="x" * size) if size else None

    def refuse() -> None:
        raise HandoverRefused("the lease is about to end")

    provider.default = ACCEPTED
    with pytest.raises(HandoverRefused):
        send(sendcloud, letter, hand_over=refuse)
    wait_until(lambda: provider.connections == 1, message="nobody connected")
    wait_until(lambda: not provider.open_connections, message="the connection stayed open")
    assert provider.requests == []
    assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}
    wait_until(lambda: len(provider.incomplete) == (1 if size else 0))


# E4


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
def test_e4_429_rests_the_transport_for_a_believable_time(sendcloud, provider, value, least, most):
    """Retry-After as seconds or date is honoured up to an hour; nonsense counts as absent."""
    if value == "date":
        value = formatdate(time.time() + 300, usegmt=True)
    provider.script(Reply("slow down", 429, {"Retry-After": value} if value else {}))
    outcome = send(sendcloud)
    assert is_put_off(outcome, FaultKind.RATE_LIMITED)
    if least is None:
        assert outcome.fault.retry_after is None
    else:
        assert least <= outcome.fault.retry_after <= most
    assert not outcome.costs_attempt


# E5


@pytest.mark.parametrize("status", [500, 502, 504])
def test_e5_a_server_error_is_unknown_and_its_page_is_not_kept(sendcloud, provider, status):
    """A gateway cannot say what happened behind it; of its HTML only plain words are kept."""
    page = f"<html><script>alert(1)</script><h1>\x1b[31mBad {KEY}</h1></html>" + "x" * 5000
    provider.script(Reply(page, status, {"Content-Type": "text/html"}))
    outcome = send(sendcloud)
    assert is_unknown(outcome)
    assert "<" not in outcome.detail
    assert "\x1b" not in outcome.detail
    assert KEY not in repr(outcome)
    assert len(outcome.detail) < 400


def test_e5_503_was_not_sent(sendcloud, provider):
    """Without a hint the mail waits; with Retry-After the whole transport does."""
    provider.script(Reply("", 503), Reply("", 503, {"Retry-After": "30"}))
    assert is_put_off(send(sendcloud), None)
    outcome = send(sendcloud)
    assert is_put_off(outcome, FaultKind.UNREACHABLE)
    assert outcome.fault.retry_after == 30


# E6


@pytest.mark.parametrize("status", [400, 413, 422])
def test_e6_a_refused_request_is_refused_for_good(sendcloud, provider, status):
    """400, 413 and 422 speak about this mail."""
    provider.script(Reply("no", status))
    outcome = send(sendcloud)
    assert fates(outcome) == {"ann@example.net": "refused"}
    assert outcome.fault is None


@pytest.mark.parametrize("status", [401, 403, 404, 405, 415])
def test_e6_account_and_url_faults_rest_the_transport(sendcloud, provider, status):
    """Nothing would pass: no mail pays for it."""
    provider.script(Reply("no", status))
    outcome = send(sendcloud)
    assert is_put_off(outcome, FaultKind.ACCOUNT)
    assert not outcome.costs_attempt


@pytest.mark.parametrize("status", [408, 425])
def test_e6_408_and_425_are_temporary(sendcloud, provider, status):
    """The provider says itself that it has not looked at the request."""
    provider.script(Reply("later", status))
    assert is_put_off(send(sendcloud), None)


def test_e6_a_code_about_the_mail_outranks_the_status(sendcloud, provider):
    """A 403 whose body speaks of this mail's template fails this mail only."""
    body = {"result": False, "statusCode": 40824, "message": "template"}
    provider.script(Reply(body, 403))
    outcome = send(sendcloud)
    assert fates(outcome) == {"ann@example.net": "failed"}
    assert outcome.message_config
    assert outcome.fault is None


# E7, E8


def test_e7_an_error_inside_a_200_is_an_error(sendcloud, provider):
    """The status is not asked; the provider's code and words are in the text."""
    provider.script(Reply({"result": False, "statusCode": 40005, "message": "认证失败"}))
    outcome = send(sendcloud)
    assert is_put_off(outcome, FaultKind.ACCOUNT)
    assert outcome.detail == "SendCloud 40005: 认证失败"


@pytest.mark.parametrize(
    "body",
    ["", "{", '{"result": tr', "[]", "null", '"ok"', "{}", '{"result": "true"}', "[" * 100_000],
)
def test_e8_a_200_that_makes_no_sense_is_unknown(sendcloud, provider, body):
    """Empty, broken or foreign JSON: no crash, and no claim either way."""
    provider.script(Reply(body))
    assert is_unknown(send(sendcloud))


def test_e8_an_accepting_answer_with_odd_details_is_still_accepting(sendcloud, provider):
    """``result`` decides; ids that are missing or strange are left out."""
    for info in (None, [], {"emailIdList": "x"}, {"emailIdList": [None, 3, "no-dollar"]}):
        provider.script(Reply({"result": True, "statusCode": 200, "info": info}))
        [result] = send(sendcloud).results
        assert (result.fate, result.provider_message_id) == ("accepted", None)


# E9


def test_e9_each_recipient_has_its_own_id(sendcloud, provider):
    """SendCloud takes all or none; ids are matched by address, in whatever order they come."""
    provider.script(accepted_by_sendcloud(["bob@example.net", "Ann@Example.net"]))
    outcome = send(sendcloud, a_letter("ann@example.net", "bob@example.net"))
    ids = {r.address: r.provider_message_id for r in outcome.results}
    assert ids["ann@example.net"].endswith("1$Ann@Example.net")
    assert ids["bob@example.net"].endswith("0$bob@example.net")


def test_e9_one_bad_address_makes_a_private_call_divisible(sendcloud, provider):
    """The whole call was refused over one of them: delivery tries it in halves."""
    refused = Reply({"result": False, "statusCode": 40806, "message": "bad address"})
    provider.script(refused, refused, refused)
    two = ("ann@example.net", "bob@example.net")
    assert send(sendcloud, a_letter(*two, private_copies=True)).divisible
    assert not send(sendcloud, a_letter(two[0], private_copies=True)).divisible
    assert not send(sendcloud, a_letter(*two)).divisible


# E10


def test_e10_a_redirect_is_not_followed(sendcloud, provider):
    """302: not sent, an account fault that says where it pointed, and no second request."""
    with HttpProvider() as elsewhere:
        elsewhere.default = ACCEPTED
        target = f"{elsewhere.url}/apiv2/mail/send?key={KEY}"
        provider.script(Reply(b"x" * 2_000_000, 302, {"Location": target}))
        outcome = send(sendcloud)
        assert is_put_off(outcome, FaultKind.ACCOUNT)
        assert f"127.0.0.1:{elsewhere.port}" in outcome.detail
        assert KEY not in outcome.detail
        assert elsewhere.connections == 0


# E11


@pytest.mark.parametrize("where", ["headers", "body"])
def test_e11_a_trickled_answer_ends_at_the_deadline(sendcloud, provider, where):
    """One byte every 0.2 s meets every timeout per read, but not ours; the outcome is unknown."""
    provider.script(Reply(ACCEPTED.body, trickle=where, pause=0.2))
    began = time.monotonic()
    assert is_unknown(send(sendcloud, patience=1.0))
    assert time.monotonic() - began < 8


def test_e11_a_huge_answer_is_read_up_to_a_cap(sendcloud, provider):
    """10 MB with a 200 is no answer; with a status that says no, the status is enough."""
    page = b"x" * 10_000_000
    provider.script(Reply(page), Reply(page, 400))
    outcome = send(sendcloud)
    assert is_unknown(outcome)
    assert "over 1000000 bytes" in outcome.detail
    assert fates(send(sendcloud)) == {"ann@example.net": "refused"}


def test_e11_endless_headers_are_bounded(sendcloud, provider):
    """More header fields than any answer needs: unknown, not memory."""
    provider.script(Reply("{}", headers={f"X-{i}": "y" * 1000 for i in range(500)}))
    assert is_unknown(send(sendcloud))


# E12


def test_mails_share_a_connection(sendcloud, provider):
    """The second mail needs no new connection."""
    provider.default = ACCEPTED
    for _ in range(3):
        assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}
    assert provider.connections == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_e12_a_connection_closed_between_mails_is_replaced(sendcloud, provider, how):
    """That the peer closed it is seen before anything is sent: a new one, and no error."""
    provider.script(Reply(ACCEPTED.body, close=how), ACCEPTED)
    assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}
    assert provider.connections == 2
    assert len(provider.requests) == 2


def test_e12_one_retry_if_not_a_byte_was_taken(sendcloud, provider, monkeypatch):
    """The peer closes in the very moment of sending, and the system takes nothing: once more."""
    provider.script(Reply(ACCEPTED.body, close="rst"), ACCEPTED)
    send(sendcloud)
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    monkeypatch.setattr(Connection, "is_connected", True)
    outcome = send(sendcloud)
    assert fates(outcome) == {"ann@example.net": "accepted"}
    assert provider.connections == 2


def test_e12_leave_is_asked_for_again_before_the_retry(sendcloud, provider, monkeypatch):
    """It was given for the first try and is refused for the second: nothing went out, and that is
    the outcome, for the row was told that it may have."""
    provider.script(Reply(ACCEPTED.body, close="rst"), ACCEPTED)
    send(sendcloud)
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    monkeypatch.setattr(Connection, "is_connected", True)
    asked = []

    def hand_over() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise HandoverRefused("the lease is about to end")

    outcome = send(sendcloud, hand_over=hand_over)
    assert is_put_off(outcome, None)
    assert "the lease is about to end" in outcome.results[0].detail
    assert len(asked) == 2
    assert len(provider.requests) == 1


def test_e12_unknown_if_something_was_taken(sendcloud, provider, monkeypatch):
    """The same, but the system took the bytes before it learned: nobody can say, no second try."""
    provider.script(Reply(ACCEPTED.body, close="fin"), ACCEPTED)
    send(sendcloud)
    wait_until(lambda: not provider.open_connections, message="the provider did not close")
    monkeypatch.setattr(Connection, "is_connected", True)
    outcome = send(sendcloud)
    assert fates(outcome)["ann@example.net"] == "unknown"
    assert provider.connections == 1


def test_a_connection_that_rested_for_long_is_not_used_again(sendcloud, provider, monkeypatch):
    """Providers close idle connections; one that may be closing right now is left alone."""
    provider.default = ACCEPTED
    send(sendcloud)
    monkeypatch.setattr(timed_http, "MAX_IDLE", -1.0)
    send(sendcloud)
    assert provider.connections == 2


# What else must hold


def test_the_environment_cannot_divert_a_mail(sendcloud, provider, monkeypatch, tmp_path: Path):
    """Neither a proxy variable nor a .netrc file changes where a mail goes and what it carries."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    provider.script(ACCEPTED)
    assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}
    assert "authorization" not in provider.requests[0].headers


def test_cookies_are_not_kept(sendcloud, provider):
    """What one answer sets does not come back with the next mail."""
    provider.script(Reply(ACCEPTED.body, headers={"Set-Cookie": "a=b"}), ACCEPTED)
    send(sendcloud)
    send(sendcloud)
    assert "cookie" not in provider.requests[1].headers


def test_a_large_mail_waits_for_its_whole_request(sendcloud, provider):
    """9 MB go out in pieces, and arrive unchanged in one request of the announced length."""
    provider.script(ACCEPTED)
    assert fates(send(sendcloud, large_letter())) == {"ann@example.net": "accepted"}
    [request] = provider.requests
    assert "transfer-encoding" not in request.headers
    assert request.files[0].data == b"x" * LARGE


def test_an_early_refusal_of_a_large_mail_is_heard(sendcloud, provider):
    """The provider answers 413 after reading everything; the connection stays usable."""
    provider.script(Reply("too big", 413), ACCEPTED)
    assert fates(send(sendcloud, large_letter())) == {"ann@example.net": "refused"}
    assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}


def test_the_probe_checks_the_key_without_a_mail(sendcloud, provider):
    """``doctor`` sees connection and key; only the account's data is asked for."""
    provider.script(Reply({"result": True, "statusCode": 200, "info": {}}))
    steps = list(sendcloud.probe())
    assert [(step.name, step.ok) for step in steps] == [("connect", True), ("key", True)]
    assert [r.path for r in provider.requests] == ["/apiv2/userinfo/get"]
    provider.script(Reply({"result": False, "statusCode": 40005, "message": f"no {KEY}"}))
    steps = list(sendcloud.probe())
    assert [(step.name, step.ok) for step in steps] == [("connect", True), ("key", False)]
    assert KEY not in repr(steps)


def test_the_probe_of_an_unreachable_host_says_so():
    """One failed step with host and reason."""
    port = unused_port()
    [step] = transport_to(f"http://127.0.0.1:{port}").probe()
    assert (step.name, step.ok) == ("connect", False)
    assert f"127.0.0.1:{port}" in step.detail


def test_neither_repr_nor_errors_show_the_key(sendcloud, provider):
    """The key is in the request, and nowhere else; not even if the provider repeats it."""
    provider.script(Reply({"result": False, "statusCode": 40005, "message": f"bad {KEY}"}))
    outcome = send(sendcloud)
    assert provider.requests[0].form["apiKey"] == KEY
    assert KEY not in repr(outcome)
    assert KEY not in repr(sendcloud)
    assert KEY not in str(vars(sendcloud._kept))
