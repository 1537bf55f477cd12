"""Mail in two-phase commits, and in sessions that are run from asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from flask_deferred_mail.signals import mail_queued
from tests.support.databases import fresh_database
from tests.support.mail_app import MailApp
from tests.support.orders import Order, Shop, open_shop
from tests.support.own_servers import OwnServer, own_server
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]
ORDER = text("INSERT INTO shop_order (id, item) VALUES (:id, 'tea')")


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server of the tests' own: PostgreSQL prepares nothing unless it is told to."""
    with own_server(request.param) as server:
        yield server


@pytest.fixture
def shop(server: OwnServer, make_app: Make, smtp: SmtpServer) -> Iterator[Shop]:
    with open_shop(make_app, server.new_database(), smtp.url()) as shop:
        yield shop


@pytest.fixture
def queued() -> Iterator[list[int]]:
    """The mails whose commit was announced."""
    ids: list[int] = []

    def note(_sender: object, job: Any, **_more: object) -> None:
        ids.append(job.id)

    with mail_queued.connected_to(note):
        yield ids


def test_a_session_in_two_phases(shop: Shop, queued: list[int]) -> None:
    """Prepared is not committed: nobody sees or hears of the mail before the second phase."""
    with Session(shop.engine, twophase=True) as session:
        session.add(Order(item="tea"))
        job = shop.send(session)
        session.prepare()
        assert (shop.counts(), queued) == ((0, 0), [])
        session.commit()
    assert shop.counts() == (1, 1)
    assert queued == [job.id]
    assert shop.site.sweep().sent == 1


def test_a_commit_that_prepares_by_itself(shop: Shop, queued: list[int]) -> None:
    """Without prepare(), commit() does both."""
    with Session(shop.engine, twophase=True) as session:
        job = shop.send(session)
        session.commit()
    assert queued == [job.id]
    assert shop.site.sweep().sent == 1


@pytest.mark.parametrize("prepared", [True, False])
def test_a_rollback_in_two_phases_takes_the_mail_along(
    shop: Shop, queued: list[int], prepared: bool
) -> None:
    """Before the first phase or after it."""
    with Session(shop.engine, twophase=True) as session:
        session.add(Order(item="tea"))
        shop.send(session)
        if prepared:
            session.prepare()
        session.rollback()
    assert (shop.counts(), queued) == ((0, 0), [])


def test_savepoints_and_keys_in_two_phases(shop: Shop, queued: list[int]) -> None:
    """A savepoint that is rolled back takes its mail along, a key that is taken gives the first."""
    with Session(shop.engine, twophase=True) as session:
        first = shop.send(session, key="welcome")
        savepoint = session.begin_nested()
        shop.send(session)
        savepoint.rollback()
        assert shop.send(session, key="welcome").id == first.id
        session.commit()
    assert shop.counts() == (0, 1)
    assert queued == [first.id]


def test_two_databases_commit_together(shop: Shop, server: OwnServer, queued: list[int]) -> None:
    """What two-phase commits are for: orders in one database, mail in another."""
    elsewhere = create_engine(server.new_database())
    Order.metadata.create_all(elsewhere)
    with Session(twophase=True) as session:
        session.bind_mapper(Order, elsewhere)
        session.bind_table(shop_jobs(), shop.engine)
        session.add(Order(item="tea"))
        job = shop.send(session)
        session.prepare()
        assert queued == []
        session.commit()
    with Session(elsewhere) as session:
        assert session.query(Order).count() == 1
    elsewhere.dispose()
    assert queued == [job.id]
    assert shop.site.sweep().sent == 1


def shop_jobs() -> Any:
    """The table that tells the session which of its engines holds our rows."""
    from flask_deferred_mail.store.schema import jobs

    return jobs


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_connection_in_two_phases(shop: Shop, queued: list[int], end: str) -> None:
    """The same on a bare connection; announced when it is given back."""
    with shop.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(ORDER, {"id": 1})
        job = shop.send(connection)
        transaction.prepare()
        assert (shop.counts(), queued) == ((0, 0), [])
        getattr(transaction, end)()
    assert shop.counts() == ((1, 1) if end == "commit" else (0, 0))
    assert queued == ([job.id] if end == "commit" else [])


def test_a_connection_goes_on_after_two_phases(shop: Shop, queued: list[int]) -> None:
    """The next transaction of the same connection lets the first be believed."""
    with shop.engine.connect() as connection:
        with connection.begin_twophase() as transaction:
            job = shop.send(connection)
            transaction.prepare()
            transaction.commit()
        with connection.begin_twophase() as transaction:
            assert queued == [job.id]
            transaction.rollback()


def test_committed_by_somebody_else_is_swept(shop: Shop, queued: list[int]) -> None:
    """Its process died between the phases, and a person commits: no bell rang, the sweep sends."""
    connection = shop.engine.connect()
    transaction = connection.begin_twophase()
    shop.send(connection)
    transaction.prepare()
    xid = transaction.xid
    connection.invalidate()
    connection.close()
    assert shop.counts() == (0, 0)
    with shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        say = "COMMIT PREPARED" if other.dialect.name == "postgresql" else "XA COMMIT"
        other.exec_driver_sql(f"{say} '{xid}'")
    assert shop.counts() == (0, 1)
    assert shop.site.sweep().sent == 1


def test_sqlite_has_no_two_phases(make_app: Make, tmp_path: Path) -> None:
    """SQLAlchemy says so itself, in the call that would begin the transaction."""
    with (
        open_shop(make_app, f"sqlite:///{tmp_path}/two.sqlite3", "null:") as shop,
        Session(shop.engine, twophase=True) as session,
    ):
        with pytest.raises(NotImplementedError):
            shop.send(session)
        session.rollback()
        assert shop.counts() == (0, 0)


# --- asynchronous ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_run_sync_of_an_async_session(
    tmp_path: Path, make_app: Make, smtp: SmtpServer, queued: list[int], end: str
) -> None:
    """Inside run_sync the mail joins the asynchronous session's transaction."""
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    with (
        fresh_database("postgresql", tmp_path) as url,
        open_shop(make_app, url, smtp.url()) as shop,
    ):

        async def order() -> Any:
            engine = create_async_engine(url)
            try:
                async with AsyncSession(engine) as session:
                    session.add(Order(item="tea"))
                    with pytest.raises(TypeError, match="run_sync"):
                        shop.send(session)
                    job = await session.run_sync(lambda inner: shop.send(inner))
                    assert shop.counts() == (0, 0)
                    await getattr(session, end)()
                    return job
            finally:
                await engine.dispose()

        job = asyncio.run(order())
        committed = end == "commit"
        assert queued == [job.id] * committed
        assert shop.counts() == ((1, 1) if committed else (0, 0))
        assert shop.site.sweep().sent == committed
