"""A view that sends a mail, in every way there is, behind gunicorn: latency and CPU.

Each contestant has a server of its own (gthread, two processes of four threads). A round is three
short turns with one client (p50, CPU) and one with eight (p99, requests per second). CPU is that of
the web processes and holds what they do after the response too: a turn ends when they are done.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import client, processes, programs
from tests.benchmarks.arrivals import Arrivals, any_sink
from tests.benchmarks.measuring import Scope, Series, in_turns, spread
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT, WebServer

FLOOR, INSERT = "Flask, nothing is sent", "json.dumps and one INSERT"
RECORDED, SENT = "ours, recorded", "ours, recorded and sent by SMTP"
DJANGO = "Django, nothing is sent"
_FLASK, _DJANGO = (f"tests.benchmarks.{module}:create_app" for module in ("sites", "django_site"))
_TURNS = 3
#: Clients of the first requests, which nobody looks at.
_WARMING = 4


@dataclass(frozen=True)
class _Way:
    """One contestant: its view, and what it needs and leaves behind."""

    view: str
    env: dict[str, str] = field(default_factory=dict)
    factory: str = _FLASK
    floor: str = FLOOR
    redis: bool = False
    #: The web process sends, after the response.
    sends_later: bool = False
    #: So slow that fewer requests must do.
    slow: bool = False


def _ours(dispatch: str) -> dict[str, str]:
    return {"FLASK_DEFERRED_MAIL_DISPATCH": dispatch}


WAYS: dict[str, _Way] = {
    FLOOR: _Way("nothing"),
    INSERT: _Way("insert"),
    RECORDED: _Way("ours", _ours("none")),
    SENT: _Way("ours", _ours("thread"), sends_later=True),
    "Huey, put into Redis": _Way("huey", redis=True),
    "Dramatiq, put into Redis": _Way("dramatiq", redis=True),
    "RQ, put into Redis": _Way("rq", redis=True),
    "Celery, put into Redis": _Way("celery", redis=True),
    "Flask-Mail in the view": _Way("flask-mail", slow=True),
    "a thread for each mail": _Way("thread", sends_later=True, slow=True),
    DJANGO: _Way("nothing", factory=_DJANGO, floor=DJANGO),
    "django-post_office, recorded": _Way("post_office", factory=_DJANGO, floor=DJANGO),
}
#: Beside whose mail a view that sends nothing is measured.
_BESIDE = (FLOOR, SENT, "Flask-Mail in the view", "a thread for each mail")


class _Site:
    """A server of one contestant."""

    def __init__(self, way: _Way, server: WebServer, folder: Path, sink: Arrivals) -> None:
        self.way, self.server, self.sink = way, server, sink
        self.database = folder / "ours.sqlite3"
        #: Clients -> mails asked for, and mails that the web processes sent themselves.
        self.delivered: dict[int, list[int]] = {}

    def ask(self, requests: int, **plan: int) -> tuple[dict[str, list[float]], float, float]:
        """Seconds of each request by path, of CPU per request, and requests per second.

        ``plan``: ``view`` and ``plain`` -> connections.
        """
        paths = {"view": "/", "plain": "/plain"}
        before, come = processes.cpu(self.server.pid), self.sink.count
        options = [f"{paths[name]}={number}" for name, number in plan.items()]
        command = [sys.executable, "-I", "-S", client.__file__, str(self.server.port)]
        answer = subprocess.run(
            [*command, str(requests), *options], stdout=subprocess.PIPE, check=True
        )
        times = {name: json.loads(answer.stdout).get(path) for name, path in paths.items()}
        asked = sum(len(seconds) for seconds in times.values() if seconds)
        if self.way.sends_later:
            self._wait(come, len(times["view"]))
            tally = self.delivered.setdefault(sum(plan.values()), [0, 0])
            tally[0] += len(times["view"])
            tally[1] += self.sink.count - come
        cpu = (processes.cpu(self.server.pid) - before) / asked
        busy = sum(sum(seconds) for seconds in times.values() if seconds)
        return times, cpu, asked / (busy / sum(plan.values()))

    def _wait(self, come: int, mails: int) -> None:
        """Until the web processes have nothing more in hand."""
        if self.way.view == "ours":
            address = f"file:{self.database}?mode=ro"
            with closing(sqlite3.connect(address, uri=True)) as connection:
                wait_until(lambda: not _in_hand(connection), 60, "mail is still being sent")
        else:
            wait_until(lambda: self.sink.count >= come + mails, 60, "mail is still being sent")


def _in_hand(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM deferred_mail_job WHERE status = 'sending' LIMIT 1")
    return found.fetchone() is not None


def run(scope: Scope) -> None:
    """Measure, for one and for eight clients, and beside mail that is being sent."""
    with ExitStack() as stack:
        sink = stack.enter_context(any_sink())
        ways, env = dict(WAYS), {"BENCH_SINK": str(sink.port)}
        try:
            env["BENCH_REDIS"] = str(stack.enter_context(programs.redis()))
        except programs.Missing as reason:
            scope.report.left_out(str(reason))
            ways = {name: way for name, way in ways.items() if not way.redis}
        sites = {name: _start(stack, scope, name, way, env, sink) for name, way in ways.items()}
        for site in sites.values():
            site.ask(50, view=_WARMING)
        _latency(scope, sites, env)
        _beside(scope, {name: sites[name] for name in _BESIDE})
        _delivered(scope, sites[SENT])


def _start(
    stack: ExitStack, scope: Scope, name: str, way: _Way, env: dict[str, str], sink: Arrivals
) -> _Site:
    folder = scope.folder / str(list(WAYS).index(name))
    folder.mkdir()
    env = {
        **env,
        **way.env,
        "BENCH_VIEW": way.view,
        "BENCH_FOLDER": str(folder),
        "FLASK_DEFERRED_MAIL_DATABASE_URI": f"sqlite:///{folder}/ours.sqlite3",
        "FLASK_DEFERRED_MAIL_TRANSPORT": sink.url,
    }
    if way.view == "post_office":
        command = [sys.executable, "-m", "tests.benchmarks.django_site", "migrate"]
        subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, check=True)
    # The others' turns last longer than gunicorn's two seconds for an idle connection.
    options = ("--keep-alive=75",)
    server = WebServer(
        "gunicorn-gthread", way.factory, folder / "log", env=env, options=options, workers=2
    )
    return _Site(way, stack.enter_context(server), folder, sink)


class _Found:
    """All series of the contest."""

    def __init__(self) -> None:
        self.p50, self.cpu, self.p99, self.rate = Series(), Series(), Series(), Series()

    def added(self, name: str) -> list[float]:
        """Milliseconds of p50 over the same framework's empty view, round by round."""
        pairs = zip(self.p50.of(name), self.p50.of(WAYS[name].floor), strict=True)
        return [value - floor for value, floor in pairs]

    def added_ratios(self, name: str) -> list[float]:
        """The same in units of what the reference adds."""
        pairs = zip(self.added(name), self.added(INSERT), strict=True)
        return [value / unit if unit > 0 else float("nan") for value, unit in pairs]


