"""The same against a server that is 50 ms away: round trips and connections decide."""

from __future__ import annotations

from contextlib import ExitStack

from tests.benchmarks import programs
from tests.benchmarks.arrivals import Arrivals, cpu_of, late_sink
from tests.benchmarks.measuring import Scope, Series, in_turns, spread
from tests.benchmarks.senders import Ours, PostOffice, Sender, attempted, queues, smtp_source
from tests.support.databases import fresh_database

#: Seconds by which every reply is late.
DELAY = 0.05
_BARS = {32: 300, 128: 1500}
_SOURCE = "smtp-source -s 32"


def run(scope: Scope) -> None:
    """Measure and print."""
    with ExitStack() as stack:
        sink = stack.enter_context(late_sink(DELAY))
        senders: dict[str, tuple[Sender, int]] = {}
        for connections in _BARS:
            folder = scope.folder / str(connections)
            folder.mkdir()
            url = stack.enter_context(fresh_database("sqlite", folder))
            options = ("worker", "--concurrency", connections)
            ours = Ours(folder, url, sink.url, *options)
            stack.callback(ours.close)
            mails = _BARS[connections] * scope.of(5, 2)
            senders[_name(connections)] = (ours, mails)
        if not scope.quick:
            senders[_POST_OFFICE] = (PostOffice(scope.folder / "django", sink), 150)
        try:
            every = queues(sink, stack.enter_context(programs.redis()))
            some = ("Celery threads -c 32",) if scope.quick else _SOME
            senders |= {name: (every[name], scope.of(200, 60)) for name in some}
        except programs.Missing as reason:
            scope.report.left_out(str(reason))
        _run(scope, senders, sink)


_POST_OFFICE = "django-post_office, 2 x 5 threads"
_SOME = ("Celery prefork -c 2", "Celery threads -c 32", "Dramatiq 2 x 8", "Huey, 8 threads")


def _name(connections: int) -> str:
    return f"ours, one process, {connections} connections"


def _run(scope: Scope, senders: dict[str, tuple[Sender, int]], sink: Arrivals) -> None:
    rate, cpu, memory, server = Series(), Series(), Series(), Series()
    names = list(senders)
    try:
        programs.find("smtp-source")
        names.append(_SOURCE)
    except programs.Missing as reason:
        scope.report.left_out(str(reason))

    def measure(name: str) -> None:
        if name == _SOURCE:
            rate.add(name, smtp_source(sink, 32, scope.of(600, 200)))
            return
        sender, mails = senders[name]
        before, come = cpu_of(sink), sink.count
        figures = attempted(scope.report, name, sender, sink, mails)
        server.add(name, (cpu_of(sink) - before) / max(1, sink.count - come) * 1000)
        rate.add(name, figures.rate)
        cpu.add(name, figures.cpu)
        memory.add(name, figures.memory)

    in_turns(scope.of(5, 2), names, measure)
    rows = []
    for name in names:
        others = [""] * 3
        if name != _SOURCE:
            others = [spread(cpu.of(name)), spread(memory.of(name), 0), spread(server.of(name))]
        rows.append((name, spread(rate.of(name), 0), *others))
    scope.report.table(
        f"Every reply {DELAY * 1000:.0f} ms late",
        ("sender", "mails/s", "CPU, ms/mail", "memory, MiB PSS", "the server's CPU, ms/mail"),
        rows,
        "The server is one of ours, in Python (`tests/benchmarks/smtp_sink.py`): Postfix's cannot "
        "be late by less than a second. It offers PIPELINING; what arrives in one write is "
        "answered in one, 50 ms later.",
    )
    scope.report.plot(
        "slow", "Drain, every reply 50 ms late", "mails/s", {name: rate.of(name) for name in names}
    )
    for connections, least in _BARS.items():
        name = _name(connections)
        scope.report.at_least("slow", f"{connections} connections", rate.of(name), least, "mails/s")
