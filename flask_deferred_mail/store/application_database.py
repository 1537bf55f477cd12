"""The application's own database, as Flask-SQLAlchemy 3 has it (``DeferredMail(db=db)``).

Flask-SQLAlchemy itself is not imported: what is used of it is ``metadatas``, ``engines`` and
``session``. Our senders use connections of their own to the same database, since theirs must not
wait for, or share, a transaction of the application.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, MetaData, event
from sqlalchemy.engine import URL

from ..conversion import database_uri
from ..errors import ConfigurationError
from . import schema
from .database import Database
from .table_options import EVERY, complete

_CHANGES = "flask_deferred_mail.changes_at_begin"


class ApplicationDatabase:
    """Where the application keeps its data, and now our tables too.

    :raises TypeError: ``db`` is not what it should be.
    """

    def __init__(self, db: Any, bind_key: str | None = None) -> None:
        if not all(hasattr(type(db), name) for name in ("engines", "metadata", "init_app")):
            raise TypeError(
                f"db= takes the SQLAlchemy object of Flask-SQLAlchemy 3, not {type(db).__name__}; "
                "without one, set DEFERRED_MAIL_DATABASE_URI and give session= with each call"
            )
        self._db = db
        self._bind_key = bind_key
        self._add_tables()

    def _add_tables(self) -> None:
        """Put our tables beside the application's, for ``db.create_all()`` and Flask-Migrate."""
        metadata = self._metadata()
        complete(schema.metadata, *EVERY)  # which one it will be, nobody knows yet
        for table in schema.metadata.sorted_tables:
            if table.name not in metadata.tables:
                table.to_metadata(metadata)

    def _metadata(self) -> MetaData:
        metadatas: dict[str | None, MetaData] = self._db.metadatas
        if self._bind_key not in metadatas:
            # As Flask-SQLAlchemy makes it when a model is the first to name the bind.
            metadatas[self._bind_key] = MetaData(
                naming_convention=self._db.metadata.naming_convention,
                info={"bind_key": self._bind_key},
            )
        return metadatas[self._bind_key]

    @property
    def session(self) -> Any:
        """The scoped session."""
        return self._db.session

    def engine(self) -> Engine:
        """The application's engine. Needs an application context.

        :raises ConfigurationError: there is no such bind.
        """
        engines = self._db.engines
        if self._bind_key not in engines:
            raise ConfigurationError(
                f"bind_key={self._bind_key!r}: SQLALCHEMY_BINDS has no such bind"
                if self._bind_key
                else "db=: SQLALCHEMY_DATABASE_URI is not set, and no bind_key= was given"
            )
        engine: Engine = engines[self._bind_key]
        return engine

    def open(self) -> Database:
        """Our own way into that database. Needs an application context.

        :raises ConfigurationError: it is in memory, or of a kind that is not supported.
        """
        engine = self.engine()
        database = Database(_our_driver(engine.url))
        if database.forgets_when_closed:
            raise ConfigurationError(
                "db=: the application's database is in memory, which has one connection and one "
                "transaction at a time, so nothing could be sent from it. Set "
                "SQLALCHEMY_DATABASE_URI to a file (in tests, one in a temporary folder)"
            )
        database.backend.application_owns = True
        if engine.dialect.name == "sqlite":
            event.listen(engine, "begin", _note_changes)
            database.backend.blocked_by = self._why_blocked
        return database

    def _why_blocked(self) -> str | None:
        """Whether this thread's own session is what keeps the SQLite file locked."""
        scoped = self._db.session
        try:
            if not scoped.registry.has():
                return None
            session = scoped()
            if not session.in_transaction():
                return None
            connection = session.connection(bind_arguments={"bind": self.engine()})
        except RuntimeError:  # a thread without an application context has no session
            return None
        if not _has_written(connection):
            return None
        return (
            "this thread's db.session holds uncommitted changes on the same SQLite file, which "
            "has one writer at a time. Record the mail in that transaction (session=db.session, "
            "or DeferredMail(join_session=True)), or commit before"
        )


def savepoints_hold(engine: Engine) -> bool:
    """Whether a released savepoint still waits for the commit of the transaction around it.

    With SQLite's driver as it comes, the first savepoint of a transaction does not. Tried out here,
    on one of the engine's connections, without writing anything.

    :raises sqlalchemy.exc.SQLAlchemyError: there is no connection.
    """
    if engine.dialect.name != "sqlite":
        return True
    with engine.connect() as connection:
        connection.begin_nested().commit()
        driver: Any = connection.connection.dbapi_connection
        return bool(getattr(driver, "in_transaction", True))


def _our_driver(url: URL) -> str:
    """The same database through the driver that we are tested with."""
    shown = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)
    return shown if shown.startswith("sqlite") else database_uri(shown)


def _note_changes(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    connection.info[_CHANGES] = getattr(driver, "total_changes", 0)


def _has_written(connection: Connection) -> bool:
    """Whether a transaction of SQLite has changed rows; one that only read blocks nobody."""
    driver: Any = connection.connection.dbapi_connection
    changes = getattr(driver, "total_changes", 0)
    return bool(getattr(driver, "in_transaction", False)) and changes > connection.info.get(
        _CHANGES, 0
    )
