"""Transports made of transports: ``failover(...)`` takes the first that works, ``roundrobin(...)``
gives each its share.

The next member is tried only when nothing was handed over, and nothing can have been: when the
transport is to blame for all of a call. Who delivers asks for the order of the members, leaves out
those that rest, and keeps what is known of each apart (:mod:`flask_deferred_mail.delivery.routes`);
:meth:`Combination.send` is the same without that knowledge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from ..letter import Letter
from ..outcome import Fate, Outcome
from .base import Call, Feature, ProbeStep, Transport


@dataclass(slots=True)  # not frozen: each mail makes one
class Way:
    """One member that a mail may go by."""

    transport: Transport
    #: Ways of one stage are as good as each other. Those of the next one are for when the former do
    #: not work, not for when only their limits are reached for a moment.
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A member and its part of the mail, among those of one round robin."""

    transport: Transport
    weight: int = 1


class Combination(Transport):
    """Several transports that stand in for each other."""

    combines: ClassVar[bool] = True

    def __init__(self, name: str, kind: str, shares: Sequence[Share]) -> None:
        super().__init__(name)
        self.kind = kind
        self.shares = tuple(shares)
        members = [share.transport for share in self.shares]
        # What every member can do. On the object, since each combination has its own.
        vars(self).update(
            features=_common_features(members),
            max_recipients=_least(m.max_recipients for m in members),
            private_copies_in_one_call=all(m.private_copies_in_one_call for m in members),
            max_copies=_least(m.max_copies or m.max_recipients for m in members),
            max_size=_least(m.max_size for m in members),
            max_tags=_least(m.max_tags for m in members),
            idempotency_window=_if_all(m.idempotency_window for m in members),
            keeps_message_id=all(m.keeps_message_id for m in members),
            label=kind,
        )
        self.runs_foreign_code = any(m.runs_foreign_code for m in members)
        self.schedules_ahead = _if_all(m.schedules_ahead for m in members)

    def check(self, letter: Letter) -> None:
        """Accepted only if every member can carry it."""
        for share in self.shares:
            share.transport.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what any member cannot carry."""
        for share in self.shares:
            letter = share.transport.fit(letter)
        return letter

    def keeps_for(self, letter: Letter) -> float | None:
        return _if_all(share.transport.keeps_for(letter) for share in self.shares)

    def signs(self, *headers: str) -> bool:
        return all(share.transport.signs(*headers) for share in self.shares)

    def leaves(self) -> Iterator[Transport]:
        """The members that are no combinations, in the order in which they are written."""
        for share in self.shares:
            yield from leaves_of(share.transport)

    def ways(self, seed: str) -> list[Way]:
        """The members in the order in which a mail tries them.

        ``seed`` is the mail's own, so that a repeat of it tries them in the same order: what
        cannot be written down (its process died) is then repeated where it may have arrived.
        """
        if self.kind == "failover":
            return _in_stages([ways_of(share.transport, seed) for share in self.shares])
        ordered = _by_turns(self.shares, f"{self.name}\n{seed}")
        found = [way for share in ordered for way in ways_of(share.transport, seed)]
        return [replace(way, stage=0) for way in found]

    def send(self, call: Call) -> Outcome:
        outcome: Outcome | None = None
        for way in self.ways(call.letter.message_id):
            key = member_key(call.idempotency_key, way.transport.name)
            outcome = way.transport.send(replace(call, idempotency_key=key))
            if not may_go_on(outcome):
                break
        assert outcome is not None
        return outcome

    def probe(self) -> Iterator[ProbeStep]:
        for transport in self.leaves():
            for step in transport.probe():
                yield replace(step, detail=f"{transport.name}: {step.detail}")

    def forsake(self) -> None:
        for share in self.shares:
            share.transport.forsake()

    def close(self) -> None:
        for share in self.shares:
            share.transport.close()

    def __repr__(self) -> str:
        return f"<Combination {self.name} {self.kind} of {len(self.shares)}>"


def combination_of(transport: Transport) -> Combination | None:
    """The transport, if it is made of others."""
    return cast("Combination", transport) if transport.combines else None


def leaves_of(transport: Transport) -> list[Transport]:
    """The transports by which mail really leaves: the members, or the transport itself."""
    combination = combination_of(transport)
    return [transport] if combination is None else [*combination.leaves()]


def ways_of(transport: Transport, seed: str) -> list[Way]:
    """The ways that a mail may go, in the order in which it tries them."""
    combination = combination_of(transport)
    return [Way(transport)] if combination is None else combination.ways(seed)


def may_go_on(outcome: Outcome) -> bool:
    """Whether another member may be tried: the transport is to blame, and nobody has been, or can
    have been, reached."""
    return outcome.fault is not None and all(
        result.fate in (Fate.DEFERRED, Fate.UNTRIED) for result in outcome.results
    )


def member_key(key: str, member: str) -> str:
    """A call's idempotency key at one member: an answer under it is that member's alone."""
    return hashlib.sha256(f"{key}\n{member}".encode()).hexdigest()


def _in_stages(members: Sequence[Sequence[Way]]) -> list[Way]:
    found: list[Way] = []
    for ways in members:
        base = found[-1].stage + 1 if found else 0
        found += [replace(way, stage=base + way.stage) for way in ways]
    return found


def _by_turns(shares: Sequence[Share], seed: str) -> list[Share]:
    """The first one drawn by weight, the others after it in their order.

    Drawn from the mail, not counted: a count would be one more thing for all processes to share,
    and a repeat of the mail could not find its member again.
    """
    total = sum(share.weight for share in shares)
    drawn = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) % total
    for first, share in enumerate(shares):
        drawn -= share.weight
        if drawn < 0:
            return [*shares[first:], *shares[:first]]
    raise AssertionError("weights are positive")


def _common_features(members: Sequence[Transport]) -> frozenset[Feature]:
    return frozenset.intersection(*(frozenset(member.features) for member in members))


def _least(numbers: Iterator[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _if_all(seconds: Iterator[float | None]) -> float | None:
    """The shortest; ``None`` if any member cannot."""
    found = [*seconds]
    return None if None in found else min(s for s in found if s is not None)
