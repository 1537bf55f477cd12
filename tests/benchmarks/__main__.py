"""Measure what the package costs on this machine, beside others: ``make bench``.

Names (``request``, ``drain``, ...) pick parts; without names all of them run. ``--quick`` is a
look that ends within minutes and goes to ``build/benchmarks``; a full run replaces those parts of
``docs/benchmarks`` that it has measured; ``--page`` writes the page anew from what was kept.
``--database`` picks databases, ``--huge`` adds ten million rows. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import (
    bench_claims,
    bench_drain,
    bench_hook,
    bench_many,
    bench_memory,
    bench_profile,
    bench_providers,
    bench_purge,
    bench_recording,
    bench_rendering,
    bench_request,
    bench_slow,
    bench_sweep,
    page,
)
from tests.benchmarks.measuring import Scope, surroundings
from tests.benchmarks.report import Report
from tests.support.databases import DATABASES
from tests.support.web_server import ROOT

PARTS: dict[str, Callable[[Scope], None]] = {
    "request": bench_request.run,
    "drain": bench_drain.run,
    "slow": bench_slow.run,
    "providers": bench_providers.run,
    "memory": bench_memory.run,
    "claims": bench_claims.run,
    "rendering": bench_rendering.run,
    "hook": bench_hook.run,
    "recording": bench_recording.run,
    "many": bench_many.run,
    "sweep": bench_sweep.run,
    "purge": bench_purge.run,
    "profile": bench_profile.run,
}
#: What a quick run without names measures: every part that has a bar, on SQLite.
_QUICK = ("request", "drain", "slow", "providers", "memory", "claims", "rendering")


def main() -> None:
    chosen = _arguments()
    # Told to stop, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    quick_and_all = chosen.quick and not chosen.names
    databases = chosen.database or (["sqlite"] if quick_and_all else [])
    folder = chosen.out or ROOT / ("build" if chosen.quick else "docs") / "benchmarks"
    if chosen.page:
        print(page.write(folder, list(PARTS)))
        return
    for part in chosen.names or (_QUICK if chosen.quick else PARTS):
        report = Report(part, surroundings(), chosen.quick)
        print(f"\n## {part}\n{report.about}", flush=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="deferred-mail-bench-") as place:
            scope = Scope(Path(place), chosen.quick, report, chosen.huge, tuple(databases))
            PARTS[part](scope)
        report.seconds = time.monotonic() - started
        report.save(folder / "data")
        written = page.write(folder, list(PARTS))
        print(f"\n({part}: {report.seconds:.0f} s; see {written})", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure speed.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller tables")
    parser.add_argument("--huge", action="store_true", help="10,000,000 rows too: many minutes")
    parser.add_argument(
        "--database", action="append", default=[], choices=DATABASES, help="default: all"
    )
    parser.add_argument("--out", type=Path, help="folder for page, plots and data")
    parser.add_argument("--page", action="store_true", help="write the page anew, and do no more")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    return chosen


if __name__ == "__main__":
    main()
