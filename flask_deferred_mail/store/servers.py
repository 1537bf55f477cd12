"""PostgreSQL, and MariaDB or MySQL: one database for many processes on many hosts.

Transactions are the driver's own. A deadlock, a serialization failure or a lost connection has the
whole transaction run again; what cannot be known is only whether a COMMIT whose answer was lost
has happened (:class:`~flask_deferred_mail.errors.CommitUnknown`).
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..cleaning import clean
from ..errors import CommitUnknown, SchemaError, StoreBusy, StoreError
from .backend import Backend, Setup, Trouble
from .kept import KeptConnections
from .upgrading import too_old

#: Seconds that a connection may have been idle and still be used without a look at it. A server
#: that was restarted meanwhile is noticed by the look, not by the mail.
IDLE_WITHOUT_LOOK = 1.0

#: Seconds for which a change of tables waits for a lock. While it waits, whoever comes later waits
#: behind it: better to give up and try again.
UPGRADE_PATIENCE = 5

#: Seconds to wait for a connection to the server.
CONNECT_TIMEOUT = 10

#: Seconds that one statement waits for a lock, unless the server is set to less: PostgreSQL and
#: MariaDB's locks of tables know no end, and a view would hang as long as somebody alters a table.
LOCK_TIMEOUT = 5

# Of the lock that processes take to make or upgrade tables. MySQL's are known to the whole server,
# and their names are short.
_TURN = "flask_deferred_mail"
_MYSQL_TURN = f"SHA1(CONCAT('{_TURN}.', DATABASE()))"

# Inherited over a fork: kept for ever.
_inherited: list[KeptConnections] = []


class ServerBackend(Backend):
    """What the servers have in common."""

    #: For people, and the extra that brings the driver.
    label: ClassVar[str]
    extra: ClassVar[str]
    connect_args: ClassVar[dict[str, Any]] = {}

    def open(self) -> Engine:
        engine = self.bare_engine()
        try:
            with self.reading(engine) as connection:
                found = self.find_tables(connection)
            if found is None:
                raise SchemaError(
                    f"{self.shown}: the tables are not there; run `flask mail init-db` once"
                )
            if found.old:
                raise too_old(found, self.shown)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def bare_engine(self) -> Engine:
        try:
            engine = create_engine(
                self.url,
                isolation_level="READ COMMITTED",
                pool_size=5,
                max_overflow=45,
                pool_timeout=30,
                connect_args=self.connection_options(),
            )
        except ModuleNotFoundError as error:
            raise StoreError(
                f"the driver for {self.label} is missing ({error.name}): "
                f"pip install flask-deferred-mail[{self.extra}]"
            ) from error
        event.listen(engine, "checkin", _note_idle)
        event.listen(engine, "checkout", _look_if_idle)
        return engine

    def connection_options(self) -> dict[str, Any]:
        """What the driver is told, beside what the URL says."""
        return dict(self.connect_args)

    @contextmanager
    def writing(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as connection:
            transaction = connection.begin()
            try:
                yield connection
            except BaseException:
                transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if self.judge(error) is Trouble.LOST:
                    raise self._commit_unknown() from error
                raise

    def _commit_unknown(self) -> CommitUnknown:
        return CommitUnknown(
            f"{self.shown}: the connection was lost while committing; whether it happened is "
            "not known"
        )

    @contextmanager
    def reading(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as connection, connection.begin():
            yield connection

    def judge(self, error: SQLAlchemyError) -> Trouble:
        if isinstance(error, DBAPIError):
            if error.connection_invalidated:
                return Trouble.LOST
            if self._code(error) in self._lost:
                return Trouble.LOST
            if self._code(error) in self._again:
                return Trouble.AGAIN
        return Trouble.FINAL

    #: Codes after which the whole transaction is run again.
    _again: ClassVar[frozenset[object]]
    #: Codes that say that the server is going, coming or not there.
    _lost: ClassVar[frozenset[object]]
    #: Codes that say that a table or column is missing.
    _missing: ClassVar[frozenset[object]]

    @abstractmethod
    def _code(self, error: DBAPIError) -> object:
        """The database's own code of an error."""

    def explain(self, error: SQLAlchemyError) -> StoreError:
        reason = clean(str(getattr(error, "orig", None) or error))
        if isinstance(error, DBAPIError) and self._code(error) in self._missing:
            return SchemaError(f"{self.shown}: {reason}; run `flask mail init-db`")
        return StoreError(f"{self.shown}: {reason}")


