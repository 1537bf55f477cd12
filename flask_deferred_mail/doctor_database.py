"""What ``doctor`` says of the database: a mail is as safe as the file that it is in."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

from .cleaning import clean
from .delivery.rhythm import POLLING
from .errors import StoreError
from .file_systems import Mount, mount_of
from .finding import Finding, Level
from .store.database import Database
from .store.inspection import Condition, Inspection
from .store.outbox import Outbox
from .store.waking import hears

#: Free space on the database's disk below which a warning is due, in bytes.
LITTLE_SPACE = 100 * 2**20

#: Seconds by which clocks may differ without being worth a word.
CLOCK_TOLERANCE = 5.0


def examine_database(database: Database) -> Generator[Finding, None, bool]:
    """Whether it opens, keeps what it is told, and lies in a good place.

    Returns whether it can be asked further.
    """
    inspection = Inspection(database)
    shown = database.shown
    try:
        condition = inspection.condition()
    except StoreError as error:
        yield Finding(
            Level.FAIL, "database", clean(str(error)), "see the text; then run this again"
        )
        return False
    product, version = clean(condition.setup.product), condition.schema_version
    owner = ", owned by the application" if condition.application_owns else ""
    yield Finding(Level.OK, "database", f"{shown} ({product}, tables of version {version}{owner})")
    if abs(condition.clock_ahead) > CLOCK_TOLERANCE:
        yield Finding(
            Level.WARN,
            "database",
            f"its clock and this host's differ by {condition.clock_ahead:.0f} s",
            "nothing is sent too early or twice for it, but send_at means the database's time: "
            "let both hosts ask a time server",
        )
    yield from _durability(condition)
    yield _writing(inspection)
    yield from _waking(database)
    if database.path is not None:
        yield from _place(database.path)
    return True


def examine_savepoints(outbox: Outbox) -> Iterator[Finding]:
    """Whether the application's own engine rolls back what it says (``db=`` on SQLite)."""
    try:
        hold = outbox.savepoints_hold()
    except StoreError as error:
        yield Finding(Level.FAIL, "database", clean(str(error)), "look at the application's engine")
        return
    if not hold:
        yield Finding(
            Level.WARN,
            "database",
            "the application's SQLite engine commits a released savepoint although the transaction "
            "around it is rolled back: its rows and its mail stay",
            "if you use begin_nested(): the remedy is in docs/guides/transactions.md",
        )


def _durability(condition: Condition) -> Iterator[Finding]:
    setup = condition.setup
    if setup.in_memory:
        yield Finding(
            Level.WARN,
            "database",
            "it is kept in memory: mail ends with the process",
            "set DEFERRED_MAIL_DATABASE_URI to a file",
        )
    elif not setup.durable:
        yield Finding(
            Level.FAIL,
            "database",
            "commits do not wait for the disk: a power cut loses recorded mail",
            f"needed: {setup.durability}",
        )
    else:
        yield Finding(Level.OK, "database", f"every commit waits for the disk ({setup.durability})")
    if setup.weakness is not None:
        what, advice = setup.weakness
        yield Finding(Level.WARN, "database", clean(what), advice)


def _waking(database: Database) -> Iterator[Finding]:
    heard = hears(database)
    if heard:
        yield Finding(Level.OK, "database", "LISTEN works: a waiting sweep is woken at once")
    elif heard is not None:
        yield Finding(
            Level.WARN,
            "database",
            "LISTEN does not work here, so a waiting sweep polls every "
            f"{POLLING:g} s: a pooler such as PgBouncer in transaction mode is in between",
            "fine if that is soon enough; else give `flask mail sweep --wait` a "
            "DEFERRED_MAIL_DATABASE_URI that leads past the pooler, or to one in session mode",
        )
        if "prepare_threshold" in database.backend.url.query:
            yield Finding(
                Level.FAIL,
                "database",
                "prepare_threshold is set, and a pooler in transaction mode loses or exchanges "
                "prepared statements",
                "take it out of the database's URL",
            )


def _writing(inspection: Inspection) -> Finding:
    try:
        inspection.try_writing()
    except StoreError as error:
        return Finding(
            Level.FAIL,
            "database",
            f"cannot be written: {clean(str(error))}",
            "every process that records or sends mail must be able to write the file and its "
            "folder, and the disk needs space",
        )
    return Finding(Level.OK, "database", "can be written")


def _place(path: Path) -> Iterator[Finding]:
    """Where the file is: on what kind of disk, whose it is, how much space there is."""
    folder = path.resolve().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(
            Level.FAIL,
            "database",
            f"the folder {clean(str(folder))} cannot be written by this user",
            "SQLite keeps its -wal and -shm files beside the database: let the user write there",
        )
    if {"site-packages", "dist-packages"} & set(folder.parts):
        yield Finding(
            Level.WARN,
            "database",
            "it lies among the installed packages, and an upgrade may remove it",
            "set DEFERRED_MAIL_DATABASE_URI, or give the app an instance_path",
        )
    yield from _owner(path)
    mount = mount_of(folder)
    if mount is not None:
        yield from _disk(mount)
    free = _free_bytes(folder)
    if free is not None and free < LITTLE_SPACE:
        yield Finding(
            Level.WARN,
            "database",
            f"only {free // 2**20} MB are free on its disk",
            "make room: on a full disk, recording a mail fails in the view",
        )


def _owner(path: Path) -> Iterator[Finding]:
    if not hasattr(os, "geteuid") or (owner := path.stat().st_uid) == os.geteuid():
        return
    yield Finding(
        Level.WARN,
        "database",
        f"the file belongs to user {owner}, this process runs as user {os.geteuid()}",
        "run web server, sweep and doctor as the same user: SQLite's files take turns to belong "
        "to whoever made them",
    )


def _disk(mount: Mount) -> Iterator[Finding]:
    if mount.is_network:
        yield Finding(
            Level.WARN,
            "database",
            f"it lies on a network file system ({mount.kind}): SQLite's locks and its shared "
            "memory do not work there",
            "put it on a local disk of the one machine that records and sends",
        )
    elif mount.is_memory:
        yield Finding(
            Level.WARN,
            "database",
            f"it lies in memory ({mount.kind}): a restart of the machine loses it",
            "put it on a disk",
        )
    elif mount.is_container_layer:
        yield Finding(
            Level.WARN,
            "database",
            f"it lies in the container's own layer ({mount.kind}), and goes with the container",
            "mount a volume, and set DEFERRED_MAIL_DATABASE_URI to a file in it",
        )


def _free_bytes(folder: Path) -> int | None:
    if not hasattr(os, "statvfs"):
        return None
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
