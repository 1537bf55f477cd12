"""The database: Flask-SQLAlchemy, on a SQLite file unless ``SQLALCHEMY_DATABASE_URI`` says other.

The tables of the mail are in it too (``DeferredMail(db=db)`` in ``app.py``), so that one commit
can be for an account and for its mail.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import DeclarativeBase

#: Seconds for which a process waits while another one makes the tables.
PATIENCE = 30


class Base(DeclarativeBase):
    """What the models have in common."""


db = SQLAlchemy(model_class=Base)


def init_app(app: Flask) -> None:
    """Open the database of an app, and make the tables that are missing: ours and the mail's."""
    db.init_app(app)
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            let_savepoints_work(db.engine)
        make_tables(Path(app.instance_path))


def let_savepoints_work(engine: Engine) -> None:
    """SQLAlchemy's recipe for Python's SQLite driver: transactions begin when they should.

    Left alone, the driver begins one before the first change, but not before a savepoint: what the
    savepoint held would stay when the transaction is rolled back. Python 3.12 and newer could have
    ``connect_args={"autocommit": False}`` instead; this one is for 3.11 as well.
    """

    @event.listens_for(engine, "connect")
    def driver_begins_nothing(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        # A transaction now lasts from its first SELECT on. In this mode, which the file keeps, it
        # does not stop others from writing: a mail in a transaction of its own, for one.
        connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def make_tables(folder: Path) -> None:
    """``db.create_all()``, by one process at a time: gunicorn's workers start all at once.

    The lock is on a file of its own, and ends with the process that holds it. A real site would
    rather use Flask-Migrate, before it starts.
    """
    with closing(sqlite3.connect(folder / "making_tables.lock", timeout=PATIENCE)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        db.create_all()
    # No connection is left open that a server which loads the app first would share by its fork.
    db.engine.dispose()
