"""Deleting a million ended mails while mail is recorded, claimed and sent: who waits for it?"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.claims import Claim, Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.purge import Purge
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from tests.benchmarks.grown import grown, kinds
from tests.benchmarks.measuring import Scope
from tests.support.transport_calls import a_letter
from tests.support.web_server import ROOT

#: Rows per transaction; the default of the command.
BATCH = 500
#: Seconds for which is measured how long things take without a purge.
_CALM = 15
#: Seconds between two mails.
_PAUSE = 0.02

_RECORD, _CLAIM, _OUTCOME = "record", "claim of 8", "outcome"


class _Post:
    """Records mail in one thread; claims and ends it in another."""

    def __init__(self, database: Database) -> None:
        self.jobs = JobStore(database)
        self.claims = Claims(database, Lease(60, "bench"))
        self._stop = threading.Event()
        self._taken: dict[str, list[float]] = {}

    @contextmanager
    def at_work(self) -> Iterator[dict[str, list[float]]]:
        """The seconds that each step has taken, filled meanwhile."""
        self._taken = {name: [] for name in (_RECORD, _CLAIM, _OUTCOME)}
        self._stop.clear()
        threads = [threading.Thread(target=work) for work in (self._record, self._send)]
        for thread in threads:
            thread.start()
        try:
            yield self._taken
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _record(self) -> None:
        submission = Submission(a_letter(text="Hello Ann\n" * 200))
        while not self._stop.wait(_PAUSE):
            self._timed(_RECORD, lambda: self.jobs.add(submission))

    def _send(self) -> None:
        while not self._stop.wait(_PAUSE):
            for claim in self._timed(_CLAIM, lambda: self.claims.take("default", 8)):
                self._timed(_OUTCOME, lambda claim=claim: self._end(claim))

    def _end(self, claim: Claim) -> None:
        to = tuple(JobRecipient(r.address, r.kind, RecipientStatus.SENT) for r in claim.recipients)
        note = AttemptNote(time.time(), 0.1, "sent", "250 2.0.0 Ok")
        assert self.jobs.record(claim, Verdict(JobStatus.SENT, to, note, None))

    def _timed(self, name: str, work: Callable[[], object]) -> object:
        started = time.perf_counter()
        result = work()
        self._taken[name].append(time.perf_counter() - started)
        return result


def run(scope: Scope) -> None:
    """Measure and print, for every database."""
    for kind in kinds(scope.databases):
        rows = scope.of(1_000_000, 20_000)
        with ExitStack() as stack:
            database = stack.enter_context(grown(kind, scope.folder / kind, sent=rows))
            _run(scope, kind, database, rows)


def _run(scope: Scope, kind: str, database: Database, rows: int) -> None:
    post = _Post(database)
    with post.at_work() as calm:
        time.sleep(scope.of(_CALM, 3))
    url = database.backend.url.render_as_string(hide_password=False)
    with post.at_work() as busy:
        # In a process of its own, as the command is: what is measured is the database.
        answer = subprocess.run(
            [sys.executable, "-m", __name__, url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    deleted, seconds = json.loads(answer.stdout)
    assert deleted == rows
    scope.report.table(
        f"Purging {rows:,} ended mails: {kind} ({deleted / seconds:,.0f} mails/s, {seconds:.0f} s)",
        ("beside it", "ms without purge", "ms with it"),
        [(name, _figures(calm[name]), _figures(busy[name])) for name in calm],
    )


def _figures(seconds: list[float]) -> str:
    found = sorted(value * 1000 for value in seconds)
    high = found[int(len(found) * 0.99)]
    middle = found[len(found) // 2]
    return f"median {middle:.1f}, 99 % {high:.1f}, longest {found[-1]:.1f}, of {len(found)}"


if __name__ == "__main__":
    begun = time.monotonic()
    number = Purge(Database(sys.argv[1])).older_than(3_600, BATCH)
    print(json.dumps([number, time.monotonic() - begun]))
