"""Packages that stand in for requests in an application's tests see what is posted to providers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import responses
from requests.adapters import BaseAdapter
from requests.exceptions import InvalidHeader

from flask_deferred_mail.outcome import FaultKind
from flask_deferred_mail.transports import stand_in
from flask_deferred_mail.transports.sendcloud import SendCloudTransport
from flask_deferred_mail.transports.timed_http import Progress
from tests.support.http_provider import (
    HttpProvider,
    Reply,
    accepted_by_sendcloud,
    unused_port,
)
from tests.support.transport_calls import a_call, a_letter, fates, send

URL = "https://api.sendcloud.example/apiv2/mail/send"
ACCEPTED = accepted_by_sendcloud(["ann@example.net"]).body


@pytest.fixture
def sendcloud() -> Iterator[SendCloudTransport]:
    transport = SendCloudTransport(
        "default", "shop", "a-key", endpoint="https://api.sendcloud.example/apiv2"
    )
    yield transport
    transport.close()


@responses.activate
def test_responses_answers_in_the_place_of_a_provider(sendcloud: SendCloudTransport) -> None:
    """Its answer is the outcome, and it has the whole request."""
    responses.post(URL, json=ACCEPTED)
    assert fates(send(sendcloud, a_letter(subject="Hello"))) == {"ann@example.net": "accepted"}
    (call,) = responses.calls
    assert "subject=Hello" in str(call.request.body)
    assert call.request.headers["Content-Type"] == "application/x-www-form-urlencoded"


@responses.activate
def test_responses_refuses_in_the_place_of_a_provider(sendcloud: SendCloudTransport) -> None:
    """Status and fields of the answer count as those of a provider do."""
    responses.post(URL, status=429, headers={"Retry-After": "7"})
    outcome = send(sendcloud)
    assert outcome.fault is not None
    assert (outcome.fault.kind, outcome.fault.retry_after) == (FaultKind.RATE_LIMITED, 7)


@responses.activate
def test_a_url_that_responses_does_not_know_is_not_asked(sendcloud: SendCloudTransport) -> None:
    """It breaks the connection, as it does for requests: nothing was sent."""
    outcome = send(sendcloud)
    assert outcome.fault is not None
    assert outcome.fault.kind is FaultKind.UNREACHABLE


@responses.activate
def test_an_answer_that_never_comes_is_in_doubt(sendcloud: SendCloudTransport) -> None:
    """A time that ran out is no sign that nothing was sent."""
    responses.post(URL, body=requests.ReadTimeout("silent"))
    assert fates(send(sendcloud)) == {"ann@example.net": "unknown"}


def test_a_request_that_is_let_through_and_breaks_off_is_in_doubt() -> None:
    """requests has one error for "no connection" and for "no answer": only the first is safe."""
    with HttpProvider() as provider, responses.RequestsMock() as double:
        double.add_passthru(provider.url)
        provider.script(Reply(drop="after_body"))
        transport = SendCloudTransport("default", "shop", "a-key", endpoint=provider.url)
        assert fates(send(transport)) == {"ann@example.net": "unknown"}
        assert len(provider.requests) == 1
        double.add_passthru("http://127.0.0.1")
        nowhere = f"http://127.0.0.1:{unused_port()}"
        outcome = send(SendCloudTransport("default", "shop", "a-key", endpoint=nowhere))
        assert outcome.fault is not None
        assert outcome.fault.kind is FaultKind.UNREACHABLE


def test_an_adapter_of_a_session_is_asked(
    sendcloud: SendCloudTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As requests-mock does it: it gives every session an adapter of its own."""

    class Adapter(BaseAdapter):
        def send(self, request: Any, *args: Any, **more: Any) -> requests.Response:
            found = requests.Response()
            found.status_code, found._content = 200, json.dumps(ACCEPTED).encode()
            found.request = request
            return found

    monkeypatch.setattr(requests.Session, "get_adapter", lambda session, url: Adapter())
    assert fates(send(sendcloud)) == {"ann@example.net": "accepted"}


@responses.activate
def test_who_stands_in_does_not_show_a_header_either() -> None:
    """A field that cannot be sent may be the one with the key, and is in no text."""
    with pytest.raises(InvalidHeader) as raised:
        stand_in.ask(
            requests.Request("POST", URL, headers={"X-Key": "secret\n"}),
            Progress(a_call().deadline, 5),
            lambda: None,
            5,
        )
    assert "secret" not in str(raised.value)


def test_afterwards_the_provider_is_asked_again() -> None:
    """Who has stood in leaves nothing behind."""
    with HttpProvider() as provider:
        transport = SendCloudTransport("default", "shop", "a-key", endpoint=provider.url)
        with responses.RequestsMock() as double:
            double.post(f"{provider.url}/apiv2/mail/send", json=ACCEPTED)
            assert fates(send(transport)) == {"ann@example.net": "accepted"}
        provider.script(accepted_by_sendcloud(["ann@example.net"]))
        assert fates(send(transport)) == {"ann@example.net": "accepted"}
        assert len(provider.requests) == 1
        transport.close()
