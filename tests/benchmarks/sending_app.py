"""The application whose mail a worker of ours sends, for ``flask --app``.

Apart from what measures it: half a megabyte of the memory that a worker was said to hold was the
harness's.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask

from tests.support.mail_app import MailApp


def an_app(folder: Path, transport: str, database: str) -> MailApp:
    """It records only: what sends is a process of its own."""
    config = {"DEFERRED_MAIL_ATTEMPT_DEADLINE": 60, "DEFERRED_MAIL_DATABASE_URI": database}
    return MailApp(folder, transport, DEFERRED_MAIL_DISPATCH="none", **config)


def create_app() -> Flask:
    """As the environment says (:attr:`.senders.Ours.env`)."""
    folder = Path(os.environ["BENCH_FOLDER"])
    return an_app(folder, os.environ["BENCH_TRANSPORT"], os.environ["BENCH_DATABASE"]).app
