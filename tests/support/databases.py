"""Databases for tests: each test gets an empty one of its own, dropped at the end.

The servers are those on their standard local ports; ``DEFERRED_MAIL_TEST_POSTGRESQL`` and
``DEFERRED_MAIL_TEST_MARIADB`` name others.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from tests.support.services import require_service

#: Kind -> where to make databases; SQLite needs none.
SERVERS = {
    "postgresql": os.environ.get(
        "DEFERRED_MAIL_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1/postgres"
    ),
    "mariadb": os.environ.get(
        "DEFERRED_MAIL_TEST_MARIADB", "mariadb+pymysql://root@127.0.0.1/mysql"
    ),
}
DATABASES = ["sqlite", *SERVERS]


@contextmanager
def fresh_database(kind: str, folder: Path, options: str = "") -> Iterator[str]:
    """The URL of an empty database of this kind; ``options`` are those of a server's CREATE."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/mail.sqlite3"
        return
    reason = _unavailable(kind)
    require_service(kind, reason is None, reason or "")
    server = make_url(SERVERS[kind])
    name = f"deferred_mail_{uuid.uuid4().hex[:12]}"
    _run(server, f"CREATE DATABASE {name} {options}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        _run(server, f"DROP DATABASE {name}{force}")


@cache
def _unavailable(kind: str) -> str | None:
    """Why there is no such server here; ``None``: there is one."""
    try:
        _run(make_url(SERVERS[kind]), "SELECT 1")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _run(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
