"""Run by Alembic: hands it the connection, and keeps our own note of the version beside its own.

The transaction is the caller's; where a database can take back changes of tables, all revisions
happen or none.
"""

from __future__ import annotations

from typing import Any

from alembic import context

from flask_deferred_mail.store.versions import note, version_table


def _keep_note(ctx: Any, step: Any, *_given: Any, **_further: Any) -> None:
    """Called after each revision, in the transaction that notes it for Alembic."""
    revision = step.up_revision
    note(ctx.connection, int(revision.revision), revision.module.compatible)


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        version_table=version_table.name,
        on_version_apply=_keep_note,
    )
    with context.begin_transaction():
        context.run_migrations()


_run()
