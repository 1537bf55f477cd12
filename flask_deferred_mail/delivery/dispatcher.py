"""Sends once the response is out: what the closed response rings.

``ring`` is all that runs inside the server's ``close()``: it puts a number into a queue. It does
not touch the database or the network and cannot block. Rows may be inserted already leased to this
process, which saves the claim; then the mail is in hand from the start (:class:`Phase.RESERVED`)
and the bell only says "now". What does not fit is left to the sweep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from .. import crashpoints
from ..errors import ConfigurationError, StoreError
from ..letter import Letter, Recipient
from ..store.claims import Claim, Claims, Lease
from ..transports.combination import leaves_of
from .attempt import Delivered, Deliverer
from .leases import Holding, LeaseKeeper, Phase
from .pool import SenderPool
from .preview import preview
from .routes import MOMENT

log = logging.getLogger("flask_deferred_mail.delivery")

#: Mails in hand per sender thread: enough to bridge a burst, few enough that a killed process
#: leaves little behind for its leases' length.
PLACES_PER_THREAD = 16

#: A letter larger than this (bytes) is read back from its row rather than kept in memory.
KEPT_IN_MEMORY = 256 * 1024

#: Seconds for which a mail waits for the thread that is at work before a second one is woken.
#: Where the server is quick one thread does best: several compete with the requests for the
#: interpreter, and with each other for the database.
PATIENCE = 0.05

#: Seconds for which nothing is sent after the database could not be written to.
PAUSE_AFTER_STORE_ERROR = 30.0

#: Seconds to try to give mail back to such a database; a lease that stays ends by itself.
GIVE_BACK_PATIENCE = 1.0


@dataclass(slots=True)  # not frozen: each mail makes one
class Ticket:
    """One recorded mail, to be sent when the bell rings."""

    job_id: int
    #: Set when the row was inserted already leased.
    holding: Holding | None = None
    letter: Letter | None = None
    #: Name of its transport.
    transport: str = ""


class Dispatcher:
    """The sender threads of one app in one process."""

    def __init__(
        self,
        threads: int,
        lease: Lease,
        claims: Claims,
        leases: LeaseKeeper,
        deliverer: Deliverer,
        after_each: Callable[[], None],
        usable: bool = True,
    ) -> None:
        self.lease = lease
        self.claims = claims
        self.leases = leases
        self.deliverer = deliverer
        self.routes = deliverer.tools.routes
        self.places = threads * PLACES_PER_THREAD
        #: False where threads do not run (uWSGI without them), and once it is shut down: mail is
        #: left to the sweep.
        self.usable = usable
        self._after_each = after_each
        self._paused_until = 0.0
        self._ends = threading.Event()
        self._gathering: dict[str, bool] = {}
        self._pool: SenderPool[Ticket] = SenderPool(
            threads, self._send, "deferred-mail-sender", self.routes.cap, PATIENCE
        )
        deliverer.on_written_off.append(self._write_off)

    # -- in the request ---------------------------------------------------------------------

    def room_for(self, transport: str) -> Lease | None:
        """The lease with which a row may be inserted for this process, if there is room."""
        if not self.usable or time.monotonic() < self._paused_until:
            return None
        if self.leases.count() >= self.places:
            return None
        return self.lease if self.routes.looks_well(transport) else None

    def reserve(self, claim: Claim, letter: Letter) -> Ticket:
        """Take a row in hand that was inserted already leased."""
        holding = self.leases.hold(claim, Phase.RESERVED)
        kept = letter if claim.size <= KEPT_IN_MEMORY else None
        return Ticket(claim.job_id, holding, kept, claim.transport)

    # -- when the response is closed --------------------------------------------------------

    def ring(self, ticket: Ticket) -> bool:
        """Send this mail now, in the background. False: it is left to the sweep."""
        if not self.usable or time.monotonic() < self._paused_until:
            return False
        if ticket.holding is None and self._pool.pending_in(ticket.transport) >= self.places:
            return False
        if ticket.holding is not None and not ticket.holding.enqueue():
            # Given back while the response was still going out: claim it like any other.
            ticket = Ticket(ticket.job_id, transport=ticket.transport)
        patient = not self._gathers(ticket.transport)
        if self._pool.submit(ticket.job_id, ticket, ticket.transport, patient=patient):
            return True
        _unqueue([ticket])
        return False

    def _gathers(self, name: str) -> bool:
        """Whether mails of several threads go together by this transport."""
        if name not in self._gathering:
            try:
                leaves = leaves_of(self.deliverer.tools.transports(name))
            except ConfigurationError:
                return False  # its attempt will say so
            self._gathering[name] = any(leaf.batch for leaf in leaves)
        return self._gathering[name]

    # -- in the sender threads --------------------------------------------------------------

    def _send(self, ticket: Ticket) -> None:
        if time.monotonic() < self._paused_until:
            self._leave_to_sweep([ticket, *self._pool.clear()])
            return
        crashpoints.reached("before-claim")
        try:
            holding = ticket.holding
            if holding is None:
                claim = self._claim(ticket)
                if claim is None:
                    return
                holding = self.leases.hold(claim)
            upcoming = partial(self._upcoming, ticket.transport)
            self.deliverer.deliver(holding, ticket.letter, upcoming=upcoming)
        except StoreError as error:
            self._paused_until = time.monotonic() + PAUSE_AFTER_STORE_ERROR
            log.error(
                "mail %d: %s; this process sends nothing for %.0f s",
                ticket.job_id,
                error,
                PAUSE_AFTER_STORE_ERROR,
            )
        self._after_each()

    def _upcoming(self, lane: str) -> tuple[Letter, tuple[Recipient, ...]] | None:
        """What this thread sends next, if it is in hand and plain."""
        if not self.usable or time.monotonic() < self._paused_until:
            return None
        ticket = self._pool.reserve(lane)
        if ticket is None or ticket.holding is None:
            return None
        ticket.holding.letter = ticket.letter
        return preview(self.deliverer.tools, ticket.holding)

    def _claim(self, ticket: Ticket) -> Claim | None:
        """Take a mail that nobody has, when its transport may send it; a little later, if only a
        limit is in the way. ``None``: it is left to the sweep."""
        give_up_at = time.monotonic() + MOMENT
        while not self.routes.is_resting(ticket.transport):
            claim = self.routes.take_one(self.claims, ticket.job_id)
            wait = self.routes.wait(ticket.transport)
            if claim is not None or not wait or time.monotonic() + wait > give_up_at:
                return claim
            if self._ends.wait(wait):
                return None
        return None

    def _leave_to_sweep(self, tickets: list[Ticket]) -> None:
        """Return what waits for a database that fails: an outcome could not be written either."""
        holdings = [ticket.holding for ticket in tickets if ticket.holding is not None]
        if holdings:
            why = "this process sends nothing for a while"
            self.leases.give_back(holdings, why, patience=GIVE_BACK_PATIENCE)

    def _write_off(self, holding: Holding, _delivered: Delivered) -> None:
        if self._pool.write_off(holding.claim.job_id) and not self._pool.has_threads:
            # The last thread stands still, and there is no other: nobody would come for the rest.
            _unqueue(self._pool.clear())

    # -- at exit ----------------------------------------------------------------------------

    def shut_down(self, seconds: float) -> None:
        """Begin nothing more, wait a short while for what is in hand, give the rest back."""
        end = time.monotonic() + seconds
        self.usable = False
        self._ends.set()
        self._pool.close()
        waiting = [h for h in self.leases.in_hand() if h.phase in (Phase.RESERVED, Phase.QUEUED)]
        self.leases.give_back(waiting, "the process ends", patience=seconds / 3)
        self._pool.wait(1, max(0.0, end - time.monotonic()))
        # Whoever has not sent the last byte by now cannot send it any more.
        self.leases.give_back(self.leases.in_hand(), "the process ends", patience=seconds / 3)


def _unqueue(tickets: Iterable[Ticket]) -> None:
    """No thread will come for these: the next heartbeats give their rows back."""
    for ticket in tickets:
        if ticket.holding is not None:
            ticket.holding.unqueue()
