"""Statements that SQLite runs for many rows in one step do what they do row by row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    create_engine,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import OperationalError

from flask_deferred_mail.store import prepared
from flask_deferred_mail.store.dialect import now, upsert
from flask_deferred_mail.store.prepared import Prepared

books = Table(
    "book",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("token", Text),
    Column("title", Text),
    Column("state", Text),
    Column("read_at", Double),
)
#: More than one statement takes.
MANY = 1000

ADD = Prepared(insert(books).values(state="new"))
READ = Prepared(
    update(books)
    .where(
        books.c.id == bindparam("book_"),
        books.c.token == bindparam("token_"),
        books.c.state == "new",
    )
    .values(state="read", read_at=now())
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        books.create(connection)
        yield connection
    engine.dispose()


@pytest.fixture(params=["now", "before UPDATE FROM"])
def any_age(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The UPDATE on a SQLite of today, and on one that has to be told row by row."""
    if request.param != "now":
        monkeypatch.setattr(prepared, "_UPDATE_FROM", (99,))
    return Prepared(READ._statement)  # type: ignore[arg-type]


def _all(connection: Connection) -> list[Any]:
    return [tuple(row) for row in connection.execute(select(books).order_by(books.c.id))]


def _add(connection: Connection, count: int) -> None:
    rows = [{"id": n, "token": f"t{n}", "title": "it's (a) ?"} for n in range(count)]
    assert ADD.run_each(connection, rows) == count


@pytest.mark.parametrize("count", [0, 1, 2, MANY])
def test_any_number_of_rows_is_inserted(connection: Connection, count: int) -> None:
    """Also more than fit into one statement, and values that look like SQL."""
    _add(connection, count)
    assert _all(connection) == [(n, f"t{n}", "it's (a) ?", "new", None) for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, MANY])
def test_each_row_gets_its_own_values(
    connection: Connection, any_age: Prepared, count: int
) -> None:
    """What differs goes to its row, what does not to all of them, and the time is the host's."""
    _add(connection, count)
    before = time.time()
    rows = [{"book_": n, "token_": f"t{n}", "title": f"no. {n}"} for n in range(count)]
    assert any_age.run_each(connection, rows) == count
    found = _all(connection)
    assert [row[:4] for row in found] == [(n, f"t{n}", f"no. {n}", "read") for n in range(count)]
    assert all(before <= row[4] <= time.time() for row in found)


def test_a_row_whose_condition_does_not_hold_is_left_and_not_counted(
    connection: Connection, any_age: Prepared
) -> None:
    """The fence is each row's own: another row's token opens nothing."""
    _add(connection, 3)
    rows = [{"book_": n, "token_": "t1", "title": "mine"} for n in range(3)]
    assert any_age.run_each(connection, rows) == 1
    assert [row[2] for row in _all(connection)] == ["it's (a) ?", "mine", "it's (a) ?"]


def test_many_rows_give_way_as_one_does(connection: Connection) -> None:
    """An INSERT that updates what is there updates each such row, and adds the others."""
    put = Prepared(upsert(books, "sqlite", "title"))
    _add(connection, 2)
    rows = [{"id": n, "token": None, "title": "new", "state": "put"} for n in range(1, 4)]
    put.run_each(connection, rows)
    assert [(row[0], row[2], row[3]) for row in _all(connection)] == [
        (0, "it's (a) ?", "new"),
        (1, "new", "new"),
        (2, "new", "put"),
        (3, "new", "put"),
    ]


def test_a_value_that_nobody_gives_is_named(connection: Connection) -> None:
    """Before the database is asked."""
    with pytest.raises(TypeError, match="token_"):
        READ.run(connection, {"book_": 1, "title": "x"})


TOLD = Prepared(
    select(books.c.id, books.c.title, books.c.read_at)
    .where(books.c.token == bindparam("token_"))
    .order_by(books.c.title.desc())
    .limit(bindparam("limit_"))
)


def _shelf(connection: Connection) -> list[dict[str, Any]]:
    rows = [
        {"id": number, "token": "t", "title": title, "read_at": moment}
        for number, (title, moment) in enumerate(
            [('a "b" \\ \t ü 𝔘', None), ("b", 1_790_000_000.123456), ("c", 0.5), ("d", None)]
        )
    ]
    connection.execute(insert(books), [{"state": "new", **row} for row in rows])
    return rows


def test_rows_that_come_as_one_value_are_those_of_the_select(connection: Connection) -> None:
    """In its order and up to its limit, whatever is in them; a time loses less than 0.1 ms."""
    rows = _shelf(connection)
    values = {"token_": "t", "limit_": 3}
    at_once = [tuple(row) for row in TOLD.rows_at_once(connection, values)]
    plain = TOLD.rows(connection, values)
    assert [row[:2] for row in at_once] == [row[:2] for row in plain]
    assert [row[1] for row in at_once] == ["d", "c", "b"]
    assert [row[2] for row in at_once] == pytest.approx([row[2] for row in plain], abs=1e-4)
    every = TOLD.rows_at_once(connection, {"token_": "t", "limit_": 9})
    assert [row[1] for row in every] == [row["title"] for row in reversed(rows)]


def test_no_row_at_all_is_an_empty_list(connection: Connection) -> None:
    """Also as one value."""
    assert TOLD.rows_at_once(connection, {"token_": "nobody's", "limit_": 3}) == []


def test_a_sqlite_without_json_gives_row_by_row(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was built without it says that there is no such function; the SELECT still runs."""
    _shelf(connection)
    told = Prepared(TOLD._statement)
    as_one = prepared._as_one_value

    def without_json(statement: Any) -> Any:
        return as_one(statement).with_only_columns(func.json_is_not_here())

    monkeypatch.setattr(prepared, "_as_one_value", without_json)
    values = {"token_": "t", "limit_": 3}
    assert [row[1] for row in told.rows_at_once(connection, values)] == ["d", "c", "b"]


def test_any_other_failure_of_rows_at_once_is_raised(connection: Connection) -> None:
    """It is not taken for a SQLite without JSON."""
    books.drop(connection)
    with pytest.raises(OperationalError, match="no such table"):
        TOLD.rows_at_once(connection, {"token_": "t", "limit_": 3})
