"""The fault site with everything around it: its server, its sweeps, its rows, its mail server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.fault_app import FOLDER
from tests.support.mail_app import MailApp
from tests.support.raw_http import Answer, RawClient
from tests.support.smtp_server import SmtpServer
from tests.support.smtp_session import Received
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT, WebServer

FACTORY = "tests.support.fault_app:create_app"

#: Seconds that a lease lasts unless a test says otherwise: so long that a busy machine does not
#: end one by itself. Tests that wait for its end take :data:`SHORT_LEASE`.
LEASE = 20.0
SHORT_LEASE = 2.0


class SweepProcess:
    """One ``flask mail sweep --json``, as cron starts it."""

    def __init__(self, env: dict[str, str], folder: Path, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "flask", "--app", FACTORY, "mail", "sweep", "--json"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=folder,
            text=True,
        )
        self.stderr = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 40.0) -> int:
        """Wait for its end; the exit status, negative for a signal."""
        self.stdout, self.stderr = self.process.communicate(timeout=timeout)
        return self.process.returncode

    def must_run(self) -> bool:
        """True while it runs; a failure with its last words once it has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"the sweep ended with {self.end()}: {self.stderr}")
        return True

    def counts(self, timeout: float = 40.0) -> dict[str, int]:
        """Wait for its end, which must be an orderly one; what it printed."""
        status = self.end(timeout)
        assert status == 0, f"the sweep ended with {status}: {self.stderr}"
        counts: dict[str, int] = json.loads(self.stdout)
        assert counts["claimed"] == sum(v for k, v in counts.items() if k != "claimed")
        return counts

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class FaultSite:
    """One database folder and one mail server, and whatever processes a test lets use them."""

    def __init__(
        self, folder: Path, smtp: SmtpServer, resources: ExitStack, transport: str, **config: Any
    ) -> None:
        self.folder, self.smtp, self._resources = folder, smtp, resources
        self.config = {
            "DEFERRED_MAIL_TRANSPORT": transport,
            "DEFERRED_MAIL_LEASE": LEASE,
            "DEFERRED_MAIL_BACKOFF": [0.05],
            "DEFERRED_MAIL_ATTEMPT_DEADLINE": 20,
            "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 20,
            **config,
        }
        #: The same rows, seen from the test's own process.
        self.rows = MailApp(folder, transport, **self.config)
        resources.callback(self.rows.close)
        # Its socket would lie in the home folder, where all servers would fight for it.
        (folder / "gunicorn.conf.py").write_text("control_socket_disable = True\n", "utf-8")
        # Read without claiming anything; also makes the tables before the processes race for it.
        self.rows.runtime.reports.backlog()

    def environment(self, env: dict[str, str]) -> dict[str, str]:
        """Variables for a process of the site."""
        config = {f"FLASK_{key}": json.dumps(value) for key, value in self.config.items()}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path, FOLDER: str(self.folder), **config, **env}

    # -- processes --------------------------------------------------------------------------------

    def serve(
        self,
        *options: str,
        kind: str = "gunicorn-sync",
        workers: int = 1,
        factory: str = FACTORY,
        **env: str,
    ) -> WebServer:
        """A real server of this site."""
        number = len(list(self.folder.glob("server-*.log")))
        log = self.folder / f"server-{number}.log"
        log.touch()
        server = WebServer(
            kind, factory, log, env=self.environment(env), options=options, workers=workers
        )
        server.start()
        # A gentle end is what some tests look at; afterwards it would only take time.
        self._resources.callback(server.stop, signal.SIGKILL)
        return server

    def sweep(self, *options: str, **env: str) -> SweepProcess:
        """Start a sweep as a process of its own."""
        sweep = SweepProcess(self.environment(env), self.folder, options)
        self._resources.callback(sweep.close)
        return sweep

    def sweep_until_ended(self, passes: int = 12) -> None:
        """Sweep, in processes one after the other, until nothing waits any more."""
        for _ in range(passes):
            self.sweep("--wait", "1").counts()
            if not self.waiting():
                return
        raise AssertionError(f"after {passes} sweeps there still is {self.waiting()}")

    # -- rows -------------------------------------------------------------------------------------

    def row(self, job_id: int) -> dict[str, Any]:
        """All that the row says, but the mail itself."""
        names = (
            "id, status, attempts, deaths, due_at, created_at, lease_token, lease_owner, "
            "handing_over, message_id, ended_at"
        )
        rows = self.rows.sql(f"SELECT {names} FROM deferred_mail_job WHERE id = ?", job_id)
        return dict(zip(names.split(", "), rows[0], strict=True))

    def count_rows(self) -> int:
        return int(self.rows.sql("SELECT count(*) FROM deferred_mail_job")[0][0])

    def statuses(self) -> Counter[str]:
        """How many rows say what."""
        rows = self.rows.sql("SELECT status, count(*) FROM deferred_mail_job GROUP BY status")
        return Counter(dict(rows))  # type: ignore[arg-type]  # pairs of two

    def waiting(self) -> int:
        """How many rows somebody may still take."""
        counts = self.statuses()
        return counts["pending"] + counts["sending"]

    def intact(self) -> bool:
        """Whether the database file is sound."""
        return self.rows.sql("PRAGMA integrity_check") == [("ok",)]

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts here."""
        return float(self.config["DEFERRED_MAIL_LEASE"])

    def let_lease_end(self, job_id: int) -> None:
        """Wait until the lease of a dead process is over, if it is short; else move the clock."""
        if self.lease > SHORT_LEASE:
            self.rows.end_leases()
            return
        ends = float(self.row(job_id)["due_at"])
        wait_until(lambda: time.time() > ends, self.lease + 10)

    # -- mails ------------------------------------------------------------------------------------

    def copies(self, subject: str) -> int:
        """How many copies of a mail the mail server took."""
        return sum(message.parsed["Subject"] == subject for message in self.smtp.messages)

    def message_ids(self, subject: str) -> set[str]:
        """Under which Message-IDs."""
        found = [m.parsed for m in self.smtp.messages]
        return {str(mail["Message-ID"]) for mail in found if mail["Subject"] == subject}

    def last_arrival(self) -> float:
        """When the newest mail was taken, in seconds since the epoch."""
        return self.smtp.messages[-1].at - time.monotonic() + time.time()

    def by_subject(self) -> dict[str, list[Received]]:
        """Subject -> the copies of that mail, in the order in which they were taken."""
        found: dict[str, list[Received]] = defaultdict(list)
        for message in self.smtp.messages:
            found[str(message.parsed["Subject"])].append(message)
        return found

    def extra_copies(self) -> int:
        """How many copies there are too many, after a look at each.

        An outcome is written before the next dot on the same connection, so only the last mail
        of a connection can have been left in doubt; and a copy is the same mail, byte by byte.
        """
        last = {message.connection: message for message in self.smtp.messages}
        extra = 0
        for subject, copies in self.by_subject().items():
            assert len({copy.data for copy in copies}) == 1, subject
            assert len({copy.parsed["Message-ID"] for copy in copies}) == 1, subject
            for copy in copies[:-1]:
                assert last[copy.connection] is copy, f"{subject}: its outcome was written late"
            extra += len(copies) - 1
        return extra

    # -- deaths -----------------------------------------------------------------------------------

    def kill_at(self, stage: str, victim: Callable[[], int], item: Any) -> None:
        """Let the mail server kill a process when it meets it at this stage for the first time.

        :param victim: its process id, asked for at that moment.
        :param item: what the mail server does with the connection of the dead.
        """

        def kill(_turn: object) -> Any:
            kill_and_wait(victim())
            return item

        self.smtp.script(stage, [kill])


def ask(server: WebServer, path: str, method: str = "GET") -> Answer | None:
    """A request on a connection of its own; ``None`` when the server cut it off."""
    try:
        with RawClient(server.port, timeout=30) as client:
            answer = client.request(path, method)
    except (ConnectionError, TimeoutError):
        return None
    return answer if answer.whole else None


def answered(server: WebServer, path: str) -> int:
    """A request that must be answered; the number of its mail."""
    answer = ask(server, path)
    assert answer is not None, server.log()
    assert answer.status == 200, server.log()
    return int(json.loads(answer.body)["id"])


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    if Path("/proc/self/stat").exists():  # also where no ps is installed
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return state.strip()[:1] in ("", "Z")


def kill_and_wait(pid: int) -> None:
    """SIGKILL, and only go on when nothing of the process can happen any more."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), message=f"{pid} survived SIGKILL")
