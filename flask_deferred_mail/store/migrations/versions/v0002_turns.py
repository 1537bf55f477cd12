"""Waiting rows by tenant and by whether they were tried, so that a claim can take turns.

Only adds: what a process of version 1 asks for is still answered, if more slowly.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_deferred_mail.store.migrations.resumable import add_column, create_index, drop_index

revision = "0002"
down_revision = "0001"
compatible = 1

_JOBS = "deferred_mail_job"


def upgrade() -> None:
    """Add the columns that the database derives, and the indexes that begin with them."""
    for name in ("claim", "status", "key"):
        drop_index(f"{_JOBS}_{name}", _JOBS)
    # SQLite adds no stored one; a virtual one costs it nothing here.
    stored = op.get_bind().dialect.name != "sqlite"
    queue = sa.Computed("CASE WHEN due_at IS NOT NULL THEN transport END", persisted=stored)
    tried = sa.Computed("CASE WHEN attempts > 0 THEN 1 ELSE 0 END", persisted=stored)
    add_column(_JOBS, sa.Column("queue", sa.String(64), queue))
    add_column(_JOBS, sa.Column("tried", sa.SmallInteger, tried))
    _make_indexes()


def _make_indexes() -> None:
    waits = _where("queue IS NOT NULL")
    create_index(
        f"{_JOBS}_claim", _JOBS, ["queue", "priority", "tenant", "tried", "due_at"], **waits
    )
    create_index(f"{_JOBS}_due", _JOBS, ["queue", "priority", "due_at"], **waits)
    create_index(f"{_JOBS}_status", _JOBS, ["status", "ended_at", "first_due_at"])
    create_index(f"{_JOBS}_key", _JOBS, ["key", "tenant"], unique=True, **_where("key IS NOT NULL"))


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {f"{name}_where": sa.text(condition) for name in ("sqlite", "postgresql")}
