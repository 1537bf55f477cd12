"""Messages of Flask-Mail and Flask-Mailman, made by the real packages."""

from datetime import UTC, datetime
from email.mime.image import MIMEImage

import flask
import flask_mail
import flask_mailman
import pytest

from flask_deferred_mail.errors import BadHeaderError, MessageError
from flask_deferred_mail.foreign import adopt
from flask_deferred_mail.letter import Address
from flask_deferred_mail.message import Defaults, Message

DEFAULTS = Defaults(now=1_900_000_000.0)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def app():
    app = flask.Flask("app")
    app.config["MAIL_DEFAULT_SENDER"] = "default@example.com"
    return app


@pytest.fixture
def with_flask_mail(app):
    flask_mail.Mail(app)
    with app.app_context():
        yield


@pytest.fixture
def with_mailman(app):
    flask_mailman.Mail(app)
    with app.app_context():
        yield


def letter(given):
    return adopt(given).check(DEFAULTS).letter


def addresses(letter, kind):
    return [recipient.email for recipient in letter.recipients if recipient.kind == kind]


def test_our_own_message_comes_back():
    """The same object, not a copy."""
    message = Message("s")
    assert adopt(message) is message


def test_a_dict_of_fields():
    """As send_many takes them; a wrong name is named."""
    assert adopt({"subject": "s", "recipients": ["a@b.example"]}).subject == "s"
    with pytest.raises(TypeError, match="to_list"):
        adopt({"to_list": []})


@pytest.mark.parametrize("given", [None, "text", 5, b"raw", [], object(), Message])
def test_what_is_no_message(given):
    """The error names the type, and what would do."""
    with pytest.raises(TypeError, match="is not a message"):
        adopt(given)


@pytest.mark.usefixtures("with_flask_mail")
class TestFlaskMail:
    """``flask_mail.Message``."""

    def test_every_field_is_taken_over(self):
        """With attachments, inline images and further headers."""
        given = flask_mail.Message(
            "Hello", ["Ann <ann@example.com>", ("Bob", "bob@example.com")], "text", "<p>html",
            sender=("Shop, Ltd.", "shop@example.com"), cc=["cc@example.com"],
            bcc=["bcc@example.com"], reply_to="help@example.com", date=0.0,
            extra_headers={"X-A": "1"},
        )  # fmt: skip
        given.attach("a.txt", "text/plain", "ä")
        given.attach("l.png", "image/png", PNG, "inline", {"Content-ID": "<logo>"})
        found = letter(given)
        assert found.sender == Address("shop@example.com", "Shop, Ltd.")
        assert addresses(found, "to") == ["ann@example.com", "bob@example.com"]
        assert (addresses(found, "cc"), addresses(found, "bcc")) == (
            ["cc@example.com"],
            ["bcc@example.com"],
        )
        assert (found.subject, found.text, found.html) == ("Hello", "text", "<p>html")
        assert found.reply_to == (Address("help@example.com"),)
        assert found.date.startswith("Thu, 01 Jan 1970")
        assert found.headers == (("X-A", "1"),)
        assert found.attachments[0].data == "ä".encode()
        assert (found.inline_parts[0].content_id, found.inline_parts[0].data) == ("logo", PNG)

    def test_alternatives(self):
        """Subtypes of text."""
        given = flask_mail.Message(recipients=["a@b.example"], alts={"calendar": "BEGIN:"})
        assert letter(given).alternatives == (("text/calendar", "BEGIN:"),)

    def test_names_that_flask_mail_does_not_quote(self):
        """The class joins name and address to a text that few parsers can read."""
        for name in ('Bob "the" B', "a@b, c", "x:y"):
            given = flask_mail.Message(recipients=["a@b.example"], sender=(name, "c@d.example"))
            assert letter(given).sender == Address("c@d.example", name)

    def test_the_made_up_message_id_is_replaced(self):
        """It holds the host's name."""
        given = flask_mail.Message(recipients=["a@b.example"])
        assert letter(given).message_id != given.msgId
        assert letter(given).message_id.endswith("@example.com>")

    def test_a_chosen_message_id_is_kept(self):
        """Whichever way it was chosen."""
        given = flask_mail.Message(recipients=["a@b.example"])
        given.msgId = "<mine@example.com>"
        assert letter(given).message_id == "<mine@example.com>"
        given.extra_headers = {"Message-Id": "<other@example.com>"}
        assert letter(given).message_id == "<other@example.com>"

    @pytest.mark.parametrize("name", ["mail_options", "rcpt_options"])
    def test_options_are_refused_by_name(self, name):
        """They would reach the server unchecked."""
        given = flask_mail.Message(recipients=["a@b.example"], **{name: ["SMTPUTF8"]})
        with pytest.raises(MessageError, match=name):
            adopt(given)

    def test_line_breaks_are_refused_as_in_our_own(self):
        """Also in what Flask-Mail itself does not look at."""
        given = flask_mail.Message(recipients=["a@b.example"], cc=["x@y.example\nBcc: z@z.example"])
        with pytest.raises(BadHeaderError, match="cc"):
            letter(given)

    def test_the_given_message_does_not_change(self):
        """It may be sent again."""
        given = flask_mail.Message(recipients=["a@b.example"], html="<p>x")
        message = adopt(given)
        message.add_recipient("c@d.example")
        message.html = None
        message.attach("a", None, b"")
        assert (given.recipients, given.html, given.attachments) == (["a@b.example"], "<p>x", [])

    def test_a_subclass(self):
        """Applications derive their own."""

        class Mine(flask_mail.Message):
            pass

        assert letter(Mine(recipients=["a@b.example"])).text == ""


