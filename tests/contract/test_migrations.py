"""Tables of an older version become those of this one, on every database, with rows in them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from flask_deferred_mail.errors import SchemaError, StoreError
from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store import schema, upgrading, versions
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.dialect import MYSQLS
from flask_deferred_mail.store.inspection import Inspection
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.reports import Reports
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from tests.support.databases import DATABASES, SERVERS, fresh_database
from tests.support.old_tables import (
    NEXT,
    fill,
    make_tables_of,
    run_next_version,
    scripts_of_next_version,
)
from tests.support.transport_calls import a_letter
from tests.support.waiting import wait_until

HEAD = schema.SCHEMA_VERSION
OLD = range(1, HEAD)


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


def is_sqlite(database: Database) -> bool:
    return database.path is not None


def structure(database: Database) -> dict[str, Any]:
    """All that a database says of its tables, but the order of columns."""
    engine = database.backend.bare_engine()
    try:
        inspector = inspect(engine)
        return {name: _table(inspector, name) for name in inspector.get_table_names()}
    finally:
        engine.dispose()


def _table(inspector: Any, name: str) -> dict[str, Any]:
    mysql = inspector.dialect.name in MYSQLS

    def sorted_texts(entries: list[dict[str, Any]]) -> list[str]:
        return sorted(
            str(sorted((key, _text(value)) for key, value in entry.items())) for entry in entries
        )

    return {
        "columns": sorted_texts(inspector.get_columns(name)),
        "primary key": sorted_texts([inspector.get_pk_constraint(name)]),
        "indexes": sorted_texts(inspector.get_indexes(name)),
        "foreign keys": sorted_texts(inspector.get_foreign_keys(name)),
        "checks": sorted_texts(inspector.get_check_constraints(name)),
        "options": str(inspector.get_table_options(name)) if mysql else "",
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str({key: _text(inner) for key, inner in value.items()})
    # Quoted or not is a matter of who wrote it. Of two derived columns that stand in one line of
    # SQLite's own text, SQLAlchemy takes the second for a part of the first.
    return str(value).replace('"', "").partition(") VIRTUAL")[0]


def drop_everything(database: Database) -> None:
    engine = database.backend.bare_engine()
    with database.backend.writing(engine) as connection:
        schema.metadata.drop_all(connection)
        versions.version_table.drop(connection)
    engine.dispose()


def rows(database: Database, table: str) -> list[dict[str, Any]]:
    """All rows of a table, whatever version it is of."""
    engine = database.backend.bare_engine()
    try:
        with database.backend.reading(engine) as connection:
            found = connection.execute(text(f"SELECT * FROM deferred_mail_{table}"))
            return [dict(row) for row in found.mappings()]
    finally:
        engine.dispose()


def run(database: Database, *statements: str) -> None:
    """Run SQL, whatever version the tables are of."""
    engine = database.backend.bare_engine()
    with database.backend.writing(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def noted(database: Database) -> dict[str, str]:
    return {row["name"]: row["value"] for row in rows(database, "meta")}


def revision(database: Database) -> list[str]:
    return [row["version_num"] for row in rows(database, "alembic_version")]


def send_all(database: Database) -> list[int]:
    """Claim what is due, and note it as sent."""
    claims = Claims(database, Lease(60, "host:1")).take("default", 100)
    for claim in claims:
        note = AttemptNote(time.time(), 0.1, "sent", "")
        verdict = Verdict(JobStatus.SENT, claim.recipients, note, None)
        JobStore(database).record(claim, verdict)
    return [claim.job_id for claim in claims]


def add(database: Database) -> int:
    return JobStore(database).add(Submission(a_letter())).job.id


# -- each revision ----------------------------------------------------------------------------


def test_revisions_lead_to_the_tables_that_are_made_anew(database: Database) -> None:
    """Whether a database is new or came all the way: the same tables, indexes and checks."""
    database.create()
    made = structure(database)
    drop_everything(database)
    make_tables_of(HEAD, database)
    came = structure(database)
    assert set(came) == set(made)
    made.pop(versions.version_table.name)  # which Alembic makes in its own way
    for name, table in made.items():
        assert came[name] == table, name


@pytest.mark.parametrize("version", OLD)
def test_an_older_version_is_upgraded_with_its_rows(database: Database, version: int) -> None:
    """Nothing of a row changes; what was due is sent, what was sent stays so, a key still holds."""
    make_tables_of(version, database)
    fill(database)
    tables = ("job", "attempt", "recipient", "blob", "job_blob")
    before = {table: rows(database, table) for table in tables}
    change = database.upgrade()
    assert (change.before, change.after) == (version, HEAD)
    for table in tables:
        for old, new in zip(before[table], rows(database, table), strict=True):
            assert new | old == new
    assert noted(database)["schema"] == str(HEAD)
    assert revision(database) == [versions.revision_of(HEAD)]

    assert send_all(database) == [1]
    store, reports = JobStore(database), Reports(database)
    assert [store.get(n).status for n in (1, 2, 3)] == ["sent", "sent", "pending"]
    assert store.get(2).subject == "Grüße ✉ 😀"
    assert reports.attempts(2)[0].detail == "250 ok"
    again = store.add(Submission(a_letter(), key="welcome"))
    assert (again.created, again.job.id) == (False, 3)
    assert add(database) > 3


def test_revisions_form_one_line_forward() -> None:
    """Numbered as the versions are, none goes back, each says which version's code it fits."""
    scripts = list(ScriptDirectory(str(upgrading.SCRIPTS)).walk_revisions())
    assert [script.revision for script in reversed(scripts)] == [
        versions.revision_of(version) for version in range(1, HEAD + 1)
    ]
    for script in scripts:
        assert not hasattr(script.module, "downgrade")
        assert 1 <= script.module.compatible <= int(script.revision)


