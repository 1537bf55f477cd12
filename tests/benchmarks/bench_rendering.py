"""CPU of turning one mail into bytes, beside the standard library's two ways."""

from __future__ import annotations

from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP

from flask_deferred_mail.letter import Address, Letter, Recipient
from flask_deferred_mail.mime import render
from tests.benchmarks.measuring import HTML, MAIL, TEXT, Scope, Series, in_turns, own_cpu, spread

_HEADERS = {
    "From": "Shop <shop@example.com>",
    "To": "ann@example.com",
    "Message-ID": "<20261122.1@example.com>",
    "Date": "Sun, 22 Nov 2026 08:30:00 +0000",
}
_ASCII = "ours, ASCII"
_OTHER = "ours, not ASCII"
_EMAIL_MESSAGE = "EmailMessage"
_MIME_TEXT = "MIMEMultipart"


def run(scope: Scope) -> None:
    """Measure and print."""
    cpu = Series()
    ways = {
        _ASCII: lambda: render(_letter("", TEXT)),
        _OTHER: lambda: render(_letter("é", TEXT)),
        _EMAIL_MESSAGE: _email_message,
        _MIME_TEXT: _mime_multipart,
    }
    for way in ways.values():
        way()
    in_turns(
        scope.of(15, 5),
        list(ways),
        lambda name: cpu.add(name, own_cpu(ways[name], scope.of(60, 20))),
    )
    scope.report.table(
        "Rendering one mail",
        ("way", "CPU, µs", "times ours (ASCII)"),
        [(name, spread(cpu.of(name), 0), spread(cpu.ratios(name, _ASCII), 1)) for name in ways],
    )
    for name in (_ASCII, _OTHER):
        milliseconds = [microseconds / 1000 for microseconds in cpu.of(name)]
        scope.report.at_most("rendering", name, milliseconds, 0.15, "ms")
    scope.report.plot(
        "rendering", "CPU of rendering one mail", "µs", {name: cpu.of(name) for name in ways}
    )


def _letter(extra: str, text: str) -> Letter:
    return Letter(
        sender=Address("shop@example.com", "Shop"),
        recipients=(Recipient(Address("ann@example.com")),),
        envelope_sender="shop@example.com",
        message_id=_HEADERS["Message-ID"],
        date=_HEADERS["Date"],
        subject=MAIL["subject"] + extra,
        text=text + extra,
        html=HTML + extra,
    )


def _email_message() -> bytes:
    message = EmailMessage(policy=SMTP)
    for name, value in _HEADERS.items():
        message[name] = value
    message["Subject"] = MAIL["subject"]
    message.set_content(TEXT)
    message.add_alternative(HTML, subtype="html")
    return message.as_bytes()


def _mime_multipart() -> bytes:
    message = MIMEMultipart("alternative")
    for name, value in _HEADERS.items():
        message[name] = value
    message["Subject"] = MAIL["subject"]
    message.attach(MIMEText(TEXT, "plain", "utf-8"))
    message.attach(MIMEText(HTML, "html", "utf-8"))
    return message.as_bytes(policy=SMTP)
