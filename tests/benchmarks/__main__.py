"""Print what the package costs on this machine: ``make bench``, or ``make bench ARGS=--quick``.

Names (``request``, ``hook``, ``sweep``, ``claims``, ``rendering``) pick benchmarks; without names
all of them run, in less than five minutes on two cores. Nothing is asserted.
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
    bench_rendering,
    bench_request,
    bench_sweep,
)
from tests.benchmarks.measuring import Scope, surroundings

BENCHMARKS: dict[str, Callable[[Scope], None]] = {
    "rendering": bench_rendering.run,
    "hook": bench_hook.run,
    "request": bench_request.run,
    "sweep": bench_sweep.run,
    "claims": bench_claims.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure speed.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller tables")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    print(surroundings())
    for name in chosen.names or BENCHMARKS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="deferred-mail-bench-") as folder:
            BENCHMARKS[name](Scope(Path(folder), chosen.quick))
        print(f"\n({name}: {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
