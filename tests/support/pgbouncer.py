"""A PgBouncer that pools transactions, in front of a test's PostgreSQL database."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType

import pytest
from sqlalchemy.engine import make_url

from tests.support.waiting import wait_until

#: Where distributions put it, beside PATH.
_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


class PgBouncer:
    """Runs while the ``with`` block does; ``url`` leads through it."""

    def __init__(self, url: str, folder: Path) -> None:
        program = os.environ.get("DEFERRED_MAIL_TEST_PGBOUNCER") or shutil.which(
            "pgbouncer", path=_PLACES
        )
        if program is None:
            # Not demanded in CI: what follows from its behaviour is tested without it as well.
            pytest.skip("pgbouncer is not installed (DEFERRED_MAIL_TEST_PGBOUNCER names it)")
        server = make_url(url)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = server.set(port=self.port).render_as_string(hide_password=False)
        password = f" password={server.password}" if server.password else ""
        self._folder, self._program = folder, str(program)
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{server.database} = host={server.host} port={server.port or 5432} "
            f"dbname={server.database} user={server.username}{password}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_type = any\npool_mode = transaction\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nlogfile = {folder}/pgbouncer.log\n"
        )

    def __enter__(self) -> PgBouncer:
        command = [self._program, str(self._folder / "pgbouncer.ini")]
        # It refuses to run as root.
        as_user = {"user": "nobody"} if getpass.getuser() == "root" else {}
        if as_user:
            for path in (self._folder, *self._folder.parents):
                if path.owner() == getpass.getuser() and path != Path(path.anchor):
                    path.chmod(path.stat().st_mode | 0o055)
            self._folder.chmod(0o777)
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user
        )
        wait_until(self._answers, timeout=20, message="pgbouncer does not start")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "pgbouncer has ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
