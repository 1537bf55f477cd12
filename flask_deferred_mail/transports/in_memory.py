"""Keeps mails in a list instead of sending them: ``memory:``. For an application's own tests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import ClassVar

from ..letter import Letter, Recipient
from ..mime import render
from ..outcome import Fate, Outcome
from .base import Call, Feature, Transport
from .copies import copies
from .schemes import Plan
from .signing import Signer, signer_of


@dataclass(frozen=True, slots=True)
class Kept:
    """One mail that an :class:`InMemoryTransport` took."""

    letter: Letter
    #: Who gets this copy: one person, if the letter has private copies.
    recipients: tuple[Recipient, ...]
    job_id: int = 0
    signer: Signer | None = field(default=None, repr=False)

    def as_bytes(self) -> bytes:
        """The mail as it would have gone over the wire."""
        mail = render(self.letter, self.recipients[0] if self.letter.private_copies else None)
        return mail if self.signer is None else self.signer.signed(mail)


class InMemoryTransport(Transport):
    """Takes every mail and keeps it, for as long as this object lives and in this process only."""

    features: ClassVar[frozenset[Feature]] = frozenset(Feature)
    label: ClassVar[str] = "memory"
    runs_foreign_code = False

    def __init__(self, name: str = "default", *, signer: Signer | None = None) -> None:
        super().__init__(name)
        self.signer = signer
        self._mails: list[Kept] = []
        self._lock = threading.Lock()

    @property
    def mails(self) -> tuple[Kept, ...]:
        """What was taken so far, oldest first."""
        with self._lock:
            return tuple(self._mails)

    def clear(self) -> None:
        """Forget what was taken so far."""
        with self._lock:
            self._mails.clear()

    def send(self, call: Call) -> Outcome:
        """Keep the mail; of a letter with private copies, one for each recipient."""
        call.hand_over()
        taken = [
            Kept(call.letter, envelope, call.job_id, self.signer) for _, envelope in copies(call)
        ]
        with self._lock:
            self._mails += taken
        return Outcome.for_all(call.recipients, Fate.ACCEPTED, "")


def from_plan(plan: Plan) -> InMemoryTransport:
    """``memory:``."""
    return InMemoryTransport(plan.name, signer=signer_of(plan.dkim))
