"""What this process has in hand, and for how long it may keep it.

Every mail in hand is *held* here from its claim to its outcome. One heartbeat thread renews the
leases of all of them by one statement every third of a lease, lets go of rows whose bell never
rang, and watches the clock of each attempt: one that stands still past its time (an endless loop,
a look-up that cannot be interrupted) is given up on, and can no longer hand anything over.

The other side of that promise is :meth:`Holding.hand_over`. A transport calls it immediately
before the last byte. It refuses when less than a third of the lease is left by this process's
clocks, when the attempt's wall clock has run out, or when the mail was given up on: then
nobody else can have taken the row over while our last byte is on its way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum, auto

from ..deadline import Deadline
from ..errors import HandoverRefused, StoreError
from ..job import JobRecipient
from ..letter import Letter
from ..store.claims import Claim
from ..store.database import PATIENCE
from ..store.jobs import JobStore
from .envelopes import Envelope

log = logging.getLogger("flask_deferred_mail.delivery")


#: Seconds for which it is believed that nobody of a mail was on the suppression list.
LOOKED_UP = 5.0


class Phase(Enum):
    """How far a mail in hand has got."""

    #: Leased with its row; the response is not out yet.
    RESERVED = auto()
    #: Waits for a sender thread.
    QUEUED = auto()
    WORKING = auto()
    #: The last byte may be out: in doubt until an answer comes.
    HANDED_OVER = auto()
    #: Given up on, or given back: nothing may be handed over any more.
    DROPPED = auto()


class Holding:
    """One mail in hand. Its phase changes under a lock, so that a drop and a last byte exclude
    each other."""

    __slots__ = (
        "_lock",
        "call_key",
        "claim",
        "content",
        "deadline",
        "envelopes",
        "in_call",
        "key",
        "lead",
        "lease_ends",
        "lease_seconds",
        "letter",
        "looked_up_at",
        "member",
        "overdue_at",
        "phase",
        "why_dropped",
        "writing",
    )

    def __init__(self, claim: Claim, lease_seconds: float, phase: Phase, lead: float) -> None:
        self.claim = claim
        self.key = claim.job_id, claim.token
        self.lease_seconds = lease_seconds
        self.lease_ends = claim.leased_at + lease_seconds
        #: How far the wall clock was ahead of the monotonic one when the lease began.
        self.lead = lead
        self.phase = phase
        #: Wall clock of the attempt, once it has begun.
        self.deadline: Deadline | None = None
        #: When the watchdog gives up on it, by the monotonic clock.
        self.overdue_at: float | None = None
        self.why_dropped = ""
        #: Addresses of the call under way, its idempotency key, and which member of a combined
        #: transport has it.
        self.in_call: tuple[str, ...] = ()
        self.call_key = ""
        self.member: str | None = None
        #: The mail's stored text, if it was read with others.
        self.content: str | None = None
        #: The letter, if it was read before the attempt began.
        self.letter: Letter | None = None
        #: And its calls; empty: nobody has looked. They are for the claim's recipients as they are.
        self.envelopes: list[Envelope] = []
        #: When none of its recipients was on the suppression list, by the monotonic clock.
        self.looked_up_at: float | None = None
        #: Its outcome is being written, which ends the lease; who writes says if it was lost.
        self.writing = False
        self._lock = threading.Lock()

    def was_looked_up(self) -> bool:
        """Whether none of its recipients was on the suppression list a moment ago."""
        at = self.looked_up_at
        return at is not None and time.monotonic() - at < LOOKED_UP

    def enqueue(self) -> bool:
        """The bell rang for a row that was inserted already leased. False: it was given back."""
        with self._lock:
            if self.phase is Phase.RESERVED:
                self.phase = Phase.QUEUED
            return self.phase is Phase.QUEUED

    def unqueue(self) -> None:
        """No thread will take it: the next beat gives it back."""
        with self._lock:
            if self.phase is Phase.QUEUED:
                self.phase = Phase.RESERVED

    def begin(self, deadline: Deadline, overdue_at: float) -> bool:
        """The attempt starts. False: the mail was dropped meanwhile."""
        with self._lock:
            if self.phase is Phase.DROPPED:
                return False
            self.phase = Phase.WORKING
            self.deadline = deadline
            self.overdue_at = overdue_at
            return True

    def lease_left(self) -> float:
        """Seconds for which nobody else can take the mail over.

        The row's time is the wall clock's. One that was set forward, or that went on while a
        suspended machine's monotonic clock stood still, ends the lease earlier.
        """
        now = time.monotonic()
        set_forward = time.time() - now - self.lead
        left = self.lease_ends - now
        return left - set_forward if set_forward > 0 else left

    def renewed(self, asked_at: float, lead: float) -> None:
        """The lease has begun anew, no earlier than ``asked_at`` by the monotonic clock."""
        with self._lock:
            self.lease_ends, self.lead = asked_at + self.lease_seconds, lead

    def hand_over(self) -> None:
        """Leave to send the last byte.

        :raises HandoverRefused: it must not go out any more.
        """
        with self._lock:
            if self.phase is Phase.DROPPED:
                raise HandoverRefused(self.why_dropped)
            if self.lease_left() < self.lease_seconds / 3:
                raise HandoverRefused("the lease could not be renewed in time")
            if self.deadline is not None and self.deadline.left() <= 0:
                raise HandoverRefused(OUT_OF_TIME)
            self.phase = Phase.HANDED_OVER

    def settled(self, recipients: tuple[JobRecipient, ...]) -> None:
        """An answer came and is written down; the next envelope of the mail may follow."""
        with self._lock:
            self.claim = self.claim.with_recipients(recipients)
            self.in_call = ()
            if self.phase is Phase.HANDED_OVER:
                self.phase = Phase.WORKING

    def drop(self, why: str, *, unless: Iterable[Phase] = (Phase.HANDED_OVER,)) -> bool:
        """Let go of the mail, unless it is too late for that."""
        with self._lock:
            if self.phase is Phase.DROPPED or self.phase in unless:
                return False
            self.phase = Phase.DROPPED
            self.why_dropped = why
            return True

    @property
    def handed_over(self) -> bool:
        return self.phase is Phase.HANDED_OVER


#: Why a hand-over is refused when the attempt took too long: the mail pays for that one.
OUT_OF_TIME = "the attempt's wall clock has run out"
LOST = "somebody else has taken the mail over"

OnStuck = Callable[[Holding], None]


class LeaseKeeper:
    """Keeps the leases of one process. The heartbeat thread starts with the first mail in hand."""

    def __init__(self, store: JobStore, seconds: float) -> None:
        self.store = store
        self.seconds = seconds
        #: Told of an attempt that stands still past its time and has been dropped, or is in doubt.
        self.on_stuck: OnStuck = _ignore
        self._held: dict[tuple[int, str], Holding] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        #: The thread sleeps until something is in hand.
        self._sleeps = False
        self._stopped = False

    def hold(self, claim: Claim, phase: Phase = Phase.QUEUED) -> Holding:
        """Take a claimed mail in hand."""
        return self.hold_all([claim], phase)[0]

    def hold_all(self, claims: Iterable[Claim], phase: Phase = Phase.QUEUED) -> list[Holding]:
        """Take claimed mails in hand, together."""
        lead = clock_lead()
        holdings = [Holding(claim, self.seconds, phase, lead) for claim in claims]
        if not holdings:
            return []
        with self._changed:
            for holding in holdings:
                self._held[holding.key] = holding
            self._stopped = False
            if self._thread is None:
                self._start()
            elif self._sleeps:
                # Only then: a process that sends mail by mail would wake it for each of them.
                self._sleeps = False
                self._changed.notify()
        return holdings

    def _start(self) -> None:
        thread = threading.Thread(target=self._beat, name="deferred-mail-heartbeat", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The row is recorded, so nobody above may hear of this: its lease is not renewed, and
            # what takes longer than that is dropped before its last byte.
            log.error("no heartbeat thread can be started: %s", error)
        else:
            self._thread = thread

    def let_go(self, holding: Holding) -> None:
        """The mail is not in hand any more."""
        # Without the lock, which is contended with many senders: one step, and nobody waits for it.
        self._held.pop(holding.key, None)

    def stop(self) -> None:
        """Let the heartbeat end, once nothing is in hand any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def count(self) -> int:
        """How many mails are in hand."""
        return len(self._held)

    def in_hand(self) -> list[Holding]:
        with self._changed:
            return list(self._held.values())

    def give_back(self, holdings: Iterable[Holding], why: str, patience: float = PATIENCE) -> int:
        """Return mails that nobody has begun to hand over; their attempts are refunded.

        A database that is busy for longer than ``patience`` seconds is left alone.
        """
        dropped = [holding for holding in holdings if holding.drop(why)]
        try:
            returned = self.store.give_back([holding.claim for holding in dropped], patience)
            _tell_lost(dropped, len(dropped) - returned)
            return returned
        except StoreError as error:
            # Their leases end by themselves.
            log.warning("could not give back %d mails: %s", len(dropped), error)
            return 0
        finally:
            for holding in dropped:
                self.let_go(holding)

    # -- the heartbeat ----------------------------------------------------------------------

    def _beat(self) -> None:
        while True:
            with self._changed:
                while not self._held and not self._stopped:
                    self._sleeps = True
                    self._changed.wait()
                self._sleeps = False
                if not self._held:
                    self._thread = None
                    return
                # Short leases beat faster; long ones still notice a stuck attempt in time.
                self._changed.wait(min(self.seconds / 6, 5.0))
            try:
                self.tend()
            except Exception:
                # The thread that keeps every promise of this process must not end.
                log.exception("the heartbeat failed; it goes on")

    def tend(self) -> None:
        """One beat: watch the clocks, return what nobody rang for, renew the rest."""
        now = time.monotonic()
        held = self.in_hand()
        for holding in held:
            if holding.overdue_at is not None and holding.overdue_at <= now:
                self._give_up_on(holding)
        unrung = [h for h in held if h.phase is Phase.RESERVED and _half_over(h)]
        if unrung:
            self.give_back(unrung, "its response is not out yet")
        self._renew([h for h in self.in_hand() if _worth_renewing(h)])

    def _give_up_on(self, holding: Holding) -> None:
        holding.overdue_at = None
        if holding.drop("the attempt stood still past its time") or holding.handed_over:
            # Apart from the heartbeat: receivers run there, and every lease waits for this thread.
            apart = threading.Thread(
                target=self.on_stuck, args=(holding,), name="deferred-mail-stuck", daemon=True
            )
            try:
                apart.start()
            except RuntimeError:  # no thread is to be had
                self.on_stuck(holding)

    def _renew(self, holdings: list[Holding]) -> None:
        if not holdings:
            return
        asked_at, lead = time.monotonic(), clock_lead()
        try:
            ours = self.store.renew([h.key for h in holdings], self.seconds)
        except StoreError as error:
            log.warning("could not renew %d leases: %s", len(holdings), error)
            return
        for holding in holdings:
            if holding.claim.job_id in ours:
                holding.renewed(asked_at, lead)
            elif holding.key in self._held and not holding.writing:
                log.warning("mail %d: lease lost", holding.claim.job_id)
                holding.drop(LOST)


def _tell_lost(holdings: list[Holding], lost: int) -> None:
    # The heartbeat says it too, unless the mail is out of hand before its next beat.
    if lost and len(holdings) == 1:
        log.warning("mail %d: lease lost", holdings[0].claim.job_id)
    elif lost:
        log.warning("%d of %d mails to be given back: lease lost", lost, len(holdings))


def _ignore(_holding: Holding) -> None:
    """Nobody wants to know yet."""


def clock_lead() -> float:
    """How far the wall clock is ahead of the monotonic one, in seconds; changes if it is set."""
    return time.time() - time.monotonic()


def _half_over(holding: Holding) -> bool:
    return holding.lease_left() < holding.lease_seconds / 2


def _worth_renewing(holding: Holding) -> bool:
    # Reserved rows are not: if the response never ends, the sweep must get them.
    if holding.phase in (Phase.RESERVED, Phase.DROPPED):
        return False
    if holding.phase is Phase.HANDED_OVER and holding.overdue_at is None:
        return False  # given up on while in doubt
    return holding.lease_left() < holding.lease_seconds * 2 / 3
