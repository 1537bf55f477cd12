"""How long taking a hundred mails lasts as finished or waiting rows pile up."""

from __future__ import annotations

import time
from contextlib import ExitStack

from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from tests.benchmarks.grown import grown, kinds
from tests.benchmarks.measuring import Scope, Series, in_turns, spread

_BATCH = 100
_FEW, _MANY = 1_000, 50_000
_MILLION = 1_000_000


class _Claimer:
    """Claims from one database."""

    def __init__(self, database: Database) -> None:
        self.claims = Claims(database, Lease(60, "bench"))
        self.jobs = JobStore(database)

    def claim(self) -> float:
        """Milliseconds that taking a hundred took; they are given back afterwards."""
        started = time.perf_counter()
        taken = self.claims.take("default", _BATCH)
        seconds = time.perf_counter() - started
        assert len(taken) == _BATCH
        self.jobs.give_back(taken)
        return seconds * 1000


def run(scope: Scope) -> None:
    """Measure and print."""
    sizes = [(1_000, _FEW), (100_000, _FEW), (100_000, _MANY)]
    if not scope.quick:
        sizes.insert(2, (_MILLION, _FEW))
    if scope.huge:
        sizes.insert(3, (10_000_000, _FEW))
    for kind in kinds(scope.databases):
        _run(scope, kind, sizes)


def _run(scope: Scope, kind: str, sizes: list[tuple[int, int]]) -> None:
    times = Series()
    with ExitStack() as stack:
        claimers = {}
        for sent, waiting in sizes:
            name = f"{sent:,}, {waiting:,}"
            folder = scope.folder / f"{kind}-{sent}-{waiting}"
            claimers[name] = _Claimer(stack.enter_context(grown(kind, folder, sent, waiting)))
        for claimer in claimers.values():
            claimer.claim()
        names = list(claimers)
        in_turns(scope.of(15, 5), names, lambda name: times.add(name, claimers[name].claim()))
        scope.report.table(
            f"Claiming {_BATCH} mails: {kind}",
            ("finished rows, waiting rows", "ms", "times the first line"),
            [
                (name, spread(times.of(name), 1), spread(times.ratios(name, names[0]), 2))
                for name in names
            ],
        )
        for sent, waiting, what in (
            (_MILLION, _FEW, "1M finished"),
            (100_000, _MANY, "50k waiting"),
        ):
            name = f"{sent:,}, {waiting:,}"
            if name in names:
                base = names[0] if waiting == _FEW else f"100,000, {_FEW:,}"
                ratios = times.ratios(name, base)
                scope.report.at_most("claims", f"{what}, {kind}", ratios, 1.5, "x")
        plot = {f"{name} ({kind})": times.of(name) for name in names}
        scope.report.plot(f"claims-{kind}", f"Claiming {_BATCH} mails: {kind}", "ms", plot)
