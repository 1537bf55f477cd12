"""The first tables.

What they mean, and why each index is there, stands in ``store/schema.py``. This is a copy on
purpose: the tables as they were, whatever becomes of them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
#: The oldest version of the tables' users that may use them after this.
compatible = 1

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (
        ("engine", "InnoDB"),
        ("charset", "utf8mb4"),
        ("collate", "utf8mb4_bin"),
        ("row_format", "DYNAMIC"),
    )
}


def upgrade() -> None:
    """Make all tables."""
    _make_jobs()
    _make_attempts()
    _make_recipients()
    _make_blobs()
    _make_transports()
    _make_notes()


def _make_jobs() -> None:
    op.create_table(
        "deferred_mail_job",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("format", sa.SmallInteger, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("transport", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(100), nullable=False, server_default=""),
        sa.Column("key", sa.String(200)),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("due_at", sa.Double),
        sa.Column("first_due_at", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("sent_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("budget_start", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
        sa.Column("died_generation", sa.Integer),
        sa.Column("on_unknown", sa.String(5)),
        sa.Column("transactional", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("handing_over", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("lease_token", sa.String(64)),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("recipients", _LONG, nullable=False),
        sa.Column("payload", _LONG),
        sa.CheckConstraint(
            "status IN ('cancelled', 'expired', 'failed', 'held', 'partial', 'pending', 'sending',"
            " 'sent')",
            name="deferred_mail_job_status",
        ),
        sa.CheckConstraint(
            "(lease_token IS NOT NULL) = (status = 'sending')", name="deferred_mail_job_lease"
        ),
        sa.CheckConstraint(
            "(due_at IS NOT NULL) = (status IN ('pending', 'sending'))",
            name="deferred_mail_job_due",
        ),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (status IN"
            " ('cancelled', 'expired', 'failed', 'partial', 'sent'))",
            name="deferred_mail_job_ended",
        ),
        sa.CheckConstraint("attempts >= 0 AND deaths >= 0", name="deferred_mail_job_attempts"),
        sqlite_autoincrement=True,
        **_OPTIONS,
    )
    _make_job_indexes()


def _make_job_indexes() -> None:
    due, keyed = sa.text("due_at IS NOT NULL"), sa.text("key IS NOT NULL")
    op.create_index(
        "deferred_mail_job_claim",
        "deferred_mail_job",
        ["transport", "priority", "due_at"],
        sqlite_where=due,
        postgresql_where=due,
    )
    op.create_index("deferred_mail_job_status", "deferred_mail_job", ["status", "ended_at"])
    op.create_index(
        "deferred_mail_job_key",
        "deferred_mail_job",
        ["tenant", "key"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )


def _make_attempts() -> None:
    op.create_table(
        "deferred_mail_attempt",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("job_id", _ID, sa.ForeignKey("deferred_mail_job.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("transport", sa.String(64), nullable=False),
        sa.Column("host", sa.String(255)),
        sa.Column("address", sa.String(255)),
        sa.Column("tls", sa.String(20)),
        sa.Column("queue_id", sa.String(255)),
        sa.Column("outcome", sa.String(10), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("phases", sa.Text),
        sa.CheckConstraint(
            "outcome IN ('sent', 'partial', 'retry', 'failed', 'unknown', 'returned')",
            name="deferred_mail_attempt_outcome",
        ),
        **_OPTIONS,
    )
    op.create_index("deferred_mail_attempt_job", "deferred_mail_attempt", ["job_id", "number"])


def _make_recipients() -> None:
    op.create_table(
        "deferred_mail_recipient",
        _key_to("job_id", _ID, "deferred_mail_job.id"),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("address", sa.String(320), nullable=False),
        sa.Column("kind", sa.String(3), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("provider_message_id", sa.String(255)),
        **_OPTIONS,
    )
    op.create_index(
        "deferred_mail_recipient_address", "deferred_mail_recipient", ["address", "job_id"]
    )


def _make_blobs() -> None:
    op.create_table(
        "deferred_mail_blob",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("data", sa.LargeBinary(2**32 - 1), nullable=False),
        **_OPTIONS,
    )
    op.create_table(
        "deferred_mail_job_blob",
        _key_to("job_id", _ID, "deferred_mail_job.id"),
        _key_to("digest", sa.String(64), "deferred_mail_blob.digest"),
        **_OPTIONS,
    )
    op.create_index("deferred_mail_job_blob_digest", "deferred_mail_job_blob", ["digest"])


def _make_transports() -> None:
    op.create_table(
        "deferred_mail_transport",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("kind", sa.String(20)),
        sa.Column("reason", sa.Text),
        sa.Column("since", sa.Double),
        sa.Column("resting_until", sa.Double),
        sa.Column("probe_token", sa.String(64)),
        sa.Column("probe_until", sa.Double),
        sa.Column("wide_reply", sa.Text),
        sa.Column("wide_job", _ID),
        sa.Column("config_jobs", sa.Text),
        **_OPTIONS,
    )


def _make_notes() -> None:
    op.create_table(
        "deferred_mail_sighting",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        **_OPTIONS,
    )
    op.create_table(
        "deferred_mail_meta",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
        **_OPTIONS,
    )


def _key_to(name: str, type_: Any, target: str) -> sa.Column[Any]:
    return sa.Column(name, type_, sa.ForeignKey(target), primary_key=True, autoincrement=False)
