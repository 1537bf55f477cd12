"""A mail server that only counts: Postfix's ``smtp-sink``, or ours where replies must be late.

Both write ``mesg=NUMBER`` after each mail; who waits here learns when the first and the last came.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.benchmarks import processes, programs
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT

_COUNT = re.compile(rb"mesg=(\d+)")


@dataclass
class Stretch:
    """From the first mail to the last one that was waited for; ``noted``: looked up at both."""

    mails: int
    seconds: float
    noted: tuple[float, float] = field(default=(0.0, 0.0))

    @property
    def per_second(self) -> float:
        return (self.mails - 1) / self.seconds


class Arrivals:
    """What has come to a server so far."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port, self.pid, self._process = port, process.pid, process
        self.count = 0
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def url(self) -> str:
        """The transport that leads here."""
        return f"smtp://127.0.0.1:{self.port}?tls=none"

    def _read(self) -> None:
        assert self._process.stdout is not None
        while received := os.read(self._process.stdout.fileno(), 262_144):
            # A number may be cut in two; the next one is whole.
            numbers = _COUNT.findall(received[: received.rfind(b"\r") + 1])
            if numbers:
                with self._news:
                    self.count = max(self.count, int(numbers[-1]))
                    self._news.notify_all()

    def stretch(
        self,
        mails: int,
        start: Callable[[], object],
        note: Callable[[], float],
        patience: float,
        check: Callable[[], object] = lambda: None,
    ) -> Stretch:
        """Start a sender and wait for its mails; ``note`` is called at the first and at the end,
        ``check`` every second: it may raise.

        :raises AssertionError: fewer have come when ``patience`` seconds had passed.
        """
        before = self.count
        start()
        self._wait_for(before + 1, patience, check)
        first, noted = time.perf_counter(), note()
        come = self.count - before
        self._wait_for(before + mails, patience, check)
        seconds = time.perf_counter() - first
        # More than one may have come before we looked: only what came in the stretch counts.
        return Stretch(mails - come + 1, max(seconds, 1e-6), (noted, note()))

    def _wait_for(self, number: int, patience: float, check: Callable[[], object]) -> None:
        end = time.monotonic() + patience
        while self.count < number:
            with self._news:
                self._news.wait_for(lambda: self.count >= number, 1.0)
            if self.count < number:
                check()
                missing = f"{number - self.count} mails did not come within {patience:.0f} s"
                assert time.monotonic() < end, missing


@contextmanager
def postfix_sink() -> Iterator[Arrivals]:
    """Postfix's own, which answers at once.

    :raises programs.Missing: it is not on this machine.
    """
    port = programs.free_port()
    command = [programs.find("smtp-sink"), *programs.as_nobody(), "-c", f"127.0.0.1:{port}", "1024"]
    with _running(command, programs.environment()) as process:
        wait_until(lambda: _listens(port), 20, "smtp-sink did not come up")
        yield Arrivals(process, port)


@contextmanager
def late_sink(delay: float) -> Iterator[Arrivals]:
    """Ours, whose every reply comes ``delay`` seconds late, as over a long way."""
    with _own("smtp_sink", delay) as sink:
        yield sink


@contextmanager
def http_sink(delay: float) -> Iterator[Arrivals]:
    """The providers' HTTP API, on loopback."""
    with _own("http_sink", delay) as sink:
        yield sink


@contextmanager
def _own(module: str, delay: float) -> Iterator[Arrivals]:
    port = programs.free_port()
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", str(port), str(delay)]
    with _running(command, dict(os.environ)) as process:
        wait_until(lambda: _listens(port), 20, f"{module} did not come up")
        yield Arrivals(process, port)


@contextmanager
def any_sink() -> Iterator[Arrivals]:
    """Postfix's where it is here, else ours."""
    try:
        programs.find("smtp-sink")
    except programs.Missing:
        with late_sink(0) as sink:
            yield sink
    else:
        with postfix_sink() as sink:
            yield sink


@contextmanager
def _running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    """Whether somebody listens there, by the kernel's table: a visit would be counted."""
    wanted = f":{port:04X} 00000000:0000 0A"
    with open("/proc/net/tcp") as table:
        return any(wanted in line for line in table)


def cpu_of(sink: Arrivals) -> float:
    """Seconds of CPU that the sink has taken so far."""
    return processes.cpu(sink.pid)
