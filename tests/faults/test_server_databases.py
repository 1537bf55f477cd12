"""A database server that is killed and comes back: idle, while sending, at COMMIT (fault C4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url

from flask_deferred_mail.doctor_database import examine_database
from flask_deferred_mail.errors import CommitUnknown, StoreBusy, StoreError
from flask_deferred_mail.finding import Level
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.prepared import run_sql
from tests.support.background import Background
from tests.support.fault_site import FaultSite, ask
from tests.support.mail_app import MailApp
from tests.support.own_servers import OwnServer, own_server
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

#: How a connection learns its number, and how another ends it.
_NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT CONNECTION_ID()"}
_END = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with own_server(request.param) as server:
        yield server


@pytest.fixture
def url(server: OwnServer) -> str:
    url = server.new_database()
    database = Database(url)
    database.create()
    database.close()
    return url


@pytest.fixture
def app(make_app: Callable[..., MailApp], smtp: SmtpServer, url: str) -> MailApp:
    return make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="none", DEFERRED_MAIL_DATABASE_URI=url)


def _count(app: MailApp, where: str = "1 = 1") -> int:
    query = text(f"SELECT count(*) FROM deferred_mail_job WHERE {where}")
    return int(app.runtime.database.read(lambda c: c.scalar(query)) or 0)


def _subjects(smtp: SmtpServer) -> list[str]:
    return sorted(str(message.parsed["Subject"]) for message in smtp.messages)


def test_restarted_while_idle(app: MailApp, server: OwnServer, smtp: SmtpServer) -> None:
    """The connections in the pool are dead: they are replaced, and nobody notices."""
    app.send(subject="before")
    server.crash_and_restart()
    app.send(subject="after")
    assert app.sweep().sent == 2
    assert _subjects(smtp) == ["after", "before"]


def test_gone_and_back(app: MailApp, server: OwnServer) -> None:
    """While it is away the view gets an error, soon; afterwards all is as before."""
    app.send()
    server.crash()
    began = time.monotonic()
    with pytest.raises(StoreError):
        app.send()
    assert time.monotonic() - began < 30
    server.start()
    app.send()
    assert app.sweep().sent == 2


_LOCK = {
    "postgresql": "LOCK TABLE deferred_mail_job IN ACCESS EXCLUSIVE MODE",
    "mariadb": "LOCK TABLES deferred_mail_job WRITE",
}


def test_c1_a_table_that_somebody_has_locked(app: MailApp, server: OwnServer, url: str) -> None:
    """As while a table is altered: a named error in the view, soon; afterwards all is as before."""
    app.send()
    other = create_engine(url)
    with other.connect() as connection:
        connection.exec_driver_sql(_LOCK[server.kind])
        began = time.monotonic()
        with pytest.raises(StoreBusy, match="nothing was written"):
            app.send()
        assert time.monotonic() - began < 30
    other.dispose()
    app.send()
    assert app.sweep().sent == 2


@pytest.fixture
def read_only(server: OwnServer, url: str, app: MailApp) -> Iterator[str]:
    """The URL of a database with one mail as a replica shows it; writable again at the end."""
    app.send()
    address = make_url(url)
    if server.kind == "postgresql":
        setting = f"ALTER DATABASE {address.database} SET default_transaction_read_only"
        server.execute(f"{setting} = on")
        yield url
        server.execute(f"{setting} = off")
        return
    server.execute("CREATE USER shop@127.0.0.1")
    server.execute(f"GRANT ALL ON {address.database}.* TO shop@127.0.0.1")
    server.execute("SET GLOBAL read_only = 1")
    yield address.set(username="shop").render_as_string(hide_password=False)
    server.execute("SET GLOBAL read_only = 0")
    server.execute("DROP USER shop@127.0.0.1")


def test_c1_c8_a_replica_records_and_claims_nothing(
    make_app: Callable[..., MailApp], smtp: SmtpServer, read_only: str
) -> None:
    """What may only be read says so to whoever records or sweeps; it can still be looked at."""
    replica = make_app(
        smtp.url(), DEFERRED_MAIL_DISPATCH="none", DEFERRED_MAIL_DATABASE_URI=read_only
    )
    with pytest.raises(StoreError, match=r"read-only"):
        replica.send()
    with pytest.raises(StoreError, match=r"read-only"):
        replica.runtime.claims.take("default", 1)
    findings = [(f.level, f.text) for f in examine_database(replica.runtime.database)]
    assert any(level is Level.FAIL and "cannot be written" in text for level, text in findings)
    assert replica.runtime.reports.backlog().due == 1
    assert not smtp.messages


_LAX = {
    "postgresql": ("ALTER DATABASE {} SET synchronous_commit = {}", "off", "on"),
    "mariadb": ("SET GLOBAL innodb_flush_log_at_trx_commit = {1}", "2", "1"),
}


def test_c6_c8_doctor_says_when_a_commit_does_not_wait_for_the_disk(
    app: MailApp, server: OwnServer, url: str
) -> None:
    """The server's own setting; put right, doctor is content."""
    statement, lax, strict = _LAX[server.kind]
    for setting, level in ((lax, Level.FAIL), (strict, Level.OK)):
        server.execute(statement.format(make_url(url).database, setting))
        app.runtime.database.close()
        found = [f.level for f in examine_database(app.runtime.database) if "the disk" in f.text]
        assert found == [level]


