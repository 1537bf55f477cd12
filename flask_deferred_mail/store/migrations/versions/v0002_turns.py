"""Waiting rows by tenant and by whether they were tried, so that a claim can take turns.

Only adds: what a process of version 1 asks for is still answered, if more slowly.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
compatible = 1

_JOBS = "deferred_mail_job"


def upgrade() -> None:
    """Add the columns that the database derives, and the indexes that begin with them."""
    for name in ("claim", "status", "key"):
        op.drop_index(f"{_JOBS}_{name}", table_name=_JOBS)
    # SQLite adds no stored one; a virtual one costs it nothing here.
    stored = op.get_bind().dialect.name != "sqlite"
    queue = sa.Computed("CASE WHEN due_at IS NOT NULL THEN transport END", persisted=stored)
    tried = sa.Computed("CASE WHEN attempts > 0 THEN 1 ELSE 0 END", persisted=stored)
    op.add_column(_JOBS, sa.Column("queue", sa.String(64), queue))
    op.add_column(_JOBS, sa.Column("tried", sa.SmallInteger, tried))
    _make_indexes()


def _make_indexes() -> None:
    waits = sa.text("queue IS NOT NULL")
    for name, columns in {
        "claim": ["queue", "priority", "tenant", "tried", "due_at"],
        "due": ["queue", "priority", "due_at"],
    }.items():
        op.create_index(
            f"{_JOBS}_{name}", _JOBS, columns, sqlite_where=waits, postgresql_where=waits
        )
    op.create_index(f"{_JOBS}_status", _JOBS, ["status", "ended_at", "first_due_at"])
    keyed = sa.text("key IS NOT NULL")
    op.create_index(
        f"{_JOBS}_key",
        _JOBS,
        ["key", "tenant"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )
