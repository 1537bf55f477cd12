"""Encodings of PostgreSQL databases: which can hold every mail and every reply (fault F9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_deferred_mail.errors import StoreError
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from tests.support.databases import fresh_database
from tests.support.transport_calls import a_letter

_NOT_THE_USUAL = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING"


def test_a_database_that_cannot_hold_any_text_is_refused(tmp_path: Path) -> None:
    """Before anything is recorded or made, with what is wrong and what to do."""
    with fresh_database("postgresql", tmp_path, f"{_NOT_THE_USUAL} 'LATIN1'") as url:
        database = Database(url)
        with pytest.raises(StoreError, match=r"encoding is LATIN1.*ENCODING 'UTF8'"):
            database.create()
        with pytest.raises(StoreError, match="encoding is LATIN1"):
            JobStore(database).add(Submission(a_letter()))
        database.close()


def test_a_database_without_an_encoding_holds_any_text(tmp_path: Path) -> None:
    """``SQL_ASCII`` keeps what it is given."""
    with fresh_database("postgresql", tmp_path, f"{_NOT_THE_USUAL} 'SQL_ASCII'") as url:
        database = Database(url)
        database.create()
        store = JobStore(database)
        added = store.add(Submission(a_letter(subject="☂ Grüße 𝔘")))
        assert store.get(added.job.id).subject == "☂ Grüße 𝔘"
        database.close()
