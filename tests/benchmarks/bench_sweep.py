"""How fast a sweep empties the table: claim, render, SMTP over loopback, outcome."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.benchmarks.measuring import MAIL, Scope, Series, cpu_seconds, in_turns, spread
from tests.benchmarks.smtp_sink import SmtpSink
from tests.support.mail_app import MailApp


class _Queue:
    """An app with a table of its own, and a way to sweep it."""

    def __init__(self, app: MailApp, concurrency: int, sink: SmtpSink) -> None:
        self.app, self.concurrency, self.sink = app, concurrency, sink

    def round(self, mails: int) -> tuple[float, float, float]:
        """Mails per second, and per mail the milliseconds of our CPU and of the sink's."""
        with self.app.app.app_context():
            for _ in range(mails // 100):
                self.app.mail.send_many([MAIL] * 100)
        cpu, sink_cpu = time.process_time(), cpu_seconds([self.sink.pid])
        started = time.perf_counter()
        counts = self.app.sweep(concurrency=self.concurrency)
        seconds = time.perf_counter() - started
        assert counts.sent == mails, counts
        cpu = time.process_time() - cpu
        sink_cpu = cpu_seconds([self.sink.pid]) - sink_cpu
        return mails / seconds, cpu / mails * 1000, sink_cpu / mails * 1000


@contextmanager
def _queues(scope: Scope) -> Iterator[dict[str, _Queue]]:
    with ExitStack() as stack:
        sink = stack.enter_context(SmtpSink())
        queues = {}
        ways = [(sink.url, "SMTP", n) for n in (1, 4, 8)] + [("null:", "null:", n) for n in (1, 4)]
        for number, (url, label, concurrency) in enumerate(ways):
            folder = scope.folder / str(number)
            folder.mkdir()
            app = MailApp(folder, url, DEFERRED_MAIL_ATTEMPT_DEADLINE=60)
            stack.callback(app.close)
            queues[f"{label}, concurrency {concurrency}"] = _Queue(app, concurrency, sink)
        yield queues


def run(scope: Scope) -> None:
    """Measure and print."""
    rate, cpu, sink_cpu = Series(), Series(), Series()
    with _queues(scope) as queues:
        for queue in queues.values():
            queue.round(100)

        def measure(name: str) -> None:
            figures = queues[name].round(scope.of(1000, 300))
            for series, figure in zip((rate, cpu, sink_cpu), figures, strict=True):
                series.add(name, figure)

        in_turns(scope.of(5, 3), list(queues), measure)
        base = next(iter(queues))
        scope.report.table(
            "A sweep, one process",
            (
                "transport",
                "mails/s",
                "rate / first line",
                "our CPU, ms/mail",
                "sink's CPU, ms/mail",
            ),
            [
                (
                    name,
                    spread(rate.of(name), 0),
                    spread(rate.ratios(name, base)),
                    spread(cpu.of(name)),
                    spread(sink_cpu.of(name)),
                )
                for name in queues
            ],
        )
