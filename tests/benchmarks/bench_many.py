"""``send_many`` of ten thousand mails against the driver's own way for many rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.benchmarks.bare_rows import Bare
from tests.benchmarks.grown import grown, kinds
from tests.benchmarks.measuring import MAIL, Scope, Series, in_turns, spread
from tests.support.mail_app import MailApp

_BARE, _PLAIN, _KEYS = "`executemany` of a bare INSERT", "`send_many`", "`send_many`, with keys"


def run(scope: Scope) -> None:
    """Measure and print, for every database."""
    for kind in kinds(scope.databases):
        _run(scope, kind, scope.of(10_000, 1_000))


def _run(scope: Scope, kind: str, mails: int) -> None:
    folder = scope.folder / kind
    with ExitStack() as stack:
        database = stack.enter_context(grown(kind, folder))
        url = database.backend.url.render_as_string(hide_password=False)
        app = MailApp(folder, "null:", DEFERRED_MAIL_DATABASE_URI=url)
        stack.callback(app.close)
        bare = Bare(kind, url)
        stack.callback(bare.close)
        stack.enter_context(app.app.app_context())
        rounds = scope.of(5, 3)
        ways: dict[str, Callable[[int], object]] = {
            _BARE: lambda _: bare.add_many(mails),
            _PLAIN: lambda _: app.mail.send_many([MAIL] * mails),
            _KEYS: lambda turn: app.mail.send_many(
                [{**MAIL, "key": f"{turn}.{number}"} for number in range(mails)]
            ),
        }
        seconds = Series()

        def measure(name: str) -> None:
            started = time.perf_counter()
            ways[name](time.monotonic_ns())
            seconds.add(name, time.perf_counter() - started)

        app.mail.send_many([MAIL] * 100)
        in_turns(rounds, list(ways), measure)
        scope.report.table(
            f"{mails:,} mails in one transaction: {kind}",
            ("what", "s", "mails/s", "times INSERT"),
            [
                (
                    name,
                    spread(seconds.of(name)),
                    spread((mails / s for s in seconds.of(name)), 0),
                    spread(seconds.ratios(name, _BARE)),
                )
                for name in ways
            ],
        )