@pytest.mark.usefixtures("with_mailman")
class TestFlaskMailman:
    """``flask_mailman.EmailMessage`` and ``EmailMultiAlternatives``."""

    def test_every_field_is_taken_over(self):
        """From Django's names to ours."""
        given = flask_mailman.EmailMultiAlternatives(
            "Hello", "text", ("Jörg", "shop@example.com"), ["Ann <ann@example.com>"],
            ["bcc@example.com"], cc=["cc@example.com"], reply_to=["help@example.com"],
            headers={"X-A": "1", "Message-ID": "<mine@example.com>"},
        )  # fmt: skip
        given.attach_alternative("<p>html", "text/html")
        given.attach_alternative("BEGIN:", "text/calendar; method=REQUEST")
        given.attach("a.txt", "ä", "text/plain")
        given.attach("b.bin", b"\xff", None)
        found = letter(given)
        assert found.sender == Address("shop@example.com", "Jörg")
        assert addresses(found, "to") == ["ann@example.com"]
        assert (addresses(found, "cc"), addresses(found, "bcc")) == (
            ["cc@example.com"],
            ["bcc@example.com"],
        )
        assert (found.text, found.html) == ("text", "<p>html")
        assert found.alternatives == (("text/calendar; method=REQUEST", "BEGIN:"),)
        assert found.reply_to == (Address("help@example.com"),)
        assert (found.headers, found.message_id) == ((("X-A", "1"),), "<mine@example.com>")
        assert [part.data for part in found.attachments] == ["ä".encode(), b"\xff"]
        assert found.attachments[1].content_type == "application/octet-stream"

    def test_html_as_the_only_body(self):
        """content_subtype says which body it is."""
        given = flask_mailman.EmailMessage("s", "<p>Hello</p>", to=["a@b.example"])
        given.content_subtype = "html"
        assert (letter(given).html, letter(given).text) == ("<p>Hello</p>", "Hello\n")

    def test_an_empty_body_beside_html_counts_as_missing(self):
        """The class cannot tell the two apart."""
        given = flask_mailman.EmailMultiAlternatives("s", to=["a@b.example"])
        given.attach_alternative("<p>Hello</p>", "text/html")
        assert letter(given).text == "Hello\n"

    def test_inline_images(self):
        """Django's way: a MIME part with a content id."""
        image = MIMEImage(PNG, "png")
        image.add_header("Content-ID", "<logo>")
        given = flask_mailman.EmailMessage(
            "s", '<img src="cid:logo">', to=["a@b.example"], attachments=[image]
        )
        given.content_subtype, given.mixed_subtype = "html", "related"
        (part,) = letter(given).inline_parts
        assert (part.content_id, part.data, part.content_type) == ("logo", PNG, "image/png")

    def test_a_message_as_attachment(self):
        """Forwarded as a file, whole."""
        inner = flask_mailman.EmailMessage("inner", "x", to=["a@b.example"])
        given = flask_mailman.EmailMessage("s", "x", to=["a@b.example"])
        given.attach("m.eml", inner, "message/rfc822")
        assert b"Subject: inner" in letter(given).attachments[0].data

    def test_headers_that_stand_for_fields(self):
        """From is shown, from_email stays the envelope; Date is the date."""
        given = flask_mailman.EmailMessage(
            "s", "x", "bounce@example.com", ["a@b.example"],
            headers={"From": "Shop <shop@example.com>", "date": "Tue, 01 Jan 2030 00:00:00 -0000"},
        )  # fmt: skip
        found = letter(given)
        assert found.sender == Address("shop@example.com", "Shop")
        assert found.envelope_sender == "bounce@example.com"
        assert found.date == "Tue, 01 Jan 2030 00:00:00 +0000"
        assert datetime(2030, 1, 1, tzinfo=UTC).strftime("%a") == "Tue"

    def test_a_shown_recipient_list_cannot_be_had(self):
        """A To that differs from the recipients is refused, not dropped."""
        given = flask_mailman.EmailMessage("s", "x", to=["a@b.example"], headers={"To": "all"})
        with pytest.raises(MessageError, match="recipients"):
            letter(given)

    def test_an_unknown_subtype(self):
        """Neither text nor HTML."""
        given = flask_mailman.EmailMessage("s", "x", to=["a@b.example"])
        given.content_subtype = "markdown"
        with pytest.raises(MessageError, match="content_subtype"):
            adopt(given)
