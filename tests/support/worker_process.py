"""``flask mail worker`` as a process of a fault site, in a group of its own; its log is a file."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from flask_deferred_mail.store.sightings import Sightings
from tests.support.fault_site import FACTORY, FaultSite
from tests.support.waiting import wait_until


class WorkerProcess:
    """One worker, with whatever processes it forks."""

    def __init__(self, site: FaultSite, *options: str, **env: str) -> None:
        self.site = site
        number = len(list(site.folder.glob("worker-*.log")))
        self.log_file = Path(site.folder, f"worker-{number}.log")
        command = [sys.executable, "-m", "flask", "--app", FACTORY, "mail", "worker", *options]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=site.environment(env),
                cwd=site.folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def must_run(self) -> bool:
        """True while it runs; a failure with its last words once it has ended."""
        code = self.process.poll()
        assert code is None, f"the worker ended with {code}: {self.log()}"
        return True

    def started(self) -> list[int]:
        """The processes that it has forked so far."""
        return [int(pid) for pid in re.findall(r"process (\d+) started", self.log())]

    def wait_for_log(self, text: str, number: int = 1, timeout: float = 30.0) -> None:
        """Wait until it has written that, so many times."""
        wait_until(
            lambda: self.log().count(text) >= number, timeout, f"no {text!r} in: {self.log()}"
        )

    def at_work(self) -> set[int]:
        """Process ids of the workers that are seen in the table."""
        return {seen.pid for seen in Sightings(self.site.rows.runtime.database).workers()}

    def wait_until_ready(self, processes: int = 1) -> WorkerProcess:
        """Wait until each of its processes has reached the database."""
        wait_until(lambda: self.must_run() and len(self.at_work()) >= processes, 30)
        return self

    def end(self, timeout: float = 30.0) -> int:
        """Wait for its end; the exit status, negative for a signal."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on and on: {self.log()}") from None

    def stop(self) -> None:
        """A gentle stop, which must be an orderly one."""
        self.signal(signal.SIGTERM)
        assert self.end() == 0, self.log()

    def close(self) -> None:
        """Kill what is left of its group."""
        for pid in (self.pid, *self.started()):
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        self.process.wait()
