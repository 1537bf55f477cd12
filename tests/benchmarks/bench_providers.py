"""The drain through HTTP providers, with a local server in their place."""

from __future__ import annotations

from contextlib import ExitStack

from tests.benchmarks.arrivals import Arrivals, any_sink, cpu_of, http_sink
from tests.benchmarks.measuring import Scope, Series, in_turns, spread
from tests.benchmarks.senders import Ours, attempted
from tests.support.databases import fresh_database

#: Provider -> its transport; the endpoint comes behind.
_URLS = {
    "SendCloud": "sendcloud://user:key@default",
    "Postmark": "postmark://token@default",
    "Resend": "resend://key@default",
    "Brevo": "brevo://key@default",
}
_SMTP = "for comparison: SMTP, loopback, 8 connections"
_DELAY = 0.05


def run(scope: Scope) -> None:
    """Measure and print."""
    with ExitStack() as stack:
        near, far = (stack.enter_context(http_sink(delay)) for delay in (0.0, _DELAY))
        mail_server = stack.enter_context(any_sink())
        ways: dict[str, tuple[str, Arrivals, int]] = {_SMTP: (mail_server.url, mail_server, 8)}
        for provider, url in _URLS.items():
            address = f"{url}?endpoint=http://127.0.0.1"
            ways[f"ours, {provider}, loopback, 8 connections"] = (
                f"{address}:{near.port}",
                near,
                8,
            )
        for connections in (32, 128):
            ways[f"ours, SendCloud, answers 50 ms late, {connections} connections"] = (
                f"{_URLS['SendCloud']}?endpoint=http://127.0.0.1:{far.port}",
                far,
                connections,
            )
        if scope.quick:
            ways = {name: ways[name] for name in list(ways)[:2] + list(ways)[-1:]}
        _run(scope, stack, ways)


def _run(scope: Scope, stack: ExitStack, ways: dict[str, tuple[str, Arrivals, int]]) -> None:
    workers = {}
    for number, (name, (url, _, connections)) in enumerate(ways.items()):
        folder = scope.folder / str(number)
        folder.mkdir()
        database = stack.enter_context(fresh_database("sqlite", folder))
        worker = Ours(folder, database, url, "worker", "--concurrency", connections)
        stack.callback(worker.close)
        workers[name] = worker
    rate, cpu, server = Series(), Series(), Series()

    def measure(name: str) -> None:
        sink, mails = ways[name][1], scope.of(1500, 300)
        before = cpu_of(sink)
        figures = attempted(scope.report, name, workers[name], sink, mails)
        rate.add(name, figures.rate)
        cpu.add(name, figures.cpu)
        server.add(name, (cpu_of(sink) - before) / mails * 1000)

    in_turns(scope.of(5, 2), list(workers), measure)
    scope.report.table(
        "Through HTTP providers, one worker process, SQLite",
        ("provider", "mails/s", "rate / SMTP", "CPU, ms/mail", "the server's CPU, ms/mail"),
        [
            (
                name,
                spread(rate.of(name), 0),
                spread(rate.ratios(name, _SMTP)),
                spread(cpu.of(name)),
                spread(server.of(name)),
            )
            for name in workers
        ],
        "One call for each mail, over kept connections, without TLS. Where our CPU times the rate "
        "comes to a second a second, one core (one process) is the limit, and not the server.",
    )
    for name in workers:
        if name != _SMTP:
            label = name.removeprefix("ours, ")
            scope.report.state("providers", label, rate.of(name), "mails/s")
            scope.report.state("providers", "its CPU", cpu.of(name), "ms/mail")
    plot = {name: rate.of(name) for name in workers}
    scope.report.plot("providers", "Through HTTP providers, one process", "mails/s", plot)
