"""Takes every mail and does nothing with it: ``null:``. For load tests and staging sites."""

from __future__ import annotations

from typing import ClassVar

from ..outcome import Fate, Outcome
from .base import Call, Feature, Transport
from .schemes import Plan


class NullTransport(Transport):
    """Says of every mail that it was accepted; no trace of it is left but the row."""

    features: ClassVar[frozenset[Feature]] = frozenset(Feature)
    label: ClassVar[str] = "null"
    runs_foreign_code = False

    def send(self, call: Call) -> Outcome:
        """Accept the mail, and forget it."""
        call.hand_over()
        return Outcome.for_all(call.recipients, Fate.ACCEPTED, "")


def from_plan(plan: Plan) -> NullTransport:
    """``null:``."""
    return NullTransport(plan.name)