def test_restarted_while_sending(app: MailApp, server: OwnServer, smtp: SmtpServer) -> None:
    """The mail is out when the server dies: its outcome is written when it is back, no copy."""
    job = app.send()
    smtp.hold("dot")
    sweep = Background(app)
    smtp.wait_held("dot")
    server.crash()
    smtp.release("dot")
    server.start()
    assert sweep.end(40).sent == 1
    assert app.job(job).status == "sent"
    assert app.sweep().claimed == 0
    assert len(smtp.messages) == 1


class _LosesTheAnswer:
    """Has the server end the connection, or itself, right before or right after its next COMMIT;
    of an outcome, which PostgreSQL gets as one statement, before or after that."""

    def __init__(
        self,
        app: MailApp,
        server: OwnServer,
        committed: bool,
        crash: bool = False,
        outcome: bool = False,
    ) -> None:
        self.server, self.committed, self.crash = server, committed, crash
        self.times = 0
        database = app.runtime.database
        dialect = database.engine.dialect
        self._commit, self._at_once = dialect.do_commit, database.backend.at_once
        if outcome and database.backend.writes_batches:
            database.backend.at_once = self._do_at_once  # type: ignore[method-assign]
        else:
            dialect.do_commit = self._do_commit  # type: ignore[method-assign]  # that is the fault

    @contextmanager
    def _do_at_once(self, engine: Engine) -> Iterator[Connection]:
        with self._at_once(engine) as connection:
            self.times += 1
            if self.times > 1:
                yield connection
                return
            number = run_sql(connection, _NUMBER[self.server.kind]).fetchone()[0]
            if self.committed:
                yield connection
            self._end(number)
            if self.committed:
                run_sql(connection, "SELECT 1")
            else:
                yield connection

    def _do_commit(self, connection: Any) -> None:
        if self.times:
            self._commit(connection)
            return
        self.times += 1
        cursor = connection.cursor()
        cursor.execute(_NUMBER[self.server.kind])
        number = cursor.fetchone()[0]
        if self.committed:
            self._commit(connection)
        self._end(number)
        cursor.execute("SELECT 1")  # raises what the driver raises when nobody is there

    def _end(self, number: int) -> None:
        if self.crash:
            self.server.crash()
        else:
            self.server.execute(_END[self.server.kind].format(number))


