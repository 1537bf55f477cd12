"""Mail encrypted at rest, from the view to the inbox; and a sender that lacks the key."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from flask_deferred_mail.cli import mail_group
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]
KEY = base64.urlsafe_b64encode(b"k" * 32).decode()
SECRET = "https://shop.example/reset/5c0ffee"


def test_an_encrypted_mail_is_swept(make_app: Make, smtp: SmtpServer) -> None:
    """What lies encrypted in the file arrives as it was written."""
    app = make_app(smtp.url(), DEFERRED_MAIL_ENCRYPTION_KEYS=[KEY])
    job = app.send(body=SECRET)
    assert SECRET.encode() not in (app.folder / "deferred_mail.sqlite3-wal").read_bytes()
    assert app.sweep().sent == 1
    assert SECRET.encode() in smtp.wait_for(1)[0].data
    assert app.job(job).status == "sent"


def test_a_sender_without_the_key_gives_the_mail_back(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt is refunded, the mail waits a minute for a process that has the key."""
    keyed = make_app(smtp.url(), DEFERRED_MAIL_ENCRYPTION_KEYS=[KEY])
    job = keyed.send(body=SECRET)
    keyless = make_app(smtp.url())
    assert keyless.sweep().returned == 1
    after = keyless.job(job)
    assert (after.status, after.attempts) == ("pending", 0)
    assert "DEFERRED_MAIL_ENCRYPTION_KEYS" in (after.last_error or "")
    assert "DEFERRED_MAIL_ENCRYPTION_KEYS" in caplog.text
    assert KEY not in caplog.text
    assert after.next_attempt_at is not None
    assert 30 < (after.next_attempt_at - datetime.now(UTC)).total_seconds() <= 60
    assert keyed.runtime.deliver_now(job.id) is None
    other = keyless.send("bob@example.com")
    assert keyless.sweep().sent == 1, "the transport does not rest for it"
    assert keyless.job(other).status == "sent"


def test_doctor_tells_of_mail_whose_key_is_not_configured_here(
    make_app: Make, smtp: SmtpServer
) -> None:
    """How many mails, the key by its id, and what to do; nothing where the key is there."""
    keyed = make_app(smtp.url(), DEFERRED_MAIL_ENCRYPTION_KEYS=[KEY])
    for _ in range(2):
        keyed.send(body=SECRET)
    other = base64.urlsafe_b64encode(b"o" * 32).decode()
    for app, told in (
        (keyed, False),
        (make_app(smtp.url()), True),
        (make_app(smtp.url(), DEFERRED_MAIL_ENCRYPTION_KEYS=[other, KEY]), False),
        (make_app(smtp.url(), DEFERRED_MAIL_ENCRYPTION_KEYS=[other]), True),
    ):
        output = app.app.test_cli_runner().invoke(mail_group, ["doctor"]).output
        assert ("2 mails to leave encrypted with a key (id " in output) == told, output
        assert KEY not in output
