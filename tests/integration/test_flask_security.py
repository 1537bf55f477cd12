"""A real Flask-Security application: its mails go through our queue, and nothing was changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_deferred_mail import DeferredMail, signals
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until


@pytest.fixture
def app(tmp_path: Path, smtp: SmtpServer) -> Iterator[Flask]:
    """One user, password recovery switched on, and Flask-Mail's settings for the mail server."""
    from flask_security import Security, SQLAlchemyUserDatastore, hash_password
    from flask_security.models import fsqla_v3
    from flask_sqlalchemy import SQLAlchemy

    app = Flask("site", instance_path=str(tmp_path))
    app.config.update(
        SECRET_KEY="not a secret",
        SECURITY_PASSWORD_SALT="salt",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_RECOVERABLE=True,
        SECURITY_SEND_PASSWORD_RESET_EMAIL=True,
        SECURITY_EMAIL_SENDER="accounts@example.com",
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},  # no DNS in tests
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/site.sqlite3",
        WTF_CSRF_ENABLED=False,
        MAIL_SERVER=smtp.host,
        MAIL_PORT=smtp.port,
        MAIL_DEFAULT_SENDER="site@example.com",
    )
    mail = DeferredMail(app)
    db = SQLAlchemy(app)
    fsqla_v3.FsModels.set_db_info(db)

    class Role(db.Model, fsqla_v3.FsRoleMixin):  # type: ignore[name-defined,misc]
        """As Flask-Security's quickstart has it."""

    class User(db.Model, fsqla_v3.FsUserMixin):  # type: ignore[name-defined,misc]
        """As Flask-Security's quickstart has it."""

    security = Security(app, SQLAlchemyUserDatastore(db, User, Role))
    with app.app_context():
        db.create_all()
        security.datastore.create_user(email="ann@example.com", password=hash_password("old one"))
        db.session.commit()
    yield app
    with app.app_context():
        db.session.remove()
        for engine in db.engines.values():
            engine.dispose()
    mail.for_app(app).runtime.close()


def ask_for_reset(app: Flask) -> Any:
    return app.test_client().post("/reset", data={"email": "ann@example.com"})


def test_a_password_reset_goes_through_the_queue(app: Flask, smtp: SmtpServer) -> None:
    """The answer is there before the mail is out; the mail arrives, and its link works."""
    mail = app.extensions["deferred_mail"]
    smtp.hold("dot")
    with ask_for_reset(app) as response:
        assert response.status_code in (200, 302)
        assert not smtp.messages
    smtp.wait_held("dot")
    with app.app_context():
        job = mail.get(1)
    assert [r.address for r in job.recipients] == ["ann@example.com"]
    smtp.release("dot")
    received = smtp.wait_for(1)[0]
    assert received.envelope_from == "accounts@example.com"
    assert received.recipients == ["ann@example.com"]
    assert received.parsed["From"] == "accounts@example.com"
    assert received.parsed["Message-ID"] == job.message_id
    text = received.parsed.get_body(["plain"]).get_content()
    assert received.parsed.get_body(["html"]) is not None
    link = re.search(r"http://localhost(/reset/\S+)", text)
    assert link, text
    client = app.test_client()
    assert client.get(link[1]).status_code == 200
    answer = client.post(
        link[1], data={"password": "a new one 17", "password_confirm": "a new one 17"}
    )
    assert answer.status_code == 302
    wait_until(lambda: mail.for_app(app).runtime.jobs.get(1).status == "sent")


def test_its_mail_is_in_the_outbox_of_a_test(app: Flask, smtp: SmtpServer) -> None:
    """With ``TESTING``, a test of the application sees the mail and no server does."""
    app.testing = True
    mail = app.extensions["deferred_mail"]
    ask_for_reset(app)
    with app.app_context():
        [message] = mail.outbox
    assert message.recipients == ["ann@example.com"]
    assert "/reset/" in message.body
    assert not smtp.connections


def test_its_mail_is_announced_like_any_other(app: Flask, smtp: SmtpServer) -> None:
    """``email_dispatched`` tells of it once the server has taken it."""
    subjects: list[str] = []

    def receiver(sender: Any, message: Any, **_: Any) -> None:
        subjects.append(message.subject)

    with signals.email_dispatched.connected_to(receiver, sender=app):
        with ask_for_reset(app):
            pass
        wait_until(lambda: subjects)
    assert subjects == [smtp.messages[0].parsed["Subject"]]
