"""The example site on this machine: a real gunicorn, and ``flask mail`` beside it as cron runs it.

Everything it starts is a child in a process group of its own, and ends with the ``with`` block.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class SiteFailed(Exception):
    """A process did not do what it was started for; the text holds its last words."""


class LocalSite:
    """Gunicorn with the example app; a context manager.

    ``folder`` holds everything it writes, but for a ``database`` elsewhere. ``settings`` are keys
    of ``app.config``.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, object],
        *,
        workers: int = 3,
        port: int = 0,
        database: str | None = None,
    ) -> None:
        self.folder = folder
        self._workers = workers
        self._settings = dict(settings)
        if database:
            self._settings["SQLALCHEMY_DATABASE_URI"] = database
        self._worker_notes = folder / "workers"
        self.log = folder / "gunicorn.log"
        # Bound here and inherited, so that the address is known before the site is up.
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = self._make_environment()
        self._gunicorn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalSite:
        self._worker_notes.mkdir(parents=True, exist_ok=True)
        with self._listener, self.log.open("wb") as log:
            self._listener.listen(256)
            os.set_inheritable(self._listener.fileno(), True)
            self._gunicorn = subprocess.Popen(
                self._gunicorn_command(),
                cwd=self.folder,
                env=self._environment,
                pass_fds=[self._listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End gunicorn and its workers: politely, and after ten seconds by force."""
        if self._gunicorn is None:
            return
        process, self._gunicorn = self._gunicorn, None
        try:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        finally:
            # The group outlives its leader if the leader was killed, or this wait broken off. Its
            # number is not given away while it has a member.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def is_running(self) -> bool:
        """Whether gunicorn is there, with or without workers."""
        return self._gunicorn is not None and self._gunicorn.poll() is None

    def pids(self) -> list[int]:
        """Gunicorn's own process id and those of its workers."""
        return [self._gunicorn.pid, *self.worker_pids()] if self._gunicorn else []

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are ready now."""
        return sorted(int(note.name) for note in self._worker_notes.iterdir())

    def kill_worker(self, pid: int) -> None:
        """SIGKILL: no handler, no ``finally``, no ``atexit`` of that process runs."""
        os.kill(pid, signal.SIGKILL)

    def sweep(self, *, timeout: float = 60) -> dict[str, int]:
        """One ``flask mail sweep``, in a process of its own; what it reports."""
        return self._flask_mail("sweep", timeout=timeout)

    def status(self, *, timeout: float = 30) -> dict[str, Any]:
        """What ``flask mail status`` reports."""
        return self._flask_mail("status", timeout=timeout)

    def _flask_mail(self, command: str, *, timeout: float) -> dict[str, Any]:
        line = [sys.executable, "-m", "flask", "--app", "example_app", "mail", command, "--json"]
        try:
            done = subprocess.run(
                line,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SiteFailed(f"flask mail {command} did not end within {timeout:.0f} s") from None
        if done.returncode != 0:
            raise SiteFailed(
                f"flask mail {command} ended with code {done.returncode}:\n{tail(done.stderr)}"
            )
        return json.loads(done.stdout)

    def _gunicorn_command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "gunicorn", "--config", "python:example_app.gunicorn_conf"),
            *("--workers", str(self._workers), "--bind", f"fd://{self._listener.fileno()}"),
            "example_app:create_app()",
        ]

    def _make_environment(self) -> dict[str, str]:
        """This process's environment, without what would make Flask or gunicorn act otherwise."""
        foreign = ("FLASK_", "EXAMPLE_", "GUNICORN_", "WERKZEUG_")
        kept = {key: text for key, text in os.environ.items() if not key.startswith(foreign)}
        settings = {"SECRET_KEY": secrets.token_hex(32), "EXAMPLE_PUBLIC_URL": self.url}
        settings.update({key: str(value) for key, value in self._settings.items()})
        return {
            **kept,
            **{f"FLASK_{key}": text for key, text in settings.items()},
            "EXAMPLE_INSTANCE_PATH": str(self.folder / "instance"),
            "EXAMPLE_WORKERS_FOLDER": str(self._worker_notes),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")])),
        }

    def _wait_until_up(self) -> None:
        def up() -> bool:
            if not self.is_running():
                raise SiteFailed(f"gunicorn ended at once:\n{tail(self.log.read_text())}")
            return len(self.worker_pids()) == self._workers and self._answers()

        if not waited(up, seconds=30):
            raise SiteFailed(f"gunicorn was not up after 30 s:\n{tail(self.log.read_text())}")

    def _answers(self) -> bool:
        # Without proxies: the environment may name one, and this is our own machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError), opener.open(self.url, timeout=10) as response:
            return response.status == 200
        return False


def waited(so: Callable[[], bool], *, seconds: float) -> bool:
    """Whether something came to be so within that time. It is looked at 50 times a second."""
    end = time.monotonic() + seconds
    while not so():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a process's output, indented."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])
