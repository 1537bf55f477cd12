"""One attempt at one mail: the function that every door uses.

    claimed mail -> transport -> outcome -> row, attempt log and addresses in one fenced
    transaction -> signal

The closed response, ``send_now``, the sweep and whatever comes later all end up in
:meth:`Deliverer.deliver`. It never raises for what a transport or a mail does; only a lost
database, and what ends the process, pass.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from .. import crashpoints
from ..deadline import Deadline
from ..errors import DeferredMailError, HandoverRefused, SchemaError, StoreError
from ..job import ACCEPTED, Job, JobRecipient, JobStatus
from ..letter import Letter
from ..outcome import Fate, RecipientResult
from ..store.claims import Claim
from ..store.database import PATIENCE
from ..store.outcomes import OUTCOME_PATIENCE
from ..store.statements import AttemptNote, Verdict
from ..transports.base import Upcoming, nothing_upcoming
from .calls import Calls
from .leases import OUT_OF_TIME, Holding, LeaseKeeper, Phase
from .ledger import Tools
from .pacing import Leave, Rest
from .routes import KeptOff
from .suppressing import refusals_of
from .verdict import Course, Tally, after_attempt, apply, before_attempt

log = logging.getLogger("flask_deferred_mail.delivery")


# Neither is frozen: one of each is made per mail.
@dataclass(slots=True)
class Delivered:
    """What an attempt came to, for counting and for whoever waits for it."""

    #: ``sent|partial|retry|failed|held|expired|returned``
    result: str
    detail: str = ""
    note: AttemptNote | None = None


@dataclass(slots=True)
class Attempted:
    """What a listener is told of an attempt."""

    #: The mail as it was before.
    claim: Claim
    verdict: Verdict
    #: As it was mailed; ``None`` if it could not be read.
    letter: Letter | None

    @property
    def job_id(self) -> int:
        return self.claim.job_id

    @property
    def status(self) -> JobStatus:
        return self.verdict.status

    @property
    def note(self) -> AttemptNote:
        return self.verdict.note

    @property
    def accepted(self) -> bool:
        """Whether somebody was accepted by a server in this attempt."""
        return _accepted(self.verdict.recipients) > _accepted(self.claim.recipients)


class Listener(Protocol):
    """Told after each commit. What it raises is its own business to contain."""

    def attempted(self, event: Attempted) -> None:
        """An attempt has ended and is written down."""

    def gave_up(self, job: Job) -> None:
        """A mail was ended without an attempt (expired or given up while its transport rested)."""


#: How long after its deadlines an attempt counts as standing still.
GRACE = 5.0

_NO_DATABASE = "the database could not be asked"


class Deliverer:
    """Delivers claimed mails. One object per app and process, used by many threads."""

    def __init__(
        self,
        tools: Tools,
        leases: LeaseKeeper,
        listener: Listener,
        context: Callable[[], AbstractContextManager[object]],
        rng: random.Random,
    ) -> None:
        self.tools = tools
        self.store = tools.store
        self.pacing = tools.pacing
        self.policy = tools.policy
        self.timing = tools.timing
        self.leases = leases
        self.listener = listener
        self.context = context
        self.rng = rng
        #: Told of attempts that stand still, after their outcome is written: whose thread was it?
        self.on_written_off: list[Callable[[Holding, Delivered], None]] = []
        leases.on_stuck = self._record_stuck

    def deliver(
        self,
        holding: Holding,
        letter: Letter | None = None,
        *,
        leave: Leave | None = None,
        contain: bool = True,
        budget: Deadline | None = None,
        upcoming: Upcoming = nothing_upcoming,
    ) -> Delivered:
        """Attempt one mail that is in hand, write down what came of it, and let go of it.

        ``letter`` saves reading it back when the caller still has it. ``leave``: the caller has
        asked :class:`Pacing` already. ``contain``: in a thread of ours, an exception of any class
        is the mail's fault; elsewhere ``SystemExit`` and its like pass, and the mail is given
        back. ``budget`` bounds the attempt further. ``upcoming``: what this thread sends next.

        :raises StoreError: the outcome could not be written; the lease will end by itself.
        """
        claim = holding.claim
        answer: Rest | Leave | None = leave
        try:
            course = Course(time.time(), 0.0)
            ended = before_attempt(claim, self.policy, claim.now(), course)
            if ended is not None:
                # Its time is over, whatever its transport says.
                holding.writing = True
                return self._record(claim, ended, letter)
            answer = leave or self._ask(holding)
            if isinstance(answer, Rest):
                reason = f"transport {claim.transport!r} rests: {answer.reason}"
                return self._return(holding, reason)
            return self._attempt(holding, letter, contain, budget, upcoming, answer, course)
        finally:
            if isinstance(answer, Leave):
                self.pacing.drop(answer)
            self.leases.let_go(holding)

    def _ask(self, holding: Holding) -> Rest | Leave:
        """Leave to use the transport."""
        try:
            return self.tools.routes.ask(holding.claim.transport)
        except StoreError:
            # Nothing was tried: the mail does not pay for the database.
            self._return(holding, _NO_DATABASE)
            raise

    def _attempt(
        self,
        holding: Holding,
        letter: Letter | None,
        contain: bool,
        budget: Deadline | None,
        upcoming: Upcoming,
        leave: Leave,
        course: Course,
    ) -> Delivered:
        claim = holding.claim
        began = time.monotonic()
        if claim.deaths:
            self._make_room(holding)
        seconds = self.timing.attempt(claim.size)
        deadline = budget.sooner(seconds) if budget else Deadline(began + seconds)
        overdue_at = deadline.at + self.timing.final_reply + GRACE
        if not holding.begin(deadline, overdue_at):
            return Delivered("returned", holding.why_dropped)
        crashpoints.reached("after-claim")
        work = Calls(self.tools, holding, deadline, contain, budget is not None, upcoming, leave)
        try:
            tally = self._run(work, letter)
        except HandoverRefused as refusal:
            if str(refusal) != OUT_OF_TIME:
                return self._return(holding, str(refusal))
            tally = work.out_of_time(str(refusal))
        except KeptOff as kept:
            return self._return(holding, str(kept))
        except StoreError:
            self._return(holding, _NO_DATABASE)
            raise
        except BaseException:
            if not holding.handed_over:
                self._return(holding, "the process was told to stop")
            raise
        crashpoints.reached("before-outcome")
        # In whole microseconds; round(seconds, 6) would go by way of a string.
        course.seconds = round((time.monotonic() - began) * 1e6) / 1e6
        course.server, course.member = work.server, work.member
        verdict = after_attempt(claim, self.policy, tally, claim.now(), course, self.rng)
        if refusals := refusals_of(claim, work.letter, work.outcomes):
            verdict = replace(verdict, refusals=refusals)
        holding.writing = True
        try:
            delivered = self._record(claim, verdict, work.letter, patient=contain)
        except BaseException:
            # This thread's connection hands nothing more over while a mail of it is in doubt.
            self.tools.transports(claim.transport).forsake()
            raise
        work.tell_pacing()
        return delivered

    def _make_room(self, holding: Holding) -> None:
        """The last attempt left no outcome: make sure that this one can."""
        try:
            self.store.make_room(len(holding.claim.recipients))
        except StoreError:
            self._return(holding, "there is no room for its outcome")
            raise

    def _run(self, work: Calls, letter: Letter | None) -> Tally:
        """Run the calls, in a fresh context if code of the application runs in them; a context
        that breaks must not lose an outcome."""
        tally: Tally | None = None
        try:
            if not self._wants_context(work):
                return work.run(letter)
            with self.context():
                tally = work.run(letter)
        except (HandoverRefused, KeptOff):
            raise
        except Exception as error:
            if tally is None:
                if isinstance(error, StoreError) and work.untried:
                    raise
                return work.broke(error)
            log.exception("mail %d: tearing the context down broke", work.claim.job_id)
        assert tally is not None
        return tally

    def _wants_context(self, work: Calls) -> bool:
        try:
            return self.tools.transports(work.claim.transport).runs_foreign_code
        except DeferredMailError:
            return False  # it cannot be made, as the attempt will say

    # -- afterwards -------------------------------------------------------------------------

    def _persist(self, claim: Claim, verdict: Verdict, patient: bool) -> bool:
        """Write the outcome, again and again on a database that fails: until it is in, a crash or
        the end of the lease sends the mail twice."""
        patience = OUTCOME_PATIENCE if patient else PATIENCE
        give_up_at = time.monotonic() + patience
        while True:
            try:
                return self.store.record(claim, verdict, patience)
            except SchemaError:
                raise
            except StoreError as error:
                log.error("mail %d: its outcome cannot be written: %s", claim.job_id, error)
                if not patient or time.monotonic() >= give_up_at:
                    raise
            time.sleep(min(1.0, max(0.0, give_up_at - time.monotonic())))

    def _record(
        self, claim: Claim, verdict: Verdict, letter: Letter | None, patient: bool = True
    ) -> Delivered:
        """Write it down and tell; ``claim`` is the mail as it was before the attempt."""
        if not self._persist(claim, verdict, patient):
            log.warning(
                "mail %d: lease lost before its outcome (%s) was written; the row is another's",
                claim.job_id,
                verdict.note.outcome,
            )
            return Delivered("returned", "lease lost", verdict.note)
        crashpoints.reached("after-outcome")
        result = _result_word(verdict)
        _tell(claim, verdict, result)
        self.listener.attempted(Attempted(claim, verdict, letter))
        return Delivered(result, verdict.note.detail, verdict.note)

    def _return(self, holding: Holding, why: str) -> Delivered:
        self.leases.give_back([holding], why)
        return Delivered("returned", why)

    def _record_stuck(self, holding: Holding) -> None:
        """Write down an attempt that stands still; its thread can hand nothing over any more."""
        claim, handed = holding.claim, holding.phase is Phase.HANDED_OVER
        fate = Fate.UNKNOWN if handed else Fate.DEFERRED
        detail = "the attempt stood still past its deadline"
        results = [RecipientResult(address, fate, detail) for address in holding.in_call]
        tally = Tally(
            recipients=apply(
                claim.recipients, results, holding.call_key, False, claim.now(), holding.member
            ),
            costs_attempt=True,
            rests_for=None,
            interrupted=False,
            unknown=handed,
            generation=claim.generation,
            detail=detail,
        )
        seconds = self.timing.attempt(claim.size)
        course = Course(time.time(), seconds, member=holding.member)
        verdict = after_attempt(claim, self.policy, tally, claim.now(), course, self.rng)
        delivered = self._record(claim, verdict, None)
        self.leases.let_go(holding)
        for written_off in self.on_written_off:
            written_off(holding, delivered)


def _accepted(recipients: Sequence[JobRecipient]) -> int:
    return sum(entry.status in ACCEPTED for entry in recipients)


def _result_word(verdict: Verdict) -> str:
    if verdict.status is JobStatus.PENDING:
        return "returned" if verdict.refund else "retry"
    return str(verdict.status)


def _tell(claim: Claim, verdict: Verdict, result: str) -> None:
    level = logging.INFO if result in ("sent", "returned") else logging.WARNING
    if not log.isEnabledFor(level):
        return  # before its words are put together
    log.log(
        level,
        "mail %d: %s at attempt %d%s",
        claim.job_id,
        result,
        claim.number,
        f" ({verdict.note.detail})" if verdict.note.detail and result != "sent" else "",
    )
