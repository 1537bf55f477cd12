"""For whom the calls of one attempt are, and under which idempotency key each goes out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..job import JobRecipient
from ..letter import Letter, Recipient
from ..store.claims import Claim
from ..transports.base import Transport
from ..transports.combination import leaves_of, member_key
from .verdict import still_open, without_late_doubts


class Envelope(NamedTuple):
    """The recipients of one call."""

    group: tuple[Recipient, ...]
    #: Its idempotency key, if it has one from before.
    key: str | None = None
    #: The one member of a combined transport that it may go by: it may have it already.
    member: str | None = None


def envelopes(
    transport: Transport, letter: Letter, recipients: Sequence[JobRecipient], hold: bool
) -> list[Envelope]:
    """The calls that reach those who are still open.

    Recipients of a call that stayed without an answer go together again, under the same key and by
    the same member: only so can the provider recognise it. ``hold``: who is in doubt is left out.
    """
    doubted: dict[tuple[str | None, str | None], list[Recipient]] = {}
    fresh: list[Recipient] = []
    for entry in still_open(recipients, hold):
        if entry.doubt or entry.doubted_by:
            where = entry.doubt, entry.doubted_by
            doubted.setdefault(where, []).append(entry.recipient)
        else:
            fresh.append(entry.recipient)
    again = []
    for (key, member), group in doubted.items():
        # Without a key, an answer has come in between: they may go as the transport has it.
        groups = [tuple(group)] if key else transport.calls(letter, group)
        again += [Envelope(part, key, member) for part in groups]
    groups = transport.calls(letter, fresh) if fresh else []
    return again + [Envelope(group) for group in groups]


def without_lost_doubts(
    transport: Transport, recipients: tuple[JobRecipient, ...], now: float
) -> tuple[JobRecipient, ...]:
    """Who waits for a person, because what may have been sent to them cannot be repeated safely:
    its provider has forgotten the key, or that member of the transport is not configured any more.
    """
    if {(entry.doubt, entry.doubted_by) for entry in recipients} == _NOT_IN_DOUBT:
        return recipients
    leaves = {leaf.name: leaf for leaf in leaves_of(transport)}
    combined = [*leaves] != [transport.name]

    def looked_at(entry: JobRecipient) -> JobRecipient:
        if entry.doubt is None and entry.doubted_by is None:
            return entry
        home = entry.doubted_by if combined or entry.doubted_by else transport.name
        if home is None or home not in leaves:
            return replace(entry, unknowns=2, detail=_GONE)
        return without_late_doubts((entry,), leaves[home].idempotency_window, now)[0]

    return tuple(map(looked_at, recipients))


_NOT_IN_DOUBT = {(None, None)}
_GONE = "no answer came, and the transport that may have sent it is not configured any more"


def key_of(
    claim: Claim, generation: int, addresses: Sequence[str], member: str | None = None
) -> str:
    """From the mail, exactly these recipients, a generation that every answer advances, and the
    member of a combined transport: what one has seen, another has not."""
    material = "\n".join([claim.message_id, str(generation), *addresses])
    key = hashlib.sha256(material.encode()).hexdigest()
    return member_key(key, member) if member else key