class PostgresqlBackend(ServerBackend):
    """PostgreSQL through psycopg 3."""

    label = "PostgreSQL"
    extra = "postgresql"
    connect_args: ClassVar[dict[str, Any]] = {"connect_timeout": CONNECT_TIMEOUT}
    # serialization_failure, deadlock_detected, lock_not_available
    _again = frozenset({"40001", "40P01", "55P03"})
    # connection_exception and its kind, admin_shutdown, crash_shutdown, cannot_connect_now
    _lost = frozenset({"08000", "08003", "08006", "08001", "57P01", "57P02", "57P03"})
    _missing = frozenset({"42P01", "42703"})
    writes_batches = True

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self._kept: AutocommitConnections | None = None

    def bare_engine(self) -> Engine:
        engine = super().bare_engine()
        event.listen(engine, "connect", self._must_hold_any_text)
        event.listen(engine, "connect", _bound_lock_waits)
        return engine

    def _must_hold_any_text(self, connection: Any, _record: object) -> None:
        """An outcome with a character that has no place would never be written, and its mail be
        sent again and again. (The server has told its encoding when it was connected to.)"""
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8", "SQL_ASCII"):  # no encoding at all takes any text
            connection.close()  # the pool has not taken it over yet
            raise StoreError(
                f"{self.shown}: the database's encoding is {encoding}, which cannot hold every "
                "mail; use a database that was made with ENCODING 'UTF8'"
            )

    def open(self) -> Engine:
        engine = super().open()
        if self._kept is not None and not self._kept.is_empty:
            # Inherited over a fork: closing them here would harm the parent.
            _inherited.append(self._kept)
        self._kept = AutocommitConnections(engine)
        return engine

    @contextmanager
    def at_once(self, engine: Engine) -> Iterator[Connection]:
        with self._autocommitting(engine) as connection:
            try:
                yield connection
            except DBAPIError as error:
                if self.judge(error) is Trouble.LOST:
                    raise self._commit_unknown() from error
                raise

    @contextmanager
    def single_read(self, engine: Engine) -> Iterator[Connection]:
        # Saves the round trips of BEGIN and COMMIT.
        with self._autocommitting(engine) as connection:
            yield connection

    @contextmanager
    def _autocommitting(self, engine: Engine) -> Iterator[Connection]:
        kept = self._kept
        if kept is None or kept.engine is not engine:  # an engine of former times
            with engine.connect() as connection:
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
            return
        connection = kept.take()
        try:
            yield connection
        except BaseException:
            kept.discard(connection)
            raise
        kept.give_back(connection)

    def connection_options(self) -> dict[str, Any]:
        # After a few runs psycopg prepares a statement on the server, by a name of its own. Behind
        # a pooler of transactions the next transaction is on another connection: there the name
        # means nothing, or another process's statement. So: not unless the URL asks for it.
        asked = self.url.query.get("prepare_threshold")
        if asked is not None and not (isinstance(asked, str) and asked.isdecimal()):
            raise StoreError(f"{self.shown}: prepare_threshold takes one whole number")
        return {
            **self.connect_args,
            # Whatever the URL, PGCLIENTENCODING or the database's own says: an outcome with a
            # character that the connection cannot carry would never be written.
            "client_encoding": "utf8",
            "prepare_threshold": int(asked) if asked else None,
        }

    def setup(self, connection: Connection) -> Setup:
        def ask(name: str) -> str:
            return str(connection.exec_driver_sql(f"SHOW {name}").scalar())

        return Setup(
            product=f"PostgreSQL {ask('server_version')}",
            durable=ask("fsync") == "on" and ask("synchronous_commit") not in ("off", "local"),
            durability="fsync and synchronous_commit on",
        )

    def take_turn(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{UPGRADE_PATIENCE}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{_TURN}'))")

    def judge(self, error: SQLAlchemyError) -> Trouble:
        # A connection that could not be made has no code: the server is going, coming or away.
        if isinstance(error, exc.OperationalError) and self._code(error) is None:
            return Trouble.LOST
        return super().judge(error)

    def _code(self, error: DBAPIError) -> object:
        return getattr(error.orig, "sqlstate", None)


class MysqlBackend(ServerBackend):
    """MariaDB or MySQL through PyMySQL."""

    label = "MariaDB or MySQL"
    extra = "mysql"
    connect_args: ClassVar[dict[str, Any]] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "charset": "utf8mb4",
        # In strict mode nothing is cut silently; in UTC no hour comes twice.
        "init_command": "SET time_zone = '+00:00', "
        "sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), "
        f"innodb_lock_wait_timeout = LEAST(@@innodb_lock_wait_timeout, {LOCK_TIMEOUT}), "
        f"lock_wait_timeout = LEAST(@@lock_wait_timeout, {LOCK_TIMEOUT})",
    }
    # lock wait timeout, deadlock, and MariaDB's "record has changed since last read"
    _again = frozenset({1205, 1213, 1020})
    # cannot connect, server gone, lost connection, server shutdown, killed
    _lost = frozenset({2002, 2003, 2006, 2013, 2055, 1053, 1927, 1317})
    _missing = frozenset({1146, 1054})

    def setup(self, connection: Connection) -> Setup:
        version, flush = connection.exec_driver_sql(
            "SELECT VERSION(), @@innodb_flush_log_at_trx_commit"
        ).one()
        name = "MariaDB" if "mariadb" in str(version).lower() else "MySQL"
        return Setup(
            product=f"{name} {version}",
            durable=flush == 1,
            durability="innodb_flush_log_at_trx_commit = 1",
        )

    def take_turn(self, connection: Connection) -> None:
        # Held until the connection is closed: a lock that ended before COMMIT would be of no use.
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {UPGRADE_PATIENCE}")
        if connection.exec_driver_sql(f"SELECT GET_LOCK({_MYSQL_TURN}, 30)").scalar() != 1:
            raise StoreBusy(f"{self.shown}: another process makes or upgrades the tables")

    def _code(self, error: DBAPIError) -> object:
        return next(iter(getattr(error.orig, "args", ())), None)

    def explain(self, error: SQLAlchemyError) -> StoreError:
        if isinstance(error, DBAPIError) and self._code(error) == 1153:
            return StoreError(
                f"{self.shown}: the mail is larger than the server's max_allowed_packet; raise "
                "that setting, or send smaller attachments"
            )
        return super().explain(error)


