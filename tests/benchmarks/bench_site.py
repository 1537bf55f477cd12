"""The Flask application that ``bench_request`` puts behind gunicorn.

What ``/`` does is chosen by ``BENCH_VIEW``: ``nothing``; ``insert``, the reference: the same
fields through ``json.dumps`` into one row of a kept sqlite3 connection; ``mail``:
``send_after_response``, with the dispatch and transport of ``FLASK_DEFERRED_MAIL_*``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable

from flask import Flask

from flask_deferred_mail import DeferredMail, send_after_response
from tests.benchmarks.measuring import MAIL

# The columns that our indexes are made of, and the mail itself.
_TABLE = """
CREATE TABLE mail (id INTEGER PRIMARY KEY AUTOINCREMENT, transport TEXT NOT NULL,
    priority INTEGER NOT NULL, status TEXT NOT NULL, due_at REAL, ended_at REAL,
    tenant TEXT NOT NULL DEFAULT '', key TEXT, payload TEXT NOT NULL);
CREATE INDEX mail_claim ON mail (transport, priority, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX mail_status ON mail (status, ended_at);
CREATE UNIQUE INDEX mail_key ON mail (tenant, key) WHERE key IS NOT NULL;
"""
_INSERT = "INSERT INTO mail (transport, priority, status, due_at, payload) VALUES (?, ?, ?, ?, ?)"


def create_app() -> Flask:
    """The application, with one view."""
    app = Flask(__name__)
    view = os.environ["BENCH_VIEW"]
    if view == "mail":
        app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
        app.config.from_prefixed_env()
        DeferredMail(app)
    views: dict[str, Callable[[], Callable[[], str]]] = {
        "nothing": lambda: _nothing,
        "insert": _inserting,
        "mail": lambda: _mailing,
    }
    app.add_url_rule("/", "view", views[view]())
    return app


def _nothing() -> str:
    return "done"


def _mailing() -> str:
    send_after_response(**MAIL)
    return "done"


def _inserting() -> Callable[[], str]:
    """A view with a connection of its own, made at its first request (after the fork)."""
    kept: list[sqlite3.Connection] = []

    def view() -> str:
        if not kept:
            kept.append(_open(os.environ["BENCH_DATABASE"]))
        payload = json.dumps({"sender": "shop@example.com", **MAIL})
        connection = kept[0]
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_INSERT, ("default", 0, "pending", time.time(), payload))
        connection.execute("COMMIT")
        return "done"

    return view


def _open(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_TABLE)
    return connection
