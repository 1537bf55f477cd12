"""Real WSGI servers as processes of their own, each on a port that the system chose.

    with WebServer("gunicorn-gthread", "my.module:create_app", log=tmp_path / "log") as server:
        RawClient(server.port).request("/")

A server lives in a process group of its own, and only that group is ever signalled.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

_GUNICORN = ("gunicorn", "--bind=127.0.0.1:{port}", "--workers={workers}")

#: Kind -> the module to run and its arguments. Options of a test take the place of ``OPTIONS``;
#: ``{port}``, ``{factory}`` and ``{workers}`` are filled in.
OPTIONS = "OPTIONS"
COMMANDS: dict[str, tuple[str, ...]] = {
    "gunicorn-sync": (*_GUNICORN, OPTIONS, "{factory}()"),
    "gunicorn-gthread": (*_GUNICORN, "-k=gthread", "--threads=4", OPTIONS, "{factory}()"),
    "gunicorn-gevent": (*_GUNICORN, "-k=gevent", OPTIONS, "{factory}()"),
    "waitress": ("waitress", "--listen=127.0.0.1:{port}", OPTIONS, "--call", "{factory}"),
    "werkzeug": ("flask", "--app={factory}", "run", "--port={port}", OPTIONS),
}
SERVERS = tuple(COMMANDS)
GUNICORNS = tuple(kind for kind in SERVERS if kind.startswith("gunicorn"))

_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class WebServer:
    """One server process (and its workers), from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        kind: str,
        factory: str,
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        workers: int = 1,
        prefix: Sequence[str] = (),
    ) -> None:
        """Describe a server; nothing is started yet.

        :param kind: one of :data:`SERVERS`.
        :param factory: ``module:function`` that makes the Flask application. The module is
            found from the root of the project.
        :param log: file that takes the server's output.
        :param env: variables for the server, beside those of this process.
        :param options: further options in the server's own words (``--preload``, ``--timeout=2``).
        :param workers: worker processes; for gunicorn only.
        :param prefix: a command to run the server under, as strace.
        """
        self.kind, self.factory, self.log_file, self.workers = kind, factory, log, workers
        self.env, self.options, self.prefix = dict(env or {}), tuple(options), tuple(prefix)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WebServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started: gunicorn's master, or the whole server."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the master."""
        return self.process.pid

    def start(self, timeout: float = 20.0) -> None:
        """Start, and wait until it answers. Started again, it takes the port it had."""
        seen = len(self.log())
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                cwd=self.log_file.parent,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self._is_up(seen), timeout, f"{self.kind} did not come up")
        except AssertionError as error:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"{error}; its log:\n{self.log()}") from None

    def _command(self) -> list[str]:
        values = {"port": self.port, "factory": self.factory, "workers": self.workers}
        module, *arguments = (part.format(**values) for part in COMMANDS[self.kind])
        place = arguments.index(OPTIONS)
        arguments[place : place + 1] = self.options
        return [*self.prefix, sys.executable, "-m", module, *arguments]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **self.env}

    def _is_up(self, seen: int) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self.kind} ended with {self.process.returncode}")
        address = _ADDRESS.search(self.log(), seen)
        if address is None:
            return False
        self.port = int(address[1])
        return self._has_workers()

    def _has_workers(self) -> bool:
        return not self.is_gunicorn or len(self.worker_pids()) >= self.workers

    @property
    def is_gunicorn(self) -> bool:
        """Whether a master with worker processes runs here."""
        return self.kind.startswith("gunicorn")

    def log(self) -> str:
        """What the server has written so far."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_text("utf-8", "replace")

    def worker_pids(self) -> list[int]:
        """The processes that answer requests: gunicorn's workers, else the server itself."""
        return _children(self.pid) if self.is_gunicorn else [self.pid]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 15.0) -> int:
        """End the server; what of its group is left after ``within`` seconds is killed.

        :returns: the exit status of the master, negative for a signal.
        """
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def _children(parent: int) -> list[int]:
    """The living processes whose parent is ``parent``."""
    command = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    if Path("/proc/self/stat").exists():  # also where no ps is installed
        rows = _proc_table()
    else:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in listing.splitlines()]
    return [int(pid) for pid, ppid, state in rows if int(ppid) == parent and state[0] != "Z"]


def _proc_table() -> list[list[str]]:
    rows = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = stat.read_text("utf-8", "replace").rpartition(")")
        except OSError:
            continue  # it ended while we looked
        state, ppid, *_ = rest.split()
        rows.append([stat.parent.name, ppid, state])
    return rows
