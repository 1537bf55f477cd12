"""What became of mails, written down: outcomes of several threads share one commit.

Each thread waits until its own outcome is committed, as the promise asks of it (a connection hands
over nothing more before that). But whoever comes while another commits joins the next commit, up
to the moment when that one has the database to itself. So under load a commit, which costs more
than all that it holds, is paid once for many mails: the more, the longer it had to wait.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from .. import crashpoints
from ..errors import CommitUnknown, StoreError
from . import statements
from .claims import Claim
from .database import PATIENCE, Database
from .prepared import Prepared
from .refusals import Noted, Refusals
from .schema import jobs
from .server_batches import write_outcomes
from .statements import Verdict

log = logging.getLogger("flask_deferred_mail.store")

#: Seconds for which the outcome of a mail is written again and again on a busy database: until it
#: is in, a crash would send the mail twice.
OUTCOME_PATIENCE = 45.0

#: Outcomes in one commit at most.
MOST_AT_ONCE = 100


@dataclass(slots=True, eq=False)
class _Entry:
    """One outcome, and the thread that waits for it."""

    claim: Claim
    verdict: Verdict
    statement: Prepared
    values: dict[str, Any]
    line: dict[str, Any]
    patience: float
    #: Released when it is written, or when its thread has to see to it.
    turn: threading.Lock = field(default_factory=threading.Lock)
    written: bool | None = None
    #: It is its thread that writes next, for others too.
    leads: bool = False
    #: Its commit with others failed: it is written on its own. Set with whether that commit may
    #: have happened all the same.
    alone: bool = False
    in_doubt: bool = False
    #: What followed from refusals that were written with it.
    noted: Noted | None = None


class _NotAll(Exception):
    """Of some row in the batch the lease was lost: which one, only single writes tell."""


class Outcomes:
    """Writes outcomes of one process. Safe for threads."""

    def __init__(self, database: Database, refusals: Refusals) -> None:
        self.database = database
        self.refusals = refusals
        self._lock = threading.Lock()
        self._waiting: deque[_Entry] = deque()
        self._busy = False

    def record(self, claim: Claim, verdict: Verdict, patience: float = OUTCOME_PATIENCE) -> bool:
        """Write what an attempt came to: row, attempt log and index of addresses, at once.

        False: the lease was lost, and nothing was written. On a busy database it is tried for
        ``patience`` seconds.

        :raises StoreError: it is not written.
        """
        statement, values = statements.outcome_of(claim, verdict)
        line = statements.log_line(claim, verdict.note)
        entry = _Entry(claim, verdict, statement, values, line, patience)
        written = self._in_turn(entry)
        if written and entry.noted is not None:
            self.refusals.follow(entry.noted)
        return written

    def _in_turn(self, entry: _Entry) -> bool:
        """Write it with others, or alone. Returns and raises as :meth:`record`."""
        if not self._leads(entry):
            self._await_turn(entry)
            if entry.written is not None:
                return entry.written
            if entry.alone:
                return self._alone(entry)
        return self._lead(entry)

    def _leads(self, entry: _Entry) -> bool:
        """Whether nobody writes just now; else the entry waits in line."""
        with self._lock:
            if self._busy:
                entry.turn.acquire()
                self._waiting.append(entry)
                return False
            self._busy = True
            return True

    def _await_turn(self, entry: _Entry) -> None:
        """Wait until it is written, or its thread has to see to it."""
        try:
            entry.turn.acquire()
        except BaseException:  # Ctrl-C, or a server that ends the request
            self._leave(entry)
            raise

    def _leave(self, entry: _Entry) -> None:
        """Nobody waits for it any more; whom it was to lead must not wait for ever."""
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
        if entry.leads:
            self._pass_on([entry])

    def _lead(self, entry: _Entry) -> bool:
        """Write this outcome, and those that wait, in one transaction. If that fails, each thread
        sees to its own, and the next one leads."""
        batch = [entry]
        try:
            self._join(batch)
            self._together(batch)
        finally:
            self._pass_on(batch)
        return self._alone(entry) if entry.written is None else entry.written

    def _join(self, batch: list[_Entry]) -> None:
        """Take those into the batch who wait by now."""
        with self._lock:
            while self._waiting and len(batch) < MOST_AT_ONCE:
                batch.append(self._waiting.popleft())

    def _together(self, batch: list[_Entry]) -> None:
        # Others stand in line behind this one, so it is not as patient as each alone may be.
        patience = min(PATIENCE, *(entry.patience for entry in batch))
        try:
            self._write(batch, patience, shared=True)
        except BaseException as error:
            certain = isinstance(error, (_NotAll, StoreError))
            for entry in batch:
                entry.in_doubt = not certain or isinstance(error, CommitUnknown)
            # A driver may refuse a value: the thread whose mail holds it is to meet that. Whoever
            # is told to stop (in the middle of the commit, maybe) stops.
            if not isinstance(error, Exception):
                raise

    def _pass_on(self, batch: list[_Entry]) -> None:
        """Let the next one lead, and wake those whose outcome this one wrote, or could not."""
        with self._lock:
            following = self._waiting.popleft() if self._waiting else None
            self._busy = following is not None
            if following is not None:
                following.leads = True
        if following is not None:
            following.turn.release()
        for entry in batch[1:]:
            entry.alone = entry.written is None
            entry.turn.release()

    def _alone(self, entry: _Entry) -> bool:
        """Write one outcome in its own transaction, after a try that failed."""
        if not entry.in_doubt:
            try:
                return self._write([entry], entry.patience)
            except CommitUnknown:
                log.debug("mail %d: looking whether its outcome is in", entry.claim.job_id)
        # The last look: the server may still have been at it when the connection broke.
        return (
            self._is_in(entry.claim)
            or self._write([entry], entry.patience)
            or self._is_in(entry.claim)
        )

    def _is_in(self, claim: Claim) -> bool:
        """Whether a commit whose answer was lost has happened: committing takes the token away."""
        query = select(jobs.c.id).where(
            jobs.c.id == claim.job_id, jobs.c.lease_token == claim.token
        )
        ours = self.database.read(lambda c: c.scalar(query), patience=OUTCOME_PATIENCE) is not None
        if not ours:
            log.warning("mail %d: its outcome was committed, the answer was lost", claim.job_id)
        return not ours

    def _write(self, batch: list[_Entry], patience: float, *, shared: bool = False) -> bool:
        """Write them in one transaction, and set of each whether it was written. Returns whether
        all of them were. ``shared``: with those who have come by the time that it begins.

        :raises _NotAll: a lease was lost, and nothing is written.
        :raises StoreError: nothing is written.
        """
        write = self.database.write
        if self.database.backend.writes_batches:
            alone = not any(entry.verdict.refusals for entry in batch)
            written = write(lambda c: self._write_batch(c, batch), patience=patience, at_once=alone)
            for number, entry in enumerate(batch):
                entry.written = number in written
        else:
            done = write(lambda c: self._write_each(c, batch, shared), patience=patience)
            for entry in batch:
                entry.written = done
        return all(entry.written for entry in batch)

    def _write_batch(self, connection: Connection, batch: list[_Entry]) -> set[int]:
        """All whose lease is still there, by one statement. Returns their places in the batch."""
        # That statement may be the whole transaction, so nothing is ever halfway in it.
        crashpoints.reached("in-outcome")
        rows = [
            {"n": number, "status": entry.verdict.status, **entry.values, **entry.line}
            for number, entry in enumerate(batch)
        ]
        indexed = [
            {"n": number, **line}
            for number, entry in enumerate(batch)
            for line in statements.index_lines(entry.claim.job_id, entry.verdict.recipients)
        ]
        written = write_outcomes(connection, rows, indexed)
        for number in sorted(written):
            self._note_refusals(connection, batch[number])
        return written

    def _write_each(self, connection: Connection, batch: list[_Entry], shared: bool) -> bool:
        """Returns whether they were written: of one alone, whose lease may be lost.

        :raises _NotAll: see :meth:`_write_all`.
        """
        if shared:
            # Not before: the lock may have been waited for until now.
            self._join(batch)
        if len(batch) == 1:
            return self._write_one(connection, batch[0])
        self._write_all(connection, batch)
        return True

    def _write_one(self, connection: Connection, entry: _Entry) -> bool:
        changed = bool(entry.statement.run(connection, entry.values).rowcount == 1)
        if changed:
            statements.LOG_ATTEMPT.run(connection, entry.line)
            statements.index_recipients(
                connection, [(entry.claim.job_id, entry.verdict.recipients)]
            )
            self._note_refusals(connection, entry)
        crashpoints.reached("in-outcome")
        return changed

    def _write_all(self, connection: Connection, batch: list[_Entry]) -> None:
        """All of them, in the order of their rows: so no two processes wait for each other.

        :raises _NotAll: a lease was lost; the transaction is to be rolled back.
        """
        by_statement: dict[Prepared, list[dict[str, Any]]] = {}
        ordered = sorted(batch, key=lambda entry: entry.claim.job_id)
        for entry in ordered:
            by_statement.setdefault(entry.statement, []).append(entry.values)
        for statement, rows in by_statement.items():
            if statement.run_each(connection, rows) != len(rows):
                raise _NotAll
        statements.LOG_ATTEMPT.run_each(connection, [entry.line for entry in ordered])
        statements.index_recipients(
            connection, [(entry.claim.job_id, entry.verdict.recipients) for entry in ordered]
        )
        for entry in ordered:
            self._note_refusals(connection, entry)
        crashpoints.reached("in-outcome")

    def _note_refusals(self, connection: Connection, entry: _Entry) -> None:
        refused = entry.verdict.refusals
        if refused:
            claim = entry.claim
            entry.noted = self.refusals.note(connection, claim.job_id, claim.transport, refused)
