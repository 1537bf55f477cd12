"""What a run of one part found: tables, figures for the bars, plots; kept as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass
class Table:
    """A table in Markdown."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        lines = [f"### {self.title}", ""]
        lines += [f"| {' | '.join(self.heads)} |", f"| {' | '.join('---' for _ in self.heads)} |"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass
class Figure:
    """What was measured for a bar, and whether that is enough."""

    what: str
    value: float
    limit: float
    side: Literal["at most", "at least"]
    unit: str

    @property
    def reached(self) -> bool:
        if math.isnan(self.value):
            return False
        return self.value <= self.limit if self.side == "at most" else self.value >= self.limit


@dataclass
class Plot:
    """Bars side by side: contestant, median, least, most."""

    name: str
    title: str
    unit: str
    bars: list[tuple[str, float, float, float]]


@dataclass
class Report:
    """All that one part has found. ``about``: date, machine, versions."""

    part: str
    about: str
    quick: bool = False
    seconds: float = 0.0
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    #: What was left out, and why.
    missing: list[str] = field(default_factory=list)

    def table(
        self, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], note: str = ""
    ) -> None:
        """Keep a table, and print it."""
        found = Table(title, list(heads), [list(row) for row in rows], note)
        self.tables.append(found)
        print(f"\n{found.text()}", flush=True)

    def at_most(
        self, bar: str, what: str, values: Iterable[float], limit: float, unit: str
    ) -> None:
        """A figure for a bar: the median of ``values`` must not be more than ``limit``."""
        self._figure(bar, Figure(what, _middle(values), limit, "at most", unit))

    def at_least(
        self, bar: str, what: str, values: Iterable[float], limit: float, unit: str
    ) -> None:
        """A figure for a bar: the median of ``values`` must not be less than ``limit``."""
        self._figure(bar, Figure(what, _middle(values), limit, "at least", unit))

    def state(self, bar: str, what: str, values: Iterable[float], unit: str) -> None:
        """A figure where no limit was set."""
        self.figures.setdefault(bar, []).append(Figure(what, _middle(values), 0, "at least", unit))

    def _figure(self, bar: str, figure: Figure) -> None:
        self.figures.setdefault(bar, []).append(figure)
        word = "reached" if figure.reached else "NOT reached"
        print(f"  bar: {figure.what}: {figure.value:.2f} ({figure.side} {figure.limit:g}): {word}")

    def plot(self, name: str, title: str, unit: str, series: dict[str, list[float]]) -> None:
        """Keep a plot of the median, the least and the most of each contestant."""
        bars = []
        for key, values in series.items():
            found = [value for value in values if not math.isnan(value)]
            if found:
                bars.append((key, _middle(found), min(found), max(found)))
        self.plots.append(Plot(name, title, unit, bars))

    def left_out(self, what: str) -> None:
        """Say what was not measured, and why; it stands on the page too."""
        self.missing.append(what)
        print(f"\n(not measured: {what})", flush=True)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (folder / f"{self.part}.json").write_text(content + "\n")


def load(file: Path) -> Report:
    """A report that was saved."""
    content: dict[str, Any] = json.loads(file.read_text())
    content["tables"] = [Table(**entry) for entry in content["tables"]]
    content["plots"] = [Plot(**entry) for entry in content["plots"]]
    content["figures"] = {
        bar: [Figure(**entry) for entry in entries] for bar, entries in content["figures"].items()
    }
    return Report(**content)


def _middle(values: Iterable[float]) -> float:
    found = [value for value in values if not math.isnan(value)]
    return statistics.median(found) if found else math.nan
