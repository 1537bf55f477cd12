"""A process of a version that is yet to come: ``python -m tests.support.next_version``.

Arguments: a database's URL, the folder of the revisions, and what to do: ``upgrade`` (as
``upgrade-db`` does), ``add`` (record a mail), ``send`` (claim what is due and call it sent).
Prints a JSON object: the answer of each, or the text of its error.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from sqlalchemy import text

from flask_deferred_mail.errors import StoreError
from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store import schema, upgrading
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from tests.support.transport_calls import a_letter


def upgrade(database: Database) -> list[int | None]:
    """Make or migrate the tables; versions before and after."""
    change = database.upgrade()
    return [change.before, change.after]


def add(database: Database) -> int:
    """Record a mail, and use what only this version has."""
    job = JobStore(database).add(Submission(a_letter("eve@example.net"))).job
    statement = text("UPDATE deferred_mail_job SET remark = 'new' WHERE id = :id")
    database.write(lambda connection: connection.execute(statement, {"id": job.id}))
    return job.id


def send(database: Database) -> list[int]:
    """Claim all that is due and note it as sent; the mails' numbers."""
    claims = Claims(database, Lease(60, "next:1")).take("default", 100)
    for claim in claims:
        note = AttemptNote(time.time(), 0.1, "sent", "")
        verdict = Verdict(JobStatus.SENT, claim.recipients, note, None)
        JobStore(database).record(claim, verdict)
    return [claim.job_id for claim in claims]


def main(url: str, scripts: str, *commands: str) -> None:
    """Become the next version, and do what is asked."""
    schema.SCHEMA_VERSION += 1
    upgrading.SCRIPTS = Path(scripts)
    database, answers = Database(url), {}
    for command in commands:
        try:
            answers[command] = {"upgrade": upgrade, "add": add, "send": send}[command](database)
        except StoreError as error:
            answers[command] = str(error)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
