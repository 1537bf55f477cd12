"""The calls of one attempt: one envelope after the other, each settled before the next.

Most mails are one call. Private copies are one call each (or one per hundred, as the transport
has it), a mail with more recipients than the server takes at once is as many as it needs.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import crashpoints
from ..cleaning import clean
from ..deadline import Deadline
from ..errors import (
    ConfigurationError,
    HandoverRefused,
    KeyMissing,
    NotYetAvailable,
    StoreError,
)
from ..job import JobRecipient, RecipientStatus
from ..letter import Letter, Recipient
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote
from ..store.jobs import JobStore
from ..transports.base import Call, Transport
from .leases import LOST, Holding
from .pacing import Pacing
from .verdict import Policy, Tally, apply, still_open

log = logging.getLogger("flask_deferred_mail.delivery")


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
    policy: Policy
    timing: Timing


class Calls:
    """The calls of one attempt: one envelope after the other, each settled before the next."""

    def __init__(self, tools: Tools, holding: Holding, deadline: Deadline, contain: bool) -> None:
        self.tools = tools
        self.holding = holding
        self.claim = holding.claim
        self.deadline = deadline
        self.contain = contain
        self.recipients: tuple[JobRecipient, ...] = holding.claim.recipients
        self.letter: Letter | None = None
        self.server = ServerNote()
        self.outcomes: list[Outcome] = []
        self.interrupted = False
        #: A call has begun and nothing is known of its outcome yet.
        self.in_flight = False

    def run(self, letter: Letter | None) -> Tally:
        try:
            transport = self.tools.transports(self.claim.transport)
        except (ConfigurationError, NotYetAvailable) as error:
            detail = clean(str(error))
            self._take_in(Outcome.not_sent(self._open(), FaultKind.ACCOUNT, detail), "")
            return self._tally(None)
        try:
            self.letter = letter or self.tools.store.load(self.claim)
            self._send_all(transport, self.letter)
        except HandoverRefused:
            raise
        except KeyMissing as error:
            return self._left_to_others(clean(str(error)))
        except BaseException as error:
            # In a thread of ours even SystemExit is only some poisoned mail's doing.
            if not self.contain and not isinstance(error, Exception):
                raise
            return self.broke(error)
        return self._tally(transport)

    def _send_all(self, transport: Transport, letter: Letter) -> None:
        waiting = deque(self._envelopes(transport, letter))
        while waiting:
            if self._decided_some() and self.deadline.left() <= 0:
                self.interrupted = True
                return
            group, key = waiting.popleft()
            outcome = transport.send(self._call(letter, group, key))
            self._take_in(outcome, key)
            waiting.extendleft(self._again(outcome, group, letter))
            if outcome.fault is not None or outcome.server_wide is not None:
                return
            if waiting:
                self._settle()

    def _open(self) -> list[Recipient]:
        hold = self.tools.policy.holds_unknown(self.claim)
        return [entry.recipient for entry in still_open(self.recipients, hold)]

    def _envelopes(
        self, transport: Transport, letter: Letter
    ) -> list[tuple[tuple[Recipient, ...], str]]:
        """Whom each call is for, and its idempotency key.

        Recipients of a call that stayed without an answer go together again, under the same key:
        only so can the provider recognise it.
        """
        hold = self.tools.policy.holds_unknown(self.claim)
        doubted: dict[str, list[Recipient]] = {}
        fresh: list[Recipient] = []
        for entry in still_open(self.recipients, hold):
            (doubted.setdefault(entry.doubt, []) if entry.doubt else fresh).append(entry.recipient)
        again = [(tuple(group), key) for key, group in doubted.items()]
        groups = transport.calls(letter, fresh) if fresh else []
        return again + [(group, self._key(group)) for group in groups]

    def _key(self, group: Sequence[Recipient]) -> str:
        addresses = "\n".join(recipient.email for recipient in group)
        material = f"{self.claim.message_id}\n{self.claim.generation}\n{addresses}"
        return hashlib.sha256(material.encode()).hexdigest()

    def _call(self, letter: Letter, group: tuple[Recipient, ...], key: str) -> Call:
        self.holding.in_call = tuple(recipient.email for recipient in group)
        self.holding.call_key = key
        self.in_flight = True
        died = self.claim.died_generation == self.claim.generation
        doubted = any(e.doubt == key for e in self.recipients)
        return Call(
            letter=letter,
            recipients=group,
            idempotency_key=key,
            in_doubt=doubted or died,
            deadline=self.deadline,
            final_reply_timeout=self.tools.timing.final_reply,
            hand_over=self._hand_over,
            job_id=self.claim.job_id,
        )

    def _hand_over(self) -> None:
        if self.tools.policy.holds_unknown(self.claim):
            self._note_handing_over()
        self.holding.hand_over()
        crashpoints.reached("handed-over")

    def _take_in(self, outcome: Outcome, key: str) -> None:
        self.in_flight = False
        self.outcomes.append(outcome)
        if outcome.server != ServerNote():
            self.server = outcome.server
        self.recipients = apply(self.recipients, outcome.results, key, outcome.answered)
        accepted = any(result.fate is Fate.ACCEPTED for result in outcome.results)
        reopened = self.tools.pacing.learn(
            self.claim.transport, self.claim.job_id, outcome, accepted
        )
        if reopened:
            self._reopen(reopened)

    def _reopen(self, job_ids: list[int]) -> None:
        """Five mails in a row failed as wrongly configured: it was the account after all."""
        self.tools.store.reopen([i for i in job_ids if i != self.claim.job_id])
        self.recipients = tuple(
            entry if entry.status is not RecipientStatus.FAILED else _pending_again(entry)
            for entry in self.recipients
        )

    def _again(
        self, outcome: Outcome, group: tuple[Recipient, ...], letter: Letter
    ) -> list[tuple[tuple[Recipient, ...], str]]:
        """Envelopes that follow at once from this one: a part that was not reached, or halves."""
        if outcome.divisible and letter.private_copies and len(group) > 1:
            middle = len(group) // 2
            halves = [group[:middle], group[middle:]]
            self._pending_again(group)
            return [(half, self._key(half)) for half in reversed(halves)]
        untried = {r.address for r in outcome.results if r.fate is Fate.UNTRIED}
        if untried and len(untried) < len(group):
            rest = tuple(recipient for recipient in group if recipient.email in untried)
            return [(rest, self._key(rest))]
        return []

    def _pending_again(self, group: tuple[Recipient, ...]) -> None:
        addresses = {recipient.email for recipient in group}
        self.recipients = tuple(
            _pending_again(entry) if entry.address in addresses else entry
            for entry in self.recipients
        )

    def _note_handing_over(self) -> None:
        """For a mail that must not go twice: the row says so before the last byte goes out."""
        try:
            ours = self.tools.store.mark_handing_over(self.claim)
        except StoreError as error:
            raise HandoverRefused(str(error)) from error
        if not ours:
            raise HandoverRefused(LOST)

    def _settle(self) -> None:
        """Commit what came of this envelope before the next one's last byte can go out."""
        try:
            ours = self.tools.store.progress(self.claim, self.recipients)
        except StoreError as error:
            raise HandoverRefused(str(error)) from error
        if not ours:
            raise HandoverRefused(LOST)
        self.holding.settled(self.recipients)

    def broke(self, error: BaseException) -> Tally:
        """Something broke that is nobody's answer: a bug, an unreadable row, a poisoned mail."""
        log.error("mail %d: the attempt broke", self.claim.job_id, exc_info=error)
        detail = clean(f"{type(error).__name__}: {error}")
        fate = Fate.UNKNOWN if self.in_flight and self.holding.handed_over else Fate.DEFERRED
        group = self.holding.in_call if self.in_flight else ()
        outcome = Outcome(tuple(RecipientResult(address, fate, detail) for address in group))
        self.outcomes.append(outcome)
        self.recipients = apply(
            self.recipients, outcome.results, self.holding.call_key, answered=False
        )
        return self._tally(None, detail)

    def _left_to_others(self, why: str) -> Tally:
        """Only this process cannot read the mail: another one may, and the mail does not pay."""
        log.error("mail %d: %s", self.claim.job_id, why)
        return Tally(
            recipients=self.recipients,
            costs_attempt=False,
            rests_for=PAUSE_WITHOUT_KEY,
            interrupted=False,
            unknown=False,
            answered=False,
            detail=why,
        )

    def out_of_time(self, why: str) -> Tally:
        """The last byte was refused because the wall clock had run out: the mail pays."""
        self.interrupted = self._decided_some()
        return self._tally(None, why)

    def _decided_some(self) -> bool:
        """Whether this attempt has come to something for somebody."""
        open_fates = (Fate.DEFERRED, Fate.UNTRIED)
        return any(r.fate not in open_fates for o in self.outcomes for r in o.results)

    def _tally(self, transport: Transport | None, detail: str = "") -> Tally:
        faulty = any(outcome.fault is not None for outcome in self.outcomes)
        pacing = self.tools.pacing
        return Tally(
            recipients=self.recipients,
            costs_attempt=not faulty or any(o.costs_attempt for o in self.outcomes),
            rests_for=pacing.rest_of(self.claim.transport) if faulty else None,
            interrupted=self.interrupted,
            unknown=any(r.fate is Fate.UNKNOWN for o in self.outcomes for r in o.results),
            answered=any(outcome.answered for outcome in self.outcomes),
            detail=detail or next((o.detail for o in reversed(self.outcomes) if o.detail), ""),
            idempotency_window=transport.idempotency_window if transport else None,
        )


def _pending_again(entry: JobRecipient) -> JobRecipient:
    return JobRecipient(entry.address, entry.kind, name=entry.name)
