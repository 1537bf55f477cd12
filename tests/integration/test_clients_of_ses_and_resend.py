"""Our requests to SES and Resend beside those of the vendors' own Python clients.

The same message goes to the same local server, once by us and once by the client. The path, what
logs in and the whole body are the same; what differs is named here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
import resend
from botocore.config import Config

from flask_deferred_mail.transports.provider import ProviderTransport, Stamp
from tests.support.http_provider import HttpProvider, Recorded, Reply
from tests.support.json_providers import built, fixture
from tests.support.transport_calls import a_letter, letter_from_neutral, send

ANN, BOB = "ann@example.net", "bob@example.net"
KEY = "3f0c9a527d5e4c2b9a510d6f3f1a2b42"


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        yield provider


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the letter without our own reference and key: clients have no such thing."""
    monkeypatch.setattr(Stamp, "of", classmethod(lambda cls, call: cls(idempotency_key=KEY)))


def pair(provider: HttpProvider) -> tuple[Recorded, Recorded]:
    """What arrived: ours, then the client's."""
    ours, theirs = provider.requests
    assert ours.method == theirs.method
    assert ours.path == theirs.path
    return ours, theirs


def bodies(provider: HttpProvider) -> tuple[Any, Any]:
    ours, theirs = pair(provider)
    return json.loads(ours.body), json.loads(theirs.body)


# Amazon SES


@pytest.fixture
def client(provider: HttpProvider) -> Iterator[Any]:
    """AWS's own client, pointed at the local server, without retries."""
    session = botocore.session.Session()
    session.set_credentials("AKIDEXAMPLE", "hush", "a token")
    client = session.create_client(
        "sesv2",
        region_name="us-east-1",
        endpoint_url=provider.url,
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


def ses(provider: HttpProvider, monkeypatch: pytest.MonkeyPatch) -> ProviderTransport:
    """Ours, with the same temporary keys, as the chain gives them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a token")
    provider.default = Reply({"MessageId": "m"})
    return built(f"ses://us-east-1?endpoint={provider.url}&configuration_set=default-set")


def unpacked(parameters: dict[str, Any]) -> dict[str, Any]:
    """A request's body as the client's parameters: it encodes the files itself."""
    content = json.loads(json.dumps(parameters))
    for file in content["Content"].get("Simple", {}).get("Attachments", ()):
        file["RawContent"] = base64.b64decode(file["RawContent"])
    return content


def scope(request: Recorded) -> str:
    """The credential scope without the day: key, region, service."""
    credential = request.headers["authorization"].partition("Credential=")[2].partition(",")[0]
    key, _, region, service, end = credential.split("/")
    return f"{key}/{region}/{service}/{end}"


@pytest.mark.usefixtures("plainly")
def test_ses_gets_from_us_what_the_client_sends(provider, client, monkeypatch):
    """Path, body, token and scope. The client signs further headers of its own besides."""
    transport = ses(provider, monkeypatch)
    given = fixture("ses", "request_full")
    letter = transport.fit(letter_from_neutral(given["neutral"]))
    send(transport, letter)
    client.send_email(**unpacked(given["request"]["json"]))
    ours, theirs = pair(provider)
    assert json.loads(ours.body) == json.loads(theirs.body)
    assert scope(ours) == scope(theirs) == "AKIDEXAMPLE/us-east-1/ses/aws4_request"
    for name in ("x-amz-security-token", "content-type"):
        assert ours.headers[name] == theirs.headers[name]


@pytest.mark.usefixtures("plainly")
def test_ses_gets_the_bulk_call_that_the_client_sends(provider, client, monkeypatch):
    """Two copies of a template, each with its own values."""
    transport = ses(provider, monkeypatch)
    given = fixture("ses", "request_bulk")
    send(transport, letter_from_neutral(given["neutral"]))
    client.send_bulk_email(**given["request"]["json"], ConfigurationSetName="default-set")
    ours, theirs = bodies(provider)
    assert ours == theirs


@pytest.mark.usefixtures("plainly")
def test_ses_gets_raw_mime_as_the_client_sends_it(provider, client, monkeypatch):
    """The client encodes the bytes in the same way."""
    transport = ses(provider, monkeypatch)
    send(transport, a_letter(alternatives=(("text/calendar", "BEGIN:VCALENDAR"),)))
    [request] = provider.requests
    mime = base64.b64decode(json.loads(request.body)["Content"]["Raw"]["Data"])
    client.send_email(
        Destination={"ToAddresses": [ANN]},
        Content={"Raw": {"Data": mime}},
        ConfigurationSetName="default-set",
    )
    ours, theirs = bodies(provider)
    assert ours == theirs


def test_doctor_asks_for_the_account_as_the_client_does(provider, client, monkeypatch):
    """GetAccount, which mails nothing."""
    transport = ses(provider, monkeypatch)
    provider.default = Reply({"SendingEnabled": True, "ProductionAccessEnabled": True})
    assert [step.ok for step in transport.probe()] == [True, True]
    client.get_account()
    ours, theirs = pair(provider)
    assert (ours.method, ours.body, theirs.body) == ("GET", b"", b"")
    assert scope(ours) == scope(theirs)


# Resend


@pytest.fixture
def theirs(provider: HttpProvider, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Resend's own client, pointed at the local server."""
    monkeypatch.setattr(resend, "api_url", provider.url)
    monkeypatch.setattr(resend, "api_key", "re_test")
    return resend


def ours_for_resend(provider: HttpProvider) -> ProviderTransport:
    provider.default = Reply({"id": "m"})
    return built(f"resend://re_test@default?endpoint={provider.url}")


def assert_same_login(provider: HttpProvider, *more: str) -> None:
    """The headers that matter; the client names itself differently."""
    ours, other = pair(provider)
    for name in ("authorization", "content-type", "idempotency-key", *more):
        assert ours.headers[name] == other.headers[name], name


@pytest.mark.usefixtures("plainly")
def test_resend_gets_from_us_what_the_client_sends(provider, theirs):
    """Path, login, key and body of a mail with everything but a time."""
    given = fixture("resend", "request_full")
    letter = letter_from_neutral(given["neutral"])
    send(ours_for_resend(provider), letter)
    parameters = {k: v for k, v in given["request"]["json"].items() if k != "scheduled_at"}
    theirs.Emails.send(parameters, {"idempotency_key": KEY})
    ours, other = bodies(provider)
    assert ours == other
    assert_same_login(provider)


@pytest.mark.usefixtures("plainly")
def test_resend_gets_the_batch_that_the_client_sends(provider, theirs):
    """Private copies, in permissive mode."""
    transport = ours_for_resend(provider)
    provider.default = Reply({"data": [{"id": "a"}, {"id": "b"}]})
    send(transport, a_letter(ANN, BOB, private_copies=True))
    mails = [
        {"from": "orders@example.com", "to": [who], "subject": "Hello", "text": "Hi Ann\n"}
        for who in (ANN, BOB)
    ]
    theirs.Batch.send(mails, {"idempotency_key": KEY, "batch_validation": "permissive"})
    ours, other = bodies(provider)
    assert ours == other
    assert_same_login(provider, "x-batch-validation")


def test_doctor_asks_for_the_domains_as_the_client_does(provider, theirs):
    """A call that needs the key and mails nothing."""
    transport = ours_for_resend(provider)
    provider.default = Reply({"object": "list", "data": []})
    assert [step.ok for step in transport.probe()] == [True, True]
    theirs.Domains.list()
    ours, other = pair(provider)
    assert ours.headers["authorization"] == other.headers["authorization"]
