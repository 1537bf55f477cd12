"""Leave a transport alone while something is wrong with it.

All processes share what they know through the database; each looks at most once a second. A
transport that is back is found out by one sender with one mail at a time: the *probe*.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import StoreError
from ..outcome import FaultKind, Outcome, TransportFault
from ..rates import Limit
from ..retry import rest
from ..store.claims import new_token
from ..store.transport_state import TransportState, TransportStates

log = logging.getLogger("flask_deferred_mail.delivery")

#: Seconds for which what was read of the shared state is believed.
BELIEVED = 1.0

#: Faults in a row up to which rests are told apart.
_GROWTH = 16

#: After an outage all processes together send one mail a second, then two, four, ...: seconds of
#: each step, and how many steps there are.
RAMP_STEP = 0.5
RAMP_STEPS = 8

#: Seconds after which somebody looks whether a pause is over.
_LOOK_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Rest:
    """The transport is to be left alone."""

    seconds: float
    reason: str
    #: Nothing is wrong with it: its limit is reached for a moment.
    moment: bool = False


class Leave(NamedTuple):
    """The transport may be used."""

    name: str
    #: Set when something was wrong with it: the token of the one probe.
    probe: str | None = None
    #: Whatever is known of it, because a person wants to know.
    forced: bool = False


class Pacing:
    """Decides whether a transport may be used now, and remembers how it went."""

    def __init__(
        self,
        states: TransportStates,
        schedule: Sequence[float],
        probe_seconds: float,
        rng: random.Random,
    ) -> None:
        self.states = states
        self.schedule = schedule
        self.probe_seconds = probe_seconds
        self.rng = rng
        self._known: dict[str, TransportState] = {}
        self._read_at = -BELIEVED
        self._lock = threading.Lock()

    def known(self) -> dict[str, TransportState]:
        """The shared state, at most :data:`BELIEVED` seconds old."""
        if time.monotonic() < self._read_at + BELIEVED:
            return self._known  # without the lock, for which all sender threads would stand in line
        with self._lock:
            if time.monotonic() >= self._read_at + BELIEVED:
                self._known = self.states.all()
                self._read_at = time.monotonic()  # last, for those who look without the lock
            return self._known

    def forget(self) -> None:
        """Look again at the next question."""
        self._read_at = -BELIEVED

    def _left(self, state: TransportState) -> float:
        return state.rests_for - (time.monotonic() - self._read_at)

    def ask(self, name: str) -> Rest | Leave:
        """Whether the transport may be used now; if something was wrong, by one probe only.

        Whoever gets a leave with a probe gives it back by :meth:`drop` when he is done.
        """
        state = self.known().get(name)
        if state is not None and state.paused_at is not None:
            return Rest(_LOOK_AGAIN, f"paused by {state.paused_by}")
        if state is None or not state.failures:
            return Leave(name)
        if self._left(state) > 0:
            return Rest(self._left(state), state.reason or "")
        if state.probed_for > time.monotonic() - self._read_at:
            return self._probed(state)
        token = new_token()
        if self.states.try_probe(name, token, self.probe_seconds):
            return Leave(name, token)
        return self._probed(state)

    def _probed(self, state: TransportState) -> Rest:
        return Rest(min(self.probe_seconds, 5.0), f"{state.reason} (one mail is trying it now)")

    def drop(self, leave: Leave) -> None:
        """The probe is over, however it went: if it said nothing, others may try."""
        if leave.probe is None:
            return
        try:
            self.states.drop_probe(leave.name, leave.probe)
        except StoreError as error:
            # It ends by itself.
            log.warning("transport %s: the probe could not be given back: %s", leave.name, error)

    def looks_well(self, name: str) -> bool:
        """Whether nothing is known to be wrong; never asks the database."""
        state = self._known.get(name)
        return state is None or not (state.failures or state.paused_at is not None)

    def is_resting(self, name: str) -> bool:
        """Whether nothing at all may be sent by it now."""
        state = self.known().get(name)
        if state is None:
            return False
        return state.paused_at is not None or (state.failures > 0 and self._left(state) > 0)

    def is_paused(self, name: str) -> bool:
        """Whether somebody keeps it from sending."""
        state = self.known().get(name)
        return state is not None and state.paused_at is not None

    def ramp(self, name: str) -> Limit | None:
        """What all processes together may send by a transport that has just come back; ``None``:
        as much as they like. Never asks the database."""
        state = self._known.get(name)
        if state is None or state.back_for is None:
            return None
        elapsed = state.back_for + time.monotonic() - self._read_at
        # Negative where a clock was set back since: that is no reason to go slowly until then.
        if not 0 <= elapsed < RAMP_STEP * RAMP_STEPS:
            return None
        return Limit(float(2 ** int(elapsed / RAMP_STEP)), 1)

    # -- how it went ------------------------------------------------------------------------

    def learn(self, name: str, job_id: int, outcome: Outcome) -> list[int]:
        """Take in what was wrong with a call. Returns mails that deserve another try.

        A database that cannot be written to must not change what becomes of the mail.
        """
        if outcome.fault is None and outcome.server_wide is None and not outcome.message_config:
            return []
        try:
            return self._learn(name, job_id, outcome)
        except StoreError as error:
            log.error("could not note how transport %s does: %s", name, error)
            return []

    def _learn(self, name: str, job_id: int, outcome: Outcome) -> list[int]:
        reopened: list[int] = []
        if outcome.server_wide is not None:
            if self.states.server_wide(name, job_id, gist(outcome.server_wide)):
                self.fault(name, TransportFault(FaultKind.UNREACHABLE, outcome.server_wide))
            self.forget()
        if outcome.message_config:
            reopened = self.states.message_config(name, job_id)
            if reopened:
                self.fault(name, TransportFault(FaultKind.ACCOUNT, outcome.detail))
            self.forget()
        if outcome.fault is not None:
            self.fault(name, outcome.fault)
        return reopened

    def went_well(self, name: str, accepted: bool) -> None:
        """The server answered about a mail, so it is there; costs a write only if it is news."""
        state = self._known.get(name)
        if state is None or not (state.failures or (accepted and state.has_streak)):
            return
        try:
            first = self.states.recovered(
                name, keep_streaks=not accepted, after_outage=bool(state.failures)
            )
        except StoreError as error:
            log.error("could not note that transport %s is back: %s", name, error)
            return
        self.forget()
        if state.failures and first:
            log.warning("transport %s is back", name)

    def fault(self, name: str, fault: TransportFault) -> None:
        """Something is wrong with the transport: let it rest."""
        seconds = {
            n: rest(n, fault.kind, fault.retry_after, self.schedule, self.rng)
            for n in range(1, _GROWTH + 1)
        }
        failures = self.states.rest(name, fault.kind.value, fault.detail, seconds)
        self.forget()
        if failures is not None:
            log.log(
                logging.ERROR if fault.kind is FaultKind.ACCOUNT else logging.WARNING,
                "transport %s rests for %.0f s (%s, fault %d in a row): %s",
                name,
                seconds[min(failures, _GROWTH)],
                fault.kind.value,
                failures,
                fault.detail,
            )

    def rest_of(self, name: str) -> float:
        """Seconds for which it is to be left alone."""
        state = self.known().get(name)
        return max(0.0, self._left(state)) if state and state.failures else 0.0


def gist(reply: str) -> str:
    """A reply without what differs from mail to mail: its codes, and its words without digits."""
    codes = _CODES.match(reply)
    words = reply[codes.end() if codes else 0 :].split()
    kept = [word for word in words if not any(char.isdigit() for char in word)]
    return " ".join([codes[0].strip() if codes else "", *kept]).strip()


#: Reply code and enhanced status code (RFC 3463) at the start of a reply.
_CODES = re.compile(r"\d{3}([ -]\d\.\d{1,3}\.\d{1,3})?\b")
