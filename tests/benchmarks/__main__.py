"""Print what the package costs on this machine: ``make bench``, or ``make bench ARGS=--quick``.

Names (``recording``, ``claims``, ...) pick benchmarks; without names all of them run.
``--database`` picks databases, ``--huge`` adds ten million rows. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import (
    bench_claims,
    bench_hook,
    bench_many,
    bench_purge,
    bench_recording,
    bench_rendering,
    bench_request,
    bench_sweep,
)
from tests.benchmarks.measuring import Scope, surroundings
from tests.support.databases import DATABASES

BENCHMARKS: dict[str, Callable[[Scope], None]] = {
    "rendering": bench_rendering.run,
    "hook": bench_hook.run,
    "request": bench_request.run,
    "sweep": bench_sweep.run,
    "recording": bench_recording.run,
    "many": bench_many.run,
    "claims": bench_claims.run,
    "purge": bench_purge.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure speed.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller tables")
    parser.add_argument("--huge", action="store_true", help="10,000,000 rows too: many minutes")
    parser.add_argument(
        "--database", action="append", default=[], choices=DATABASES, help="default: all"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    print(surroundings())
    for name in chosen.names or BENCHMARKS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="deferred-mail-bench-") as folder:
            scope = Scope(Path(folder), chosen.quick, chosen.huge, tuple(chosen.database))
            BENCHMARKS[name](scope)
        print(f"\n({name}: {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