def _bound_lock_waits(connection: Any, _record: object) -> None:
    """Let a statement of PostgreSQL wait for a lock for a bounded time.

    Not behind a pooler, where the setting would stay on a connection that others use as well: it
    tells the client another process id than the server does.
    """
    try:
        connection.execute(
            "SELECT set_config('lock_timeout', %s, false) "
            "WHERE current_setting('lock_timeout') = '0' AND pg_backend_pid() = %s",
            (f"{LOCK_TIMEOUT}s", connection.info.backend_pid),
        )
        connection.commit()
    except BaseException:
        connection.close()  # the pool has not taken it over yet
        raise


class AutocommitConnections(KeptConnections):
    """Kept connections on which each statement is its own transaction."""

    #: Beside those of the pool. A server has a process for each, and lets in a hundred or so.
    most = 4

    def take(self) -> Connection:
        connection = super().take()
        if _is_fresh(connection.info) or self._is_alive(connection):
            return connection
        connection.invalidate()
        self.discard(connection)
        return self._open()

    def _open(self) -> Connection:
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def give_back(self, connection: Connection) -> None:
        connection.info[_IDLE_SINCE] = time.monotonic()
        super().give_back(connection)

    def _is_alive(self, connection: Connection) -> bool:
        try:
            return bool(connection.dialect.do_ping(connection.connection))
        except connection.dialect.loaded_dbapi.Error:
            return False


_IDLE_SINCE = "idle_since"


def _is_fresh(info: Mapping[Any, Any]) -> bool:
    """Whether a connection was used so lately that it needs no look."""
    since: float = info.get(_IDLE_SINCE, math.inf)
    return time.monotonic() - since < IDLE_WITHOUT_LOOK


def _note_idle(_connection: object, record: Any) -> None:
    record.info[_IDLE_SINCE] = time.monotonic()


def _look_if_idle(connection: Any, record: Any, proxy: Any) -> None:
    """Replace a connection that the server has closed while nobody used it."""
    if _is_fresh(record.info):
        return
    dialect = proxy._pool._dialect
    try:
        alive = dialect.do_ping(connection)
    except Exception as error:
        raise exc.DisconnectionError() from error
    if not alive:
        raise exc.DisconnectionError()
