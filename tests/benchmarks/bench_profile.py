"""Where the CPU goes: of recording a mail, and of the drain. No comparison, for whoever optimises.

A tracing profiler with each thread's CPU clock. It makes small functions look dearer than they are;
what the kernel does in our name is in the function that called it.
"""

from __future__ import annotations

import cProfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import flask_deferred_mail
from tests.benchmarks.arrivals import any_sink
from tests.benchmarks.grown import kinds
from tests.benchmarks.measuring import MAIL, Scope
from tests.support.databases import fresh_database
from tests.support.mail_app import MailApp

_PACKAGE = str(Path(flask_deferred_mail.__file__).parent)
_CONNECTIONS = 4
#: Lines of a table.
_LONGEST = 14


def run(scope: Scope) -> None:
    """Measure and print."""
    with any_sink() as sink:
        for kind in kinds(scope.databases or ("sqlite", "postgresql")):
            folder = scope.folder / kind
            folder.mkdir()
            with fresh_database(kind, folder) as url:
                app = MailApp(
                    folder,
                    sink.url,
                    DEFERRED_MAIL_DATABASE_URI=url,
                    DEFERRED_MAIL_DISPATCH="none",
                    DEFERRED_MAIL_ATTEMPT_DEADLINE=60,
                )
                try:
                    _run(scope, kind, app)
                finally:
                    app.close()


def _run(scope: Scope, kind: str, app: MailApp) -> None:
    mails = scope.of(2000, 300)
    with app.app.app_context():
        app.runtime.database.create()
        app.mail.send_after_response(**MAIL)

        def record() -> None:
            for _ in range(mails):
                app.mail.send_after_response(**MAIL)

        _tell(scope, f"recording a mail, {kind}", _profiled(record), mails)
    what = f"sending a mail, {_CONNECTIONS} connections, {kind}"
    _tell(scope, what, _profiled(lambda: app.sweep(concurrency=_CONNECTIONS)), mails)


@contextmanager
def _every_new_thread(profiles: list[cProfile.Profile]) -> Iterator[None]:
    """Threads that begin meanwhile have a profile each."""

    def begin(_frame: FrameType, _event: str, _argument: object) -> None:
        # Takes this function's place in the thread that is just beginning.
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    threading.setprofile(begin)
    try:
        yield
    finally:
        threading.setprofile(None)


def _profiled(work: Callable[[], object]) -> Counter[str]:
    """Module or C function -> seconds of CPU in itself, of all threads."""
    profiles = [cProfile.Profile(time.thread_time)]
    with _every_new_thread(profiles):
        profiles[0].enable()
        try:
            work()
        finally:
            profiles[0].disable()
    seconds: Counter[str] = Counter()
    for profile in profiles:
        # Not by pstats: it ends what is still running, by the clock of this thread.
        for entry in profile.getstats():
            seconds[_name(entry.code)] += entry.inlinetime
    return seconds


def _tell(scope: Scope, what: str, seconds: Counter[str], mails: int) -> None:
    total = sum(seconds.values())
    rows = [
        (name, f"{spent / mails * 1e6:.0f}", f"{spent / total:.0%}")
        for name, spent in seconds.most_common(_LONGEST)
    ]
    rows.append(("all", f"{total / mails * 1e6:.0f}", "100%"))
    scope.report.table(
        f"CPU of {what}",
        ("where", "µs/mail, under the profiler", "share"),
        rows,
        "Time in the functions of a module themselves; calls into C stand by their own name.",
    )


def _name(code: CodeType | str) -> str:
    if isinstance(code, str):
        return f"`{code.strip('<>')}`"
    file = code.co_filename
    if file.startswith(_PACKAGE):
        return f"`{file[len(_PACKAGE) + 1 :]}`"
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    return "Python's `dataclasses`" if file.startswith("<") else f"Python's `{Path(file).stem}`"
