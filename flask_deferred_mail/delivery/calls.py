"""The calls of one attempt: one envelope after the other, each settled before the next.

Most mails are one call. Private copies are one call each (or one per hundred, as the transport
has it), a mail with more recipients than the server takes at once is as many as it needs.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

from .. import crashpoints
from ..cleaning import clean
from ..deadline import Deadline
from ..errors import (
    ConfigurationError,
    ContentLost,
    HandoverRefused,
    KeyMissing,
    StoreError,
)
from ..letter import Letter, Recipient
from ..outcome import Fate, FaultKind, Outcome
from ..store.database import PATIENCE
from ..store.outcomes import OUTCOME_PATIENCE
from ..transports.base import Call, Transport, Upcoming, nothing_upcoming
from ..transports.combination import may_go_on
from .envelopes import Envelope, envelopes, key_of, without_lost_doubts
from .leases import LOST, Holding
from .ledger import Ledger, Tools
from .pacing import Leave, Rest
from .routes import KeptOff, Wish
from .scheduling import later_date
from .suppressing import words_of
from .verdict import Tally

log = logging.getLogger("flask_deferred_mail.delivery")

#: Seconds to wait for the answer to the last byte when somebody waits for us (inline, inside
#: ``close()``): with the budget before it, below the 30 s after which gunicorn ends a worker.
BUDGETED_REPLY = 15.0


class Calls(Ledger):
    """The calls of one attempt: one envelope after the other, each settled before the next."""

    def __init__(
        self,
        tools: Tools,
        holding: Holding,
        deadline: Deadline,
        contain: bool,
        budgeted: bool = False,
        upcoming: Upcoming = nothing_upcoming,
        leave: Leave | None = None,
    ) -> None:
        super().__init__(tools, holding, deadline, budgeted=budgeted)
        #: What was granted for the transport.
        self._leave = leave or Leave(holding.claim.transport)
        self._upcoming = upcoming
        self.contain = contain
        #: No envelope is begun with less time than this, once others have come to something.
        self._enough = deadline.left() / 10
        #: The last sender of these keys died: any one of its envelopes may have arrived.
        self._died = holding.claim.died_generation == holding.claim.generation
        #: Further envelopes of this mail wait for their turn.
        self._more = False
        #: When a provider that keeps the mail itself is to deliver it.
        self._schedule: float | None = None

    def run(self, letter: Letter | None) -> Tally:
        try:
            transport = self.tools.transports(self.claim.transport)
        except ConfigurationError as error:
            detail = clean(str(error))
            self._take_in(Outcome.not_sent(self._open(), FaultKind.ACCOUNT, detail), "")
            return self._tally()
        try:
            self.letter = letter or self.holding.letter or self._load()
            if transport.schedules_ahead is not None:
                self._schedule = later_date(self.letter, self.claim.now())
            self._leave_out(transport, self.letter)
            self._send_all(transport, self.letter)
        except (HandoverRefused, KeptOff):
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
        return self._tally()

    def _send_all(self, transport: Transport, letter: Letter) -> None:
        waiting = deque(self._envelopes(transport, letter))
        while waiting:
            if self.decided and self.deadline.left() < self._enough:
                self.interrupted = True
                return
            envelope = waiting.popleft()
            self._more = bool(waiting)
            outcome = self._send_one(transport, letter, envelope, 1 + len(waiting))
            if outcome is None:
                if envelope.member is None:
                    return
                continue  # only that one member is kept off
            waiting.extendleft(self._again(outcome, envelope.group, letter))
            if outcome.fault is not None or outcome.server_wide is not None or self.interrupted:
                return
            if waiting and not self._settle():
                return

    def _envelopes(self, transport: Transport, letter: Letter) -> list[Envelope]:
        if self.holding.envelopes and self.recipients is self.claim.recipients:
            return self.holding.envelopes  # as they were when the mail before this one was sent
        self.recipients = without_lost_doubts(transport, self.recipients, self.claim.now())
        return envelopes(transport, letter, self.recipients, self.hold)

    def _send_one(
        self, transport: Transport, letter: Letter, envelope: Envelope, calls: int
    ) -> Outcome | None:
        """One call, by the first way that works; ``None``: there is none now."""
        outcome: Outcome | None = None
        wish = Wish(letter.message_id, self._leave, envelope.member, calls, self.untried)
        walk = self.tools.routes.walk(transport, wish)
        try:
            while (leaf := walk.following()) is not None:
                if outcome is not None and not self._pass_over(outcome, leaf):
                    break
                self.member = leaf.name if leaf is not transport else None
                call = self._call(letter, envelope)
                outcome = self._take_in(leaf.send(call), call.idempotency_key, leaf)
                if not may_go_on(outcome) or self.interrupted or self.deadline.left() <= 0:
                    break
        finally:
            walk.close()
        if outcome is None:
            self._keep_off(walk.kept, envelope)
        return outcome

    def _pass_over(self, outcome: Outcome, following: Transport) -> bool:
        """A member could not take it, and nobody was reached: the next one may be tried.

        False: what it answered cannot be written down now, so nothing else is handed over.
        """
        words = f"{self.member}: {outcome.detail}"
        log.warning("mail %d: %s; going on by %s", self.claim.job_id, words, following.name)
        self._passed_over.append(words)
        return self._settle() if outcome.answered or self.holding.handed_over else True

    def _keep_off(self, kept: Rest | None, envelope: Envelope) -> None:
        """:raises KeptOff: nothing was tried, and nothing else is to be tried."""
        rest = kept or Rest(0.0, "no way is open")
        if self.untried and envelope.member is None and self._kept is None:
            raise KeptOff(rest)
        self._kept = rest
        if envelope.member is None and self.decided:
            self.interrupted = True

    def _load(self) -> Letter:
        return self.tools.store.load(self.claim, self.holding.content)

    def _leave_out(self, transport: Transport, letter: Letter) -> None:
        """Settle who is not to be mailed any more, before anything is sent."""
        if self.holding.was_looked_up():
            return
        before = self.recipients
        self.recipients = self.tools.suppressing.leave_out(
            self.claim,
            letter,
            before,
            hold=self.hold,
            repeatable=transport.idempotency_window is not None,
        )
        if self.recipients is not before:
            self._left_out = words_of(before, self.recipients)

    def _key(self, addresses: tuple[str, ...]) -> str:
        # After a death, every envelope keeps the key that it may have gone out with. None of them
        # was answered under it: an answer is written down before the next envelope.
        generation = self.claim.generation if self._died else self.generation
        return key_of(self.claim, generation, addresses, self.member)

    def _call(self, letter: Letter, envelope: Envelope) -> Call:
        addresses = tuple([recipient.address.email for recipient in envelope.group])
        key = envelope.key or self._key(addresses)
        self.holding.in_call = addresses
        self.holding.call_key = key
        self.holding.member = self.member
        self.in_flight = True
        doubted = key in [entry.doubt for entry in self.recipients]
        return Call(
            letter=letter,
            recipients=envelope.group,
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
        if self.hold:
            self._note_handing_over()
        self.holding.hand_over()
        crashpoints.reached("handed-over")

    @property
    def _patience(self) -> float:
        """Seconds to wait for the answer to the last byte."""
        final_reply = self.tools.timing.final_reply
        return min(final_reply, BUDGETED_REPLY) if self.budgeted else final_reply

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
            return [Envelope(group[middle:]), Envelope(group[:middle])]
        untried = {r.address for r in outcome.results if r.fate is Fate.UNTRIED}
        if untried and len(untried) < len(group):
            rest = tuple(recipient for recipient in group if recipient.email in untried)
            return [Envelope(rest)]
        return []

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