# -- making, adopting, upgrading --------------------------------------------------------------


def test_tables_from_before_revisions_are_taken_in(database: Database) -> None:
    """Tables that fit and have no revision get one; nothing else is touched, and only once."""
    database.create()
    add(database)
    run(database, "DROP TABLE deferred_mail_alembic_version")
    before = structure(database), rows(database, "job")
    assert database.create() == versions.Change(HEAD, HEAD, adopted=True)
    assert revision(database) == [versions.revision_of(HEAD)]
    after = structure(database)
    after.pop("deferred_mail_alembic_version")
    assert (after, rows(database, "job")) == before
    assert database.create() == database.upgrade() == versions.Change(HEAD, HEAD)


def test_upgrading_nothing_makes_the_tables(database: Database) -> None:
    """One command for every deployment."""
    assert database.upgrade() == versions.Change(None, HEAD)
    assert add(database) == 1


def test_what_a_dead_process_half_made_is_completed(database: Database) -> None:
    """MariaDB keeps each table that was made before the process died; the next run makes the
    rest."""
    database.create()
    index = "DROP INDEX deferred_mail_job_status"
    on = "" if is_sqlite(database) or "postgresql" in database.shown else " ON deferred_mail_job"
    run(
        database,
        "DROP TABLE deferred_mail_sighting",
        f"{index}{on}",
        "DELETE FROM deferred_mail_meta",
    )
    assert database.create() == versions.Change(None, HEAD)
    assert "deferred_mail_job_status" in str(structure(database)["deferred_mail_job"]["indexes"])
    assert add(database) == 1


def test_tables_of_no_version_that_lack_something_are_left_alone(database: Database) -> None:
    """Named, not guessed at."""
    database.create()
    run(
        database,
        "ALTER TABLE deferred_mail_job DROP COLUMN last_error",
        "DELETE FROM deferred_mail_meta",
    )
    with pytest.raises(SchemaError, match=r"lack deferred_mail_job\.last_error"):
        database.create()
    assert noted(database) == {}


@pytest.mark.parametrize("version", OLD)
def test_making_leaves_older_tables_to_the_upgrade(database: Database, version: int) -> None:
    """``init-db`` in a deployment changes no tables that have rows; it says what does."""
    make_tables_of(version, database)
    with pytest.raises(SchemaError, match=rf"of version {version}, .*upgrade-db"):
        database.create()
    assert noted(database)["schema"] == str(version)


def test_older_tables_at_first_use(database: Database) -> None:
    """SQLite upgrades its own; a server's are everybody's, so a person has to say when."""
    make_tables_of(1, database)
    fill(database)
    if is_sqlite(database):
        assert send_all(database) == [1]
        assert noted(database)["schema"] == str(HEAD)
    else:
        for _ in range(2):
            with pytest.raises(SchemaError, match=r"of version 1, .*upgrade-db"):
                add(database)
        assert noted(database)["schema"] == "1"


def test_many_that_make_or_upgrade_at_once(url: str, database: Database) -> None:
    """One of them does it, the others find it done; nobody fails."""
    make_tables_of(1, database)
    fill(database)
    found: list[object] = []

    def upgrade() -> None:
        try:
            found.append(Database(url).upgrade().before)
        except StoreError as error:
            found.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found, key=str) == [1, HEAD, HEAD, HEAD]
    assert revision(database) == [versions.revision_of(HEAD)]


# -- a version that is yet to come --------------------------------------------------------------


def test_old_and_new_processes_side_by_side(url: str, database: Database, tmp_path: Path) -> None:
    """A revision that only adds: each sends what the other recorded, and old ones may be started
    anew."""
    scripts = scripts_of_next_version(tmp_path, compatible=1)
    database.create()
    first = [add(database) for _ in range(8)]  # often enough for the driver to prepare it
    new = run_next_version(url, scripts, "upgrade", "add", "send")
    assert new["upgrade"] == [HEAD, NEXT]
    assert new["send"] == [*first, new["add"]]

    own = [add(database) for _ in range(8)]
    theirs = run_next_version(url, scripts, "add")["add"]
    assert send_all(database) == [*own, theirs]
    fresh = Database(url)
    assert JobStore(fresh).get(theirs).status == "sent"
    assert fresh.create() == versions.Change(NEXT, NEXT)
    assert Inspection(fresh).condition().schema_version == NEXT
    fresh.close()
    remarks = {row["id"]: row["remark"] for row in rows(database, "job")}
    assert remarks[theirs] == "new"
    assert remarks[own[0]] == "none"


