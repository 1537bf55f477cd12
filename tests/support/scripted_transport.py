"""A transport that does what a function of the test says, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
from flask_deferred_mail.transports.base import Call, Feature, Transport
from tests.support.mail_app import MailApp
from tests.support.waiting import wait_until

Script = Callable[[Call], Outcome]


class ScriptedTransport(Transport):
    """Asks its script about every call. Takes the place of the app's default transport."""

    features: ClassVar[frozenset[Feature]] = frozenset(Feature)

    def __init__(self, app: MailApp, script: Script) -> None:
        super().__init__("default")
        self.script = script
        #: Every call, in order, also those that broke.
        self.asked: list[Call] = []
        #: Everybody who was accepted, as often as that happened.
        self.accepted: list[str] = []
        app.runtime._transports[self.name] = self

    def send(self, call: Call) -> Outcome:
        self.asked.append(call)
        outcome = self.script(call)
        self.accepted += [r.address for r in outcome.results if r.fate is Fate.ACCEPTED]
        return outcome

    def keys(self, address: str) -> list[str]:
        """The idempotency keys of the calls for this address, in order."""
        return [c.idempotency_key for c in self.asked if address in to(c)]


def to(call: Call) -> list[str]:
    """The addresses of a call."""
    return [recipient.email for recipient in call.recipients]


def accept(call: Call) -> Outcome:
    """Everybody is accepted."""
    return answer(call, Fate.ACCEPTED, "250 ok")


def answer(
    call: Call,
    fate: Fate,
    detail: str,
    *,
    message_config: bool = False,
    divisible: bool = False,
) -> Outcome:
    """The mail is handed over, and answered with the same fate for everybody."""
    call.hand_over()
    return Outcome.for_all(
        call.recipients, fate, detail, message_config=message_config, divisible=divisible
    )


def unreachable(call: Call) -> Outcome:
    """The server cannot be reached."""
    return Outcome.not_sent(call.recipients, FaultKind.UNREACHABLE, "connection refused")


def until_the_deadline(call: Call) -> None:
    """The wall clock of the attempt runs out."""
    wait_until(lambda: call.deadline.left() <= 0)
