"""Different mails in one request (``?batch=N``), for providers that take such requests.

Mails that several threads send at the same time share one request; each has an outcome of its own.
The price is the window of guarantee 2: when the answer is lost, all mails of the request are in
doubt. No idempotency key could help, because the mails of a request never meet in the same company
again. So this is off by default, and a mail that is already in doubt always goes alone.

Each mail's leave to hand over is asked for where a single mail's is: immediately before the end of
the request. If one is refused, that request is broken off short of the length that it announced, so
nothing of it counts, and another one without that mail follows.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import ClassVar

import requests

from ..cleaning import clean
from ..deadline import Deadline
from ..errors import HandoverRefused
from ..outcome import Fate, Outcome, ServerNote
from .base import Call
from .classification import UNKNOWN, OutcomeClass, Scope, to_outcome
from .gathering import Gathering, Seat
from .http_api import Answer
from .provider import ProviderTransport, Stamp
from .schemes import Plan
from .timed_http import NETWORK, Progress

logger = logging.getLogger(__name__)

#: Seconds for which the first mail of a request waits for others.
WINDOW = 0.02
#: A mail whose attempt has less time left goes alone: the request has the time of the most pressed.
LITTLE_TIME = 3.0

# A refusal of the whole request that is about mails, not about the account, says nothing of those
# that only had the bad company.
_OF_A_MAIL = frozenset({OutcomeClass.PERMANENT, OutcomeClass.SUPPRESSED, OutcomeClass.CONFIG})


class _LeaveRefused(Exception):
    """Some mail may not be handed over: the request must not be completed."""


class BatchingTransport(ProviderTransport):
    """Base of the transports to providers that take different mails in one request."""

    #: Most bytes of one request that carries several mails.
    max_batch_size: ClassVar[int]

    def __init__(self, plan: Plan, endpoint: str) -> None:
        super().__init__(plan, endpoint)
        self.batch = int(plan.option("batch") or 0) or None
        self._gathering = self._new_gathering()
        self._gathering_of = os.getpid()

    @abstractmethod
    def lane_of(self, call: Call) -> Hashable | None:
        """Calls of equal lanes fit into one request; ``None``: this one goes alone.

        A lane is given only to a call that is one mail.
        """

    @abstractmethod
    def weight_of(self, call: Call) -> int:
        """Bytes of this mail in a request with others, not too few."""

    @abstractmethod
    def build_batch(self, calls: Sequence[Call], stamps: Sequence[Stamp]) -> requests.Request:
        """One request with all these mails, in this order. Their stamps have no key."""

    @abstractmethod
    def parts_of(self, answer: Answer, count: int) -> list[Answer] | None:
        """An answer to so many mails as an answer to each, such as a request of its own would get.

        ``None``: it says the same of all of them.
        """

    def send(self, call: Call) -> Outcome:
        """Hand the mail over, with others if that is wanted and they are there."""
        lane = self._lane(call)
        if lane is None:
            return super().send(call)
        seat = self._gatherings().send(call, lane, self.weight_of(call))
        if seat.error is not None:
            raise seat.error
        return self._alone(seat) if seat.outcome is None else seat.outcome

    def _alone(self, seat: Seat) -> Outcome:
        """Hand over a mail of which nothing went out with others."""
        call = seat.call
        if call.deadline.left() <= 0:
            return _put_off(call, "no time is left to send it in a request of its own")
        try:
            return super().send(call)
        except HandoverRefused as refusal:
            if not seat.granted:
                raise
            return _put_off(call, str(refusal))

    def _lane(self, call: Call) -> Hashable | None:
        if self.batch is None or call.in_doubt or call.deadline.left() < LITTLE_TIME:
            return None
        if self.weight_of(call) > self.max_batch_size // 2:
            return None
        lane = self.lane_of(call)
        # Whoever gives up on the answer early must not do so for the others.
        return None if lane is None else (lane, call.final_reply_timeout)

    def _gatherings(self) -> Gathering:
        # A fork copies groups whose threads stay in the parent.
        if self._gathering_of != os.getpid():
            self._gathering, self._gathering_of = self._new_gathering(), os.getpid()
        return self._gathering

    def _new_gathering(self) -> Gathering:
        return Gathering(self.batch or 1, self.max_batch_size, WINDOW, self._send_together)

    # One request for all, in the leader's thread

    def _send_together(self, seats: list[Seat]) -> None:
        while len(seats) > 1 and not self._try_together(seats):
            seats = [seat for seat in seats if not seat.settled]

    def _try_together(self, seats: list[Seat]) -> bool:
        """Post these mails. False: some may not go, and nothing was handed over."""
        calls = [seat.call for seat in seats]
        stamps = [replace(Stamp.of(call), idempotency_key="", send_at=None) for call in calls]
        soonest = min(call.deadline.at for call in calls)
        progress = Progress(Deadline(soonest), self._connect_timeout)
        try:
            answer = self._ask(
                self.build_batch(calls, stamps),
                progress,
                lambda: _ask_leave(seats),
                calls[0].final_reply_timeout,
            )
            self._read_together(seats, answer, self._note(progress, answer))
        except _LeaveRefused:
            return False
        except NETWORK as error:
            self._settle_broken(seats, progress, error)
        except BaseException as error:
            if progress.in_doubt:
                self._settle_broken(seats, progress, error)
            if not isinstance(error, Exception):
                raise
            if not progress.in_doubt:
                # A mistake of ours over one of the mails. It is seen when each goes alone.
                kind = type(error).__name__
                logger.warning("%s: %d mails go one by one after a %s", self, len(seats), kind)
        return True

    def _settle_broken(self, seats: list[Seat], progress: Progress, error: BaseException) -> None:
        """No answer came. Who has more time than the most pressed of them goes alone, if he can."""
        late = progress.deadline.left() <= 0 and not progress.in_doubt
        for seat in seats:
            if not late or seat.call.deadline.left() <= 0:
                outcome = self._broken(seat.call, progress, error)
                seat.outcome = _in_company(outcome, len(seats))

    def _read_together(self, seats: list[Seat], answer: Answer, server: ServerNote) -> None:
        calls = [seat.call for seat in seats]
        try:
            outcomes = self.read_batch(calls, answer, server)
        except Exception:
            # As for a single mail: what is out must not look as if it were not.
            logger.exception("%s: an answer to %d mails could not be read", self, len(calls))
            words = f"the answer could not be understood: {answer.words()}"
            outcomes = [to_outcome(UNKNOWN, call, words, server=server) for call in calls]
        for seat, outcome in zip(seats, outcomes, strict=True):
            if outcome is not None:
                seat.outcome = _in_company(outcome, len(seats))

    def read_batch(
        self, calls: Sequence[Call], answer: Answer, server: ServerNote
    ) -> list[Outcome | None]:
        """What an answer means for each mail; ``None``: refused in this company, to go alone."""
        parts = self.parts_of(answer, len(calls))
        if parts is not None:
            pairs = zip(calls, parts, strict=True)
            return [self._read(call, part, server) for call, part in pairs]
        body = answer.json()
        verdict = self.verdict(answer, body)
        of_a_mail = verdict.scope is Scope.MESSAGE and verdict.outcome_class in _OF_A_MAIL
        if of_a_mail and not verdict.ambiguous:
            return [None] * len(calls)
        words = clean(self.words_of(answer, body), 300) or answer.words()
        server, pause = replace(server, reply=words), self.pause_of(answer)
        return [to_outcome(verdict, c, words, retry_after=pause, server=server) for c in calls]


def _ask_leave(seats: Sequence[Seat]) -> None:
    """Ask each mail's leave to hand over.

    :raises _LeaveRefused: some must not go; their own threads will hear why.
    """
    for seat in seats:
        try:
            seat.call.hand_over()
        except Exception as error:  # noqa: BLE001 - it is raised in the mail's own thread
            if seat.granted:
                # The row's keeper was told that it may be out, and now that it is not.
                seat.outcome = _put_off(seat.call, str(error))
            else:
                seat.error = error
        else:
            seat.granted = True
    if any(seat.settled for seat in seats):
        raise _LeaveRefused


def _put_off(call: Call, why: str) -> Outcome:
    return Outcome.for_all(call.recipients, Fate.DEFERRED, clean(f"not handed over: {why}"))


def _in_company(outcome: Outcome, count: int) -> Outcome:
    """The outcome, with a word to whoever is in doubt about how many others are."""
    words = f"in one request with {count - 1} other {'mail' if count == 2 else 'mails'}"
    return replace(
        outcome,
        results=tuple(
            replace(result, detail=clean(f"{words}: {result.detail}", 300))
            if result.fate is Fate.UNKNOWN
            else result
            for result in outcome.results
        ),
    )
