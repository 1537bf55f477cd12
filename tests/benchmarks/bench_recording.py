"""Recording one mail against one bare INSERT: in a transaction of its own, and in the caller's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from flask_deferred_mail.message import Message
from flask_deferred_mail.store.jobs import JobStore
from tests.benchmarks.bare_rows import Bare
from tests.benchmarks.grown import grown, kinds
from tests.benchmarks.measuring import MAIL, Scope, Series, in_turns, spread
from tests.support.mail_app import MailApp

_BARE, _STORE, _CALL = "one bare INSERT", "the store's part", "`send_after_response`"
_BARE_JOINED, _CALL_JOINED = "order and bare INSERT", "order and `session=`"


class _Contest:
    """All contestants on one database; each gives its time for one mail in microseconds."""

    def __init__(self, kind: str, url: str, app: MailApp, stack: ExitStack) -> None:
        self.bare = Bare(kind, url)
        stack.callback(self.bare.close)
        self.app = app
        self.store = JobStore(app.runtime.database)
        self.submission = app.mail.for_app(app.app)._submission(Message(**MAIL))
        self.engine = _engine(url)
        stack.callback(self.engine.dispose)
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE bench_order (item VARCHAR(50) NOT NULL)"))
        self.session = stack.enter_context(Session(self.engine))

    def ways(self) -> dict[str, Callable[[], object]]:
        return {
            _BARE: self.bare.add,
            _STORE: lambda: self.store.add(self.submission),
            _CALL: lambda: self.app.mail.send_after_response(**MAIL),
            _BARE_JOINED: self._bare_joined,
            _CALL_JOINED: self._joined,
        }

    def _bare_joined(self) -> None:
        cursor = self.bare.cursor
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO bench_order VALUES ('tea')")
        self.bare.add()
        cursor.execute("COMMIT")

    def _joined(self) -> None:
        self.session.execute(_ORDER)
        self.app.mail.send_after_response(**MAIL, session=self.session)
        self.session.commit()

    def measure(self, way: Callable[[], object], times: int) -> tuple[float, float]:
        """Microseconds per mail by the clock, and of this process's CPU."""
        # Outside of what is measured: the driver needs no context, and should not pay for one.
        with self.app.app.app_context():
            started, cpu = time.perf_counter(), time.process_time()
            for _ in range(times):
                way()
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        return seconds / times * 1e6, cpu / times * 1e6

    def inside(self, times: int) -> Iterator[tuple[str, float]]:
        """The mail alone, in a transaction that is open anyway: bare, then ours."""
        self.bare.cursor.execute("BEGIN")
        self.bare.cursor.execute("INSERT INTO bench_order VALUES ('tea')")
        yield _BARE, self.measure(self.bare.add, times)[0]
        self.bare.cursor.execute("COMMIT")
        self.session.execute(_ORDER)
        joined = partial(self.app.mail.send_after_response, **MAIL, session=self.session)
        yield _CALL, self.measure(joined, times)[0]
        self.session.commit()


_ORDER = text("INSERT INTO bench_order VALUES ('tea')")


def _engine(url: str) -> Engine:
    """As an application's own; on SQLite with the store's settings."""
    engine = create_engine(url)
    if make_url(url).get_backend_name() == "sqlite":
        # WAL stays in the file; FULL is SQLite's default.
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    return engine


@contextmanager
def _contest(scope: Scope, kind: str) -> Iterator[_Contest]:
    folder = scope.folder / kind
    with ExitStack() as stack:
        database = stack.enter_context(grown(kind, folder))
        url = database.backend.url.render_as_string(hide_password=False)
        app = MailApp(folder, "null:", DEFERRED_MAIL_DATABASE_URI=url)
        stack.callback(app.close)
        yield _Contest(kind, url, app, stack)


def run(scope: Scope) -> None:
    """Measure and print, for every database."""
    for kind in kinds(scope.databases):
        with _contest(scope, kind) as contest:
            _run(scope, kind, contest)


def _run(scope: Scope, kind: str, contest: _Contest) -> None:
    clock, cpu, inside = Series(), Series(), Series()
    ways = contest.ways()
    for way in ways.values():
        contest.measure(way, 20)

    def measure(name: str) -> None:
        microseconds, busy = contest.measure(ways[name], scope.of(100, 50))
        clock.add(name, microseconds)
        cpu.add(name, busy)

    rounds = scope.of(15, 5)
    in_turns(rounds, list(ways), measure)
    for _ in range(rounds):
        for name, microseconds in contest.inside(scope.of(200, 50)):
            inside.add(name, microseconds)
    rows = []
    for names in ((_BARE, _STORE, _CALL), (_BARE_JOINED, _CALL_JOINED)):
        for name in names:
            figures = (
                spread(clock.of(name), 0),
                spread(clock.ratios(name, names[0])),
                spread(cpu.of(name), 0),
                spread(cpu.ratios(name, names[0])),
            )
            rows.append((name, *figures))
    for name in (_BARE, _CALL):
        ratio = spread(inside.ratios(name, _BARE))
        rows.append((f"{name}, inside alone", spread(inside.of(name), 0), ratio, "", ""))
    scope.report.table(
        f"Recording one mail: {kind}",
        ("what", "µs", "times INSERT", "CPU here, µs", "times INSERT"),
        rows,
    )
