"""The example site, with views for what it does not do itself; for real servers.

``create_app()`` is the example's own, configured by ``FLASK_*`` and ``EXAMPLE_INSTANCE_PATH``. Each
view records mail in the transaction of ``db.session`` as the site's own do, and names its mails by
``?id=``. Places to die at, beside those of the package: ``tally.at-commit`` (all is written, COMMIT
is not sent yet) and ``tally.after-commit`` (the view is through, nothing is answered).
"""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, request
from sqlalchemy import event
from sqlalchemy.orm import Session
from werkzeug.security import generate_password_hash

import example_app
from example_app.accounts import Account
from example_app.database import db
from flask_deferred_mail import crashpoints, send_after_response

#: Hashing is slow on purpose, and nobody signs in to these accounts.
_HASH = generate_password_hash("x", method="pbkdf2:sha256:1")


def create_app() -> Flask:
    """The example site and the views below."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    app = example_app.create_app()
    for view in (forget, regret, two_sessions, commit_first):
        app.add_url_rule(f"/{view.__name__}", view_func=view)
    app.after_request(_about_to_answer)
    with app.app_context():
        event.listen(db.engine, "commit", lambda _: crashpoints.reached("tally.at-commit"))
    return app


def _about_to_answer(response: Response) -> Response:
    if request.method == "POST":
        crashpoints.reached("tally.after-commit")
    return response


def _account(suffix: str = "") -> Account:
    name = request.args["id"] + suffix
    return Account(name=name, email=f"{name}@people.example", password_hash=_HASH)


def _mail(suffix: str = "", **how: Any) -> None:
    name = request.args["id"] + suffix
    send_after_response(subject=name, recipients=[f"{name}@people.example"], body="Hello.\n", **how)


def forget() -> str:
    """The commit is missing."""
    db.session.add(_account())
    _mail(session=db.session)
    return "forgotten"


def regret() -> str:
    """A savepoint is released, and then the transaction around it is rolled back."""
    with db.session.begin_nested():
        db.session.add(_account())
        _mail(session=db.session)
    db.session.rollback()
    return "regretted"


def two_sessions() -> str:
    """One that is committed and one that is rolled back, both open where the database allows it."""
    with Session(db.engine) as other:
        other.add(_account("-dropped"))
        _mail("-dropped", session=other)
        other.flush()
        if db.engine.dialect.name == "sqlite":
            other.rollback()  # it has one writer at a time
        db.session.add(_account("-kept"))
        _mail("-kept", session=db.session)
        db.session.commit()
        other.rollback()
    return "one of two"


def commit_first() -> str:
    """The data, and afterwards a mail in a transaction of its own; then the view fails."""
    db.session.add(_account())
    db.session.commit()
    _mail()
    raise ValueError("the view fails after it has recorded its mail")
