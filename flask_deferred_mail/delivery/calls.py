"""The calls of one attempt: one envelope after the other, each settled before the next.

Most mails are one call. Private copies are one call each (or one per hundred, as the transport
has it), a mail with more recipients than the server takes at once is as many as it needs.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .. import crashpoints
from ..cleaning import clean
from ..deadline import Deadline
from ..errors import (
    ConfigurationError,
    ContentLost,
    HandoverRefused,
    KeyMissing,
    NotYetAvailable,
    StoreError,
)
from ..job import JobRecipient, RecipientStatus
from ..letter import Letter, Recipient
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote
from ..store.database import PATIENCE
from ..store.jobs import JobStore
from ..store.outcomes import OUTCOME_PATIENCE
from ..transports.base import Call, Transport, Upcoming, nothing_upcoming
from .leases import LOST, Holding
from .pacing import Pacing
from .scheduling import later_date
from .suppressing import Suppressing, words_of
from .verdict import Policy, Tally, apply, still_open, without_late_doubts

log = logging.getLogger("flask_deferred_mail.delivery")

#: Seconds to wait for the answer to the last byte when somebody waits for us (inline, inside
#: ``close()``): with the budget before it, below the 30 s after which gunicorn ends a worker.
BUDGETED_REPLY = 15.0

#: Recipients of one call, and its idempotency key if it has one from before.
Envelope = tuple[tuple[Recipient, ...], str | None]


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
    suppressing: Suppressing


class Calls:
    """The calls of one attempt: one envelope after the other, each settled before the next."""

    def __init__(
        self,
        tools: Tools,
        holding: Holding,
        deadline: Deadline,
        contain: bool,
        budgeted: bool = False,
        upcoming: Upcoming = nothing_upcoming,
    ) -> None:
        self.tools = tools
        self._upcoming = upcoming
        self.holding = holding
        self.claim = holding.claim
        self.deadline = deadline
        self.contain = contain
        #: No envelope is begun with less time than this, once others have come to something.
        self._enough = deadline.left() / 10
        #: The deadline is somebody's who waits (inline), not the mail's own.
        self.budgeted = budgeted
        self.generation = holding.claim.generation
        #: The last sender of these keys died: any one of its envelopes may have arrived.
        self._died = holding.claim.died_generation == holding.claim.generation
        #: What the server's answers say of it: accepted something, answered at all, nothing.
        self.accepted = self.answered = False
        self.recipients: tuple[JobRecipient, ...] = holding.claim.recipients
        self.letter: Letter | None = None
        self.server = ServerNote()
        self.outcomes: list[Outcome] = []
        self.interrupted = False
        #: A call has begun and nothing is known of its outcome yet.
        self.in_flight = False
        #: Further envelopes of this mail wait for their turn.
        self._more = False
        #: Who was left out of it, in words.
        self._left_out = ""
        #: When a provider that keeps the mail itself is to deliver it.
        self._schedule: float | None = None

    def run(self, letter: Letter | None) -> Tally:
        try:
            transport = self.tools.transports(self.claim.transport)
        except (ConfigurationError, NotYetAvailable) as error:
            detail = clean(str(error))
            self._take_in(Outcome.not_sent(self._open(), FaultKind.ACCOUNT, detail), "")
            return self._tally(None)
        try:
            self.letter = letter or self.holding.letter or self._load()
            if transport.schedules_ahead is not None:
                self._schedule = later_date(self.letter, self.claim.now())
            self._leave_out(transport, self.letter)
            self._send_all(transport, self.letter)
        except HandoverRefused:
            raise
        except KeyMissing as error:
            return self._left_to_others(clean(str(error)))
        except ContentLost as error:
            return self.broke(error)
        except BaseException as error:
            if isinstance(error, StoreError) and self.untried:
                raise  # the mail does not pay for the database
            # In a thread of ours even SystemExit is only some poisoned mail's doing.
            if not self.contain and not isinstance(error, Exception):
                raise
            return self.broke(error)
        return self._tally(transport)

    def _send_all(self, transport: Transport, letter: Letter) -> None:
        waiting = deque(self._envelopes(transport, letter))
        while waiting:
            if self.decided and self.deadline.left() < self._enough:
                self.interrupted = True
                return
            group, key = waiting.popleft()
            self._more = bool(waiting)
            key = key or self._key(group)
            outcome = self._take_in(transport.send(self._call(letter, group, key)), key)
            waiting.extendleft(self._again(outcome, group, letter))
            if outcome.fault is not None or outcome.server_wide is not None or self.interrupted:
                return
            if waiting and not self._settle():
                return

    def _load(self) -> Letter:
        return self.tools.store.load(self.claim, self.holding.content)

    def _leave_out(self, transport: Transport, letter: Letter) -> None:
        """Settle who is not to be mailed any more, before anything is sent."""
        before, hold = self.recipients, self.tools.policy.holds_unknown(self.claim)
        self.recipients = self.tools.suppressing.leave_out(
            self.claim,
            letter,
            before,
            still_open(before, hold),
            repeatable=transport.idempotency_window is not None,
        )
        self._left_out = words_of(before, self.recipients)
        if self.tools.suppressing.in_use:
            # The next mail's recipients are looked up when it is its turn, and not named before.
            self._upcoming = nothing_upcoming

    def _open(self) -> list[Recipient]:
        hold = self.tools.policy.holds_unknown(self.claim)
        return [entry.recipient for entry in still_open(self.recipients, hold)]

    def _envelopes(self, transport: Transport, letter: Letter) -> list[Envelope]:
        """Whom each call is for, and its idempotency key if it has one from before.

        Recipients of a call that stayed without an answer go together again, under the same key:
        only so can the provider recognise it.
        """
        self.recipients = without_late_doubts(
            self.recipients, transport.idempotency_window, self.claim.now()
        )
        hold = self.tools.policy.holds_unknown(self.claim)
        doubted: dict[str, list[Recipient]] = {}
        fresh: list[Recipient] = []
        for entry in still_open(self.recipients, hold):
            (doubted.setdefault(entry.doubt, []) if entry.doubt else fresh).append(entry.recipient)
        again: list[Envelope] = [(tuple(group), key) for key, group in doubted.items()]
        groups = transport.calls(letter, fresh) if fresh else []
        return again + [(group, None) for group in groups]

    def _key(self, group: Sequence[Recipient]) -> str:
        """From the mail, exactly these recipients, and a generation that every answer advances."""
        addresses = "\n".join(recipient.email for recipient in group)
        # After a death, every envelope keeps the key that it may have gone out with. None of them
        # was answered under it: an answer is written down before the next envelope.
        generation = self.claim.generation if self._died else self.generation
        material = f"{self.claim.message_id}\n{generation}\n{addresses}"
        return hashlib.sha256(material.encode()).hexdigest()

    def _call(self, letter: Letter, group: tuple[Recipient, ...], key: str) -> Call:
        self.holding.in_call = tuple(recipient.email for recipient in group)
        self.holding.call_key = key
        self.in_flight = True
        doubted = any(e.doubt == key for e in self.recipients)
        return Call(
            letter=letter,
            recipients=group,
            idempotency_key=key,
            in_doubt=doubted or self._died,
            deadline=self.deadline,
            final_reply_timeout=self._patience,
            hand_over=self._hand_over,
            job_id=self.claim.job_id,
            send_at=self._schedule,
            # Only with the last envelope of this mail is it the next mail's turn.
            upcoming=nothing_upcoming if self._more else self._upcoming,
        )

    def _hand_over(self) -> None:
        if self.tools.policy.holds_unknown(self.claim):
            self._note_handing_over()
        self.holding.hand_over()
        crashpoints.reached("handed-over")

    @property
    def _patience(self) -> float:
        """Seconds to wait for the answer to the last byte."""
        final_reply = self.tools.timing.final_reply
        return min(final_reply, BUDGETED_REPLY) if self.budgeted else final_reply

    def _take_in(self, outcome: Outcome, key: str) -> Outcome:
        """Note what a call came to; what is wrong with the transport is learnt at once."""
        self.in_flight = False
        outcome = self._on_our_clock(outcome)
        self.outcomes.append(outcome)
        if outcome.server != ServerNote():
            self.server = outcome.server
        doubted_at = self.claim.now()
        self.recipients = apply(self.recipients, outcome.results, key, outcome.answered, doubted_at)
        self.accepted |= any(result.fate is Fate.ACCEPTED for result in outcome.results)
        self.answered |= outcome.answered and outcome.server_wide is None and outcome.fault is None
        self.generation += outcome.answered
        reopened = self.tools.pacing.learn(self.claim.transport, self.claim.job_id, outcome)
        if reopened:
            self._reopen(reopened)
        return outcome

    def _on_our_clock(self, outcome: Outcome) -> Outcome:
        """Time that we ran out of, for a reason of our own, is nobody's fault."""
        ours = self.budgeted or self.decided
        if not ours or self.deadline.left() > 0 or not _went_silent(outcome):
            return outcome
        self.interrupted = True
        return replace(outcome, fault=None, unanswered=True)

    def tell_pacing(self) -> None:
        """After the outcome is written: good news can wait, the commit could not."""
        if self.answered:
            self.tools.pacing.went_well(self.claim.transport, self.accepted)

    def _reopen(self, job_ids: list[int]) -> None:
        """Five mails in a row failed as wrongly configured: it was the account after all."""
        self.tools.store.reopen([i for i in job_ids if i != self.claim.job_id])
        self.recipients = tuple(
            entry if entry.status is not RecipientStatus.FAILED else _pending_again(entry)
            for entry in self.recipients
        )

    def _again(
        self, outcome: Outcome, group: tuple[Recipient, ...], letter: Letter
    ) -> list[Envelope]:
        """Envelopes that follow at once from this one: a part that was not reached, or halves."""
        if outcome.divisible and letter.private_copies and len(group) > 1:
            middle = len(group) // 2
            self._pending_again(group)
            # The refusal has decided nothing for anybody yet.
            undecided = tuple(replace(r, fate=Fate.UNTRIED) for r in outcome.results)
            self.outcomes[-1] = replace(outcome, results=undecided)
            return [(group[middle:], None), (group[:middle], None)]
        untried = {r.address for r in outcome.results if r.fate is Fate.UNTRIED}
        if untried and len(untried) < len(group):
            rest = tuple(recipient for recipient in group if recipient.email in untried)
            return [(rest, None)]
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

    def _settle(self) -> bool:
        """Commit what came of this envelope before the next one's last byte can go out.

        False: it cannot be written now, so there is no next one; what is known is kept for the
        outcome, which is tried for longer.
        """
        try:
            ours = self.tools.store.progress(
                self.claim,
                self.recipients,
                self.generation,
                # Somebody waits for a budgeted attempt; what is known goes with the outcome then.
                PATIENCE if self.budgeted else OUTCOME_PATIENCE,
            )
        except StoreError as error:
            log.error("mail %d: its progress cannot be written: %s", self.claim.job_id, error)
            self.interrupted = True
            return False
        if not ours:
            raise HandoverRefused(LOST)
        self.holding.settled(self.recipients)
        return True

    def broke(self, error: BaseException) -> Tally:
        """Something broke that is nobody's answer: a bug, an unreadable row, a poisoned mail."""
        log.error("mail %d: the attempt broke", self.claim.job_id, exc_info=error)
        detail = clean(f"{type(error).__name__}: {error}")
        fate = Fate.UNKNOWN if self.in_flight and self.holding.handed_over else Fate.DEFERRED
        group = self.holding.in_call if self.in_flight else ()
        results = tuple(RecipientResult(address, fate, detail) for address in group)
        self.outcomes.append(Outcome(results, unanswered=True))
        self.recipients = apply(
            self.recipients, results, self.holding.call_key, False, self.claim.now()
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
            generation=self.generation,
            detail=why,
        )

    def out_of_time(self, why: str) -> Tally:
        """The last byte was refused because the wall clock had run out: the mail pays."""
        self.interrupted = self.decided or self.budgeted
        return self._tally(None, why)

    @property
    def untried(self) -> bool:
        """Whether no call has begun yet."""
        return not self.outcomes and not self.in_flight

    @property
    def decided(self) -> bool:
        """Whether this attempt has come to something for somebody."""
        return any(outcome.decided for outcome in self.outcomes)

    def _tally(self, transport: Transport | None, detail: str = "") -> Tally:
        faulty = any(outcome.fault is not None for outcome in self.outcomes)
        pacing = self.tools.pacing
        everybody = all(r.fate is Fate.ACCEPTED for o in self.outcomes for r in o.results)
        detail = detail or (self._left_out if everybody else "")
        return Tally(
            recipients=self.recipients,
            # Progress that ends in a fault of the transport is no failure of the mail.
            costs_attempt=not faulty or any(o.costs_attempt for o in self.outcomes),
            rests_for=pacing.rest_of(self.claim.transport) if faulty else None,
            interrupted=self.interrupted,
            unknown=any(r.fate is Fate.UNKNOWN for o in self.outcomes for r in o.results),
            generation=self.generation,
            detail=detail or next((o.detail for o in reversed(self.outcomes) if o.detail), ""),
            idempotency_window=transport.idempotency_window if transport else None,
        )


def _went_silent(outcome: Outcome) -> bool:
    """Whether a call broke off without an answer, and before its last byte."""
    if outcome.fault is not None:
        return outcome.fault.kind is FaultKind.UNREACHABLE
    return outcome.unanswered and not any(r.fate is Fate.UNKNOWN for r in outcome.results)


def _pending_again(entry: JobRecipient) -> JobRecipient:
    return JobRecipient(entry.address, entry.kind, name=entry.name)
