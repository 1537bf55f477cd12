"""Header fields that an application adds."""

import pytest

from flask_deferred_mail.errors import AddressError, BadHeaderError, MessageError, MessageTooLarge
from flask_deferred_mail.header_fields import extra_fields, header_name, message_id


def test_fields_keep_their_order_and_may_repeat():
    """Pairs allow what a mapping cannot hold."""
    given = [("X-A", "1"), ("X-B", " 2 "), ("x-a", "3")]
    assert extra_fields(given, "extra_headers") == (("X-A", "1"), ("X-B", "2"), ("x-a", "3"))
    assert extra_fields({"List-Unsubscribe": "<https://x.test/u>"}, "extra_headers") == (
        ("List-Unsubscribe", "<https://x.test/u>"),
    )


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("From", "sender"),
        ("to", "recipients"),
        ("CC", "cc"),
        ("Bcc", "bcc"),
        ("Resent-Bcc", "bcc"),
        ("subject", "subject"),
        ("Reply-To", "reply_to"),
        ("Date", "send_at"),
        ("Return-Path", "envelope_sender"),
        ("MIME-Version", "body"),
        ("Content-Type", "html"),
        ("content-transfer-encoding", "attach"),
    ],
)
def test_fields_that_the_message_writes_itself(name, instead):
    """A doubled header is refused, and the error names the field to use."""
    with pytest.raises(MessageError, match=instead) as caught:
        extra_fields({name: "x"}, "extra_headers")
    assert caught.value.field == "extra_headers"


@pytest.mark.parametrize(
    "name", ["", "X A", "X:A", "X-A\r\nBcc", "X-A\n", "X-Ä", "X\0", "X\u2028", "X\t", "\ud800"]
)
def test_names_that_would_not_stay_names(name):
    """Printable ASCII without a colon, to the very last character."""
    with pytest.raises(BadHeaderError):
        header_name(name, "extra_headers")


@pytest.mark.parametrize(
    "value", ["a\nBcc: x@y.example", "a\r\n b", "a\n", "\0", "a\u2028b", "\ud900"]
)
def test_values_that_would_not_stay_in_their_line(value):
    """The field and the header are both named."""
    with pytest.raises(BadHeaderError, match=r"extra_headers, X-A: holds"):
        extra_fields({"X-A": value}, "extra_headers")


@pytest.mark.parametrize("value", ["", "  ", None, 5, ["a"]])
def test_values_that_say_nothing(value):
    """Empty values and what is no text."""
    with pytest.raises(MessageError, match="X-A"):
        extra_fields({"X-A": value}, "extra_headers")


@pytest.mark.parametrize("headers", ["X-A: b", 5, ["X-A"], [("a", "b", "c")]])
def test_what_is_neither_mapping_nor_pairs(headers):
    """A list of lines is a common mistake."""
    with pytest.raises(MessageError, match="mapping"):
        extra_fields(headers, "extra_headers")


def test_caps():
    """On their number and on the length of one value."""
    with pytest.raises(MessageTooLarge, match="100"):
        extra_fields({f"X-{n}": "1" for n in range(101)}, "extra_headers")
    with pytest.raises(MessageTooLarge, match="X-A"):
        extra_fields({"X-A": "x" * 8000}, "extra_headers")


@pytest.mark.parametrize("value", ["<a.b@example.com>", "<a$b@[127.0.0.1]>", "<1@host_name>"])
def test_message_ids(value):
    """Used as they are."""
    assert message_id(value, "extra_headers") == value


@pytest.mark.parametrize(
    "value",
    ["a@b", "<a>", "<a@b> x", "<a@b><c@d>", "<a b@c>", "<a@b>\n", "<@b>", "<a@>", "<a@b.>",
     "<ä@b>", "<" + "a" * 260 + "@b>", "<a@[b]c]>"],
)  # fmt: skip
def test_what_is_no_message_id(value):
    """Strictly one identifier in angle brackets."""
    with pytest.raises(MessageError, match="Message-ID"):
        message_id(value, "extra_headers")


def test_what_may_stand_only_once():
    """Two Message-IDs would be two mails."""
    with pytest.raises(MessageError, match="only once"):
        extra_fields([("Message-ID", "<a@b>"), ("message-id", "<c@d>")], "extra_headers")


def test_a_sender_field_is_an_address():
    """The one address field that may be added is checked as one."""
    assert extra_fields({"Sender": "Bot <bot@example.com>"}, "h")
    with pytest.raises(AddressError):
        extra_fields({"Sender": "bot"}, "h")
    with pytest.raises(MessageError, match="ASCII"):
        extra_fields({"Sender": "Bät <bot@example.com>"}, "h")
