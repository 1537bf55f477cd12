"""Memory of one draining worker, beside a short queue and a long one."""

from __future__ import annotations

from contextlib import ExitStack

from tests.benchmarks import processes
from tests.benchmarks.arrivals import Arrivals, any_sink
from tests.benchmarks.grown import kinds
from tests.benchmarks.measuring import Scope, Series, in_turns, spread
from tests.benchmarks.senders import Ours, started
from tests.support.bulk_rows import add_waiting
from tests.support.databases import fresh_database

_SHORT = 1_000
#: Mails that go out while memory is watched.
_WATCHED = 900


def run(scope: Scope) -> None:
    """Measure and print."""
    lengths = (_SHORT, scope.of(1_000_000, 50_000))
    with ExitStack() as stack:
        sink = stack.enter_context(any_sink())
        for kind in kinds(scope.databases or ("sqlite", "postgresql")):
            _run(scope, stack, kind, sink, lengths)


def _run(
    scope: Scope, stack: ExitStack, kind: str, sink: Arrivals, lengths: tuple[int, ...]
) -> None:
    workers, peak = {}, Series()
    for length in lengths:
        folder = scope.folder / f"{kind}-{length}"
        folder.mkdir()
        url = stack.enter_context(fresh_database(kind, folder))
        worker = Ours(folder, url, sink.url, "worker", "--concurrency", 16)
        stack.callback(worker.close)
        add_waiting(worker.app.runtime.database, length)
        workers[f"{length:,} queued"] = worker

    def measure(name: str) -> None:
        missing = _SHORT - workers[name].left()
        if missing > 0:
            add_waiting(workers[name].app.runtime.database, missing)
        peak.add(name, _peak(workers[name], sink))

    names = list(workers)
    in_turns(scope.of(5, 2), names, measure)
    scope.report.table(
        f"Memory of one worker with 16 connections: {kind}",
        ("queue", "MiB PSS, highest", "times the first line"),
        [(name, spread(peak.of(name), 1), spread(peak.ratios(name, names[0]))) for name in names],
        f"While {_WATCHED} mails go out over loopback; bodies of 150 bytes. What it consists of is "
        "in [the guide](../guides/worker.md).",
    )
    long = names[-1]
    scope.report.at_most("memory", f"{long}, {kind}", peak.of(long), 50, "MiB")
    # The bar is about a million: what a quick run looks at says nothing of it.
    if not scope.quick:
        ratios = peak.ratios(long, names[0])
        scope.report.at_most("memory-flat", f"{long}, {kind}", ratios, 1.1, "x")


def _peak(worker: Ours, sink: Arrivals) -> float:
    with started(worker) as process, processes.PeakMemory(process.pid) as memory:
        sink.stretch(_WATCHED, lambda: None, lambda: 0.0, 120)
    return memory.mib
