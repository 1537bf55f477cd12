"""Bodies and attachments at rest, with a key: on every database, and through a whole delivery."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from flask_deferred_mail.errors import KeyMissing, StoreError
from flask_deferred_mail.letter import Letter, Part, Submission
from flask_deferred_mail.store.changes import Changes
from flask_deferred_mail.store.claims import Claim, Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.inspection import Inspection
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.schema import blobs, job_blobs, jobs
from flask_deferred_mail.store.sealing import Seals
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

OLD, NEW, OTHER = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
SECRET = "https://shop.example/reset/5c0ffee"
PDF = b"%PDF salary slip " * 500


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with fresh_database(request.param, tmp_path) as url:
        made = Database(url)
        made.create()
        yield made
        made.close()


def a_secret_letter(**fields: object) -> Letter:
    parts = (Part(PDF, "application/pdf", "slip.pdf"),)
    return a_letter("ann@example.net", text=SECRET, parts=parts, **fields)


def store(database: Database, *keys: bytes) -> JobStore:
    return JobStore(database, Seals(keys))


def claimed(database: Database) -> Claim:
    (claim,) = Claims(database, Lease(60, "host:1")).take("default", 1)
    return claim


def everything(database: Database) -> bytes:
    """All content of the three tables that hold any, as one run of bytes."""
    with database.engine.connect() as connection:
        rows = [row for t in (jobs, blobs, job_blobs) for row in connection.execute(select(t))]
    return b"\0".join(v if isinstance(v, bytes) else str(v).encode() for row in rows for v in row)


def test_what_is_recorded_with_a_key_comes_back_and_is_nowhere_to_be_read(
    database: Database,
) -> None:
    """Neither the body nor the attachment is in the table, and both are in the letter."""
    letter = a_secret_letter()
    store(database, NEW).add(Submission(letter, key="reset"))
    found = everything(database)
    assert SECRET.encode() not in found
    assert PDF[:17] not in found
    assert letter.parts[0].digest.encode() not in found
    assert letter.subject.encode() in found
    assert store(database, NEW).load(claimed(database)) == letter


def test_keys_can_be_changed(database: Database) -> None:
    """With the new key first and the old one behind it, mail of both is read."""
    letter = a_secret_letter()
    store(database, OLD).add(Submission(letter, priority=1))
    store(database, NEW, OLD).add(Submission(letter))
    both = store(database, NEW, OLD)
    assert both.load(claimed(database)) == letter
    newer = claimed(database)
    assert both.load(newer) == letter
    assert store(database, NEW).load(newer) == letter


def test_rows_from_before_the_first_key_stay_readable(database: Database) -> None:
    """Encryption can be switched on while mail waits."""
    letter = a_secret_letter()
    store(database).add(Submission(letter))
    assert store(database, NEW).load(claimed(database)) == letter


def test_without_its_key_a_mail_is_named_unreadable_and_the_key_by_its_id(
    database: Database,
) -> None:
    """The error says what to set, and nothing of any key."""
    store(database, OLD).add(Submission(a_secret_letter()))
    claim = claimed(database)
    for keys in ((), (NEW,)):
        with pytest.raises(KeyMissing, match=r"key \(id [0-9a-f]{16}\) .*ENCRYPTION_KEYS"):
            store(database, *keys).load(claim)


def test_equal_attachments_are_stored_once_for_each_key(database: Database) -> None:
    """The name of an attachment is derived from its content and the key."""
    for keys in ((NEW,), (NEW, OLD), (OLD,), ()):
        store(database, *keys).add(Submission(a_secret_letter()))
    with database.engine.connect() as connection:
        names = list(connection.scalars(select(blobs.c.digest)))
        uses = list(connection.scalars(select(job_blobs.c.digest)))
    assert len(names) == 3
    assert len(uses) == 4


def test_content_that_was_exchanged_is_refused(database: Database) -> None:
    """Who can write to the table cannot send one mail's body to another mail's recipient."""
    sealing = store(database, NEW)
    first = sealing.add(Submission(a_secret_letter(), priority=9)).job
    second = sealing.add(Submission(a_letter("bob@example.net", message_id="<2@x.example>"))).job
    with database.engine.begin() as connection:
        stolen = connection.scalar(select(jobs.c.payload).where(jobs.c.id == first.id))
        connection.execute(update(jobs).where(jobs.c.id == second.id).values(payload=stolen))
        connection.execute(update(blobs).values(data=b"x" * 100))
    with pytest.raises(StoreError, match="attachment is damaged"):
        sealing.load(claimed(database))
    with pytest.raises(StoreError, match="payload is damaged"):
        sealing.load(claimed(database))


def test_a_key_of_a_mail_is_compared_across_encryption_keys(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The same mail again is no other content because the encryption key is another."""
    letter = a_secret_letter()
    store(database).add(Submission(letter, key="plain"))
    store(database, OLD).add(Submission(letter, key="sealed"))
    again = store(database, NEW, OLD)
    with caplog.at_level(logging.WARNING):
        assert not again.add(Submission(letter, key="plain")).created
        assert not again.add(Submission(letter, key="sealed")).created
    assert not caplog.records
    again.add(Submission(a_secret_letter(html="<p>other</p>"), key="sealed"))
    assert "other content" in caplog.text


def test_an_older_version_leaves_encrypted_rows_alone(database: Database) -> None:
    """A row's format says that it is sealed, so nobody who cannot know takes it for damaged."""
    store(database, NEW).add(Submission(a_letter("ann@example.net")))
    store(database).add(Submission(a_letter("ann@example.net")))
    with database.engine.connect() as connection:
        assert sorted(connection.scalars(select(jobs.c.format))) == [1, 2]


def test_many_mails_are_encrypted_too(database: Database) -> None:
    """Whichever way they were recorded."""
    letters = [a_secret_letter(subject=str(n)) for n in range(3)]
    store(database, OTHER).add_many([Submission(letter) for letter in letters])
    assert SECRET.encode() not in everything(database)
    found = {store(database, OTHER).load(claimed(database)).subject for _ in letters}
    assert found == {"0", "1", "2"}


def test_the_keys_that_waiting_mail_needs_are_known_by_their_ids(database: Database) -> None:
    """Counted for each key; plain mail and mail that has ended need none."""
    plain, old, new = (store(database, *keys) for keys in ((), (OLD,), (NEW, OLD)))
    for jobs_of, number in ((plain, 1), (old, 2), (new, 3)):
        for _ in range(number):
            jobs_of.add(Submission(a_secret_letter()))
    needed = Inspection(database).keys_needed()
    assert sorted(needed.values()) == [2, 3]
    assert all(new.seals.knows(key_id) for key_id in needed)
    assert [needed[key_id] for key_id in needed if old.seals.knows(key_id)] == [2]
    for job_id in range(1, 7):
        Changes(database).cancel(job_id)
    assert Inspection(database).keys_needed() == {}
