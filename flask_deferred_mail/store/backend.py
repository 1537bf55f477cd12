"""What a kind of database must provide beside SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from ..errors import SchemaError, StoreError
from . import schema


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

    def __init__(self, url: URL) -> None:
        self.url = url
        #: The database's address without its password.
        self.shown = url.render_as_string(hide_password=True)

    @abstractmethod
    def open(self) -> Engine:
        """An engine that is ready for use, the tables in place.

        :raises SchemaError: the tables are missing or newer than this version.
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

    def single_read(self, engine: Engine) -> AbstractContextManager[Connection]:
        """For exactly one SELECT, read to its end."""
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

    def make_tables(self, engine: Engine) -> bool:
        """Make the tables where they are missing. False: they were there."""
        with self.writing(engine) as connection:
            if self.schema_version(connection) is not None:
                return False
            schema.metadata.create_all(connection)
            version = {"name": "schema", "value": str(schema.SCHEMA_VERSION)}
            connection.execute(schema.meta.insert(), version)
            return True

    def schema_version(self, connection: Connection) -> int | None:
        """The version of the tables there, ``None`` if there are none.

        :raises SchemaError: when they were made by a newer version: they are left alone.
        """
        if not inspect(connection).has_table(schema.meta.name):
            return None
        query = select(schema.meta.c.value).where(schema.meta.c.name == "schema")
        version = int(connection.scalar(query) or 0)
        if version > schema.SCHEMA_VERSION:
            raise SchemaError(
                f"{self.shown}: the tables are of version {version}, this process knows version "
                f"{schema.SCHEMA_VERSION}. Upgrade flask-deferred-mail here; nothing was touched"
            )
        return version
