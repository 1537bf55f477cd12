"""A request with and without a mail, on real gunicorn: CPU of the worker, and latency.

One worker per contestant, each with its own database; one client with one request at a time. CPU
counts the worker process and so holds everything that is done after the response as well: a round
ends when the worker has delivered what it recorded.
"""

from __future__ import annotations

import http.client
import sqlite3
import statistics
import time
from contextlib import ExitStack, closing
from pathlib import Path

from tests.benchmarks.measuring import Scope, Series, cpu_seconds, in_turns, spread, table
from tests.benchmarks.smtp_sink import SmtpSink
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer

_NOTHING = "nothing"
_REFERENCE = "json.dumps and one INSERT"
_FACTORY = "tests.benchmarks.bench_site:create_app"


class _Site:
    """One contestant: a server with one worker, and a client."""

    def __init__(self, server: WebServer, database: Path) -> None:
        self.database = database
        self.worker = server.worker_pids()
        self._client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def request(self) -> float:
        """Seconds until the answer to one request was there."""
        started = time.perf_counter()
        self._client.request("GET", "/")
        answer = self._client.getresponse()
        answer.read()
        seconds = time.perf_counter() - started
        assert answer.status == 200
        return seconds

    def round(self, requests: int) -> tuple[float, float]:
        """CPU per request and median latency, both in milliseconds."""
        before = cpu_seconds(self.worker)
        latencies = [self.request() for _ in range(requests)]
        self._wait_until_sent()
        cpu = cpu_seconds(self.worker) - before
        return cpu / requests * 1000, statistics.median(latencies) * 1000

    def _wait_until_sent(self) -> None:
        """What the worker's own threads still have in hand belongs to the round."""
        if self.database.exists():
            with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
                wait_until(lambda: not _in_hand(connection), message="mail is still being sent")

    def left_behind(self) -> int:
        """Mails that the worker had no room for, and left to the sweep."""
        with closing(sqlite3.connect(self.database)) as connection:
            return int(
                connection.execute(
                    "SELECT count(*) FROM deferred_mail_job WHERE status = 'pending'"
                ).fetchone()[0]
            )

    def close(self) -> None:
        self._client.close()


def _in_hand(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM deferred_mail_job WHERE status = 'sending' LIMIT 1")
    return found.fetchone() is not None


def run(scope: Scope) -> None:
    """Measure and print, for both kinds of worker."""
    with SmtpSink() as sink:
        for kind in ("gunicorn-gthread", "gunicorn-sync"):
            _run(scope, kind, sink)


def _run(scope: Scope, kind: str, sink: SmtpSink) -> None:
    contestants = {
        _NOTHING: {"BENCH_VIEW": "nothing"},
        _REFERENCE: {"BENCH_VIEW": "insert"},
        "a mail, recorded": _mail("none", "null:"),
        "a mail, recorded and delivered to null:": _mail("thread", "null:"),
        "a mail, recorded and delivered by SMTP": _mail("thread", sink.url),
    }
    cpu, latency = Series(), Series()
    with ExitStack() as stack:
        sites = {}
        for number, (name, env) in enumerate(contestants.items()):
            folder = scope.folder / f"{kind}-{number}"
            folder.mkdir()
            sites[name] = _start(stack, kind, folder, env)
        for site in sites.values():
            site.round(scope.of(60, 20))

        def measure(name: str) -> None:
            milliseconds, middle = sites[name].round(scope.of(300, 100))
            cpu.add(name, milliseconds)
            latency.add(name, middle)

        in_turns(scope.of(7, 3), list(sites), measure)
        _print(kind, list(sites), cpu, latency)
        for name, env in contestants.items():
            if env.get("FLASK_DEFERRED_MAIL_DISPATCH") == "thread":
                print(f"({name}: {sites[name].left_behind()} left to the sweep)")


def _mail(dispatch: str, transport: str) -> dict[str, str]:
    return {
        "BENCH_VIEW": "mail",
        "FLASK_DEFERRED_MAIL_DISPATCH": dispatch,
        "FLASK_DEFERRED_MAIL_TRANSPORT": transport,
    }


def _start(stack: ExitStack, kind: str, folder: Path, env: dict[str, str]) -> _Site:
    database = folder / "mail.sqlite3"
    places = {
        "BENCH_DATABASE": str(folder / "reference.sqlite3"),
        "FLASK_DEFERRED_MAIL_DATABASE_URI": f"sqlite:///{database}",
    }
    # The others' turns last longer than gunicorn's two seconds for an idle connection.
    options = ("--keep-alive=75",)
    server = WebServer(kind, _FACTORY, folder / "log", env={**env, **places}, options=options)
    site = _Site(stack.enter_context(server), database)
    stack.callback(site.close)
    return site


def _print(kind: str, names: list[str], cpu: Series, latency: Series) -> None:
    def row(name: str) -> tuple[str, ...]:
        figures = [spread(cpu.of(name))]
        figures += [spread(cpu.ratios(name, base)) for base in (_NOTHING, _REFERENCE)]
        figures += [spread(latency.of(name))]
        figures += [spread(latency.ratios(name, base)) for base in (_NOTHING, _REFERENCE)]
        return (name, *figures)

    table(
        f"A request on {kind}, one worker, one client",
        (
            "the view does",
            "CPU, ms",
            "CPU / nothing",
            "CPU / INSERT",
            "p50, ms",
            "p50 / nothing",
            "p50 / INSERT",
        ),
        [row(name) for name in names],
    )
