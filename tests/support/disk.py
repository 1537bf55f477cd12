"""The disk under an app's database, which a test can fill up."""

from __future__ import annotations

import sqlite3

from sqlalchemy import event

from tests.support.mail_app import MailApp


class Disk:
    """Every connection of an app, with a limit that a test sets and lifts."""

    def __init__(self, app: MailApp) -> None:
        self._app = app
        self._pragma = ""
        event.listen(app.runtime.database.engine, "connect", self._on_connect)

    def _on_connect(self, connection: sqlite3.Connection, _record: object) -> None:
        if self._pragma:
            connection.execute(self._pragma)

    def _set(self, pragma: str) -> None:
        self._pragma = pragma
        # Idle connections are closed; the next ones come with the pragma.
        self._app.runtime.database.engine.dispose()

    def is_full(self, but_for: int = 0) -> None:
        """No page more; or only so many."""
        [(pages,)] = self._app.sql("PRAGMA page_count")
        self._set(f"PRAGMA max_page_count = {pages + but_for}")

    def has_room(self) -> None:
        self._set("")

    def is_read_only(self) -> None:
        self._set("PRAGMA query_only = ON")
