"""dispatched.py: a mail as the application sees it afterwards."""

from __future__ import annotations

import pytest

from flask_deferred_mail.address import parse_address
from flask_deferred_mail.dispatched import dispatched_message, mailbox, snapshot
from flask_deferred_mail.letter import Address
from flask_deferred_mail.message import Defaults, Message


def test_a_dispatched_message_has_flask_mails_attributes():
    """Text everywhere: what a receiver written for Flask-Mail joins and prints."""
    written = Message(
        "Hello",
        ["ann@example.com", ("Bob", "bob@example.com")],
        "Hi\n",
        "<p>Hi</p>",
        sender="Shop <shop@example.com>",
        cc=["carl@example.com"],
        bcc=["eve@example.com"],
        reply_to="desk@example.com",
        date=1_700_000_000,
        extra_headers={"X-App": "shop"},
    )
    written.alts["calendar"] = "BEGIN:VCALENDAR"
    written.attach("a.txt", "text/plain", b"a")
    cid = written.inline("logo.png", "image/png", b"png")
    seen = dispatched_message(written.check(Defaults()).letter)
    assert (seen.subject, seen.sender) == ("Hello", "Shop <shop@example.com>")
    assert ", ".join(seen.recipients) == "ann@example.com, Bob <bob@example.com>"
    assert (seen.cc, seen.bcc) == (["carl@example.com"], ["eve@example.com"])
    assert (seen.body, seen.html) == ("Hi\n", "<p>Hi</p>")
    assert seen.alts["text/calendar"] == "BEGIN:VCALENDAR"
    assert seen.reply_to == ["desk@example.com"]
    assert seen.date == 1_700_000_000
    assert [attachment.filename for attachment in seen.attachments] == ["a.txt", "logo.png"]
    assert dict(seen.attachments[1].headers) == {"Content-ID": f"<{cid}>"}


def test_a_dispatched_message_is_the_same_mail_again():
    """Checked once more, it gives an equal letter, down to the Message-ID."""
    written = Message(
        'He said "no"',
        [("O'Neil, Ann", "ann@example.com"), "bob@example.com"],
        "Hi\n",
        "<p>Hi</p>",
        sender=("Müller \\ Söhne", "shop@example.com"),
        extra_headers={"X-App": "shop"},
        envelope_sender="bounces@example.com",
    )
    written.inline("logo.png", "image/png", b"png")
    written.attach("a.txt", "text/plain", b"a", headers={"X-Part": "1"})
    letter = written.check(Defaults()).letter
    assert dispatched_message(letter).check(Defaults()).letter == letter


@pytest.mark.parametrize(
    "name", ["", "Ann", "Ann O'Neil", "Doe, Ann", 'Ann "the" Doe', "a\\b", "Ann (home)", "Müller"]
)
def test_a_mailbox_is_read_back_as_it_was(name):
    """Names with special characters are quoted."""
    address = Address("ann@example.com", name)
    assert parse_address(mailbox(address), "recipients") == address


def test_a_snapshot_does_not_follow_the_message():
    """One object, changed and sent again, leaves two different messages behind."""
    message = Message("one", ["ann@example.com"], "Hi", "<p>Hi</p>")
    first = snapshot(message)
    message.subject = "two"
    message.add_recipient("bob@example.com")
    message.html = "<p>Ho</p>"
    message.attach("a.txt", "text/plain", b"a")
    assert (first.subject, first.recipients) == ("one", ["ann@example.com"])
    assert (first.html, first.attachments) == ("<p>Hi</p>", [])


def test_a_snapshot_of_a_single_address_stays_one_address():
    """``recipients`` may have been set to a text; it is no list of letters."""
    message = Message("one", body="Hi")
    message.recipients = "ann@example.com"
    assert snapshot(message).recipients == ["ann@example.com"]
