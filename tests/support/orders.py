"""A shop's own table, beside ours: what the mail must share a transaction with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, Integer, String, create_engine, delete, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_deferred_mail.store import schema
from tests.support.mail_app import MailApp


class Base(DeclarativeBase):
    """The shop's models."""


class Order(Base):
    """What a customer has ordered."""

    __tablename__ = "shop_order"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    item: Mapped[str] = mapped_column(String(50))


class Shop:
    """An app whose mail table is in the shop's own database."""

    def __init__(self, site: MailApp, engine: Engine) -> None:
        self.site = site
        self.mail = site.mail
        self.engine = engine
        site.runtime.database.create()
        Base.metadata.create_all(engine)

    def session(self) -> Session:
        return Session(self.engine)

    def send(self, session: Any, to: str = "ann@example.com", **fields: Any) -> Any:
        """Record a mail in a session's transaction."""
        with self.site.app.app_context():
            return self.mail.send_after_response(
                subject="Your order", recipients=[to], body="Hi\n", session=session, **fields
            )

    def empty(self) -> None:
        """Delete all rows, for the next test."""
        with self.engine.begin() as connection:
            for table in reversed(schema.metadata.sorted_tables):
                if table is not schema.meta:
                    connection.execute(table.delete())
            connection.execute(delete(Order))

    def counts(self) -> tuple[int, int]:
        """How many orders and how many mails others can see."""
        with self.engine.connect() as connection:
            found = [
                connection.scalar(select(func.count()).select_from(table)) or 0
                for table in (Order.__table__, schema.jobs)
            ]
        return found[0], found[1]


@contextmanager
def open_shop(
    make_app: Callable[..., MailApp], url: str, transport: str, **config: Any
) -> Iterator[Shop]:
    """A shop on this database; its engine is closed at the end."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        let_savepoints_work(engine)
    try:
        yield Shop(make_app(transport, DEFERRED_MAIL_DATABASE_URI=url, **config), engine)
    finally:
        engine.dispose()


def let_savepoints_work(engine: Engine) -> None:
    """SQLAlchemy's recipe for pysqlite: the driver's own transactions are off, BEGIN is ours."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")