def test_a_new_process_before_the_upgrade(url: str, database: Database, tmp_path: Path) -> None:
    """It upgrades SQLite's tables under everybody's eyes; elsewhere it says what to run."""
    scripts = scripts_of_next_version(tmp_path, compatible=1)
    database.create()
    number = add(database)
    said = run_next_version(url, scripts, "send")["send"]
    if is_sqlite(database):
        assert said == [number]
    else:
        assert "upgrade-db" in said
        assert noted(database)["schema"] == str(HEAD)
    add(database)


def test_a_step_that_locks_the_old_out(url: str, database: Database, tmp_path: Path) -> None:
    """Nobody takes it by himself; after ``upgrade-db``, an old process leaves all alone."""
    scripts = scripts_of_next_version(tmp_path, compatible=NEXT)
    database.create()
    add(database)
    new = run_next_version(url, scripts, "add", "upgrade", "send")
    assert "upgrade-db" in new["add"]
    assert new["upgrade"] == [HEAD, NEXT]
    assert new["send"] == [1]
    database.close()
    for attempt in (add, Database.create, Database.upgrade):
        with pytest.raises(SchemaError, match=rf"version {NEXT}.*Upgrade flask-deferred-mail"):
            attempt(database)
    assert len(rows(database, "job")) == 1


def test_a_revision_that_fails_changes_no_version(
    url: str, database: Database, tmp_path: Path
) -> None:
    """All of it is taken back where the database can; where not, what was done is no hindrance
    to the next run. The version is noted last."""
    broken = 'op.execute("SELECT * FROM there_is_no_such_table")'
    scripts = scripts_of_next_version(tmp_path, compatible=1, last=broken)
    database.create()
    said = run_next_version(url, scripts, "upgrade")["upgrade"]
    assert "there_is_no_such_table" in said
    assert noted(database)["schema"] == str(HEAD)
    assert revision(database) == [versions.revision_of(HEAD)]
    if "mariadb" not in database.shown:
        assert "remark" not in str(structure(database))
    number = add(database)
    mended = scripts_of_next_version(tmp_path / "mended", compatible=1)
    new = run_next_version(url, mended, "upgrade", "send")
    assert new == {"upgrade": [HEAD, NEXT], "send": [number]}


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_an_upgrade_waits_for_readers_without_holding_up_others(
    url: str, database: Database
) -> None:
    """Somebody's long transaction keeps the table: mail is recorded meanwhile, and the upgrade
    comes through when that ends. (Readers do not keep SQLite from changing a table.)"""
    make_tables_of(1, database)
    engine = database.backend.bare_engine()
    changes: list[versions.Change] = []
    upgrade = threading.Thread(target=lambda: changes.append(Database(url).upgrade()))
    with database.backend.reading(engine) as reader:
        reader.execute(text("SELECT count(*) FROM deferred_mail_job"))
        upgrade.start()
        # As soon as it stands in the queue of locks, a process of the old version records a mail:
        # no longer than one wait of the upgrade behind it.
        wait_until(lambda: _somebody_waits(engine), message="the upgrade waits for the lock")
        fill(database)
        assert upgrade.is_alive()
    upgrade.join(60)
    engine.dispose()
    assert [(change.before, change.after) for change in changes] == [(1, HEAD)]
    assert send_all(database) == [1]


def _somebody_waits(engine: Engine) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'"
        if engine.dialect.name == "postgresql"
        else "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() "
        "AND state LIKE 'Waiting for%'"
    )
    with engine.connect() as connection:
        return bool(connection.scalar(text(query)))


# -- tables that the application owns -----------------------------------------------------------


def test_tables_of_the_application_are_only_looked_at(database: Database) -> None:
    """Made by its own metadata: they serve, they have a version, and nobody here changes them."""
    engine = database.backend.bare_engine()
    schema.metadata.create_all(engine)
    engine.dispose()
    database.backend.application_owns = True
    assert add(database) == 1
    assert Inspection(database).condition().schema_version == HEAD
    for change in (database.create, database.upgrade):
        with pytest.raises(SchemaError, match="belong to the application"):
            change()
    assert "deferred_mail_alembic_version" not in structure(database)
    assert noted(database) == {}


def test_what_the_application_has_not_migrated_is_named(database: Database) -> None:
    """A new version of the package on old tables: which columns, and what to run."""
    make_tables_of(1, database)
    database.backend.application_owns = True
    with pytest.raises(SchemaError, match=r"deferred_mail_job\.tried.*flask db upgrade"):
        add(database)


# -- what it costs ------------------------------------------------------------------------------


def test_a_process_starts_without_alembic(tmp_path: Path) -> None:
    """Tables that fit, and tables that are made anew, need no migrations."""
    code = (
        "import sys\n"
        "from flask_deferred_mail.store.database import Database\n"
        "for _ in range(2):\n"
        f"    Database('sqlite:///{tmp_path}/mail.sqlite3').read(lambda connection: None)\n"
        "print('alembic' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
