"""How the transports do: what all processes know of each, and of each member of a combined one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from .cleaning import clean
from .cli_output import counted, duration, when
from .delivery.runtime import Runtime
from .errors import ConfigurationError
from .store.inspection import Inspection
from .store.transport_state import TransportState
from .transports.base import Transport
from .transports.combination import Combination, leaves_of


@dataclass(frozen=True, slots=True)
class TransportReport:
    """One transport, or one member of a combined one."""

    name: str
    #: ``SMTP``, ``SendCloud``, ..., ``failover``, ``roundrobin``; of one that cannot be made: why.
    kind: str
    #: The combined transport that it belongs to.
    member_of: str | None
    #: ``None``: nothing is or was wrong with it.
    state: TransportState | None
    #: Limit as it is written -> envelopes that may leave at this moment.
    limits: dict[str, float]
    connections: int | None
    #: Unfinished mails; of a member ``None``: they are those of the whole.
    waiting: int | None
    #: Different mails that may share one of its requests (``?batch=``).
    batch: int | None = None

    @property
    def standing(self) -> str:
        """``well``, ``paused``, ``resting``, or ``probing``: it has rested, one mail tries it."""
        if self.state is None:
            return "well"
        if self.state.paused_at is not None:
            return "paused"
        if not self.state.failures:
            return "well"
        return "resting" if self.state.rests_for > 0 else "probing"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        state, standing = self.state, self.standing
        paused_at = state.paused_at if state is not None else None
        trouble = state if state is not None and state.failures else None
        return {
            "name": self.name,
            "kind": self.kind,
            "member_of": self.member_of,
            "state": standing,
            "rests_for_seconds": round(trouble.rests_for, 1)
            if standing == "resting" and trouble
            else None,
            "faults": trouble.failures if trouble else 0,
            "fault_kind": trouble.kind if trouble else None,
            "reason": trouble.reason if trouble else None,
            "paused_by": state.paused_by if state is not None else None,
            "paused_at": None if paused_at is None else _moment(paused_at).isoformat(),
            "limits": {limit: int(left) for limit, left in self.limits.items()},
            "connections": self.connections,
            "waiting": self.waiting,
        }


def transport_reports(runtime: Runtime) -> Iterator[TransportReport]:
    """Every configured transport, each followed by its members.

    :raises StoreError: the database cannot be read.
    """
    made = {name: _made(runtime, name) for name in runtime.settings.transports}
    leaves = [
        leaf
        for transport in made.values()
        if isinstance(transport, Transport)
        for leaf in leaves_of(transport)
    ]
    left = runtime.allowance.limits.left({leaf.name: leaf.limits for leaf in leaves})
    states = runtime.states.all()
    waiting = Inspection(runtime.database).waiting_by_transport()

    def report(transport: Transport, member_of: str | None = None) -> TransportReport:
        name = transport.name
        return TransportReport(
            name,
            transport.label,
            member_of,
            states.get(name),
            left.get(name, {}),
            transport.connections,
            None if member_of else waiting.get(name, 0),
            transport.batch,
        )

    for name, transport in made.items():
        if isinstance(transport, str):
            count = waiting.get(name, 0)
            yield TransportReport(name, transport, None, states.get(name), {}, None, count)
            continue
        yield report(transport)
        if isinstance(transport, Combination):
            for leaf in transport.leaves():
                yield report(leaf, name)


def _made(runtime: Runtime, name: str) -> Transport | str:
    try:
        return runtime.transport(name)
    except ConfigurationError as error:
        return clean(str(error))


def words(report: TransportReport) -> str:
    """How it does, in a few words."""
    state = report.state
    found = [report.standing]
    if state is not None and state.paused_at is not None:
        found = [
            f"paused by {clean(state.paused_by or '?')} since {when(_moment(state.paused_at))}"
        ]
    if state is not None and state.failures:
        left = duration(state.rests_for)
        rest = f"rests for {left}" if state.rests_for > 0 else "is tried again"
        reason = clean(state.reason or "")
        found.append(f"{rest} ({counted(state.failures, 'fault')} in a row): {reason}")
    found = [word for word in found if word not in ("resting", "probing")]
    found += [f"{int(tokens)} left of {limit}" for limit, tokens in report.limits.items()]
    if report.connections:
        found.append(f"at most {counted(report.connections, 'mail')} of a process at a time")
    if report.waiting:
        found.append(f"{counted(report.waiting, 'mail')} waiting")
    return ", ".join(found)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
