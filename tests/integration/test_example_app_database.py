"""The example site behind gunicorn, on SQLite and on PostgreSQL: accounts and mail share a fate."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, text

from example_app.visitor import PASSWORD, sign_up
from tests.support.databases import fresh_database
from tests.support.fault_site import ask
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until
from tests.support.web_server import ROOT, WebServer

FACTORY = "tests.support.tally_app:create_app"


class Tally:
    """The site's settings, its processes, and what others see in its database."""

    def __init__(self, folder: Path, database: str, smtp: SmtpServer, stack: ExitStack) -> None:
        self.folder, self.smtp, self._stack = folder, smtp, stack
        self.environment = {
            "PYTHONPATH": str(ROOT),
            "EXAMPLE_INSTANCE_PATH": str(folder),
            "FLASK_SQLALCHEMY_DATABASE_URI": database,
            "FLASK_DEFERRED_MAIL_TRANSPORT": smtp.url(),
            "FLASK_DEFERRED_MAIL_LEASE": "3",
        }
        self._engine = create_engine(database)
        stack.callback(self._engine.dispose)
        # Its socket would lie in the home folder, where all servers would fight for it.
        (folder / "gunicorn.conf.py").write_text("control_socket_disable = True\n", "utf-8")

    def serve(self, workers: int = 1, **env: str) -> WebServer:
        """The site behind gunicorn."""
        log = self.folder / f"server-{len(list(self.folder.glob('server-*')))}.log"
        log.touch()
        environment = {**self.environment, **env}
        server = WebServer("gunicorn-sync", FACTORY, log, env=environment, workers=workers)
        server.start()
        self._stack.callback(server.stop, signal.SIGKILL)
        return server

    def flask_mail(self, *arguments: str) -> str:
        """Run ``flask mail``, as cron or a person does; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", FACTORY, "mail", *arguments],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sweep(self) -> dict[str, int]:
        """One ``flask mail sweep``; what it counted."""
        counts: dict[str, int] = json.loads(self.flask_mail("sweep", "--json"))
        return counts

    def accounts(self) -> list[str]:
        """The addresses of all accounts."""
        return self._column("SELECT email FROM account ORDER BY email")

    def mails(self) -> list[str]:
        """The status of all mails."""
        return self._column("SELECT status FROM deferred_mail_job ORDER BY id")

    def _column(self, query: str) -> list[str]:
        with self._engine.connect() as connection:
            return [str(value) for value in connection.scalars(text(query))]

    def subjects(self) -> list[str]:
        """What the mail server has taken."""
        return sorted(str(message.parsed["Subject"]) for message in self.smtp.messages)

    def expect_sent(self, *subjects: str) -> None:
        """Wait until these mails, and no others, are taken and noted as sent."""
        wait_until(lambda: self.mails() == ["sent"] * len(subjects))
        assert self.subjects() == sorted(subjects)


@pytest.fixture(params=["sqlite", "postgresql"])
def tally(request: pytest.FixtureRequest, tmp_path: Path, smtp: SmtpServer) -> Iterator[Tally]:
    """The site on a fresh database."""
    with fresh_database(request.param, tmp_path) as url, ExitStack() as stack:
        yield Tally(tmp_path, url, smtp, stack)


def signed_up(server: WebServer, name: str) -> int | None:
    """Sign up; the status of the answer, ``None`` if there was none."""
    return sign_up(server.port, name, f"{name.lower()}@people.example").status


def invite(server: WebServer, email: str, *others: str) -> str:
    """Sign in and invite others; what the page says then."""
    with requests.Session() as browser:
        browser.trust_env = False  # no proxy of this machine's

        def send(page: str, path: str, **fields: str) -> str:
            url = f"http://127.0.0.1:{server.port}"
            token = re.search(r'name="csrf" value="([^"]+)"', browser.get(url + page).text)
            assert token
            answer = browser.post(url + path, data={"csrf": token[1], **fields}, timeout=30)
            assert answer.status_code == 200, server.log()
            return answer.text

        send("/sign-in", "/sign-in", email=email, password=PASSWORD)
        return send("/", "/invitations", emails=" ".join(others))


def test_who_signs_up_has_an_account_and_a_mail(tally: Tally) -> None:
    """Both are committed together, and the mail leaves after the response."""
    server = tally.serve()
    assert signed_up(server, "Ann") == 303
    tally.expect_sent("Welcome, Ann")
    assert tally.accounts() == ["ann@people.example"]


def test_workers_that_start_together_make_the_tables_once(tally: Tally) -> None:
    """Three of them come up on an empty database, and none of them stumbles."""
    server = tally.serve(workers=3)
    assert signed_up(server, "Ann") == 303
    assert "Error" not in server.log()
    tally.expect_sent("Welcome, Ann")


def test_who_signs_up_twice_is_mailed_once(tally: Tally) -> None:
    """The second account breaks a rule of the table: its mail is rolled back with it."""
    server = tally.serve()
    assert signed_up(server, "Ann") == 303
    assert signed_up(server, "ANN") == 400
    tally.expect_sent("Welcome, Ann")
    assert tally.sweep()["claimed"] == 0
    assert tally.accounts() == ["ann@people.example"]


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_mail(tally: Tally) -> None:
    """Of three invitations the one sent before is left out; the others are sent."""
    server = tally.serve()
    signed_up(server, "Ann")
    invite(server, "ann@people.example", "bob@people.example")
    page = invite(
        server, "ann@people.example", *(f"{x}@people.example" for x in ("cem", "bob", "dea"))
    )
    assert "Invited: 2 of 3." in page
    tally.expect_sent("Welcome, Ann", *["Ann invites you to Tally"] * 3)
    invited = [message.recipients[0] for message in tally.smtp.messages]
    assert sorted(invited) == [f"{x}@people.example" for x in ("ann", "bob", "cem", "dea")]


def test_a_released_savepoint_goes_with_the_transaction_around_it(tally: Tally) -> None:
    """On SQLite too: the example begins its transactions itself."""
    server = tally.serve()
    answer = ask(server, "/regret?id=eve")
    assert answer is not None
    assert answer.body == b"regretted"
    assert (tally.accounts(), tally.mails()) == ([], [])


def test_a_forgotten_commit_is_said_in_the_log(tally: Tally) -> None:
    """Neither the account nor the mail is there, and the log has an error that says why."""
    server = tally.serve()
    answer = ask(server, "/forget?id=eve")
    assert answer is not None
    assert answer.status == 200
    error = re.compile(r"^ERROR flask_deferred_mail\S*: .*neither committed nor rolled back", re.M)
    wait_until(lambda: error.search(server.log()), message=server.log())
    assert (tally.accounts(), tally.mails()) == ([], [])


@pytest.mark.parametrize("place", ["after-joined-insert", "tally.at-commit"])
def test_who_dies_before_the_commit_leaves_nothing(tally: Tally, place: str) -> None:
    """No answer, no account, no mail; and the same address can sign up afterwards."""
    server = tally.serve(DEFERRED_MAIL_CRASH_AT=place)
    assert signed_up(server, "Ann") is None
    assert (tally.accounts(), tally.mails()) == ([], [])
    assert tally.sweep()["claimed"] == 0
    server.stop(signal.SIGKILL)
    assert signed_up(tally.serve(), "Ann") == 303
    tally.expect_sent("Welcome, Ann")


def test_who_dies_after_the_commit_has_promised(tally: Tally) -> None:
    """No answer, but the account is there; its mail is sent by the sweep, once."""
    server = tally.serve(DEFERRED_MAIL_CRASH_AT="tally.after-commit")
    assert signed_up(server, "Ann") is None
    assert tally.accounts() == ["ann@people.example"]
    assert len(tally.mails()) == 1
    assert tally.subjects() == []
    wait_until(lambda: tally.sweep()["sent"] == 1, 30)
    tally.expect_sent("Welcome, Ann")


def test_two_sessions_have_two_fates(tally: Tally) -> None:
    """What one of them commits is sent; what the other one rolls back is not."""
    server = tally.serve()
    answer = ask(server, "/two_sessions?id=ann")
    assert answer is not None
    assert answer.status == 200, server.log()
    tally.expect_sent("ann-kept")
    assert tally.accounts() == ["ann-kept@people.example"]


def test_commit_first_and_mail_afterwards(tally: Tally) -> None:
    """The mail has its own transaction, and is sent although the view fails after it."""
    server = tally.serve()
    answer = ask(server, "/commit_first?id=ann")
    assert answer is not None
    assert answer.status == 500
    tally.expect_sent("ann")
    assert tally.accounts() == ["ann@people.example"]


def test_the_doctor_has_nothing_to_say_of_savepoints(tally: Tally) -> None:
    """The example's own recipe is enough for it."""
    said = tally.flask_mail("doctor")
    assert "owned by the application" in said
    assert "savepoint" not in said
