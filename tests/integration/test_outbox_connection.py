"""Mail in the transaction of a bare SQLAlchemy connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from flask_deferred_mail import Job
from flask_deferred_mail.errors import NotCommitted
from flask_deferred_mail.signals import mail_queued
from tests.support.databases import DATABASES, fresh_database
from tests.support.mail_app import MailApp
from tests.support.orders import Shop, open_shop
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

ORDER = text("INSERT INTO shop_order (id, item) VALUES (:id, 'tea')")


@pytest.fixture(scope="module", params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    with fresh_database(request.param, tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture
def shop(url: str, make_app: Make, smtp: SmtpServer) -> Iterator[Shop]:
    with open_shop(make_app, url, smtp.url()) as shop:
        yield shop
        shop.empty()


@pytest.fixture
def quiet(tmp_path: Path, make_app: Make) -> Iterator[Shop]:
    """A shop on SQLite that sends nothing (``MAIL_SUPPRESS_SEND``)."""
    url = f"sqlite:///{tmp_path}/quiet.sqlite3"
    with open_shop(make_app, url, "null:", TESTING=True) as shop:
        yield shop


def outbox(shop: Shop) -> list[str]:
    """Whom the committed messages are for."""
    found = shop.site.mail.for_app(shop.site.app).outbox
    return [str(message.recipients[0]) for message in found]


def test_commit_and_rollback_rule(shop: Shop) -> None:
    """The connection's transaction is the mail's."""
    with shop.engine.connect() as connection:
        connection.execute(ORDER, {"id": 1})
        shop.send(connection)
        connection.rollback()
        assert shop.counts() == (0, 0)
        connection.execute(ORDER, {"id": 1})
        shop.send(connection)
        assert shop.counts() == (0, 0)
        connection.commit()
    assert shop.counts() == (1, 1)
    assert shop.site.sweep().sent == 1


def test_engine_begin_rings_the_bell_after_its_commit(shop: Shop, smtp: SmtpServer) -> None:
    """A mail recorded inside `with engine.begin()` leaves once the response is closed."""

    def view() -> Job:
        with shop.engine.begin() as connection:
            job: Job = shop.mail.send_after_response(
                subject="Hi", recipients=["ann@example.com"], body="Hi\n", session=connection
            )
        return job

    job = Visits(shop.site.app)(view)
    smtp.wait_for(1)
    wait_until(lambda: shop.site.job(job).status == "sent")


def test_a_connection_that_stays_open_rings_too(shop: Shop, smtp: SmtpServer) -> None:
    """Committed, and not closed before the end of the request."""
    with shop.engine.connect() as connection:

        def view() -> None:
            shop.mail.send_after_response(
                subject="Hi", recipients=["ann@example.com"], body="Hi\n", session=connection
            )
            connection.commit()

        Visits(shop.site.app)(view)
        smtp.wait_for(1)
    wait_until(lambda: shop.site.runtime.reports.backlog().counts["sent"] == 1)


def test_savepoints_rule(shop: Shop) -> None:
    """Released: kept with the outer transaction. Rolled back: gone, with all inside it."""
    with shop.engine.connect() as connection:
        with connection.begin_nested():
            shop.send(connection, "kept@example.com")
        outer = connection.begin_nested()
        with connection.begin_nested():
            shop.send(connection, "lost@example.com")
        outer.rollback()
        connection.commit()
    assert shop.counts() == (0, 1)


def test_under_autocommit_the_row_is_there_at_once(shop: Shop) -> None:
    """There is no transaction to wait for."""
    engine = create_engine(shop.engine.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        shop.send(connection)
        assert shop.counts() == (0, 1)
    engine.dispose()


def test_the_outbox_of_a_test_follows_the_commit(quiet: Shop) -> None:
    """While the connection is open, after it is closed, and over several transactions."""
    with quiet.engine.connect() as connection:
        quiet.send(connection, "one@example.com")
        assert outbox(quiet) == []
        connection.commit()
        assert outbox(quiet) == ["one@example.com"]
        quiet.send(connection, "two@example.com")
        connection.rollback()
        savepoint = connection.begin_nested()
        quiet.send(connection, "three@example.com")
        savepoint.rollback()
        quiet.send(connection, "four@example.com")
        connection.commit()
    assert outbox(quiet) == ["one@example.com", "four@example.com"]


def test_receivers_hear_when_the_connection_is_given_back(quiet: Shop) -> None:
    """SQLAlchemy tells of a commit before it happens; we tell when it has."""
    heard: list[int] = []

    def receiver(_app: Any, job: Job) -> None:
        heard.append(job.id)

    with mail_queued.connected_to(receiver, quiet.site.app):
        with quiet.engine.begin() as connection:
            job = quiet.send(connection)
            assert heard == []
        assert heard == [job.id]
        connection = quiet.engine.connect()
        quiet.send(connection)
        connection.close()
        assert heard == [job.id]


def test_a_commit_that_fails_is_not_announced(quiet: Shop) -> None:
    """A deferred constraint breaks at COMMIT itself: the mail is gone with the order."""
    with quiet.engine.connect() as connection:
        _fail_at_commit(connection)
        quiet.send(connection)
        with pytest.raises(Exception, match="FOREIGN KEY"):
            connection.commit()
        assert outbox(quiet) == []
        connection.rollback()
    assert outbox(quiet) == []
    assert quiet.counts() == (0, 0)


def _fail_at_commit(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA foreign_keys = ON")  # without effect inside a transaction
    connection.exec_driver_sql(
        "CREATE TABLE child (parent INTEGER REFERENCES shop_order(id) "
        "DEFERRABLE INITIALLY DEFERRED)"
    )
    connection.exec_driver_sql("INSERT INTO child VALUES (99)")


def test_a_session_on_a_connection_is_a_session(quiet: Shop) -> None:
    """The pattern of test suites that roll everything back at the end."""
    with quiet.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            quiet.send(session)
            session.commit()
        assert outbox(quiet) == ["ann@example.com"]
        transaction.rollback()
    assert quiet.counts() == (0, 0)


def test_a_connection_left_open_with_mail_raises_in_testing(quiet: Shop) -> None:
    """Neither committed nor rolled back when the request ends."""
    with quiet.engine.connect() as connection:

        def view() -> None:
            quiet.send(connection)

        with pytest.raises(NotCommitted, match="still open"):
            Visits(quiet.site.app)(view)
