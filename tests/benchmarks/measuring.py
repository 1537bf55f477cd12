"""How the benchmarks measure: interleaved rounds, CPU from the kernel's books, medians, ratios.

Other work on the machine moves wall times by a factor, so nothing is measured once: the
contestants take turns, round after round, and are compared within a round. CPU time is the
steadier figure. What is printed is the median, with the least and the most beside it.
"""

from __future__ import annotations

import math
import os
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.report import Report

#: The mail of all benchmarks: 2 KB of text, 4 KB of HTML, ASCII, one recipient.
TEXT = ("Hello Ann, this is one line of the text of a mail.\n" * 41)[:2048]
HTML = ("<p>Hello Ann, this is <b>one paragraph</b> of a mail.</p>\n" * 72)[:4096]
MAIL: dict[str, Any] = {
    "subject": "Welcome to the shop",
    "recipients": ["ann@example.com"],
    "body": TEXT,
    "html": HTML,
}

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is measured. ``folder`` takes the databases of one benchmark."""

    folder: Path
    quick: bool
    #: Takes what is found.
    report: Report
    #: Also what takes many minutes: ten million finished rows.
    huge: bool = False
    #: ``sqlite``, ``postgresql``, ``mariadb``; none: all that are here.
    databases: tuple[str, ...] = ()

    def of(self, full: int, quick: int) -> int:
        """A number that is smaller in quick mode."""
        return quick if self.quick else full


class Series:
    """The same figure of several contestants, round after round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    def of(self, name: str) -> list[float]:
        return self._values[name]

    def ratios(self, name: str, base: str) -> list[float]:
        """What ``name`` came to in units of ``base``, within each round."""
        pairs = zip(self._values[name], self._values[base], strict=True)
        return [value / unit if unit else float("nan") for value, unit in pairs]


def in_turns(rounds: int, names: Sequence[str], measure: Callable[[str], None]) -> None:
    """Every contestant once per round; who begins changes from round to round."""
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            measure(name)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median, and the least and the most; rounds that failed (NaN) are left out."""
    found = sorted(value for value in values if not math.isnan(value))
    if not found:
        return "failed"
    middle = statistics.median(found)
    return f"{middle:.{digits}f} ({found[0]:.{digits}f}-{found[-1]:.{digits}f})"


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of living processes, as the kernel has booked it (Linux only)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def own_cpu(work: Callable[[], object], times: int) -> float:
    """Microseconds of this process's CPU that one run of ``work`` takes."""
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times * 1e6


_PACKAGES = ("flask", "werkzeug", "sqlalchemy", "gunicorn", "psycopg", "flask-mail", "celery", "rq")
_PACKAGES += ("dramatiq", "huey", "redis", "django", "django-post_office")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def surroundings() -> str:
    """Date, machine and versions: without them a figure says nothing."""
    found = ", ".join(f"{name} {number}" for name in _PACKAGES if (number := _version(name)))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.machine()}, CPython {sys.version.split()[0]}, SQLite "
        f"{sqlite3.sqlite_version}, {found}; load average at the start {load}"
    )
