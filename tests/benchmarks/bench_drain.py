"""How fast a pile of mail goes out over loopback: ours, smtp-source as the limit, and others.

Rates from the first mail to the last one at Postfix's ``smtp-sink``; ours also wait for the last
outcome in the database.
"""

from __future__ import annotations

import math
import statistics
from contextlib import ExitStack

from tests.benchmarks import programs
from tests.benchmarks.arrivals import Arrivals, any_sink
from tests.benchmarks.grown import kinds
from tests.benchmarks.measuring import Scope, Series, in_turns, spread
from tests.benchmarks.senders import Ours, PostOffice, Sender, Turn, attempted, queues, smtp_source
from tests.support.databases import fresh_database

LIMIT = "smtp-source -s 10"
_POST_OFFICE = "django-post_office, 2 x 5 threads"
_PREFORK = "Celery prefork -c 2"
#: Processes and connections of each.
_WORKERS = ((1, 1), (1, 16), (2, 4), (2, 16))


def run(scope: Scope) -> None:
    """Measure and print, for SQLite and PostgreSQL."""
    with ExitStack() as stack:
        sink = stack.enter_context(any_sink())
        senders = _ours(scope, stack, sink)
        senders |= _others(scope, stack, sink)
        _run(scope, senders, sink)


def _ours(scope: Scope, stack: ExitStack, sink: Arrivals) -> dict[str, Sender]:
    found: dict[str, Sender] = {}
    wanted = scope.databases or ("sqlite", "postgresql")
    here = list(kinds(wanted))
    for kind in sorted({*wanted} - {*here}):
        scope.report.left_out(f"{_LABELS[kind]} is not on this machine")
    for kind in here:
        ways = [
            (f"worker {p} x {c}", ("worker", "--processes", p, "--concurrency", c))
            for p, c in (_WORKERS if kind == "sqlite" else _WORKERS[1:])
        ]
        if kind == "sqlite":
            ways.append(("sweep, 4 threads", ("sweep", "--concurrency", 4)))
        if scope.quick:
            ways = [way for way in ways if way[0] in ("worker 1 x 16", "worker 2 x 16")]
        for label, command in ways:
            folder = scope.folder / f"{kind} {label}".replace(" ", "-")
            folder.mkdir()
            url = stack.enter_context(fresh_database(kind, folder))
            ours = Ours(folder, url, sink.url, *command)
            stack.callback(ours.close)
            found[f"ours, {label}, {_LABELS[kind]}"] = ours
    return found


_LABELS = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


def _others(scope: Scope, stack: ExitStack, sink: Arrivals) -> dict[str, Sender]:
    found: dict[str, Sender] = {_POST_OFFICE: PostOffice(scope.folder / "django", sink)}
    try:
        every = queues(sink, stack.enter_context(programs.redis()))
    except programs.Missing as reason:
        scope.report.left_out(str(reason))
        return found
    return found | ({_PREFORK: every[_PREFORK]} if scope.quick else every)


class _Found:
    def __init__(self) -> None:
        self.rate, self.cpu, self.memory = Series(), Series(), Series()

    def add(self, name: str, figures: Turn) -> None:
        self.rate.add(name, figures.rate)
        self.cpu.add(name, figures.cpu)
        self.memory.add(name, figures.memory)


def _run(scope: Scope, senders: dict[str, Sender], sink: Arrivals) -> None:
    mails, found = scope.of(5000, 1500), _Found()
    names = list(senders)
    try:
        programs.find("smtp-source")
        names.append(LIMIT)
    except programs.Missing as reason:
        scope.report.left_out(str(reason))

    def measure(name: str) -> None:
        if name == LIMIT:
            found.rate.add(name, smtp_source(sink, 10, mails))
        else:
            number = max(scope.of(60, 20), int(mails * senders[name].share))
            found.add(name, attempted(scope.report, name, senders[name], sink, number))

    in_turns(scope.of(5, 2), names, measure)
    _tell(scope, found, names)


def _tell(scope: Scope, found: _Found, names: list[str]) -> None:
    base = LIMIT if LIMIT in names else names[0]
    rows = []
    for name in sorted(names, key=lambda name: -_middle(found.rate.of(name))):
        own = name != LIMIT
        rows.append(
            (
                name,
                spread(found.rate.of(name), 0),
                spread(found.rate.ratios(name, base), 3),
                spread(found.cpu.of(name)) if own else "",
                spread(found.memory.of(name), 0) if own else "",
            )
        )
    scope.report.table(
        "A pile of mail over loopback",
        ("sender", "mails/s", f"rate / {base}", "CPU, ms/mail", "memory, MiB PSS"),
        rows,
        "`smtp-source` is C, keeps its connections and has one mail in memory; it writes nothing "
        "down. CPU and memory: all processes of the sender, without Redis and PostgreSQL. The "
        "slower ones got fewer mails (60 to 1,000 of 5,000), so that a round ends. "
        "django-post_office writes its statuses after each batch of 1,000, which its rate does "
        "not hold.",
    )
    scope.report.plot(
        "drain", "Drain over loopback", "mails/s", {row[0]: found.rate.of(row[0]) for row in rows}
    )
    _bars(scope, found, names)


def _middle(values: list[float]) -> float:
    whole = [value for value in values if not math.isnan(value)]
    return statistics.median(whole) if whole else 0.0


def _bars(scope: Scope, found: _Found, names: list[str]) -> None:
    report = scope.report
    for kind in _LABELS.values():
        ours = [name for name in names if name.startswith("ours") and name.endswith(kind)]
        if not ours:
            continue
        best = max(ours, key=lambda name: _middle(found.rate.of(name)))
        label = best.removeprefix("ours, ")
        if LIMIT in names:
            report.at_least("drain", label, found.rate.ratios(best, LIMIT), 0.5, "x")
        for peer, times in ((_POST_OFFICE, 4), (_PREFORK, 15)):
            if peer in names:
                ratios = found.rate.ratios(best, peer)
                report.at_least("drain-peers", f"{label} / {peer}", ratios, times, "x")
        report.at_most("drain-cpu", label, found.cpu.of(best), 0.4, "ms")
    for name in names:
        if name.startswith("ours, worker 1 x 16"):
            report.at_most("memory", name.removeprefix("ours, "), found.memory.of(name), 50, "MiB")
