"""How much memory a worker holds while it drains: with few and with a million queued, with large
attachments. One process; PSS as the kernel has it, sampled all the time; the most is what counts.

    python -m tests.benchmarks.worker_memory [--huge]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask_deferred_mail import Attachment
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.reports import Reports
from tests.benchmarks.grown import grown, kinds
from tests.benchmarks.smtp_sink import SmtpSink
from tests.support.fault_app import FOLDER
from tests.support.mail_app import MailApp
from tests.support.web_server import ROOT

_MIB = 2**20
#: Seconds of draining at most, and between two samples.
_LONGEST, _EVERY = 40.0, 0.1
_LARGE = 25_000_000


def pss(pid: int) -> int:
    """What a process holds, in bytes, with its share of what is shared (Linux)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


@contextmanager
def _worker(folder: Path, database: str, transport: str, concurrency: int) -> Iterator[int]:
    """A worker at work; its process id."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        FOLDER: str(folder),
        "FLASK_DEFERRED_MAIL_DATABASE_URI": database,
        "FLASK_DEFERRED_MAIL_TRANSPORT": transport,
    }
    command = [sys.executable, "-m", "flask", "--app", "tests.support.fault_app:create_app"]
    command += ["mail", "worker", "--concurrency", str(concurrency)]
    with subprocess.Popen(command, env=env, cwd=folder) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _drained(pid: int, reports: Reports, stop_at: int) -> tuple[int, int]:
    """Most PSS until so many mails are left, or the time is over; and how many were sent."""
    before, most, end = reports.due()[0], 0, time.monotonic() + _LONGEST
    left, look_at = before, 0.0
    while left > stop_at and time.monotonic() < end:
        most = max(most, pss(pid))
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + 1
            left = reports.due()[0]
        time.sleep(_EVERY)
    return max(most, pss(pid)), before - reports.due()[0]


def _queued(folder: Path, kind: str, waiting: int) -> str:
    with grown(kind, folder / f"{kind}-{waiting}", waiting=waiting) as database:
        url = database.backend.url.render_as_string(hide_password=False)
        with _worker(folder, url, "null:", 16) as pid:
            most, sent = _drained(pid, Reports(database), 0)
    return _line(kind, f"{waiting:,}", sent, most)


def _large(folder: Path, number: int) -> str:
    """Large mails one after the other, to a server on this machine."""
    folder = folder / "large"
    folder.mkdir()
    app = MailApp(folder, "null:")
    for _ in range(number):
        content = Attachment("large.bin", "application/octet-stream", os.urandom(_LARGE))
        app.send(attachments=[content])
    app.close()
    url = f"sqlite:///{folder}/deferred_mail.sqlite3"
    database = Database(url)
    with SmtpSink() as sink, _worker(folder, url, sink.url, 1) as pid:
        most, sent = _drained(pid, Reports(database), 0)
    database.close()
    return _line("sqlite, one at a time", f"{number} of {_LARGE // 10**6} MB", sent, most)


def _line(database: str, queued: str, sent: int, most: int) -> str:
    return f"| {database} | {queued} | {sent:,} | {most / _MIB:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of a worker.")
    parser.add_argument("--huge", action="store_true", help="a million queued mails too")
    sizes = [1_000, 100_000, *([1_000_000] if parser.parse_args().huge else [])]
    print("| database | queued | sent meanwhile | most PSS, MiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="deferred-mail-bench-") as name:
        folder = Path(name)
        for kind in kinds(("sqlite", "postgresql")):
            for waiting in sizes:
                print(_queued(folder, kind, waiting), flush=True)
        print(_large(folder, 8), flush=True)


if __name__ == "__main__":
    main()
