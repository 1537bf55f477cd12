"""``DeferredMail(app, db=db)``: our tables in the application's own database."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select, text

from flask_deferred_mail import DeferredMail, Job, send_after_response
from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.errors import ConfigurationError, NotCommitted, SchemaError, StoreBusy
from flask_deferred_mail.store import schema
from tests.support.databases import fresh_database
from tests.support.orders import let_savepoints_work
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

HELLO: dict[str, Any] = {"subject": "Hi", "recipients": ["ann@example.com"], "body": "Hi\n"}

_numbers = itertools.count(1)


class Site:
    """An application with Flask-SQLAlchemy and mail in its database."""

    def __init__(self, folder: Path, url: str, transport: str = "null:", **how: Any) -> None:
        config = how.pop("config", {})
        self.app = Flask(f"site{next(_numbers)}", instance_path=str(folder))
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            DEFERRED_MAIL_TRANSPORT=transport,
            MAIL_DEFAULT_SENDER="shop@example.com",
            PROPAGATE_EXCEPTIONS=True,
            **config,
        )
        self.db = SQLAlchemy()
        self.user = self._model()
        self.mail = DeferredMail(db=self.db, **how)
        self.mail.init_app(self.app)
        self.db.init_app(self.app)

    def _model(self) -> Any:
        db = self.db

        class User(db.Model):  # type: ignore[name-defined,misc] # made while the test runs
            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.String(50), nullable=False)

        return User

    def create(self) -> None:
        with self.app.app_context():
            self.db.create_all()

    @property
    def runtime(self) -> Any:
        return self.mail.for_app(self.app).runtime

    def counts(self) -> tuple[int, int]:
        """How many users and mails others can see."""
        with self.app.app_context():
            users = self.db.session.scalar(select(func.count()).select_from(self.user)) or 0
        mails = self.runtime.database.read(
            lambda c: c.scalar(select(func.count()).select_from(schema.jobs))
        )
        return users, mails

    def visit(self, view: Callable[[], Any]) -> Any:
        """Serve one request whose view is this function."""
        answers: list[Any] = []

        def serve() -> str:
            answers.append(view())
            return "served"

        path = f"/visit{next(_numbers)}"
        self.app._got_first_request = False
        self.app.add_url_rule(path, path[1:], serve)
        self.app.test_client().get(path).close()
        return answers[0]

    def close(self) -> None:
        self.runtime.close()
        with self.app.app_context():
            for engine in self.db.engines.values():
                engine.dispose()


@contextmanager
def open_site(folder: Path, url: str, *args: Any, **how: Any) -> Iterator[Site]:
    site = Site(folder, url, *args, **how)
    site.create()
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make sites on a fresh SQLite file."""
    with ExitStack() as sites:
        yield lambda **how: sites.enter_context(
            open_site(tmp_path, f"sqlite:///{tmp_path}/app.sqlite3", **how)
        )


def test_a_user_and_the_welcome_are_one_transaction(
    url: str, tmp_path: Path, smtp: SmtpServer
) -> None:
    """session=db.session: committed together, sent after the response; rolled back together."""
    with open_site(tmp_path, url, smtp.url()) as site:

        def sign_up() -> Job:
            site.db.session.add(site.user(name="Ann"))
            job = send_after_response(session=site.db.session, **HELLO)
            site.db.session.commit()
            return job

        def change_ones_mind() -> None:
            site.db.session.add(site.user(name="Bob"))
            send_after_response(session=site.db.session, **HELLO)
            site.db.session.rollback()

        job = site.visit(sign_up)
        smtp.wait_for(1)
        wait_until(lambda: site.runtime.jobs.get(job.id).status == "sent")
        site.visit(change_ones_mind)
        assert site.counts() == (1, 1)


def test_commit_first_and_mail_afterwards(url: str, tmp_path: Path, smtp: SmtpServer) -> None:
    """Without session=, in a transaction of its own beside the application's."""
    with open_site(tmp_path, url, smtp.url()) as site:

        def sign_up() -> Job:
            site.db.session.add(site.user(name="Ann"))
            site.db.session.commit()
            return send_after_response(**HELLO)

        site.visit(sign_up)
        smtp.wait_for(1)
        assert site.counts() == (1, 1)


def test_join_session_is_for_every_call_and_false_opts_out(sqlite: Any) -> None:
    """session=False has its own transaction, and survives the rollback."""
    site = sqlite(join_session=True)

    def view() -> None:
        site.mail.send_after_response(session=False, **HELLO)
        site.mail.send_after_response(**HELLO)
        site.mail.send_many([HELLO, HELLO])
        site.db.session.rollback()

    site.visit(view)
    assert site.counts() == (0, 1)


def test_flask_mails_calls_keep_their_own_transaction(sqlite: Any) -> None:
    """send() is committed when it returns, whatever join_session says."""
    site = sqlite(join_session=True)
    site.visit(lambda: site.mail.send_message("Hi", ["ann@example.com"], "Hi\n") and None)
    assert site.counts() == (0, 1)


def test_a_bind_holds_the_tables(tmp_path: Path) -> None:
    """bind_key=: the mail's file is another one, and the session finds it."""
    config = {"SQLALCHEMY_BINDS": {"mail": f"sqlite:///{tmp_path}/mail.sqlite3"}}
    url = f"sqlite:///{tmp_path}/app.sqlite3"
    with open_site(tmp_path, url, bind_key="mail", join_session=True, config=config) as site:

        def view() -> None:
            site.mail.send_after_response(**HELLO)
            site.db.session.commit()

        site.visit(view)
        assert site.counts() == (0, 1)
        assert schema.jobs.name not in site.db.metadatas[None].tables
        assert site.runtime.database.path == tmp_path / "mail.sqlite3"


