"""What providers report, who is not mailed any more, and what a transport may send.

Only adds: processes of version 1 and 2 know nothing of it, and lose nothing by that.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from flask_deferred_mail.store.migrations.resumable import add_column, create_index, create_table

revision = "0003"
down_revision = "0002"
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
    """Add the tables, and what transports and recipients need beside them."""
    create_index(
        "deferred_mail_recipient_provider", "deferred_mail_recipient", ["provider_message_id"]
    )
    for column in (
        sa.Column("paused_at", sa.Double),
        sa.Column("paused_by", sa.String(255)),
        sa.Column("ramp", sa.Integer),
        sa.Column("ramp_at", sa.Double),
    ):
        add_column("deferred_mail_transport", column)
    _make_limits()
    _make_events()
    _make_suppressions()
    _make_refusals()


def _make_limits() -> None:
    create_table(
        "deferred_mail_limit",
        sa.Column("transport", sa.String(64), primary_key=True),
        sa.Column("seconds", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tokens", sa.Double, nullable=False),
        sa.Column("filled_at", sa.Double, nullable=False),
        **_OPTIONS,
    )


def _make_events() -> None:
    create_table(
        "deferred_mail_event",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("transport", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("bounce_type", sa.String(8)),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("occurred_at", sa.Double),
        sa.Column("job_id", _ID),
        sa.Column("address", sa.String(320)),
        sa.Column("provider_message_id", sa.String(255)),
        sa.Column("reference", sa.String(100)),
        sa.Column("message_id", sa.Text),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("data", _LONG, nullable=False),
        sa.Column("open_until", sa.Double),
        **_OPTIONS,
    )
    for name, columns, unique in (
        ("digest", ["digest"], True),
        ("job", ["job_id", "id"], False),
        ("received", ["received_at"], False),
        ("open", ["open_until"], False),
    ):
        create_index(f"deferred_mail_event_{name}", "deferred_mail_event", columns, unique=unique)


def _make_suppressions() -> None:
    create_table(
        "deferred_mail_suppression",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("address", sa.String(320), nullable=False),
        sa.Column("domain", sa.String(255), nullable=False, server_default=""),
        sa.Column("tenant", sa.String(100), nullable=False, server_default=""),
        sa.Column("tag", sa.String(255), nullable=False, server_default=""),
        sa.Column("reason", sa.String(20), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        **_OPTIONS,
    )
    create_index("deferred_mail_suppression_address", "deferred_mail_suppression", ["address"])


def _make_refusals() -> None:
    create_table(
        "deferred_mail_refusal",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("address", sa.String(320), nullable=False),
        sa.Column("domain", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(100), nullable=False, server_default=""),
        sa.Column("transport", sa.String(64), nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("refused_at", sa.Double, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        **_OPTIONS,
    )
    for name, columns in (
        ("address", ["address", "refused_at"]),
        ("time", ["transport", "refused_at"]),
    ):
        create_index(f"deferred_mail_refusal_{name}", "deferred_mail_refusal", columns)
