"""``memory:`` keeps mails for an application's tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from flask_deferred_mail.letter import Address, Recipient
from flask_deferred_mail.mime import render
from flask_deferred_mail.transports.base import Feature
from flask_deferred_mail.transports.in_memory import InMemoryTransport
from tests.support.transport_calls import a_letter, fates, send


def test_mails_are_kept_in_order():
    """Letter, recipients and bytes; until they are cleared."""
    transport = InMemoryTransport()
    first, second = a_letter(subject="1"), a_letter(subject="2")
    assert fates(send(transport, first)) == {"ann@example.net": "accepted"}
    send(transport, second)
    assert [kept.letter for kept in transport.mails] == [first, second]
    assert transport.mails[0].as_bytes() == render(first)
    assert transport.mails[0].recipients == first.recipients
    assert transport.mails[0].job_id == 42
    transport.clear()
    assert transport.mails == ()


def test_private_copies_are_kept_one_by_one():
    """Each with its own recipient, and bytes that show no other."""
    transport = InMemoryTransport()
    letter = a_letter("ann@example.net", "bob@example.net", private_copies=True)
    send(transport, letter)
    assert [kept.recipients[0].email for kept in transport.mails] == [
        "ann@example.net",
        "bob@example.net",
    ]
    assert b"bob@" not in transport.mails[0].as_bytes()


def test_only_the_recipients_of_the_call_are_noted():
    """A retry after partial success goes to the rest."""
    transport = InMemoryTransport()
    letter = a_letter("ann@example.net", "bob@example.net")
    bob = (Recipient(Address("bob@example.net")),)
    send(transport, letter, recipients=bob)
    assert transport.mails[0].recipients == bob


def test_threads_may_share_it():
    """No mail gets lost between sender threads."""
    transport = InMemoryTransport()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: send(transport), range(200)))
    assert len(transport.mails) == 200


def test_two_of_them_are_two_outboxes():
    """Several apps in one process do not see each other's mails."""
    one, other = InMemoryTransport(), InMemoryTransport()
    send(one)
    assert (len(one.mails), len(other.mails)) == (1, 0)


def test_every_feature_may_be_asked_for():
    """A test's transport stands in for any provider."""
    assert InMemoryTransport.features == frozenset(Feature)
    InMemoryTransport().check(a_letter(tags=("a", "b"), template_id="t", track_opens=True))
