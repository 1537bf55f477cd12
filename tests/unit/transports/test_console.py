"""``console:`` shows a mail to a person."""

from __future__ import annotations

import io
import threading

from flask_deferred_mail.letter import Address, Part, Recipient
from flask_deferred_mail.transports.console import ConsoleTransport
from tests.support.transport_calls import a_letter, fates, send


def shown(letter, **how):
    stream = io.StringIO()
    outcome = send(ConsoleTransport(stream=stream), letter, **how)
    assert set(fates(outcome).values()) == {"accepted"}
    return stream.getvalue()


def test_a_mail_is_readable():
    """Decoded headers, the text, the HTML's and the attachments' sizes; Bcc by itself."""
    text = shown(
        a_letter(
            sender=Address("orders@example.com", "示例商店 Shop"),
            recipients=(
                Recipient(Address("ann@example.net", "Ann")),
                Recipient(Address("carol@example.net"), "cc"),
                Recipient(Address("audit@example.com"), "bcc"),
            ),
            subject="订单 1001",
            text="Thanks\n    indented: käse\n",
            html="<p>Thanks</p>",
            headers=(("X-Order-Id", "1001"),),
            parts=(Part(b"12345", "application/pdf", "invoice.pdf"),),
        )
    )
    for line in (
        "From: 示例商店 Shop <orders@example.com>",
        "To: Ann <ann@example.net>",
        "Cc: carol@example.net",
        "(Bcc): audit@example.com",
        "Subject: 订单 1001",
        "Message-ID: <20261122.1@example.com>",
        "X-Order-Id: 1001",
        "    indented: käse",
        "[HTML: 13 characters]",
        "[attachment: invoice.pdf, application/pdf, 5 bytes]",
    ):
        assert line in text.splitlines()


def test_a_mail_with_html_only_shows_it():
    """Better than an empty mail."""
    assert "<p>Hi</p>" in shown(a_letter(text=None, html="<p>Hi</p>"))


def test_private_copies_are_shown_one_by_one():
    """Each with its own To, as each recipient will see it."""
    text = shown(a_letter("ann@example.net", "bob@example.net", private_copies=True))
    assert "To: ann@example.net\n" in text
    assert "To: bob@example.net\n" in text
    assert "ann@example.net, bob" not in text


def test_nothing_in_a_mail_can_drive_the_terminal():
    """Escape codes in subject, body, names of files and headers come out harmless."""
    evil = "a\x1b]0;owned\x07\x9b2J‮b"
    text = shown(
        a_letter(
            subject=evil,
            text=f"{evil}\r{evil}\n",
            headers=(("X-A", evil),),
            parts=(Part(b"", "text/plain", evil),),
        )
    )
    assert not {"\x1b", "\x07", "\x9b", "‮", "\r"} & set(text)


def test_standard_output_is_the_default_and_is_looked_up_each_time(capsys):
    """So that pytest's and a server's redirections work."""
    send(ConsoleTransport())
    assert "Subject: Hello" in capsys.readouterr().out


def test_an_ascii_terminal_does_not_fail_a_mail():
    """What it cannot show is escaped."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    outcome = send(ConsoleTransport(stream=stream), a_letter(subject="käse"))
    assert fates(outcome) == {"ann@example.net": "accepted"}
    assert b"Subject: k\\xe4se" in raw.getvalue()


def test_mails_of_several_threads_do_not_mix():
    """Each mail stands in one piece."""
    stream = io.StringIO()
    transport = ConsoleTransport(stream=stream)
    letters = [a_letter(text=f"{n}\n" * 50) for n in range(8)]
    threads = [threading.Thread(target=send, args=(transport, letter)) for letter in letters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        assert f"{n}\n" * 50 in stream.getvalue()


def test_leave_to_hand_over_is_asked_for_once():
    """Also here: the lease may be gone."""
    asked = []
    shown(a_letter(), hand_over=lambda: asked.append(1))
    assert asked == [1]
