"""What of the next mail's envelope may go out with the end of the mail before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flask_deferred_mail.letter import Address, Letter, Recipient
from flask_deferred_mail.transports.smtp_envelope import Ahead, ahead_of
from tests.support.transport_calls import a_letter

EXTENSIONS = {"PIPELINING": "", "SIZE": "1000", "SMTPUTF8": ""}


def announced(letter: Letter, data: bytes = b"Subject: x\r\n\r\n") -> Ahead | None:
    return ahead_of(letter, letter.recipients, data, EXTENSIONS)


def test_an_ordinary_envelope_is_announced() -> None:
    """Sender, recipients in their order, and DATA."""
    letter = replace(
        a_letter("ann@example.net", "bob@example.net"), envelope_sender="me@example.com"
    )
    ahead = announced(letter)
    assert ahead is not None
    assert ahead.commands.split(b"\r\n") == [
        b"MAIL FROM:<me@example.com> SIZE=14",
        b"RCPT TO:<ann@example.net>",
        b"RCPT TO:<bob@example.net>",
        b"DATA",
        b"",
    ]


@pytest.mark.parametrize(
    "odd",
    [
        "ann@example.net>\r\nRCPT TO:<eve@example.net",
        "ann@example.net>\nRCPT TO:<eve@example.net",
        "ann@example.net\r\n",
        "ann@example.net> SIZE=1",
        "<ann@example.net>",
        "an n@example.net",
        "änn@example.net",
        "",
    ],
)
def test_an_odd_recipient_is_not_announced(odd: str) -> None:
    """Nothing that is not one address becomes a command, let alone two."""
    letter = a_letter("bob@example.net")
    assert announced(replace(letter, recipients=(Recipient(Address(odd), "bcc"),))) is None


@pytest.mark.parametrize(
    "odd",
    ["me@example.com>\r\nRCPT TO:<eve@example.net", "me@example.com> AUTH=<>", "mé@example.com"],
)
def test_an_odd_sender_is_not_announced(odd: str) -> None:
    """The same of whom the mail is from; also where the server has no SIZE to follow it."""
    letter = replace(a_letter("ann@example.net"), envelope_sender=odd)
    assert announced(letter) is None
    assert ahead_of(letter, letter.recipients, b"x", {"PIPELINING": ""}) is None


def test_a_mail_for_a_server_with_smtputf8_is_not_announced() -> None:
    """Nor one that is too large for the server."""
    letter = a_letter("ann@example.net")
    assert announced(letter, "Subject: ü\r\n\r\n".encode()) is None
    assert announced(letter, b"x" * 1001) is None
