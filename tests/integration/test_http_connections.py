"""Connections of the HTTP transports under threads, forks and closing."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from flask_deferred_mail.letter import Part
from flask_deferred_mail.transports import timed_http
from flask_deferred_mail.transports.authorities import Authorities
from flask_deferred_mail.transports.http_request import Site
from flask_deferred_mail.transports.sendcloud import SendCloudTransport
from tests.support.certificates import certificates
from tests.support.http_provider import HttpProvider, Reply, accepted_by_sendcloud
from tests.support.transport_calls import a_letter, fates, send
from tests.support.waiting import wait_until

SITE = Site("a.test", 80, tls=False)
ACCEPTED = accepted_by_sendcloud(["ann@example.net"])
DELIVERED = {"ann@example.net": "accepted"}


@pytest.fixture
def provider() -> Iterator[HttpProvider]:
    with HttpProvider() as provider:
        provider.default = ACCEPTED
        yield provider


@pytest.fixture
def sendcloud(provider: HttpProvider) -> Iterator[SendCloudTransport]:
    transport = SendCloudTransport("default", "u", "k", endpoint=provider.url)
    yield transport
    transport.close()


def test_threads_do_not_share_a_connection_at_once(sendcloud, provider):
    """Forty mails from eight threads: each gets its own answer, and connections are used again."""
    provider.decide = lambda request: accepted_by_sendcloud([request.form["to"]])
    people = [f"u{i}@example.net" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda who: send(sendcloud, a_letter(who)), people))
    for who, outcome in zip(people, outcomes, strict=True):
        [result] = outcome.results
        assert result.address == who
        assert result.provider_message_id.endswith(f"${who}")
    assert provider.connections <= 8


def test_all_connections_that_were_in_use_at_once_are_used_again(sendcloud, provider):
    """Twenty senders at the same time, twice: the second time nobody connects."""
    for _ in range(2):
        together = threading.Barrier(20)

        def answer(_request, together=together):
            together.wait(30)
            return ACCEPTED

        provider.decide = answer
        with ThreadPoolExecutor(20) as pool:
            for sent in [pool.submit(send, sendcloud) for _ in range(20)]:
                assert fates(sent.result()) == DELIVERED
    assert provider.connections == 20


def test_connections_that_are_needed_no_more_are_closed(monkeypatch):
    """Those that nobody has used for long, as others are given back."""
    kept = timed_http.KeptConnections(Authorities())
    connections = [kept.take(SITE) for _ in range(3)]
    closed = []
    for connection in connections:
        monkeypatch.setattr(connection, "close", partial(closed.append, connection))
    for connection in connections[:2]:
        kept.give(connection)
    monkeypatch.setattr(timed_http, "MAX_IDLE", -1.0)
    kept.give(connections[2])
    assert closed == connections[:1]


def test_a_connection_is_used_only_for_the_site_that_it_leads_to():
    """A transport of another package may post to two: neither gets what is the other's."""
    kept = timed_http.KeptConnections(Authorities())
    connection = kept.take(SITE)
    kept.give(connection)
    for elsewhere in (SITE._replace(port=1), SITE._replace(host="b.test"), SITE._replace(tls=True)):
        other = kept.take(elsewhere)
        assert other is not connection
        assert (other.host, other.port) == elsewhere[:2]
        kept.give(connection)
    assert kept.take(SITE) is connection


def test_a_fork_does_not_share_connections(sendcloud, provider):
    """The child opens its own; the parent's stays usable after the child is gone."""
    assert fates(send(sendcloud)) == DELIVERED
    with warnings.catch_warnings():
        # Python 3.12 warns of forking with threads; that is what servers do and we test here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            ok = fates(send(sendcloud)) == DELIVERED
            sendcloud.close()
        except BaseException:
            ok = False
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fates(send(sendcloud)) == DELIVERED
    assert [request.connection for request in provider.requests] == [1, 2, 1]


def test_a_closed_transport_may_be_used_again(sendcloud, provider):
    """close() lets go of what is idle, and no more."""
    send(sendcloud)
    sendcloud.close()
    wait_until(lambda: not provider.open_connections, message="the connection stayed open")
    assert fates(send(sendcloud)) == DELIVERED
    assert provider.connections == 2


def test_a_broken_exchange_does_not_spoil_the_next(sendcloud, provider):
    """After silence, reset or rubbish, the next mail goes over a connection of its own."""
    for reply in (Reply(hang="after_body"), Reply(reset="after_body"), Reply("x" * 2_000_000)):
        provider.script(reply)
        assert fates(send(sendcloud, patience=0.5)) == {"ann@example.net": "unknown"}
        assert fates(send(sendcloud)) == DELIVERED


def test_a_large_mail_over_tls_waits_for_room():
    """9 MB, more than the system takes at once: all of it arrives, and the line serves again."""
    letter = a_letter(parts=(Part(bytes(range(256)) * 36_000, "application/pdf", "report.pdf"),))
    with HttpProvider(certificates().server_context()) as provider:
        provider.default = ACCEPTED
        transport = SendCloudTransport(
            "default", "u", "k", endpoint=provider.url, cafile=certificates().cafile
        )
        for _ in range(2):
            assert fates(send(transport, letter)) == DELIVERED
        assert [request.files[0].data for request in provider.requests] == [
            letter.parts[0].data
        ] * 2
        assert provider.connections == 1
        transport.close()


@pytest.mark.parametrize("end", ["", "\r\n"], ids=["in the middle", "behind a line"])
def test_a_chunked_answer_that_breaks_off_is_no_answer(sendcloud, provider, end):
    """What is there of it is not taken for the whole, and the line is not used again."""
    body = str(ACCEPTED.parts()[1], "utf-8")
    whole = f"{len(body.encode()):x}\r\n{body}\r\n0\r\n\r\n"
    chunked = {"Transfer-Encoding": "chunked"}
    provider.script(
        Reply(whole, headers=chunked),
        Reply(f"{len(body.encode()) + 1:x}\r\n{body}{end}", headers=chunked, close="fin"),
    )
    assert fates(send(sendcloud)) == DELIVERED
    assert fates(send(sendcloud)) == {"ann@example.net": "unknown"}
    provider.default = ACCEPTED
    assert fates(send(sendcloud)) == DELIVERED
    assert [request.connection for request in provider.requests] == [1, 1, 2]


def test_a_link_to_an_answer_that_never_ends_is_left(sendcloud, provider):
    """The rest of an answer over the cap is not taken for the answer to the next request."""
    provider.script(Reply("x" * 3_000_000, 400), ACCEPTED)
    assert fates(send(sendcloud)) == {"ann@example.net": "refused"}
    assert fates(send(sendcloud)) == DELIVERED
    assert provider.requests[-1].connection == 2
