"""Who has an account and who was invited: two tables, passwords hashed, reset links signed."""

from __future__ import annotations

import hashlib
from functools import cache

from flask import current_app
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import ForeignKey, Index, Select, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column
from werkzeug.security import check_password_hash, generate_password_hash

from .database import db


class Account(db.Model):  # type: ignore[name-defined,misc] # made by Flask-SQLAlchemy
    """Somebody who signed up. An address can be used once, in whatever case it is typed."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    password_hash: Mapped[str]

    @property
    def seal(self) -> str:
        """Changes with the password: ends old sessions and makes a reset link work only once."""
        return hashlib.sha256(self.password_hash.encode()).hexdigest()[:16]


class Invitation(db.Model):  # type: ignore[name-defined,misc] # as above
    """An address that somebody invited. Nobody is invited twice."""

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    account_id: Mapped[int] = mapped_column(ForeignKey(Account.id))


for model in (Account, Invitation):
    Index(f"{model.__tablename__}_email", func.lower(model.email), unique=True)


def account_with_id(account_id: int) -> Account | None:
    """The account with this id, if there is one."""
    return find(select(Account).where(Account.id == account_id))


def account_with_email(email: str) -> Account | None:
    """The account with this address, in whatever case it was typed."""
    return find(select(Account).where(func.lower(Account.email) == func.lower(email)))


def find(query: Select[tuple[Account]]) -> Account | None:
    """One account, as it is now; looked up in a short transaction beside ``db.session``.

    On SQLite, a transaction that reads first may not write once somebody else has, and is told so
    at once, however long it would wait. So ``db.session`` is kept for what begins with writing.
    """
    with Session(db.engine) as session:
        return session.scalar(query)


def sign_in(email: str, password: str) -> Account | None:
    """The account, if address and password fit. Takes as long for an address nobody has."""
    account = account_with_email(email)
    fits = check_password_hash(account.password_hash if account else _nobodys_hash(), password)
    return account if account and fits else None


def set_password(account: Account, password: str) -> bool:
    """Replace the password, and commit. False: somebody else has just done so."""
    changed = db.session.execute(
        update(Account)
        .where(Account.id == account.id, Account.password_hash == account.password_hash)
        .values(password_hash=generate_password_hash(password))
    )
    db.session.commit()
    return changed.rowcount == 1


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
    account = account_with_id(account_id)
    return account if account and account.seal == seal else None


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.config["SECRET_KEY"], salt="password-reset")


@cache
def _nobodys_hash() -> str:
    return generate_password_hash("nobody has this password")
