"""Hostile text from servers, providers and visitors: never kept or shown raw (fault table, F10)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.errors import MessageError
from tests.support.http_provider import HttpProvider, Reply
from tests.support.mail_app import MailApp
from tests.support.row_facts import dump
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]


def cli(app: MailApp, *arguments: str) -> str:
    """What ``flask mail ...`` prints."""
    result = app.app.test_cli_runner().invoke(mail_group, list(arguments))
    assert result.exit_code == 0, result.output
    return str(result.output)


# -- F10: hostile text ----------------------------------------------------------------------------

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202eevil\u2066 <script>alert(1)</script> \u200b\x9b2J"
#: What must not reach a terminal, a log or a row.
FORBIDDEN = "\x1b\x07\x9b\u202e\u2066\u200b\x00"


def assert_harmless(text: str) -> None:
    """No terminal escape, no direction override, no invisible character."""
    assert not [char for char in FORBIDDEN if char in text]


def test_f10_a_hostile_reply_is_never_kept_raw(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Escapes, NUL and overrides in a server's words: not in the row, the log, the terminal."""
    caplog.set_level("DEBUG")
    smtp.script("rcpt", f"550 5.1.1 \x00{HOSTILE}".encode() + b"\xff\xfe\r\n")
    app = make_app(smtp.url())
    job = app.send()
    app.sweep()
    assert app.job(job).status == "failed"
    assert "red" in (app.job(job).last_error or "")
    for row in dump(app):
        for value in row:
            assert_harmless(value if isinstance(value, str) else "")
    assert_harmless(caplog.text)
    for command in (("list",), ("show", "1"), ("explain", "1"), ("status",)):
        assert_harmless(cli(app, *command))
    for command in (("list", "--json"), ("show", "1", "--json")):
        assert_harmless(cli(app, *command))


def test_f10_a_hostile_page_of_a_provider_is_never_kept_raw(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for what stands in an HTTP answer, and in its headers."""
    caplog.set_level("DEBUG")
    with HttpProvider() as provider:
        app = make_app(f"sendcloud://shop:key@default?endpoint={provider.url}")
        for reply in (
            Reply(f"<html>{HOSTILE}</html>", 400),
            Reply({"result": False, "statusCode": 40806, "message": HOSTILE}),
            Reply({"result": True, "info": {"emailIdList": [f"{HOSTILE}$ann@example.com"]}}),
        ):
            provider.script(reply)
            app.send()
            app.sweep()
    statuses = [app.job(number).status for number in (1, 2, 3)]
    assert statuses == ["failed", "failed", "sent"]
    for row in dump(app):
        for value in row:
            assert_harmless(value if isinstance(value, str) else "")
    assert_harmless(caplog.text)
    for number in ("1", "2", "3"):
        assert_harmless(cli(app, "show", number))


def test_f10_a_hostile_subject_is_shown_harmless(
    make_app: Make, smtp: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What an application lets through into a subject arrives as text, and no terminal obeys it."""
    caplog.set_level("DEBUG")
    app = make_app(smtp.url())
    try:
        job = app.send(subject=HOSTILE, sender=(HOSTILE, "shop@example.com"))
    except MessageError:
        # Refused as a whole is as good; then only what passes has to be shown harmless.
        job = app.send(subject="\u202eevil <script>\u200b", sender=("\u202eevil", "a@example.com"))
    smtp.script("rcpt", "451 4.7.1 later")
    app.sweep()
    for command in (("list",), ("show", str(job.id)), ("explain", str(job.id)), ("list", "--json")):
        assert_harmless(cli(app, *command))
    assert_harmless(caplog.text)


def test_f10_the_error_about_a_hostile_value_is_harmless(make_app: Make, smtp: SmtpServer) -> None:
    """What is refused is quoted in a form that no terminal obeys, and not at length."""
    app = make_app(smtp.url())
    for fields in (
        {"subject": HOSTILE + "\n"},
        {"reply_to": HOSTILE},
        {"extra_headers": {HOSTILE: "x"}},
        {"key": HOSTILE + "\n"},
        {"priority": HOSTILE},
        {"transport": HOSTILE},
        {"reply_to": HOSTILE * 1000},
    ):
        with pytest.raises(MessageError) as caught:
            app.send(**fields)
        assert_harmless(str(caught.value))
        assert len(str(caught.value)) < 1000
