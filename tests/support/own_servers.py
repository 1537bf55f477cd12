"""Database servers of a test's own, which it may restart, kill and lose.

Each lives in a temporary folder, listens on an ephemeral port of 127.0.0.1 and is ended with the
test; nothing else is touched. Both are set up for durability as in production.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.support.services import require_service
from tests.support.waiting import wait_until

#: Seconds that a server may take to start on a busy machine.
START = 60.0


class OwnServer(ABC):
    """A server process with a data folder of its own."""

    #: As in :data:`tests.support.databases.DATABASES`.
    kind: str
    #: Where "the default database" of the URL lies.
    scheme: str
    user: str
    admin_database: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"{self.scheme}://{self.user}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database in it."""
        name = f"mail_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Run one statement by a connection of its own."""
        engine = create_engine(self.url(self.admin_database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()

    @abstractmethod
    def command(self) -> list[str]:
        """The server in the foreground."""

    @abstractmethod
    def initialize(self) -> None:
        """Make the data folder."""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=_owner(self.user_name),
                group=_group(self.user_name),
                extra_groups=[] if os.getuid() == 0 else None,
            )
        wait_until(self._answers, START, f"{self.kind} did not start")

    user_name: str

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text("utf-8", "replace")
        with suppress(Exception):
            self.execute("SELECT 1")
            return True
        return False

    @abstractmethod
    def crash(self) -> None:
        """End it at once, without any goodbye; what is committed is in its log."""

    def crash_and_restart(self) -> None:
        self.crash()
        self.start()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.crash()


class OwnPostgresql(OwnServer):
    """A PostgreSQL cluster."""

    kind, scheme, user, admin_database = "postgresql", "postgresql+psycopg", "postgres", "postgres"
    user_name = "postgres"

    def initialize(self) -> None:
        command = [_postgresql("initdb"), "-D", "data", "-U", "postgres", "-A", "trust", "-N"]
        _run(command, self.folder, self.user_name)

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "80",
            "max_prepared_transactions": "10",
            "shared_buffers": "16MB",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [_postgresql("postgres"), "-D", "data", *settings]

    def crash(self) -> None:
        # What ``pg_ctl stop -m immediate`` does: no checkpoint, recovery at the next start.
        _end(self.process, signal.SIGQUIT)


class OwnMariadb(OwnServer):
    """A MariaDB server."""

    kind, scheme, user, admin_database = "mariadb", "mariadb+pymysql", "root", "mysql"
    user_name = "mysql"

    def initialize(self) -> None:
        install = [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        _run(install, self.folder, self.user_name)

    def command(self) -> list[str]:
        return [
            _mariadbd(),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 's'}",
            f"--pid-file={self.folder / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=1",
        ]

    def crash(self) -> None:
        _end(self.process, signal.SIGKILL)


@contextmanager
def own_server(kind: str) -> Iterator[OwnServer]:
    """A running server of this kind; skips by name where its programs are missing."""
    missing = _MISSING[kind]()
    require_service(f"{kind} programs", not missing, f"not found: {', '.join(missing)}")
    # Not in the folder of the test: the path of a socket is short, and another user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="own-"))
    server: OwnServer = OwnPostgresql(folder) if kind == "postgresql" else OwnMariadb(folder)
    try:
        if os.getuid() == 0:
            shutil.chown(folder, server.user_name)
        server.initialize()
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    assert process is not None
    process.send_signal(how)
    process.wait(30)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(command: list[str], folder: Path, user: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        user=_owner(user),
        group=_group(user),
        extra_groups=[] if os.getuid() == 0 else None,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _owner(name: str) -> int | None:
    """Neither server runs as root."""
    return pwd.getpwnam(name).pw_uid if os.getuid() == 0 else None


def _group(name: str) -> int | None:
    return pwd.getpwnam(name).pw_gid if os.getuid() == 0 else None


def _postgresql(program: str) -> str:
    """A program of PostgreSQL; distributions keep some of them out of the path."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return shutil.which(program) or (str(kept[-1]) if kept else "")


def _mariadbd() -> str:
    return shutil.which("mariadbd") or shutil.which("mysqld") or ""


def _missing_postgresql() -> list[str]:
    return [name for name in ("initdb", "postgres") if not _postgresql(name)]


def _missing_mariadb() -> list[str]:
    found = {"mariadbd": _mariadbd(), "mariadb-install-db": shutil.which("mariadb-install-db")}
    return [name for name, path in found.items() if not path]


_MISSING: dict[str, Callable[[], list[str]]] = {
    "postgresql": _missing_postgresql,
    "mariadb": _missing_mariadb,
}
