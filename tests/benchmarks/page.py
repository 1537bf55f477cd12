"""``docs/benchmarks``: the page and its plots, made anew from what every part has saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks import limits
from tests.benchmarks.bars import BARS
from tests.benchmarks.report import Figure, Report, load
from tests.benchmarks.svg import chart

_INTRODUCTION = """# Benchmarks: beside other ways to send mail

<!-- Written by `make bench`; what is changed by hand is lost with the next run. -->

Measured by `make bench` (`tests/benchmarks/`), everything on one machine, in interleaved rounds:
the contestants take turns, who begins changes from round to round, and ratios are taken within a
round. A cell is the median of all rounds, in brackets the least and the most. Absolute figures are
those of a machine on a day, and wall times of a busy machine are too high: trust the ratios, and
CPU more than the clock. What each figure is made of, counted, is in
[costs](../reference/costs.md).

The mail: 2 KB of text, 4 KB of HTML, ASCII, one recipient. The others run as their documentation
tells, with the task that everybody writes: build an `EmailMessage`, connect, send, quit. Redis
keeps nothing on disk, which is the fastest and least durable that it can be; our rows and those of
django-post_office are on disk (WAL, `synchronous=FULL`; PostgreSQL as it comes) before the view
goes on.
"""
_REPEAT = """## Repeat it

    apt-get install postfix redis-server     # smtp-sink, smtp-source, redis-server; or see below
    make bench                               # everything: about an hour
    make bench ARGS=--quick                  # a look, some minutes, written to build/benchmarks
    make bench ARGS="request drain"          # some parts; the others keep their last figures

The other packages go into an environment of their own, `.venv-bench` (group `bench` of
`pyproject.toml`). Of Postfix only two test programs are used, no mail server runs; without
installing it: `apt-get download postfix`, `dpkg -x postfix_*.deb FOLDER`, and
`BENCH_PROGRAMS=FOLDER make bench`. PostgreSQL and MariaDB are those on their standard local ports
(`DEFERRED_MAIL_TEST_POSTGRESQL`, `DEFERRED_MAIL_TEST_MARIADB` name others). What is not here is
left out, and the page says so. What stands here is kept in `data/`, one file a part.
"""


def write(folder: Path, order: Sequence[str]) -> Path:
    """Write the page and the plots from ``folder/data``; parts in the order of ``order``."""
    found = {file.stem: load(file) for file in (folder / "data").glob("*.json")}
    reports = [found[part] for part in order if part in found]
    for report in reports:
        for plot in report.plots:
            (folder / f"{plot.name}.svg").write_text(chart(plot))
    page = folder / "index.md"
    page.write_text("\n".join(_lines(reports)).rstrip() + "\n")
    return page


def _lines(reports: Sequence[Report]) -> Iterator[str]:
    yield _INTRODUCTION
    yield from _bars(reports)
    yield limits.TEXT
    yield _REPEAT
    for report in reports:
        yield f"## {report.part.capitalize()}\n"
        kind = "a quick run" if report.quick else "a full run"
        yield f"{report.about}; {kind}, {report.seconds:.0f} s.\n"
        yield from (f"![{plot.title}]({plot.name}.svg)\n" for plot in report.plots)
        yield from (f"{table.text()}\n" for table in report.tables)
        yield from (f"Not measured: {what}.\n" for what in report.missing)


def _bars(reports: Sequence[Report]) -> Iterator[str]:
    yield "## What was to be reached\n"
    yield "| what | bar | | measured |"
    yield "| --- | --- | --- | --- |"
    for bar, (what, wanted) in BARS.items():
        if bar == "guarantees":
            elsewhere = "not measured here: [the tests hold it](../guarantees.md)"
            yield f"| {what} | {wanted} | | {elsewhere} |"
            continue
        found = [report for report in reports if bar in report.figures]
        figures = [figure for report in found for figure in report.figures[bar]]
        quick = " (a quick run)" if any(report.quick for report in found) else ""
        yield f"| {what} | {wanted} | {_verdict(figures)}{quick} | {_measured(figures)} |"
    yield "\nBold: not enough. A quick run has two or three small rounds: a look, no more.\n"


def _verdict(figures: Sequence[Figure]) -> str:
    if not figures:
        return "not measured"
    if all(figure.limit == 0 for figure in figures):
        return "stated"
    missed = sum(not figure.reached for figure in figures)
    if not missed:
        return "reached"
    return "not reached" if missed == len(figures) else "reached in part"


def _measured(figures: Sequence[Figure]) -> str:
    return "; ".join(map(_words, figures))


def _words(figure: Figure) -> str:
    text = f"{figure.what}: {_number(figure.value)}{figure.unit and ' ' + figure.unit}"
    return text if figure.reached else f"**{text}**"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
