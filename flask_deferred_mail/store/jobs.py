"""The outbox: add a mail, and write down what became of it; one transaction each.

What each step costs is stated in ``docs/reference/costs.md``. Recording a mail without
attachments is a single INSERT that is its own transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from .. import crashpoints
from ..errors import ContentLost, JobNotFound, StoreError
from ..job import Job, JobRecipient, JobStatus, RecipientStatus
from ..letter import Letter, Submission
from . import payload, statements
from .bulk import insert_rows
from .claims import Claim, Lease, new_token, preleased
from .database import PATIENCE, Database
from .dialect import insert_or_ignore, now
from .inserting import insert_paced, insert_with_blobs
from .limits import Purse
from .outcomes import OUTCOME_PATIENCE, Outcomes
from .prepared import Prepared
from .refusals import Refusals
from .rows import JOB_COLUMNS, job_from, recipients_from, recipients_json, require_number
from .schema import blobs, jobs
from .sealing import Opener, Seals
from .statements import Verdict
from .suppressions import Suppressions
from .waking import Bell

log = logging.getLogger("flask_deferred_mail.store")

#: Bytes that an outcome takes, generously: row, attempt log, and recipients with their replies.
_OUTCOME = 16_384
_OUTCOME_PER_RECIPIENT = 1_024
#: Stands in the place of a digest, which has no blanks.
_BALLAST = "room for an outcome"
_DROP_BALLAST = delete(blobs).where(blobs.c.digest == _BALLAST)


@dataclass(slots=True)  # not frozen: each mail makes one
class Added:
    """What recording came to. ``created`` is false when the key was there already."""

    job: Job
    created: bool
    #: Set when the row was inserted already leased.
    claim: Claim | None = None


class JobStore:
    """Adds mails and records outcomes. Every write after a claim is fenced by its token."""

    def __init__(
        self, database: Database, seals: Seals | None = None, bell: Bell | None = None
    ) -> None:
        self.database = database
        self.seals = seals or Seals()
        self._bell = bell
        #: Who is not mailed any more; outcomes add to it.
        self.suppressions = Suppressions(database)
        self._outcomes = Outcomes(database, Refusals(self.suppressions))

    # -- recording --------------------------------------------------------------------------

    def add(
        self, submission: Submission, lease: Lease | None = None, purse: Purse | None = None
    ) -> Added:
        """Record one mail durably. With ``lease``, the row is already this process's, if ``purse``
        has a token for it.

        :raises StoreError: nothing was recorded.
        """
        # Before anything that takes time: the row's lease counts from when it was made.
        leased_at = time.monotonic()
        row, pieces = self.written(submission)
        if lease is not None:
            row |= statements.leased(lease, new_token())
        if purse is not None:
            added = self.database.write(lambda c: insert_paced(c, row, pieces, purse))
            lease = lease if row["lease_token"] else None
        elif pieces:
            added = self.database.write(lambda c: insert_with_blobs(c, row, pieces))
        else:
            crashpoints.reached("before-insert")
            added = self.database.write_one(lambda c: statements.insert_row(c, row))
        crashpoints.reached("after-insert-commit")
        if added is None:
            return Added(self.same_key(submission, row["fingerprint"]), created=False)
        job = statements.fresh_job(added, row, submission)
        if lease is not None:
            claim = preleased(job, submission, row["size"], row["lease_token"], leased_at)
            return Added(job, created=True, claim=claim)
        self.ring()
        return Added(job, created=True)

    def add_many(self, submissions: Sequence[Submission]) -> list[Added]:
        """Record many mails in one transaction: all of them, or none.

        :raises StoreError: nothing was recorded.
        """
        prepared = [(s, *self.written(s)) for s in submissions]

        def work(connection: Connection) -> list[int | None]:
            numbers = insert_rows(connection, [row for _, row, _ in prepared])
            for number, (_, _, pieces) in zip(numbers, prepared, strict=True):
                if number is not None and pieces:
                    statements.insert_blobs(connection, number, pieces)
            crashpoints.reached("before-insert-commit")
            return numbers

        ids = self.database.write(work)
        crashpoints.reached("after-insert-commit")
        self.ring()
        return [
            Added(self.same_key(submission, row["fingerprint"]), created=False)
            if job_id is None
            else Added(statements.fresh_job(job_id, row, submission), created=True)
            for job_id, (submission, row, _) in zip(ids, prepared, strict=True)
        ]

    def ring(self) -> None:
        """Wake a sweep that waits, on this host or another: mail was committed that it may send."""
        if self._bell is not None:
            self._bell.ring()

    def written(self, submission: Submission) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The row of a mail and its attachments by digest, as they are to be stored.

        :raises MessageError: a field holds what cannot be stored; it is named.
        """
        row = statements.new_row(submission, self.database.own_clock)
        stored, pieces = payload.dump(submission.letter)
        row["payload"], pieces = self.seals.seal(stored, row["message_id"], pieces)
        if self.seals.active:
            row["format"] = payload.SEALED
            row["fingerprint"] = self.seals.fingerprint(row["fingerprint"])
        return row, pieces

    def same_key(self, submission: Submission, fingerprint: str | None) -> Job:
        """The job that holds the key already; other content is worth a warning."""
        found = self.database.read(lambda c: self.key_holder(c, submission, fingerprint))
        if found is None:
            raise StoreError(
                f"the key {submission.key!r} was taken by another mail that has just been "
                "purged; record it again"
            )
        return found

    def key_holder(
        self, connection: Connection, submission: Submission, fingerprint: str | None
    ) -> Job | None:
        """:meth:`same_key` as one transaction sees it; ``None``: it sees no such job."""
        row = connection.execute(
            select(*JOB_COLUMNS, jobs.c.fingerprint).where(
                jobs.c.tenant == submission.tenant, jobs.c.key == submission.key
            )
        ).one_or_none()
        if row is None:
            return None
        if row.fingerprint != fingerprint and not self._same_content(row.fingerprint, submission):
            log.warning(
                "mail %s with key %r was recorded before with other content; the first stays",
                row.id,
                submission.key,
            )
        return job_from(row)

    def _same_content(self, stored: str, submission: Submission) -> bool:
        """Whether a fingerprint that was made under another key, or none, is this mail's."""
        plain = payload.fingerprint(submission.letter, submission.letter.recipients)
        return self.seals.matches(stored, plain)

    # -- reading ----------------------------------------------------------------------------

    def get(self, job_id: int) -> Job:
        """The mail with this number.

        :raises JobNotFound: there is none.
        """
        require_number(job_id)
        row = self.database.read(
            lambda c: c.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one_or_none()
        )
        if row is None:
            raise JobNotFound(f"there is no mail {job_id}")
        return job_from(row)

    def find(self, key: str, tenant: str = "") -> Job | None:
        """The mail recorded under this key, if there is one."""
        row = self.database.read(
            lambda c: c.execute(
                select(*JOB_COLUMNS).where(jobs.c.tenant == tenant, jobs.c.key == key)
            ).one_or_none()
        )
        return None if row is None else job_from(row)

    def contents(self, claims: Iterable[Claim], room: int) -> dict[int, str]:
        """The stored text of as many of these mails as fit into ``room`` bytes, by their numbers,
        for :meth:`load`. One statement; attachments are not in it.

        :raises StoreError: the database cannot be read.
        """
        page = []
        for claim in claims:
            if claim.size <= room:
                room -= claim.size
                page.append(claim.job_id)
        if not page:
            return {}
        rows = self.database.read_one(lambda c: c.execute(_PAYLOADS, {"jobs_": page}).all())
        return {row.id: row.payload for row in rows if row.payload is not None}

    def load(self, claim: Claim, content: str | None = None) -> Letter:
        """The letter of a claimed mail, attachments included.

        ``content`` is its text, if :meth:`contents` has read it already.

        :raises KeyMissing: it is encrypted with a key that is not configured here.
        :raises ContentLost: it cannot be read.
        :raises StoreError: the database cannot.
        """
        recipients = tuple(entry.recipient for entry in claim.recipients)

        # Not one transaction: content does not change, and none of it is deleted while a row that
        # has not ended needs it.
        text = content
        if text is None:
            text = self.database.read_one(lambda c: _PAYLOAD.scalar(c, {"job_": claim.job_id}))
        if text is None:
            raise ContentLost(f"mail {claim.job_id} has no content any more")
        opener = self.seals.opener(text)
        text = opener.text(text, claim.message_id)
        wanted = payload.digests(text)
        return payload.load(text, recipients, self._pieces(wanted, opener) if wanted else {})

    def _pieces(self, wanted: list[str], opener: Opener) -> dict[str, bytes]:
        """The content of attachments by digest."""
        names = {opener.name(digest): digest for digest in wanted}
        found = self.database.read_one(lambda c: c.execute(_BLOBS, {"digests_": [*names]}).all())
        return {names[row.digest]: opener.piece(row.data, row.digest) for row in found}

    # -- while in hand ----------------------------------------------------------------------

    def renew(self, held: Iterable[tuple[int, str]], seconds: float) -> set[int]:
        """Renew the leases of everything in hand, in one statement.

        Returns the ids that were still ours (the others somebody took over).
        """
        pairs = list(held)
        tokens = {token for _, token in pairs}
        ids = [job_id for job_id, _ in pairs]
        fence = {"jobs_": ids, "tokens_": list(tokens)}

        def work(connection: Connection) -> set[tuple[int, str]]:
            values = fence | {"seconds_": seconds}
            if connection.dialect.update_returning:
                rows = connection.execute(statements.RENEW_AND_TELL, values)
            else:
                connection.execute(statements.RENEW, values)
                rows = connection.execute(statements.OWNED, fence)
            return {(row.id, row.lease_token) for row in rows}

        owned = self.database.write_one(work)
        return {job_id for job_id, token in pairs if (job_id, token) in owned}

    def mark_handing_over(self, claim: Claim) -> bool:
        """Note that the last byte is about to go out. False: the lease was lost."""
        return self._change(claim, PATIENCE, handing_over=True)

    def progress(
        self,
        claim: Claim,
        recipients: tuple[JobRecipient, ...],
        generation: int,
        patience: float = OUTCOME_PATIENCE,
    ) -> bool:
        """Write down outcomes so far, before the same connection hands over the next envelope.

        False: the lease was lost.
        """
        return self._change(
            claim,
            patience,
            recipients=recipients_json(recipients),
            generation=generation,
            # Nothing is being handed over between two envelopes.
            handing_over=False,
        )

    def _change(self, claim: Claim, patience: float, **values: Any) -> bool:
        values |= statements.fence(claim)
        cursor = self.database.write_one(
            lambda c: statements.FENCED_CHANGE.run(c, values), patience=patience
        )
        return bool(cursor.rowcount == 1)

    def give_back(self, claims: Iterable[Claim], patience: float = PATIENCE) -> int:
        """Return mails that were not tried, their attempts refunded. Returns how many were ours."""
        held = list(claims)

        def work(connection: Connection) -> int:
            return sum(
                statements.GIVE_BACK.run(connection, statements.give_back(claim)).rowcount
                for claim in held
            )

        returned = self.database.write(work, patience=patience) if held else 0
        if returned:
            self.ring()
        return returned

    def make_room(self, recipients: int) -> None:
        """Write as many bytes as the outcome of a mail to so many takes, and take them back.

        On a disk that has no room for an outcome a claim, being smaller, can still pass: then a
        mail would be sent again and again with nothing to show for it.

        :raises StoreError: there is no room.
        """
        size = _OUTCOME + _OUTCOME_PER_RECIPIENT * recipients
        row = {"digest": _BALLAST, "size": size, "data": bytes(size)}

        def work(connection: Connection) -> None:
            statement = insert_or_ignore(blobs, connection.dialect.name).values(created_at=now())
            connection.execute(statement, row)

        self.database.write_one(work)
        # In two transactions, so that the write-ahead log has room as well, not only the file.
        self.database.write_one(lambda c: c.execute(_DROP_BALLAST))

    # -- afterwards -------------------------------------------------------------------------

    def record(self, claim: Claim, verdict: Verdict, patience: float = OUTCOME_PATIENCE) -> bool:
        """Write what an attempt came to: see :meth:`.outcomes.Outcomes.record`."""
        return self._outcomes.record(claim, verdict, patience)

    def reopen(self, job_ids: Sequence[int]) -> int:
        """Put failed mails back in the queue: what failed them was not their fault.

        Returns how many there were.
        """

        def work(connection: Connection) -> int:
            failed = connection.execute(
                select(jobs.c.id, jobs.c.recipients, jobs.c.attempts)
                .where(
                    jobs.c.id.in_(job_ids),
                    jobs.c.status == JobStatus.FAILED.value,
                    jobs.c.payload.isnot(None),
                )
                .with_for_update()
            ).all()
            for row in failed:
                connection.execute(
                    update(jobs)
                    .where(jobs.c.id == row.id)
                    .values(
                        status=JobStatus.PENDING.value,
                        due_at=now(),
                        ended_at=None,
                        attempts=max(row.attempts - 1, 0),
                        recipients=recipients_json(_open_failed(row.recipients)),
                    )
                )
            return len(failed)

        reopened = self.database.write(work) if job_ids else 0
        if reopened:
            self.ring()
        return reopened


_PAYLOADS = select(jobs.c.id, jobs.c.payload).where(
    jobs.c.id.in_(bindparam("jobs_", expanding=True))
)
_PAYLOAD = Prepared(select(jobs.c.payload).where(jobs.c.id == bindparam("job_")))
_BLOBS = select(blobs.c.digest, blobs.c.data).where(
    blobs.c.digest.in_(bindparam("digests_", expanding=True))
)


def _open_failed(text: str) -> tuple[JobRecipient, ...]:
    return tuple(
        JobRecipient(entry.address, entry.kind, name=entry.name)
        if entry.status is RecipientStatus.FAILED
        else entry
        for entry in recipients_from(text)
    )
