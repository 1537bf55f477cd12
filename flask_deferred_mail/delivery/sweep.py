"""One pass over what is due: claim it, attempt each mail, count how it went.

What a cron line calls. Any number of passes may run at once, on any number of processes: each
mail is claimed by one of them. A mail is attempted once per pass. Mails whose former sender died
come last, one by one, with nothing else in flight: a poisoned mail that takes its process down
takes no other mail's attempt with it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import StoreError
from ..letter import Letter, Recipient
from ..store.changes import Changes
from ..store.claims import Claim, Claims
from ..store.reports import Reports
from ..store.setback import Setback
from ..store.waking import Waiter
from .attempt import Delivered, Deliverer
from .counts import Counts as Counts
from .in_hand import InHand
from .leases import Holding, LeaseKeeper, Phase
from .pacing import Leave, Pacing, Rest
from .pool import SenderPool
from .preview import preview
from .rhythm import SHORTEST, Rhythm
from .routes import MOMENT, Routes

log = logging.getLogger("flask_deferred_mail.delivery")

#: Seconds between two notes that a sweep is at work.
SHOWS_UP_EVERY = 20.0

#: While a sweep goes on: seconds after which it looks at everything anew, and for which it waits
#: for a transport all of whose places are taken.
A_PASS, FULL = 2.0, 1.0
#: And seconds between two turns of mails whose sender died, that such a turn waits for what is in
#: flight, and that others then wait for one of them.
SUSPECTS_EVERY, SUSPECTS_WAIT, SUSPECT_ALONE = 60.0, 10.0, 30.0

#: Seconds that a single pass goes on for mail which only the limit of its transport keeps back.
#: Then cron's next one takes over, or they would pile up.
PATIENCE_WITH_LIMITS = 55.0


class Sweep:
    """Passes over what is due, with a number of sender threads of its own."""

    def __init__(
        self,
        *,
        claims: Claims,
        changes: Changes,
        reports: Reports,
        leases: LeaseKeeper,
        deliverer: Deliverer,
        pacing: Pacing,
        routes: Routes,
        setback: Setback,
        waiter: Waiter,
        seen: Callable[[], None],
        reported: Callable[[], None] = lambda: None,
        concurrency: int = 4,
        limit: int | None = None,
        on_result: Callable[[Delivered], None] | None = None,
    ) -> None:
        self.claims = claims
        self.changes = changes
        self.reports = reports
        self.leases = leases
        self.deliverer = deliverer
        self.pacing = pacing
        self.routes = routes
        self.setback = setback
        self.waiter = waiter
        self.seen = seen
        #: Lets providers' reports that came too early have their effect.
        self.reported = reported
        self.concurrency = concurrency
        self._in_hand = InHand(concurrency)
        self.limit = limit
        self.counts = Counts()
        self._on_result = on_result
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._error: StoreError | None = None
        self._claimed = 0
        self._has_room = False
        self._shows_up_at = 0.0
        #: Seconds until a limit that is reached lets more through, of what is due; and until when
        #: this is waited for, by the monotonic clock.
        self._more_in: float | None = None
        #: It waits for more after each pass, so a pass need not wait for the last of its mails.
        self._goes_on = False
        self._suspects_at = 0.0
        self._patient_until = 0.0
        self._written_off: set[int] = set()
        self._pool: SenderPool[tuple[Holding, Leave | None]] = SenderPool(
            concurrency, self._send, "deferred-mail-sweep", routes.cap
        )
        deliverer.on_written_off.append(self._write_off)

    def stop(self) -> None:
        """Claim nothing more, finish what is being sent, give the rest back at once: others may
        send it while this pass still waits for a slow server."""
        self._stop.set()
        self.waiter.stop()
        self._return_unstarted()

    def run(self, wait: float = 0.0) -> Counts:
        """One pass; with ``wait``, passes for that many seconds, as mails become due.

        :raises StoreError: the database failed; what was in hand is left to its lease.
        """
        end = time.monotonic() + wait
        self._patient_until = time.monotonic() + (wait or PATIENCE_WITH_LIMITS)
        self._goes_on = wait > 0
        rhythm = Rhythm()
        try:
            while True:
                before = self._claimed - self.counts.returned
                self._one_pass()
                worked = self._claimed - self.counts.returned > before
                if worked:
                    rhythm.worked()
                if not self._rest(end, rhythm, worked):
                    if self._goes_on and (worked or self._pool.pending):
                        self._goes_on = False  # the last one: to its end
                        self._one_pass()
                    return self.counts
        finally:
            self.waiter.close()
            self._finish()
            self.deliverer.on_written_off.remove(self._write_off)

    def _rest(self, end: float, rhythm: Rhythm, worked: bool) -> bool:
        """Sleep until there may be something for a pass; false: the time is over.

        ``worked``: the last pass sent something, so what is due now is not what it had to leave.
        """
        while (left := end - time.monotonic()) > 0 and not self._done():
            due_in = self.reports.next_due_in()
            if due_in is not None and due_in <= 0 and worked:
                self.waiter.wait(min(left, SHORTEST))
                return True
            pause = rhythm.pause(due_in, listening=self.waiter.listening)
            pause = pause if self._more_in is None else min(pause, max(self._more_in, SHORTEST))
            if self.waiter.wait(min(left, pause)) or (due_in is not None and due_in <= pause):
                return True
            worked = True
            self._show_up()
        return False

    def _finish(self) -> None:
        self._return_unstarted()
        self._pool.close()
        # A thread that stands still is a daemon: it ends with the process.
        self._pool.wait(1, None if self._error is None else 5.0)
        self.routes.allowance.give_back()
        if self._error is not None:
            raise self._error

    def _show_up(self) -> None:
        """Let others see that somebody sweeps, also in the middle of a long pass."""
        if time.monotonic() >= self._shows_up_at:
            self._shows_up_at = time.monotonic() + SHOWS_UP_EVERY
            self._mind_the_clock()
            self.seen()

    def _mind_the_clock(self) -> None:
        """Mail must not wait for a clock that was set back to be there again."""
        if self.setback.happened():
            changed = self.setback.shorten()
            self.pacing.forget()
            log.warning("the clock was set back; %d mails are due earlier for it", changed)

    def _return_unstarted(self) -> None:
        unstarted = [holding for holding, _ in self._pool.clear()]
        for _ in range(self.leases.give_back(unstarted, "the sweep was told to stop")):
            self._count(Delivered("returned"))

    def _one_pass(self) -> None:
        self._show_up()
        # First: what is known to have arrived is not sent again.
        self.reported()
        before = self.claims.now()
        self._end_overdue()
        ends = time.monotonic() + A_PASS if self._goes_on else math.inf
        while not self._done() and time.monotonic() < ends:
            self._show_up()
            self._in_hand.adapt(self.counts.claimed)
            lanes = self._claim_round(before)
            pause = FULL if self._goes_on else 30.0
            pause = pause if self._more_in is None else min(self._more_in, pause)
            if lanes:
                # Claim again as soon as half of the places of one transport are free.
                self._pool.wait_for_any(lanes, self._in_hand.most // 2 + 1, pause)
            elif self._goes_on:
                break
            elif pending := self._pool.pending:
                # What is in flight may be the probe that everybody else waits for.
                self._pool.wait(pending, pause)
            elif self._worth_waiting():
                self._stop.wait(pause)
            else:
                break
        if self._is_turn_of_suspects(before):
            self._suspects(before)
        self.routes.allowance.give_back()

    def _worth_waiting(self) -> bool:
        """Whether limits will soon let more through of what is due."""
        soon = self._more_in is not None and self._more_in <= MOMENT
        return soon and time.monotonic() < self._patient_until

    def _done(self) -> bool:
        return (
            self._stop.is_set()
            or self._error is not None
            or (self.limit is not None and self._claimed >= self.limit)
        )

    def _claim_round(self, before: float) -> list[str]:
        """Claim from every transport that may send; the names of those that there was something
        for, or may be."""
        found = []
        self._more_in = None
        for name in self.claims.transports_with_due(before):
            if self._done():
                break
            self._make_room()
            if self._claim_from(name, before):
                found.append(name)
        return found

    def _make_room(self) -> None:
        """Once, before anything is sent: what cannot be written down is not sent."""
        if not self._has_room:
            self.deliverer.store.make_room(self.concurrency)
            self._has_room = True

    def _claim_from(self, name: str, before: float) -> bool:
        if self._is_limited(name):
            return False
        leave = self.routes.ask(name)
        if isinstance(leave, Rest):
            return False
        probing = leave.probe is not None
        places = 1 if probing else self._places(name)
        claims = self._take(name, places, due_before=before, oldest=probing) if places else []
        self._put(claims, leave)
        if not claims and places:
            self._is_limited(name)
        return bool(claims) or places == 0

    def _take(self, name: str, places: int, **how: Any) -> list[Claim]:
        return self.routes.take(self.claims, name, places, **how)

    def _is_limited(self, name: str) -> bool:
        """Whether its limits keep its mail back just now."""
        wait = self.routes.wait(name)
        if wait > 0:
            self._more_in = wait if self._more_in is None else min(self._more_in, wait)
        return wait > 0

    def _places(self, name: str) -> int:
        places = max(0, self._in_hand.most - self._pool.pending_in(name))
        return places if self.limit is None else min(places, self.limit - self._claimed)

    def _put(self, claims: list[Claim], leave: Leave) -> None:
        """Have claimed mails sent. A probe that found nothing to send is given back."""
        if not claims:
            self.pacing.drop(leave)
        self._claimed += len(claims)
        # In hand before anything is read: the reading takes time off their leases.
        holdings = self.leases.hold_all(claims)
        self._read_ahead(holdings)
        for claim, holding in zip(claims, holdings, strict=True):
            self._written_off.discard(claim.job_id)
            # Only a probe need not ask again: who waits behind others may find it resting by then.
            if not self._pool.submit(
                claim.job_id, (holding, leave if leave.probe else None), claim.transport
            ):
                self.leases.give_back([holding], "no thread can send it")
                self.pacing.drop(leave)
                self._count(Delivered("returned"))

    def _read_ahead(self, holdings: list[Holding]) -> None:
        """Read the texts of many mails at once; what cannot be read now is read in its turn."""
        if len(holdings) < 2:
            return
        try:
            claims = [holding.claim for holding in holdings]
            contents = self.deliverer.store.contents(claims, self._in_hand.room)
        except StoreError as error:
            log.warning("%d mails could not be read together: %s", len(holdings), error)
            return
        for holding in holdings:
            holding.content = contents.get(holding.claim.job_id)

    def _suspects(self, before: float) -> None:
        """Those whose sender died, one at a time and alone."""
        for name in self.claims.transports_with_due(before):
            while not self._done():
                leave = self.routes.ask(name)
                if isinstance(leave, Rest):
                    break
                claims = self._take(name, 1, due_before=before, suspects=True)
                self._put(claims, leave)
                if not claims and not self._limit_passes(name):
                    break
                self._wait_until_idle(SUSPECT_ALONE if self._goes_on else math.inf)
                if self._pool.pending:
                    return

    def _limit_passes(self, name: str) -> bool:
        """In a single pass, wait until the limits of a transport let more through, if soon."""
        if not self._is_limited(name) or self._goes_on or not self._worth_waiting():
            return False
        return not self._stop.wait(max(self.routes.wait(name), SHORTEST))

    def _is_turn_of_suspects(self, before: float) -> bool:
        """Whether nothing is in flight any more. A sweep that goes on waits for that now and then
        only, and not for long: new mail must not wait for a server that is slow with another."""
        if not self._goes_on:
            self._wait_until_idle()
            return True
        if not self._pool.pending or time.monotonic() < self._suspects_at:
            return not self._pool.pending
        names = self.claims.transports_with_due(before)
        if self._done() or all(self.routes.is_resting(name) for name in names):
            return False
        self._suspects_at = time.monotonic() + SUSPECTS_EVERY
        return self._pool.wait(1, SUSPECTS_WAIT)

    def _end_overdue(self) -> None:
        """Mails whose time is over end, even while their transport rests."""
        give_up_after = self.deliverer.policy.give_up_after
        for name in self.claims.transports_with_due():
            if not self.routes.is_resting(name):
                continue
            for job, _ in self.changes.end_overdue(name, give_up_after):
                self._count(Delivered(job.status.value))
                self.deliverer.listener.gave_up(job)

    def _wait_until_idle(self, seconds: float = math.inf) -> None:
        end = time.monotonic() + seconds
        while not self._pool.wait(1, 1.0):
            if self._stop.is_set() or self._error is not None or time.monotonic() > end:
                return
            self._show_up()

    # -- in the sender threads --------------------------------------------------------------

    def _send(self, item: tuple[Holding, Leave | None]) -> None:
        holding, leave = item
        ends = self._stop.is_set() or self._error is not None
        if ends and holding.phase is Phase.QUEUED:
            self.leases.give_back([holding], "the sweep was told to stop")
            if leave is not None:
                self.pacing.drop(leave)
            self._count(Delivered("returned"))
            return
        try:
            upcoming = partial(self._upcoming, holding.claim.transport)
            delivered = self.deliverer.deliver(holding, leave=leave, upcoming=upcoming)
        except StoreError as error:
            log.error("mail %d: %s", holding.claim.job_id, error)
            self._error = error
            delivered = Delivered("returned", str(error))
        if holding.claim.job_id not in self._written_off:
            self._count(delivered)

    def _upcoming(self, lane: str) -> tuple[Letter, tuple[Recipient, ...]] | None:
        """What this thread sends next, if that is plain."""
        if self._stop.is_set() or self._error is not None:
            return None
        item = self._pool.reserve(lane)
        if item is None or item[1] is not None:
            return None
        return preview(self.deliverer.tools, item[0])

    def _write_off(self, holding: Holding, delivered: Delivered) -> None:
        """An attempt stands still: the pass goes on without its thread."""
        self._written_off.add(holding.claim.job_id)
        if self._pool.write_off(holding.claim.job_id):
            self._count(delivered)

    def _count(self, delivered: Delivered) -> None:
        with self._lock:
            self.counts.add(delivered.result)
        if self._on_result is not None:
            self._on_result(delivered)
