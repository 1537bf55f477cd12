"""What a kind of database must provide beside SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from ..errors import SchemaError, StoreError
from . import schema, upgrading, versions
from .versions import Change, Found

_APPLICATION = "make or migrate them with it: `db.create_all()`, or `flask db upgrade`"


class Trouble(Enum):
    """What to do about an error of the database."""

    #: Somebody else has the lock, or the transaction lost against another: all of it again.
    AGAIN = auto()
    #: The connection is gone: all of it again on a new one, unless it was committing.
    LOST = auto()
    #: It will not get better.
    FINAL = auto()


@dataclass(frozen=True, slots=True)
class Setup:
    """How a database is set up, as far as it matters to a promise."""

    #: Name and version.
    product: str
    #: Commits survive a power cut.
    durable: bool
    #: What makes (or should make) them do so.
    durability: str
    #: The data ends with the process.
    in_memory: bool = False
    #: Works, but could do better: what, and what to do about it.
    weakness: tuple[str, str] | None = None


class Backend(ABC):
    """One kind of database."""

    #: The database file, if it is one.
    path: str | None = None
    #: What a thread holds while it waits to write, and writes; ``None``: they need not take turns.
    turn: Any = None
    #: The data lives in the connection itself.
    in_memory = False
    #: Many outcomes are written by one statement (:mod:`.server_batches`).
    writes_batches = False
    #: This host's clock is the database's.
    own_clock = False

    def __init__(self, url: URL) -> None:
        self.url = url
        #: The database's address without its password.
        self.shown = url.render_as_string(hide_password=True)
        #: Says why a busy database will not become free: this very thread holds it.
        self.blocked_by: Callable[[], str | None] = lambda: None

    @abstractmethod
    def open(self) -> Engine:
        """An engine that is ready for use, the tables in place.

        :raises SchemaError: the tables are missing, or not of a version that fits.
        """

    @abstractmethod
    def bare_engine(self) -> Engine:
        """An engine, whatever the database holds; for making the tables."""

    @abstractmethod
    def writing(self, engine: Engine) -> AbstractContextManager[Connection]:
        """A transaction that will write; committed at the end of the block."""

    @abstractmethod
    def reading(self, engine: Engine) -> AbstractContextManager[Connection]:
        """A transaction that only reads, and sees one state of the database."""

    def single(self, engine: Engine) -> AbstractContextManager[Connection]:
        """For exactly one statement: a transaction of its own, at the least cost."""
        return self.writing(engine)

    def at_once(self, engine: Engine) -> AbstractContextManager[Connection]:
        """For one statement that shows in the rows whether it was run: a transaction of its own,
        where that saves the BEGIN and the COMMIT.

        :raises CommitUnknown: the connection was lost, at whatever moment.
        """
        return self.writing(engine)

    def single_read(self, engine: Engine) -> AbstractContextManager[Connection]:
        """For SELECTs that need not see one state of the database, each read to its end."""
        return self.reading(engine)

    @abstractmethod
    def judge(self, error: SQLAlchemyError) -> Trouble:
        """What is to be done about an error."""

    @abstractmethod
    def explain(self, error: SQLAlchemyError) -> StoreError:
        """The error in our words."""

    @abstractmethod
    def setup(self, connection: Connection) -> Setup:
        """How it is set up, for ``doctor``."""

    def check_alive(self) -> None:
        """Called before each use, cheap.

        :raises StoreError: what was opened is not there any more.
        """

    # -- tables -----------------------------------------------------------------------------

    #: The tables belong to the application (``db=``): they are looked at, and never made or changed
    #: here.
    application_owns = False

    def make_tables(self, engine: Engine) -> Change:
        """Make the tables if there are none.

        :raises SchemaError: they are older than this version, newer and do not fit, or not ours.
        """
        return self._change(engine, upgrading.make_if_missing)

    def upgrade_tables(self, engine: Engine) -> Change:
        """Make the tables, or bring them to this version.

        :raises SchemaError: they are newer than this version and do not fit, or not ours.
        """
        return self._change(engine, upgrading.make_or_upgrade)

    def _change(self, engine: Engine, work: Callable[[Connection, str], Change]) -> Change:
        if self.application_owns:
            raise SchemaError(f"{self.shown}: the tables belong to the application; {_APPLICATION}")
        with self.changing(engine) as connection:
            self.take_turn(connection)
            return work(connection, self.shown)

    def changing(self, engine: Engine) -> AbstractContextManager[Connection]:
        """A transaction for making or upgrading tables. It waits for no :attr:`turn`: whoever has
        that one may be waiting for the engine to be opened, and so for this transaction."""
        return self.writing(engine)

    def take_turn(self, connection: Connection) -> None:
        """Wait for others that make or upgrade tables, where a transaction that writes is not yet
        enough to keep them away. The turn ends with the connection at the latest."""

    def find_tables(self, connection: Connection) -> Found | None:
        """The version of the tables there, ``None`` if there are none.

        :raises SchemaError: this process cannot use them, for other reasons than age.
        """
        if self.application_owns:
            return self._find_foreign(connection)
        found = versions.read(connection)
        if found is not None:
            versions.check(found, self.shown)
        return found

    def _find_foreign(self, connection: Connection) -> Found:
        # Nobody notes a version there: what the tables have says it.
        if absent := versions.missing(connection):
            raise SchemaError(
                f"{self.shown}: these tables and columns of ours are not there: "
                f"{', '.join(absent)}; {_APPLICATION}"
            )
        return Found(schema.SCHEMA_VERSION, schema.SCHEMA_VERSION)
