"""Tables as former versions left them, with rows in them; and a version that is yet to come."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import column, insert, table

from flask_deferred_mail.store import upgrading, versions
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.payload import PLAIN, dump
from flask_deferred_mail.store.schema import SCHEMA_VERSION, meta
from tests.support.transport_calls import a_letter

ROOT = Path(__file__).resolve().parents[2]

#: The version after this one, which only tests know.
NEXT = SCHEMA_VERSION + 1


def make_tables_of(version: int, database: Database) -> None:
    """Tables of a former version, as that version left them."""
    engine = database.backend.bare_engine()
    with database.backend.writing(engine) as connection:
        versions.read(connection)
        upgrading.run_revisions(connection, version)
        if version == 1:
            # It knew neither revisions nor which version fits which.
            versions.version_table.drop(connection)
            connection.execute(meta.delete().where(meta.c.name == "compatible"))
    engine.dispose()


def fill(database: Database) -> None:
    """One mail that is due, one that was sent, one that waits under a key; written as SQL, since
    an old version has to understand it."""
    engine = database.backend.bare_engine()
    moment = time.time() - 3_600
    due = {"status": "pending", "due_at": moment}
    ended = {"status": "sent", "ended_at": moment, "sent_at": moment, "attempts": 1}
    with database.backend.writing(engine) as connection:
        for row in (due, ended, due | {"key": "welcome", "due_at": moment + 7_200}):
            _insert(connection, "job", _job(moment) | row)
        _insert(connection, "attempt", _attempt(moment))
        _insert(connection, "recipient", _recipient())
        _insert(
            connection,
            "blob",
            {"digest": "d" * 64, "size": 3, "created_at": moment, "data": b"\x00\xff\n"},
        )
        _insert(connection, "job_blob", {"job_id": 2, "digest": "d" * 64})
    engine.dispose()


def _insert(connection: Any, name: str, row: dict[str, Any]) -> None:
    columns = [column(key) for key in row]
    connection.execute(insert(table(f"deferred_mail_{name}", *columns)), row)


def _job(moment: float) -> dict[str, Any]:
    people = [{"a": "ann@example.net", "k": "to"}]
    return {
        "format": PLAIN,
        "transport": "default",
        "priority": 0,
        "first_due_at": moment,
        "created_at": moment,
        "size": 100,
        "message_id": "<1@example.com>",
        "sender": "shop@example.com",
        "subject": "Grüße ✉ 😀",
        "recipients": json.dumps(people),
        "payload": dump(a_letter("ann@example.net"))[0],
    }


def _attempt(moment: float) -> dict[str, Any]:
    return {
        "job_id": 2,
        "number": 1,
        "started_at": moment,
        "seconds": 0.5,
        "transport": "default",
        "outcome": "sent",
        "detail": "250 ok",
    }


def _recipient() -> dict[str, Any]:
    return {
        "job_id": 2,
        "position": 0,
        "address": "ann@example.net",
        "kind": "to",
        "status": "sent",
    }


_REVISION = '''
"""Only for tests."""

import sqlalchemy as sa
from alembic import op
from flask_deferred_mail.store.migrations.resumable import add_column, create_index

revision = "{revision}"
down_revision = "{before}"
compatible = {compatible}


def upgrade():
    add_column("deferred_mail_job", sa.Column("remark", sa.String(40), server_default="none"))
    create_index("deferred_mail_job_remark", "deferred_mail_job", ["remark"])
    {last}
'''


def scripts_of_next_version(folder: Path, *, compatible: int, last: str = "pass") -> Path:
    """Our revisions and one more, which adds a column. ``last``: what it does at its end."""
    scripts = folder / "100% next"  # a name that a configuration file could stumble over
    shutil.copytree(upgrading.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    text = _REVISION.format(
        revision=versions.revision_of(NEXT),
        before=versions.revision_of(SCHEMA_VERSION),
        compatible=compatible,
        last=last,
    )
    (scripts / "versions" / "next.py").write_text(text)
    return scripts


def run_next_version(url: str, scripts: Path, *commands: str) -> dict[str, Any]:
    """Run a process of the next version; what it says of itself comes back."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.next_version", url, str(scripts), *commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))