@pytest.mark.parametrize("committed", [True, False])
def test_the_answer_to_an_outcomes_commit_is_lost(
    app: MailApp, server: OwnServer, smtp: SmtpServer, committed: bool
) -> None:
    """The row says by its token whether it happened; written once, the mail is not sent again."""
    job = app.send()
    smtp.hold("dot")
    sweep = Background(app)
    smtp.wait_held("dot")
    fault = _LosesTheAnswer(app, server, committed, outcome=True)
    smtp.release("dot")
    assert sweep.end(30).sent == 1
    assert fault.times
    assert app.job(job).status == "sent"
    assert app.outcomes(job) == ["sent"]
    assert app.sweep().claimed == 0
    assert len(smtp.messages) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_killed_at_the_commit_of_an_outcome(
    app: MailApp, server: OwnServer, smtp: SmtpServer, committed: bool
) -> None:
    """The server dies with the COMMIT on its way: once it is back, the row is read by its token."""
    job = app.send()
    smtp.hold("dot")
    sweep = Background(app)
    smtp.wait_held("dot")
    fault = _LosesTheAnswer(app, server, committed, crash=True, outcome=True)
    smtp.release("dot")
    wait_until(lambda: server.process is not None and server.process.poll() is not None, 30)
    server.start()
    assert sweep.end(60).sent == 1
    assert fault.times
    assert (app.job(job).status, app.outcomes(job)) == ("sent", ["sent"])
    assert app.sweep().claimed == 0
    assert len(smtp.messages) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_the_answer_to_an_inserts_commit_is_lost(
    app: MailApp, server: OwnServer, smtp: SmtpServer, committed: bool
) -> None:
    """The view gets an error that says so; if the row is there all the same, it is sent once."""
    _count(app)
    _LosesTheAnswer(app, server, committed)
    with pytest.raises(CommitUnknown, match="not known"):
        app.send()
    assert _count(app) == int(committed)
    assert app.sweep().sent == int(committed)
    assert len(smtp.messages) == int(committed)


@pytest.mark.parametrize("committed", [True, False])
def test_the_answer_to_a_claims_commit_is_lost(
    app: MailApp,
    server: OwnServer,
    smtp: SmtpServer,
    committed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What may have been claimed is not sent by guess: it waits for the end of that lease."""
    # The bell that wakes others commits in a thread of its own, and could meet the fault first.
    monkeypatch.setattr(app.runtime.jobs, "ring", lambda: None)
    app.send()
    _LosesTheAnswer(app, server, committed)
    with pytest.raises(CommitUnknown):
        app.runtime.claims.take("default", 1)
    assert _count(app, "status = 'sending'") == int(committed)
    assert app.sweep().claimed == int(not committed)
    if committed:
        change = text("UPDATE deferred_mail_job SET due_at = 0")
        app.runtime.database.write(lambda c: c.execute(change))
        assert app.sweep().sent == 1
    assert len(smtp.messages) == 1


def test_web_requests_recover_by_themselves(
    server: OwnServer, url: str, make_site: Callable[..., FaultSite]
) -> None:
    """Killed and restarted under a site: answered requests have their mail, later ones succeed."""
    site = make_site(DEFERRED_MAIL_DATABASE_URI=url)
    web = site.serve(workers=2)

    def answers(name: str) -> bool:
        answer = ask(web, f"/send?id={name}")
        return answer is not None and answer.status == 200

    kept = [f"before-{number}" for number in range(10) if answers(f"before-{number}")]
    assert len(kept) == 10
    server.crash()
    assert not answers("away")
    server.start()
    numbers = iter(range(1000))
    wait_until(lambda: answers(f"back-{next(numbers)}"), 30)
    kept += [f"after-{number}" for number in range(10) if answers(f"after-{number}")]
    assert len(kept) == 20, web.log()
    site.sweep("--wait", "1").counts()
    wait_until(lambda: set(kept) <= set(site.by_subject()), 40)
    assert all(len(copies) == 1 for name, copies in site.by_subject().items() if name in kept)
