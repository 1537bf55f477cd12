"""Which way a mail goes: by the transport itself, or by one of the members that it combines.

Each member has its own rests, pauses and limits. A member that rests is left out without a
connection; the next one is tried only when nothing was, or can have been, handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..store.claims import Claim, Claims
from ..store.limits import Purse
from ..transports.base import Transport
from ..transports.combination import Combination, Way, combination_of, leaves_of, ways_of
from .allowance import Allowance
from .pacing import Leave, Pacing, Rest

#: Seconds that are no reason to go another way: the limit of a member is reached for a moment.
MOMENT = 5.0


class KeptOff(Exception):
    """No way is open now: nothing was tried, and the mail does not pay."""

    def __init__(self, rest: Rest) -> None:
        super().__init__(rest.reason)
        self.rest = rest


class Wish(NamedTuple):
    """What a call is to go by."""

    #: The mail's own: it decides between ways that are as good as each other.
    seed: str
    #: What was granted for the whole transport, or for a member that is to be tried out.
    leave: Leave
    #: The one member that may have the mail already.
    member: str | None = None
    #: Calls that follow, this one included.
    calls: int = 1
    #: It is the first call of the mail.
    begins: bool = True


class Routes:
    """The ways by which an app's mail may go, for one process."""

    def __init__(
        self, transports: Callable[[str], Transport], pacing: Pacing, allowance: Allowance
    ) -> None:
        self._transports = transports
        self.pacing = pacing
        self.allowance = allowance

    # -- before a mail is taken -------------------------------------------------------------

    def ask(self, name: str) -> Rest | Leave:
        """Whether mail may leave by this transport now: :meth:`.Pacing.ask`, of all its members.

        If something is wrong with all of them, one mail at a time tries one that has rested: then
        the leave names that member.
        """
        answer = self.pacing.ask(name)
        transport = self._combined(name)
        if transport is None or isinstance(answer, Rest):
            return answer
        found: list[Rest] = []
        for leaf in transport.leaves():
            state = self.pacing.known().get(leaf.name)
            if state is None or not (state.failures or state.paused_at is not None):
                return answer
        for leaf in transport.leaves():
            tried = self.pacing.ask(leaf.name)
            if isinstance(tried, Leave):
                return tried
            found.append(Rest(tried.seconds, f"{leaf.name}: {tried.reason}"))
        reasons = "; ".join(rest.reason for rest in found)
        return Rest(min(rest.seconds for rest in found), reasons)

    def is_resting(self, name: str) -> bool:
        """Whether nothing at all may be sent by it now."""
        if self.pacing.is_resting(name):
            return True
        transport = self._combined(name)
        return transport is not None and all(
            self.pacing.is_resting(leaf.name) for leaf in transport.leaves()
        )

    def looks_well(self, name: str) -> bool:
        """Whether nothing is known to be in the way; never asks the database."""
        if not self.pacing.looks_well(name) or self.wait(name) > 0:
            return False
        transport = self._combined(name)
        return transport is None or any(
            self.pacing.looks_well(leaf.name) for leaf in transport.leaves()
        )

    def rest_of(self, name: str) -> float:
        """Seconds until one of its ways may be open."""
        return min(
            max(self.pacing.rest_of(name), self.pacing.rest_of(leaf), self.allowance.wait(leaf))
            for leaf in self._names(name)
        )

    def purse(self, name: str) -> Purse | None:
        """Tokens for a claim; ``None``: there is a way without a limit."""
        return self.allowance.purse(self._open_now(name))

    def take(self, claims: Claims, name: str, places: int, **how: Any) -> list[Claim]:
        """:meth:`.Claims.take`, of no more mails than may leave now."""
        purse = self.purse(name)
        taken = claims.take(name, places, purse=purse, **how)
        if purse is not None:
            self.allowance.put_in(purse)
        return taken

    def take_one(self, claims: Claims, job_id: int) -> Claim | None:
        """:meth:`.Claims.take_one`, if it may leave now."""
        found: list[Purse] = []

        def purse_of(name: str) -> Purse | None:
            purse = self.purse(name)
            found[:] = [purse] if purse is not None else []
            return purse

        claim = claims.take_one(job_id, purse_of)
        for purse in found:
            self.allowance.put_in(purse)
        return claim

    def wait(self, name: str) -> float:
        """Seconds for which limits keep everything off, as far as this process knows."""
        waits = [self.allowance.wait(leaf.name) for leaf in self._open_now(name)]
        return min(waits, default=0.0)

    def cap(self, name: str) -> int | None:
        """Mails that one process sends by it at the same time: the smallest cap of its members."""
        transport = self._transport(name)
        leaves = leaves_of(transport) if transport is not None else []
        return min((leaf.connections for leaf in leaves if leaf.connections), default=None)

    def _open_now(self, name: str) -> list[Transport]:
        """The members of the first stage in which one is not kept off for long."""
        transport = self._transport(name)
        if transport is None:
            return []
        if not transport.combines:
            return [transport]  # whatever is known of it, there is no other way
        ways = [way for way in ways_of(transport, "") if self.pacing.looks_well(way.transport.name)]
        soon = [way for way in ways if self.allowance.wait(way.transport.name) <= MOMENT]
        ways = soon or ways or ways_of(transport, "")
        return [way.transport for way in ways if way.stage == ways[0].stage]

    # -- when it is sent --------------------------------------------------------------------

    def walk(self, transport: Transport, wish: Wish) -> Walk:
        """The ways that one call may try, one after the other."""
        return Walk(self, transport, wish)

    # -- the configuration ------------------------------------------------------------------

    def _transport(self, name: str) -> Transport | None:
        try:
            return self._transports(name)
        except ConfigurationError:
            return None  # said where it is used

    def _combined(self, name: str) -> Combination | None:
        transport = self._transport(name)
        return None if transport is None else combination_of(transport)

    def _names(self, name: str) -> list[str]:
        transport = self._transport(name)
        return [leaf.name for leaf in leaves_of(transport)] if transport is not None else [name]


