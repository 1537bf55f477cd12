"""A Flask app with mail, for tests that run in this process: real rows, a real mail server."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import Connection

from flask_deferred_mail import DeferredMail, Job
from flask_deferred_mail.delivery.runtime import Runtime
from flask_deferred_mail.delivery.sweep import Counts
from flask_deferred_mail.store.reports import LoggedAttempt

_numbers = itertools.count(1)


class MailApp:
    """An app, its ``DeferredMail``, and shortcuts for what tests ask again and again."""

    def __init__(self, folder: Path, transport: str | None, **config: Any) -> None:
        self.folder = folder
        self.app = Flask(f"app{next(_numbers)}", instance_path=str(folder))
        self.app.config.update(
            {
                "MAIL_DEFAULT_SENDER": "shop@example.com",
                "DEFERRED_MAIL_TRANSPORT": transport,
                "DEFERRED_MAIL_BACKOFF": [0.05],
                "DEFERRED_MAIL_ATTEMPT_DEADLINE": 5,
                "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 5,
                **config,
            }
        )
        self.mail = DeferredMail(self.app)

    @property
    def runtime(self) -> Runtime:
        return self.mail.for_app(self.app).runtime

    def send(self, *recipients: str, **fields: Any) -> Job:
        """Record a mail outside any request, to Ann if nobody is named."""
        fields.setdefault("subject", "Hello")
        fields.setdefault("body", "Hi\n")
        with self.app.app_context():
            return self.mail.send_after_response(
                recipients=list(recipients or ("ann@example.com",)), **fields
            )

    def sweep(self, **how: Any) -> Counts:
        """One pass over what is due."""
        return self.runtime.sweep(**how).run()

    def job(self, job: Job | int) -> Job:
        """How a mail stands now."""
        return self.runtime.jobs.get(job if isinstance(job, int) else job.id)

    def statuses(self, job: Job | int) -> dict[str, str]:
        """Address -> status of a mail's recipients."""
        return {entry.address: str(entry.status) for entry in self.job(job).recipients}

    def log(self, job: Job | int) -> list[LoggedAttempt]:
        """A mail's attempt log."""
        return self.runtime.reports.attempts(job if isinstance(job, int) else job.id)

    def outcomes(self, job: Job | int) -> list[str]:
        """The words of the attempt log."""
        return [line.outcome for line in self.log(job)]

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement on the database, past the store."""
        path = self.folder / "deferred_mail.sqlite3"
        if "DEFERRED_MAIL_DATABASE_URI" in self.app.config:
            database = self.runtime.database
            if not database.own_clock:
                return self._server_sql(statement, values)
            path = database.path or path
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(statement, values).fetchall()
            connection.commit()
            return rows

    def _server_sql(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        def work(connection: Connection) -> list[tuple[Any, ...]]:
            result = connection.exec_driver_sql(statement.replace("?", "%s"), values)
            return [tuple(row) for row in result] if result.returns_rows else []

        return self.runtime.database.write(work)

    def make_due(self, *jobs: Job | int) -> None:
        """Let waiting mails (all, or these) be due now, instead of waiting for it."""
        ids = [job if isinstance(job, int) else job.id for job in jobs]
        where = f"AND id IN ({','.join(map(str, ids))})" if ids else ""
        self.sql(
            f"UPDATE deferred_mail_job SET due_at = first_due_at WHERE status = 'pending' {where}"
        )
        self.sql("UPDATE deferred_mail_transport SET resting_until = 0, probe_until = NULL")
        self.runtime.pacing.forget()

    def end_leases(self) -> None:
        """Let the leases of all mails in hand be over, as after the death of their process."""
        self.sql("UPDATE deferred_mail_job SET due_at = 0 WHERE status = 'sending'")

    def close(self) -> None:
        self.runtime.close()
