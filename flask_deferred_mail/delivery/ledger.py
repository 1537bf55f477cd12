"""What the calls of one attempt have come to so far, and what follows from it for the mail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..cleaning import clean
from ..deadline import Deadline
from ..job import JobRecipient, RecipientStatus
from ..letter import Letter, Recipient
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote
from ..store.jobs import JobStore
from ..transports.base import Transport
from .leases import Holding
from .pacing import Pacing, Rest
from .routes import Routes
from .suppressing import Suppressing
from .verdict import Policy, Tally, apply, still_open

log = logging.getLogger("flask_deferred_mail.delivery")

_NO_SERVER = ServerNote()
_ONLY_ACCEPTED = frozenset({Fate.ACCEPTED})
_STILL_OPEN = frozenset({Fate.DEFERRED, Fate.UNKNOWN, Fate.UNTRIED})

#: Seconds for which a mail that cannot be decrypted here is left to processes that have its key.
PAUSE_WITHOUT_KEY = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall clocks of one attempt, in seconds."""

    #: By the size of the mail in bytes: up to the last byte handed over.
    attempt: Callable[[int], float]
    final_reply: float


@dataclass(frozen=True, slots=True)
class Tools:
    """What calls are made with."""

    store: JobStore
    transports: Callable[[str], Transport]
    pacing: Pacing
    routes: Routes
    policy: Policy
    timing: Timing
    suppressing: Suppressing