def test_a_bind_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """At the first use, when the application's configuration is known."""
    site = Site(tmp_path, f"sqlite:///{tmp_path}/app.sqlite3", bind_key="mail")
    with site.app.app_context(), pytest.raises(ConfigurationError, match="SQLALCHEMY_BINDS"):
        site.mail.send_after_response(**HELLO)


def test_tables_that_were_not_made_are_named_with_what_to_do(tmp_path: Path) -> None:
    """They are the application's to make; nothing is made behind its back."""
    site = Site(tmp_path, f"sqlite:///{tmp_path}/app.sqlite3")
    with site.app.app_context(), pytest.raises(SchemaError, match="create_all"):
        site.mail.send_after_response(**HELLO)
    site.close()


def test_two_databases_are_a_contradiction(tmp_path: Path) -> None:
    """db= and DEFERRED_MAIL_DATABASE_URI together are refused at init_app."""
    with pytest.raises(ConfigurationError, match="leave one of the two out"):
        Site(
            tmp_path,
            f"sqlite:///{tmp_path}/app.sqlite3",
            config={"DEFERRED_MAIL_DATABASE_URI": f"sqlite:///{tmp_path}/mail.sqlite3"},
        )


@pytest.mark.parametrize("how", [{"join_session": True}, {"bind_key": "mail"}])
def test_join_session_and_bind_key_need_db(how: dict[str, Any]) -> None:
    """They say something about it."""
    with pytest.raises(ConfigurationError, match="db="):
        DeferredMail(**how)


def test_something_else_as_db_is_refused() -> None:
    """The text says what is taken."""
    with pytest.raises(TypeError, match="Flask-SQLAlchemy"):
        DeferredMail(db=object())


def test_an_in_memory_database_is_refused(tmp_path: Path) -> None:
    """It has one connection: nothing could be sent from it."""
    site = Site(tmp_path, "sqlite:///:memory:")
    with site.app.app_context(), pytest.raises(ConfigurationError, match="in memory"):
        site.mail.send_after_response(session=site.db.session, **HELLO)


def test_a_forgotten_commit_raises_when_the_session_is_removed(sqlite: Any) -> None:
    """Flask-SQLAlchemy closes it at the end of the request."""
    site = sqlite(config={"TESTING": True})

    def view() -> None:
        site.db.session.add(site.user(name="Ann"))
        site.mail.send_after_response(session=site.db.session, **HELLO)

    with pytest.raises(NotCommitted, match=r"session\.commit"):
        site.visit(view)
    assert site.counts() == (0, 0)
    site.visit(lambda: None)


def test_a_commit_at_the_end_of_the_context_counts(sqlite: Any) -> None:
    """Some applications commit in a teardown function."""
    site = sqlite(config={"TESTING": True})
    site.app.teardown_appcontext(lambda _error: site.db.session.commit())

    def view() -> None:
        site.db.session.add(site.user(name="Ann"))
        site.mail.send_after_response(session=site.db.session, **HELLO)

    site.visit(view)
    assert site.counts() == (1, 1)
    assert len(site.mail.for_app(site.app).outbox) == 1


def test_an_own_transaction_behind_the_sessions_lock_raises_at_once(sqlite: Any) -> None:
    """On the same SQLite file it would wait for itself: the text names session=."""
    site = sqlite()

    def view() -> None:
        site.db.session.add(site.user(name="Ann"))
        site.db.session.flush()
        before = time.monotonic()
        with pytest.raises(StoreBusy, match="session="):
            site.mail.send_after_response(**HELLO)
        assert time.monotonic() - before < 4
        site.db.session.commit()

    site.visit(view)
    site.visit(view)
    assert site.counts() == (2, 0)


def test_somebody_elses_lock_is_waited_for(sqlite: Any) -> None:
    """Another thread's transaction will end."""
    site = sqlite()
    site.visit(lambda: site.mail.send_after_response(**HELLO))
    held, done = threading.Event(), threading.Event()

    def other() -> None:
        with site.app.app_context():
            site.db.session.add(site.user(name="Ann"))
            site.db.session.flush()
            held.set()
            done.wait(0.3)
            site.db.session.commit()

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(5)
    site.visit(lambda: site.mail.send_after_response(**HELLO))
    thread.join()
    assert site.counts() == (1, 2)


def test_a_session_that_has_only_read_is_no_obstacle(sqlite: Any) -> None:
    """A mail of its own beside it is recorded."""
    site = sqlite()

    def view() -> None:
        site.db.session.execute(text("SELECT 1 FROM user")).all()
        site.mail.send_after_response(**HELLO)

    site.visit(view)
    assert site.counts() == (0, 1)


def test_init_db_says_whose_the_tables_are(sqlite: Any) -> None:
    """And changes nothing."""
    site = sqlite()
    result = site.app.test_cli_runner().invoke(mail_group, ["init-db"])
    assert result.exit_code == 0, result.output
    assert "application" in result.output


def test_doctor_tries_whether_savepoints_hold(sqlite: Any) -> None:
    """With the driver as it comes they do not; with SQLAlchemy's recipe they do."""
    site = sqlite()

    def said() -> str:
        return str(site.app.test_cli_runner().invoke(mail_group, ["doctor"]).output)

    assert "released savepoint" in said()
    with site.app.app_context():
        engine = site.db.engine
        engine.dispose()
        let_savepoints_work(engine)
    assert "released savepoint" not in said()
