"""Whoever empties a queue: how it is filled, and the process that sends.

A turn of a sender: fill, start the process, watch the mails come, end the process.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import func, select

from flask_deferred_mail.store.schema import jobs
from tests.benchmarks import processes, programs, sending_app
from tests.benchmarks.arrivals import Arrivals
from tests.benchmarks.measuring import MAIL
from tests.benchmarks.report import Report
from tests.benchmarks.sending_app import an_app
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT


class Sender(Protocol):
    """One contestant."""

    #: How many mails of the full number it gets: slow ones fewer.
    share: float

    def fill(self, mails: int) -> None:
        """Put so many mails into its queue."""

    @property
    def command(self) -> Sequence[str]:
        """What sends them."""

    @property
    def env(self) -> dict[str, str]: ...

    def settle(self, mails: int) -> None:
        """Wait until the outcomes of what it has sent are written, where it writes any."""


@dataclass(frozen=True)
class Turn:
    """What one turn came to; NaN: it failed.

    CPU: milliseconds per mail, of all processes of the sender; memory: MiB of PSS, of all of them,
    at its highest."""

    rate: float = math.nan
    cpu: float = math.nan
    memory: float = math.nan


def attempted(report: Report, name: str, sender: Sender, sink: Arrivals, mails: int) -> Turn:
    """A turn; one that fails is told on the page, and does not end the contest."""
    try:
        return turn(sender, sink, mails)
    except AssertionError as error:
        report.left_out(f"a round of {name}: {error}")
        return Turn()


def turn(sender: Sender, sink: Arrivals, mails: int, patience: float = 120.0) -> Turn:
    """Fill, send, and measure from the first mail to the last one and its outcome.

    :raises AssertionError: it ended, or became silent, before all was sent.
    """
    sender.fill(mails)
    with started(sender) as process, processes.PeakMemory(process.pid) as memory:
        stretch = sink.stretch(
            mails,
            lambda: None,
            lambda: processes.cpu(process.pid),
            patience,
            lambda: _must_run(process),
        )
        arrived = time.perf_counter()
        sender.settle(mails)
        seconds = stretch.seconds + time.perf_counter() - arrived
        used = processes.cpu(process.pid) - stretch.noted[0]
    number = max(1, stretch.mails - 1)
    return Turn(number / seconds, used / number * 1000, memory.mib)


def _must_run(process: subprocess.Popen[bytes]) -> None:
    assert not process.poll(), f"the sender ended with {process.returncode}"


@contextmanager
def started(sender: Sender) -> Iterator[subprocess.Popen[bytes]]:
    """The sender's process, in a group of its own, which ends with the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            list(sender.command),
            env={**os.environ, **sender.env},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            with _ended(process):
                yield process
        except AssertionError as error:
            log.seek(0)
            words = log.read().decode("utf-8", "replace").split()[-60:]
            raise AssertionError(f"{error}; its last words: {' '.join(words)}") from None


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Ours:
    """``flask mail worker`` or ``flask mail sweep``."""

    share = 1.0

    def __init__(self, folder: Path, database: str, transport: str, *command: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.app = an_app(folder, transport, database)
        with self.app.app.app_context():
            self.app.runtime.database.create()
        self._places = {
            "BENCH_FOLDER": str(folder),
            "BENCH_TRANSPORT": transport,
            "BENCH_DATABASE": database,
            # As installed: compiling at each start leaves half a megabyte behind.
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self._options = [str(part) for part in command]

    def fill(self, mails: int) -> None:
        with self.app.app.app_context():
            for start in range(0, mails, 500):
                self.app.mail.send_many([MAIL] * min(500, mails - start))

    @property
    def command(self) -> Sequence[str]:
        app = f"{sending_app.__name__}:create_app"
        return [sys.executable, "-m", "flask", "--app", app, "mail", *self._options]

    @property
    def env(self) -> dict[str, str]:
        return self._places

    def settle(self, mails: int) -> None:
        wait_until(lambda: not self.left(), 60, "outcomes are missing")

    def left(self) -> int:
        """Mails that have not ended."""
        query = select(func.count()).where(jobs.c.status.in_(("pending", "sending")))
        return int(self.app.runtime.database.read(lambda c: c.scalar(query)) or 0)

    def close(self) -> None:
        self.app.close()


class Queue:
    """A task queue: filled by a function, emptied by its own worker."""

    def __init__(self, share: float, module: str, command: Sequence[str], env: dict[str, str]):
        self.share, self._module = share, module
        self.command: Sequence[str] = [sys.executable, "-m", *command]
        self.env = env

    def fill(self, mails: int) -> None:
        """In a process of its own: a queue's module reads where Redis is when it is imported."""
        code = f"from tests.benchmarks.senders import fill; fill({self._module!r}, {mails})"
        env = {**os.environ, **self.env}
        subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, check=True)

    def settle(self, mails: int) -> None:
        """The last mail is the last that there is to see."""


def fill(module: str, mails: int) -> None:
    """Put mails into the queue of ``module``."""
    import importlib

    send: Callable[[object], object] = importlib.import_module(module).send
    for _ in range(mails):
        put = getattr(send, "delay", None) or getattr(send, "send", send)
        put(MAIL)


def queues(sink: Arrivals, redis: int) -> dict[str, Queue]:
    """The task queues, each with the worker that its documentation starts; two cores."""
    env = {"BENCH_SINK": str(sink.port), "BENCH_REDIS": str(redis)}
    here = "tests.benchmarks"
    celery = ("celery", "-A", f"{here}.queue_celery", "worker", "--loglevel=CRITICAL")
    url = f"redis://127.0.0.1:{redis}/0"
    rq = ("rq.cli", "worker", "--url", url, "--quiet")
    return {
        "Celery prefork -c 2": Queue(0.06, f"{here}.queue_celery", (*celery, "-c", "2"), env),
        "Celery threads -c 32": Queue(
            0.06, f"{here}.queue_celery", (*celery, "-P", "threads", "-c", "32"), env
        ),
        "Dramatiq 2 x 8": Queue(
            0.06,
            f"{here}.queue_dramatiq",
            ("dramatiq", f"{here}.queue_dramatiq", "--processes", "2", "--threads", "8"),
            env,
        ),
        "Huey, 8 threads": Queue(
            0.06,
            f"{here}.queue_huey",
            ("huey.bin.huey_consumer", f"{here}.queue_huey.huey", "-w", "8"),
            env,
        ),
        "RQ, SimpleWorker": Queue(
            0.03, f"{here}.queue_rq", (*rq, "--worker-class", "rq.SimpleWorker"), env
        ),
        "RQ, worker that forks": Queue(0.012, f"{here}.queue_rq", rq, env),
    }


class PostOffice:
    """django-post_office on SQLite, two processes of five threads."""

    share = 0.2

    def __init__(self, folder: Path, sink: Arrivals) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {"BENCH_FOLDER": str(folder), "BENCH_SINK": str(sink.port)}
        self.command: Sequence[str] = [*_DJANGO, "send"]
        self._run("migrate")

    def fill(self, mails: int) -> None:
        self._run("fill", str(mails))

    def _run(self, *work: str) -> None:
        subprocess.run([*_DJANGO, *work], env={**os.environ, **self.env}, cwd=ROOT, check=True)

    def settle(self, mails: int) -> None:
        """It writes all statuses once a batch has ended: that is its way, and is left out."""


_DJANGO = (sys.executable, "-m", "tests.benchmarks.django_site")


def smtp_source(sink: Arrivals, sessions: int, mails: int) -> float:
    """Mails per second of Postfix's load generator, which has its mail in memory.

    :raises programs.Missing: it is not on this machine.
    """
    command = [programs.find("smtp-source"), "-d", "-s", str(sessions), "-m", str(mails)]
    command += ["-l", "6300", "-f", "a@example.com", "-t", "b@example.com"]
    with processes_of([*command, f"127.0.0.1:{sink.port}"]) as start:
        return sink.stretch(mails, start, lambda: 0.0, 300).per_second


@contextmanager
def processes_of(command: Sequence[str]) -> Iterator[Callable[[], object]]:
    """A function that starts a program of Postfix; it is over when the block ends."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        yield lambda: running.append(subprocess.Popen(command, env=programs.environment()))
    finally:
        for process in running:
            process.wait(60)
