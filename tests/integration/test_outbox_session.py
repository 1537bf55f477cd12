"""Mail in an ORM session's transaction: it exists exactly when the caller's data does."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_deferred_mail import Attachment, Job
from flask_deferred_mail.errors import NotCommitted, StoreError
from flask_deferred_mail.signals import mail_queued
from tests.support.databases import DATABASES, SERVERS, fresh_database
from tests.support.mail_app import MailApp
from tests.support.orders import Order, Shop, open_shop
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    with fresh_database(request.param, tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture
def shop(url: str, make_app: Make, smtp: SmtpServer) -> Iterator[Shop]:
    """A shop whose mail goes to a real server, once somebody sends it."""
    with open_shop(make_app, url, smtp.url()) as shop:
        yield shop
        shop.empty()


@pytest.fixture
def quiet(tmp_path: Path, make_app: Make) -> Iterator[Shop]:
    """A shop on SQLite that sends nothing (``MAIL_SUPPRESS_SEND``)."""
    url = f"sqlite:///{tmp_path}/quiet.sqlite3"
    with open_shop(make_app, url, "null:", TESTING=True) as shop:
        yield shop


def subjects(shop: Shop) -> int:
    return len(shop.site.mail.for_app(shop.site.app).outbox)


# --- it exists exactly when the data does ----------------------------------------------------


def test_a_commit_makes_order_and_mail_visible_together(shop: Shop, smtp: SmtpServer) -> None:
    """Before the commit others see neither; after it both, and the sweep sends the mail."""
    with shop.session() as session:
        session.add(Order(item="tea"))
        job = shop.send(session)
        assert shop.counts() == (0, 0)
        session.commit()
    assert shop.counts() == (1, 1)
    assert shop.site.sweep().sent == 1
    assert shop.site.job(job).status == "sent"
    smtp.wait_for(1)


def test_a_rollback_takes_both_away(shop: Shop) -> None:
    """Nothing of the mail is left, and the id is not given to the next one on sight."""
    with shop.session() as session:
        session.add(Order(item="tea"))
        shop.send(session)
        session.rollback()
        session.commit()
    assert shop.counts() == (0, 0)


def test_a_failed_commit_takes_both_away(shop: Shop) -> None:
    """A flush that fails inside commit() leaves neither order nor mail."""
    with shop.session() as session:
        session.add(Order(id=1, item="tea"))
        session.commit()
        session.expunge_all()
        shop.send(session)
        session.add(Order(id=1, item="again"))
        with pytest.raises(IntegrityError):
            session.commit()
    assert shop.counts() == (1, 0)


def test_a_released_savepoint_keeps_its_mail(shop: Shop) -> None:
    """begin_nested() that ends well is part of the outer transaction."""
    with shop.session() as session:
        with session.begin_nested():
            session.add(Order(item="tea"))
            shop.send(session)
        assert shop.counts() == (0, 0)
        session.commit()
    assert shop.counts() == (1, 1)


def test_a_rolled_back_savepoint_takes_its_mail_along(shop: Shop) -> None:
    """What was recorded outside it stays."""
    with shop.session() as session:
        session.add(Order(item="tea"))
        kept = shop.send(session)
        savepoint = session.begin_nested()
        session.add(Order(item="cake"))
        shop.send(session, "bob@example.com")
        savepoint.rollback()
        session.commit()
    assert shop.counts() == (1, 1)
    assert shop.site.job(kept).recipients[0].address == "ann@example.com"


def test_an_outer_rollback_takes_a_released_savepoint_along(shop: Shop) -> None:
    """Releasing is not committing."""
    with shop.session() as session:
        with session.begin_nested():
            shop.send(session)
        session.rollback()
    assert shop.counts() == (0, 0)


@pytest.mark.parametrize("url", SERVERS, indirect=True)  # SQLite has one writer at a time
def test_two_sessions_do_not_share_a_fate(shop: Shop) -> None:
    """One commits, the other rolls back: the mail of the first is there."""
    with shop.session() as one, shop.session() as other:
        kept = shop.send(one)
        shop.send(other, "bob@example.com")
        other.rollback()
        one.commit()
    assert shop.counts() == (0, 1)
    assert shop.site.job(kept).id == kept.id


def test_the_callers_objects_are_not_flushed(shop: Shop) -> None:
    """Recording costs one INSERT; the unit of work is left alone, and the number is known."""
    statements: list[str] = []
    with shop.session() as session:
        session.connection()
        shop.send(session)  # whose database it is has been asked
        session.add(order := Order(item="tea"))
        event.listen(shop.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        job = shop.send(session)
        assert job.id
        assert order.id is None
        assert len(statements) == 1
        assert statements[0].startswith("INSERT INTO deferred_mail_job")
        session.rollback()


def test_send_many_records_all_in_the_transaction(shop: Shop) -> None:
    """Each gets its number, in order; attachments come along."""
    with shop.session() as session, shop.site.app.app_context():
        jobs = shop.mail.send_many(
            [
                {"subject": f"{n}", "recipients": [f"user{n}@example.com"], "body": "Hi\n"}
                for n in range(30)
            ],
            session=session,
        )
        assert shop.counts() == (0, 0)
        session.commit()
    assert shop.counts() == (0, 30)
    for number in (0, 7, 29):
        assert shop.site.job(jobs[number]).subject == str(number)


def test_an_attachment_is_recorded_with_the_mail(shop: Shop, smtp: SmtpServer) -> None:
    """Its bytes are in the same transaction, and arrive."""
    with shop.session() as session:
        shop.send(session, attachments=[Attachment("a.txt", "text/plain", b"tea\n")])
        session.commit()
    assert shop.site.sweep().sent == 1
    [received] = smtp.wait_for(1)
    assert b"a.txt" in received.data


def test_send_at_and_the_clock_are_the_databases(shop: Shop) -> None:
    """A mail for later is not due, one for now is."""
    with shop.session() as session:
        later = shop.send(session, delay=3600)
        soon = shop.send(session)
        session.commit()
    assert shop.site.sweep().sent == 1
    assert shop.site.job(later).status == "pending"
    assert shop.site.job(soon).status == "sent"


# --- keys ------------------------------------------------------------------------------------


def test_a_key_that_is_taken_gives_the_first_mail_and_the_transaction_goes_on(shop: Shop) -> None:
    """Committed before, or in this very transaction."""
    with shop.session() as session:
        first = shop.send(session, key="order-1")
        again = shop.send(session, key="order-1")
        assert again.id == first.id
        session.add(Order(item="tea"))
        session.commit()
        assert shop.send(session, key="order-1").id == first.id
        session.add(Order(item="cake"))
        session.commit()
    assert shop.counts() == (2, 1)


@pytest.mark.parametrize("url", SERVERS, indirect=True)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_key_that_this_transaction_cannot_see_breaks_nothing(shop: Shop, level: Any) -> None:
    """It was committed after our view was taken: the first mail comes back all the same."""
    engine = shop.engine.execution_options(isolation_level=level)
    with Session(engine) as session:
        session.execute(text("SELECT count(*) FROM shop_order"))
        with shop.session() as other:
            first = shop.send(other, key="order-1")
            other.commit()
        assert shop.send(session, key="order-1").id == first.id
        session.add(Order(item="tea"))
        session.commit()
    assert shop.counts() == (1, 1)


# --- the bell --------------------------------------------------------------------------------


def test_a_mail_committed_in_a_request_leaves_after_the_response(
    shop: Shop, smtp: SmtpServer
) -> None:
    """Not before the commit, not before the response is closed; then without any sweep."""

    def order() -> Job:
        with shop.session() as session:
            session.add(Order(item="tea"))
            job: Job = shop.mail.send_after_response(
                subject="Your order",
                recipients=["ann@example.com"],
                body="Hi\n",
                session=session,
            )
            session.commit()
        return job

    job, response = Visits(shop.site.app).open(order)
    assert shop.site.job(job).status == "pending"
    assert not smtp.messages
    response.close()
    smtp.wait_for(1)
    wait_until(lambda: shop.site.job(job).status == "sent")


def test_commit_first_and_mail_afterwards_loses_nothing(shop: Shop, smtp: SmtpServer) -> None:
    """Without session= the mail has its own transaction, as ever."""

    def order() -> Job:
        with shop.session() as session:
            session.add(Order(item="tea"))
            session.commit()
        job: Job = shop.mail.send_after_response(
            subject="Your order", recipients=["ann@example.com"], body="Hi\n"
        )
        return job

    job = Visits(shop.site.app)(order)
    smtp.wait_for(1)
    wait_until(lambda: shop.site.job(job).status == "sent")
    assert shop.counts() == (1, 1)


def test_a_rolled_back_mail_rings_no_bell(quiet: Shop, make_app: Make) -> None:
    """Neither the outbox of a test nor mail_queued hears of it; of a committed one both do."""
    heard: list[Any] = []

    def receiver(_app: Any, job: Job) -> None:
        heard.append(job.id)

    with mail_queued.connected_to(receiver, quiet.site.app), quiet.session() as session:
        quiet.send(session)
        session.rollback()
        assert (subjects(quiet), heard) == (0, [])
        job = quiet.send(session)
        with session.begin_nested():
            pass
        assert (subjects(quiet), heard) == (0, [])
        session.commit()
        assert (subjects(quiet), heard) == (1, [job.id])
        session.commit()
        assert (subjects(quiet), heard) == (1, [job.id])


def test_the_outbox_hears_of_a_released_savepoint_and_not_of_one_rolled_back(quiet: Shop) -> None:
    """Savepoints inside savepoints, in every way to end them."""
    with quiet.session() as session:
        outer = session.begin_nested()
        with session.begin_nested():
            quiet.send(session, "inner@example.com")
        outer.rollback()
        with session.begin_nested():
            inner = session.begin_nested()
            quiet.send(session, "lost@example.com")
            inner.rollback()
            quiet.send(session, "kept@example.com")
        session.commit()
    outbox = quiet.site.mail.for_app(quiet.site.app).outbox
    assert [message.recipients for message in outbox] == [["kept@example.com"]]
    assert quiet.counts() == (0, 1)


def test_what_breaks_in_a_receiver_does_not_reach_the_commit(
    quiet: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even a fault of our own is logged, and the commit returns."""
    state = quiet.site.mail.for_app(quiet.site.app)

    def broken(*_args: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(state, "_recorded", broken)
    with quiet.session() as session:
        session.add(Order(item="tea"))
        quiet.send(session)
        session.commit()
    assert quiet.counts() == (1, 1)
    assert "not announced" in caplog.text


# --- forgotten -------------------------------------------------------------------------------


def forgetful(shop: Shop, session: Session, *, close: bool) -> Callable[[], None]:
    def view() -> None:
        shop.mail.send_after_response(
            subject="Hi", recipients=["ann@example.com"], body="Hi\n", session=session
        )
        if close:
            session.close()

    return view


@pytest.mark.parametrize("close", [True, False])
def test_a_forgotten_commit_is_logged_at_error(
    shop: Shop, caplog: pytest.LogCaptureFixture, close: bool
) -> None:
    """Once, with what to do; the response is not harmed."""
    caplog.set_level(logging.ERROR)
    with shop.session() as session:
        Visits(shop.site.app)(forgetful(shop, session, close=close))
    [record] = [r for r in caplog.records if "neither committed nor rolled back" in r.message]
    assert record.levelno == logging.ERROR
    assert shop.counts() == (0, 0)


def test_a_rollback_by_the_application_is_not_forgotten(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The view has decided."""

    def view() -> None:
        with shop.session() as session:
            shop.send(session)
            session.rollback()

    Visits(shop.site.app)(view)
    assert "neither committed" not in caplog.text


@pytest.mark.parametrize("close", [True, False])
def test_a_forgotten_commit_raises_in_testing(quiet: Shop, close: bool) -> None:
    """So a test of the application finds it."""
    with quiet.session() as session:
        visit = Visits(quiet.site.app)
        with pytest.raises(NotCommitted, match="commit"):
            visit(forgetful(quiet, session, close=close))


def test_a_view_that_raises_is_not_covered_up(quiet: Shop) -> None:
    """Its own error is what the test client sees."""

    def view() -> None:
        with quiet.session() as session:
            quiet.send(session)
            raise ValueError("the view's own")

    with pytest.raises(ValueError, match="own"):
        Visits(quiet.site.app)(view)
    assert quiet.counts() == (0, 0)


def test_a_session_that_is_dropped_is_forgotten_and_not_kept_alive(
    quiet: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """Our listeners do not hold a session; what it had is lost, and said so."""
    alive: list[weakref.ref[Session]] = []

    def view() -> None:
        session = quiet.session()
        alive.append(weakref.ref(session))
        quiet.send(session)
        del session
        gc.collect()

    with pytest.raises(NotCommitted, match="closed"):
        Visits(quiet.site.app)(view)
    assert alive[0]() is None


# --- who may be given ------------------------------------------------------------------------


def test_a_scoped_session_is_taken(shop: Shop) -> None:
    """The registry's current session is meant."""
    scoped = scoped_session(sessionmaker(shop.engine))
    shop.send(scoped)
    scoped.commit()
    scoped.remove()
    assert shop.counts() == (0, 1)


@pytest.mark.parametrize("given", [object(), "db.session", 1, True])
def test_anything_else_raises_at_the_call(quiet: Shop, given: Any) -> None:
    """The text says what is taken."""
    with pytest.raises(TypeError, match="Session, scoped_session or Connection"):
        quiet.send(given)
    assert quiet.counts() == (0, 0)


def test_an_async_session_is_refused_by_name() -> None:
    """The text names sync_session."""
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession

    from flask_deferred_mail.store.caller import caller

    with pytest.raises(TypeError, match=r"\.sync_session"):
        caller(AsyncSession())


def test_the_first_use_of_all_may_be_in_a_session(make_app: Make, tmp_path: Path) -> None:
    """SQLite's tables are made then, as at any other first use."""
    url = f"sqlite:///{tmp_path}/first.sqlite3"
    site, engine = make_app("null:", DEFERRED_MAIL_DATABASE_URI=url), create_engine(url)
    with Session(engine) as session:
        job = site.send(session=session)
        session.commit()
    engine.dispose()
    assert site.job(job).status == "pending"


def test_another_database_raises_at_the_call(shop: Shop, tmp_path: Path) -> None:
    """A mail recorded there would never be sent."""
    engine = create_engine(f"sqlite:///{tmp_path}/elsewhere.sqlite3")
    with Session(engine) as session, pytest.raises(StoreError, match="another database"):
        shop.send(session)
    engine.dispose()


def test_another_database_of_the_same_server_raises_too(
    url: str, shop: Shop, tmp_path: Path
) -> None:
    """Not the address is compared, but what it leads to."""
    kind = {"postgresql": "postgresql", "mysql": "mariadb", "mariadb": "mariadb"}.get(
        shop.engine.dialect.name, "sqlite"
    )
    (tmp_path / "second").mkdir()
    with fresh_database(kind, tmp_path / "second") as second:
        engine = create_engine(second)
        with Session(engine) as session, pytest.raises(StoreError, match="another database"):
            shop.send(session)
        engine.dispose()


def test_an_error_of_the_database_is_ours_and_names_its_cause(quiet: Shop) -> None:
    """What SQLAlchemy raised is its cause."""
    with quiet.session() as session:
        session.execute(text("DROP TABLE deferred_mail_job"))
        with pytest.raises(StoreError) as caught:
            quiet.send(session)
        session.rollback()
    assert caught.value.__cause__ is not None
    assert quiet.counts() == (0, 0)


# --- crashes ---------------------------------------------------------------------------------

_DYING = """
import os, sys
sys.path.insert(0, {root!r})
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from flask_deferred_mail import DeferredMail
from tests.support.orders import Order
app = Flask("dying", instance_path={folder!r})
app.config.update(DEFERRED_MAIL_DATABASE_URI={url!r}, DEFERRED_MAIL_TRANSPORT="null:",
                  MAIL_DEFAULT_SENDER="shop@example.com")
mail = DeferredMail(app)
session = Session(create_engine({url!r}))
session.add(Order(item="tea"))
with app.app_context():
    mail.send_after_response(subject="s", recipients=["ann@example.com"], body="b", session=session)
session.flush()
if {place!r} == "after":
    session.commit()
os.kill(os.getpid(), {signal})
"""


@pytest.mark.parametrize(("place", "left"), [("before", (0, 0)), ("after", (1, 1))])
def test_a_crash_around_the_commit_leaves_both_or_neither(
    shop: Shop, url: str, tmp_path: Path, place: str, left: tuple[int, int]
) -> None:
    """Killed before COMMIT: no order, no mail. Killed after it: both, and the sweep sends."""
    script = _DYING.format(
        root=str(ROOT), folder=str(tmp_path), url=url, place=place, signal=int(signal.SIGKILL)
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ}, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    wait_until(lambda: shop.counts() == left)
    assert shop.site.sweep().sent == left[1]