class Walk:
    """The ways of one call, one after the other; to be closed when one has come to something."""

    def __init__(self, routes: Routes, transport: Transport, wish: Wish) -> None:
        self.routes = routes
        self.transport = transport
        self.wish = wish
        #: Why those were left out that were; ``None``: all that were looked at were tried.
        self.kept: Rest | None = None
        self._left = iter(self._ways())
        self._stage: int | None = None
        #: What was granted for the way that is tried now.
        self._granted: Leave | None = None

    def following(self) -> Transport | None:
        """The next way that is open; ``None``: there is none, or none that may be taken now."""
        self.close()
        for way in self._left:
            if self.kept is not None and self.kept.moment and way.stage != self._stage:
                break
            self._stage = way.stage
            answer = self._enter(way.transport)
            if isinstance(answer, Leave):
                self._granted = answer
                return way.transport
            self._keep(way.transport, answer)
        return None

    def close(self) -> None:
        """The way that was tried is not used any more."""
        granted, self._granted = self._granted, None
        if granted is not None and granted is not self.wish.leave:
            self.routes.pacing.drop(granted)

    def _ways(self) -> list[Way]:
        ways = ways_of(self.transport, self.wish.seed)
        if self.wish.member is not None:
            return [way for way in ways if way.transport.name == self.wish.member]
        if len(ways) == 1:
            return ways
        tried_out = self.wish.leave.name if self.wish.leave.probe else None
        # What a mail was taken for is tried first.
        return sorted(ways, key=lambda way: way.transport.name != tried_out)

    def _enter(self, leaf: Transport) -> Leave | Rest:
        leave, pacing = self.wish.leave, self.routes.pacing
        if leave.forced:
            return leave
        # Granted already; but a pause is to be kept at once, also between two calls.
        granted = leave.name == leaf.name and (leave.probe or not pacing.is_paused(leaf.name))
        answer = leave if granted else pacing.ask(leaf.name)
        if isinstance(answer, Leave):
            wait = self.routes.allowance.take(leaf, self.wish.calls, begins=self.wish.begins)
            if wait > 0:
                if answer is not leave:
                    pacing.drop(answer)
                return Rest(wait, "its limit is reached", moment=wait <= MOMENT)
        return answer

    def _keep(self, leaf: Transport, rest: Rest) -> None:
        name = f"transport {leaf.name!r}"
        reason = f"{name} {'waits' if rest.moment else 'rests'}: {rest.reason}"
        if self.kept is None:
            self.kept = Rest(rest.seconds, reason, rest.moment)
        else:
            self.kept = Rest(
                min(self.kept.seconds, rest.seconds),
                f"{self.kept.reason}; {reason}",
                self.kept.moment or rest.moment,
            )