class Ledger:
    """The outcomes of one attempt, one call after the other."""

    def __init__(
        self, tools: Tools, holding: Holding, deadline: Deadline, *, budgeted: bool
    ) -> None:
        self.tools = tools
        self.holding = holding
        self.claim = holding.claim
        self.deadline = deadline
        #: The deadline is somebody's who waits (inline), not the mail's own.
        self.budgeted = budgeted
        #: Who is in doubt must not be mailed again.
        self.hold = tools.policy.holds_unknown(holding.claim)
        self.generation = holding.claim.generation
        #: Who answered, and whether it accepted something: the transport, or its members.
        self._answered: dict[str, bool] = {}
        #: The member of a combined transport that has, or had, the last call.
        self.member: str | None = None
        #: What the members said before it that could not be used.
        self._passed_over: list[str] = []
        #: Why somebody who is open was not tried.
        self._kept: Rest | None = None
        self._window: float | None = None
        self.recipients: tuple[JobRecipient, ...] = holding.claim.recipients
        self.letter: Letter | None = None
        self.server = _NO_SERVER
        self.outcomes: list[Outcome] = []
        self.interrupted = False
        #: A call has begun and nothing is known of its outcome yet.
        self.in_flight = False
        #: Who was left out of it, in words.
        self._left_out = ""

    def _open(self) -> list[Recipient]:
        return [entry.recipient for entry in still_open(self.recipients, self.hold)]

    def _take_in(self, outcome: Outcome, key: str, transport: Transport | None = None) -> Outcome:
        """Note what a call came to; what is wrong with the transport is learnt at once."""
        self.in_flight = False
        outcome = self._on_our_clock(outcome)
        self.outcomes.append(outcome)
        if outcome.server != _NO_SERVER:
            self.server = outcome.server
        answered, fates = outcome.answered, {result.fate for result in outcome.results}
        doubted_at = self.claim.now() if Fate.UNKNOWN in fates else 0.0
        self.recipients = apply(
            self.recipients, outcome.results, key, answered, doubted_at, self.member
        )
        name = self.member or self.claim.transport
        if answered and outcome.server_wide is None and outcome.fault is None:
            self._answered[name] = Fate.ACCEPTED in fates or self._answered.get(name, False)
        if transport is not None and Fate.UNKNOWN in fates:
            self._window = transport.idempotency_window
        self.generation += answered
        reopened = self.tools.pacing.learn(name, self.claim.job_id, outcome)
        if reopened:
            self._reopen(reopened)
        return outcome

    def _on_our_clock(self, outcome: Outcome) -> Outcome:
        """Time that we ran out of, for a reason of our own, is nobody's fault."""
        if not _went_silent(outcome) or self.deadline.left() > 0:
            return outcome
        if not (self.budgeted or self.decided):
            return outcome
        self.interrupted = True
        return replace(outcome, fault=None, unanswered=True)

    def tell_pacing(self) -> None:
        """After the outcome is written: good news can wait, the commit could not."""
        for name, accepted in self._answered.items():
            self.tools.pacing.went_well(name, accepted)

    def _reopen(self, job_ids: list[int]) -> None:
        """Five mails in a row failed as wrongly configured: it was the account after all."""
        self.tools.store.reopen([i for i in job_ids if i != self.claim.job_id])
        self.recipients = tuple(
            entry if entry.status is not RecipientStatus.FAILED else _pending_again(entry)
            for entry in self.recipients
        )

    def _pending_again(self, group: tuple[Recipient, ...]) -> None:
        addresses = {recipient.email for recipient in group}
        self.recipients = tuple(
            _pending_again(entry) if entry.address in addresses else entry
            for entry in self.recipients
        )

    def broke(self, error: BaseException) -> Tally:
        """Something broke that is nobody's answer: a bug, an unreadable row, a poisoned mail."""
        log.error("mail %d: the attempt broke", self.claim.job_id, exc_info=error)
        detail = clean(f"{type(error).__name__}: {error}")
        fate = Fate.UNKNOWN if self.in_flight and self.holding.handed_over else Fate.DEFERRED
        group = self.holding.in_call if self.in_flight else ()
        results = tuple(RecipientResult(address, fate, detail) for address in group)
        self.outcomes.append(Outcome(results, unanswered=True))
        self.recipients = apply(
            self.recipients,
            results,
            self.holding.call_key,
            False,
            self.claim.now(),
            self.member,
        )
        return self._tally(detail)

    def _left_to_others(self, why: str) -> Tally:
        """Only this process cannot read the mail: another one may, and the mail does not pay."""
        log.error("mail %d: %s", self.claim.job_id, why)
        return Tally(
            recipients=self.recipients,
            costs_attempt=False,
            rests_for=PAUSE_WITHOUT_KEY,
            interrupted=False,
            unknown=False,
            generation=self.generation,
            detail=why,
        )

    def out_of_time(self, why: str) -> Tally:
        """The last byte was refused because the wall clock had run out: the mail pays."""
        self.interrupted = self.decided or self.budgeted
        return self._tally(why)

    @property
    def untried(self) -> bool:
        """Whether no call has begun yet."""
        return not self.outcomes and not self.in_flight

    @property
    def decided(self) -> bool:
        """Whether this attempt has come to something for somebody."""
        return True in [outcome.decided for outcome in self.outcomes]

    def _tally(self, detail: str = "") -> Tally:
        faulty = bool([outcome for outcome in self.outcomes if outcome.fault is not None])
        fates = {result.fate for outcome in self.outcomes for result in outcome.results}
        detail = detail or (self._left_out if fates <= _ONLY_ACCEPTED else "")
        return Tally(
            recipients=self.recipients,
            # Progress that ends in a fault of the transport is no failure of the mail.
            costs_attempt=self._costs_attempt(faulty),
            rests_for=self._rests_for(faulty),
            interrupted=self.interrupted,
            unknown=Fate.UNKNOWN in fates,
            generation=self.generation,
            detail=clean("; ".join([*self._passed_over, detail or self._detail(fates)]), 1_000),
            idempotency_window=self._window,
        )

    def _costs_attempt(self, faulty: bool) -> bool:
        if self._kept is not None and not self.outcomes:
            return False  # nobody was tried
        return not faulty or any(o.costs_attempt for o in self.outcomes)

    def _rests_for(self, faulty: bool) -> float | None:
        """Until it makes sense to try again, if that is for the transport to say."""
        if self._kept is not None:
            return self._kept.seconds
        return self.tools.routes.rest_of(self.claim.transport) if faulty else None

    def _detail(self, fates: set[Fate]) -> str:
        if self._kept is not None and not self.outcomes:
            return self._kept.reason
        if fates <= _ONLY_ACCEPTED or not (words := self._why_not_everybody()):
            return next((o.detail for o in reversed(self.outcomes) if o.detail), "")
        return words

    def _why_not_everybody(self) -> str:
        """What was said last about somebody who was not reached; who is still open comes first,
        because it is for him that the mail waits, or is held."""
        last = {result.address: result for o in self.outcomes for result in o.results}
        missed = [
            result
            for outcome in reversed(self.outcomes)
            for result in outcome.results
            if result is last[result.address] and result.fate is not Fate.ACCEPTED and result.detail
        ]
        still = [result for result in missed if result.fate in _STILL_OPEN]
        return (still or missed)[0].detail if missed else ""


def _went_silent(outcome: Outcome) -> bool:
    """Whether a call broke off without an answer, and before its last byte."""
    if outcome.fault is not None:
        return outcome.fault.kind is FaultKind.UNREACHABLE
    return outcome.unanswered and not any(r.fate is Fate.UNKNOWN for r in outcome.results)


def _pending_again(entry: JobRecipient) -> JobRecipient:
    return JobRecipient(entry.address, entry.kind, name=entry.name)
