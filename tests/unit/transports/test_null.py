"""``null:`` accepts everything."""

from __future__ import annotations

import pytest

from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.transports.null import NullTransport
from tests.support.transport_calls import a_letter, fates, send


def test_every_recipient_is_accepted():
    """And leave to hand over is asked for, once, as in any transport."""
    asked = []
    letter = a_letter("ann@example.net", "bob@example.net", tags=("x",))
    NullTransport().check(letter)
    outcome = send(NullTransport(), letter, hand_over=lambda: asked.append(1))
    assert fates(outcome) == {"ann@example.net": "accepted", "bob@example.net": "accepted"}
    assert asked == [1]


def test_a_refused_hand_over_passes():
    """Not accepted, then."""

    def refuse() -> None:
        raise HandoverRefused("the lease is about to end")

    with pytest.raises(HandoverRefused):
        send(NullTransport(), hand_over=refuse)