def _latency(scope: Scope, sites: dict[str, _Site], env: dict[str, str]) -> None:
    found = _Found()
    for _ in range(scope.of(5, 3)):
        times: dict[str, list[float]] = {name: [] for name in sites}
        cpus: dict[str, list[float]] = {name: [] for name in sites}

        def alone(name: str, times: dict[str, list[float]], cpus: dict[str, list[float]]) -> None:
            requests = scope.of(300, 60) // (3 if WAYS[name].slow else 1)
            answers, cpu, _ = sites[name].ask(requests, view=1)
            times[name] += answers["view"]
            cpus[name].append(cpu)

        in_turns(_TURNS, list(sites), lambda name, t=times, c=cpus: alone(name, t, c))
        for name in sites:
            found.p50.add(name, statistics.median(times[name]) * 1000)
            found.cpu.add(name, statistics.mean(cpus[name]) * 1000)

        def crowd(name: str) -> None:
            requests = scope.of(1500, 400) // (5 if WAYS[name].slow else 1)
            answers, _, rate = sites[name].ask(requests, view=8)
            found.p99.add(name, _p99(answers["view"]))
            found.rate.add(name, rate)

        in_turns(1, list(sites), crowd)
        _empty(env)
    _tell(scope, found, list(sites))


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


def _empty(env: dict[str, str]) -> None:
    """What the queues hold: nobody takes it, and it should not grow."""
    if "BENCH_REDIS" in env:
        from redis import Redis

        with Redis(port=int(env["BENCH_REDIS"])) as connection:
            connection.flushall()


