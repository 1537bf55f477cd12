"""Who has an account: one table in SQLite, passwords hashed, reset links signed."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import current_app
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.security import check_password_hash, generate_password_hash

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    email         TEXT NOT NULL UNIQUE COLLATE NOCASE,
    password_hash TEXT NOT NULL
)
"""


class EmailTaken(Exception):
    """There is an account with this address already."""


@dataclass(frozen=True)
class Account:
    """One row of the table."""

    id: int
    name: str
    email: str
    password_hash: str

    @property
    def seal(self) -> str:
        """Changes with the password: ends old sessions and makes a reset link work only once."""
        return hashlib.sha256(self.password_hash.encode()).hexdigest()[:16]


class Accounts:
    """The table, inside one transaction. Made by :func:`open_accounts`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, name: str, email: str, password_hash: str) -> Account:
        """Make an account. Raises :class:`EmailTaken`."""
        try:
            cursor = self._connection.execute(
                "INSERT INTO account (name, email, password_hash) VALUES (?, ?, ?)",
                (name, email, password_hash),
            )
        except sqlite3.IntegrityError:
            raise EmailTaken(email) from None
        return Account(cursor.lastrowid or 0, name, email, password_hash)

    def with_id(self, account_id: int) -> Account | None:
        """The account with this id, if there is one."""
        return self._one("id = ?", account_id)

    def with_email(self, email: str) -> Account | None:
        """The account with this address, in whatever case it was typed."""
        return self._one("email = ?", email)

    def set_password(self, account_id: int, password_hash: str) -> None:
        """Replace the password of one account."""
        self._connection.execute(
            "UPDATE account SET password_hash = ? WHERE id = ?", (password_hash, account_id)
        )

    def _one(self, condition: str, value: object) -> Account | None:
        row = self._connection.execute(
            f"SELECT id, name, email, password_hash FROM account WHERE {condition}", (value,)
        ).fetchone()
        return Account(*row) if row else None


@contextmanager
def open_accounts(*, write: bool = False) -> Iterator[Accounts]:
    """One transaction: committed when the block ends well, rolled back when it raises."""
    path = Path(current_app.instance_path) / "accounts.sqlite3"
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute(SCHEMA)
        # A transaction that reads first and writes later can find the lock taken in between, and
        # SQLite then refuses without waiting. One that will write says so when it begins.
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield Accounts(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def sign_in(email: str, password: str) -> Account | None:
    """The account, if address and password fit. Takes as long for an address nobody has."""
    with open_accounts() as accounts:
        account = accounts.with_email(email)
    fits = check_password_hash(account.password_hash if account else _nobodys_hash(), password)
    return account if account and fits else None


def reset_token(account: Account) -> str:
    """What a reset link carries: signed, dated, and good until the password changes."""
    return _signer().dumps([account.id, account.seal])


def account_of_token(token: str) -> Account | None:
    """The account that a reset link is for; ``None`` if it is forged, too old or used up."""
    try:
        account_id, seal = _signer().loads(
            token, max_age=current_app.config["EXAMPLE_RESET_SECONDS"]
        )
    except BadSignature:
        return None
    with open_accounts() as accounts:
        account = accounts.with_id(account_id)
    return account if account and account.seal == seal else None


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.config["SECRET_KEY"], salt="password-reset")


@cache
def _nobodys_hash() -> str:
    return generate_password_hash("nobody has this password")