def _tell(scope: Scope, found: _Found, names: list[str]) -> None:
    rows = []
    for name in names:
        floor = WAYS[name].floor
        is_floor = floor == name
        rows.append(
            (
                name,
                spread(found.cpu.of(name)),
                spread(found.cpu.ratios(name, floor)),
                "" if is_floor else spread(found.added(name)),
                "" if is_floor else spread(found.added_ratios(name)),
                spread(found.p99.of(name), 1),
                spread(found.p99.ratios(name, floor)),
                spread(found.rate.ratios(name, floor)),
            )
        )
    heads = ("the view", "CPU, ms", "CPU / nothing", "p50 added, ms", "added / INSERT's")
    heads += ("p99 of 8 clients, ms", "p99 / nothing", "requests/s of 8 clients / nothing")
    note = (
        "CPU is that of the web processes. Of what is put into a queue, the workers' and Redis' "
        "share is not in it, nor is the delivery; in *recorded and sent* and in the lines of "
        "Flask-Mail and threads all of it is. Django's lines are compared with Django's empty view."
    )
    scope.report.table("A view that sends a mail", heads, rows, note)
    others = [name for name in names if WAYS[name].floor != name]
    added = {name: found.added(name) for name in others}
    scope.report.plot("request-added", "p50 that a mail adds to a view", "ms, one client", added)
    cpu = {name: found.cpu.of(name) for name in names}
    scope.report.plot("request-cpu", "CPU of the web processes", "ms a request, one client", cpu)
    late = {name: found.p99.of(name) for name in names}
    scope.report.plot("request-p99", "p99 of the view, eight clients", "ms", late)
    report = scope.report
    report.at_most("added", "recorded", found.added_ratios(RECORDED), 1.8, "x")
    report.at_most("added", "recorded, the aim of 1.3", found.added_ratios(RECORDED), 1.3, "x")
    report.at_most("request-cpu", "recorded and sent", found.cpu.ratios(SENT, FLOOR), 2.0, "x")
    report.at_most("p99", "recorded", found.p99.ratios(RECORDED, FLOOR), 2.0, "x")
    report.at_most("p99", "recorded and sent", found.p99.ratios(SENT, FLOOR), 2.0, "x")


def _beside(scope: Scope, sites: dict[str, _Site]) -> None:
    """The p99 of a view that sends nothing, on the server whose other view sends."""
    p50, p99 = Series(), Series()

    def measure(name: str) -> None:
        requests = scope.of(1000, 200) // (5 if WAYS[name].slow else 1)
        answers, _, _ = sites[name].ask(requests, view=4, plain=4)
        p50.add(name, statistics.median(answers["plain"]) * 1000)
        p99.add(name, _p99(answers["plain"]))

    in_turns(scope.of(5, 3), list(sites), measure)
    scope.report.table(
        "A view that sends nothing, while another view of the same server sends",
        ("the other view", "p50, ms", "p50 / nothing", "p99, ms", "p99 / nothing"),
        [
            (
                name,
                spread(p50.of(name), 1),
                spread(p50.ratios(name, FLOOR)),
                spread(p99.of(name), 1),
                spread(p99.ratios(name, FLOOR)),
            )
            for name in sites
        ],
        "Four clients at each view, each asking again as soon as it has its answer.",
    )


def _delivered(scope: Scope, site: _Site) -> None:
    rows = [
        ("one client" if number == 1 else f"{number} clients", f"{sent / asked:.0%}")
        for number, (asked, sent) in sorted(site.delivered.items())
        if number != _WARMING
    ]
    scope.report.table(
        "Recorded and sent: mails that the web processes sent themselves",
        ("requests from", "share"),
        rows,
        "What comes faster than they can send is left to the sweep or the worker, on purpose: its "
        "delivery is then not in the CPU above.",
    )
