"""The message as an application writes it, before anything is checked."""

import inspect

import jinja2
import pytest
from flask_mail import Message as FlaskMailMessage

from flask_deferred_mail.attachment import Attachment
from flask_deferred_mail.errors import MessageError, NotYetAvailable
from flask_deferred_mail.letter import Address
from flask_deferred_mail.message import Defaults, Message

DEFAULTS = Defaults(sender=Address("shop@example.com"), now=1_900_000_000.0)


def test_positional_order_is_flask_mails():
    """Code that was written for Flask-Mail passes fields by position."""
    ours = list(inspect.signature(Message).parameters)
    theirs = list(inspect.signature(FlaskMailMessage).parameters)
    assert ours[: len(theirs)] == theirs


def test_an_unknown_keyword_is_named():
    """A typo is told where it was made."""
    with pytest.raises(TypeError, match="recipient_list"):
        Message(recipient_list=["a@b.example"])


def test_an_unknown_attribute_is_refused():
    """A mistyped assignment would otherwise be quietly ignored."""
    message = Message()
    with pytest.raises(AttributeError, match="sent_at"):
        message.sent_at = 5


@pytest.mark.parametrize("name", ["mail_options", "rcpt_options"])
def test_esmtp_options_are_refused_by_name(name):
    """Empty ones, which is what Flask-Mail's own messages have, are let through."""
    with pytest.raises(MessageError, match=name) as caught:
        Message(**{name: ["BODY=8BITMIME"]})
    assert caught.value.field == name
    assert Message(**{name: []}).subject == ""


def test_mail_class_is_reserved():
    """Refused with a clear text until it means something."""
    with pytest.raises(NotYetAvailable, match="mail_class"):
        Message(mail_class="bulk")


def test_html_lives_among_the_alternatives():
    """As in Flask-Mail, from both sides."""
    message = Message(alts={"html": "<p>1"})
    assert message.html == "<p>1"
    message.html = "<p>2"
    assert message.alts == {"html": "<p>2"}
    message.html = None
    assert message.alts == {}


def test_send_at_has_another_name():
    """Read, written and given; but not both at once."""
    message = Message(scheduled_time=5)
    assert message.send_at == 5
    message.scheduled_time = 6
    assert (message.send_at, message.scheduled_time) == (6, 6)
    with pytest.raises(MessageError, match="send_at"):
        Message(scheduled_time=5, send_at=5)


def test_recipients_are_added_to_a_list_of_the_messages_own():
    """The caller's list does not grow."""
    given = ["a@b.example"]
    message = Message(recipients=given)
    message.add_recipient(("C", "c@d.example"))
    assert message.recipients == ["a@b.example", ("C", "c@d.example")]
    assert given == ["a@b.example"]
    assert message.send_to == {"a@b.example", ("C", "c@d.example")}


def test_a_single_address_is_a_list_of_one():
    """A text is not taken apart into letters."""
    assert Message(recipients="a@b.example").recipients == ["a@b.example"]


def test_attaching_takes_flask_mails_arguments():
    """In the same order."""
    message = Message()
    message.attach("a.txt", "text/plain", "text", "inline", {"X-A": "1"})
    (attachment,) = message.attachments
    assert isinstance(attachment, Attachment)
    assert (attachment.filename, attachment.data) == ("a.txt", "text")
    assert (attachment.disposition, attachment.headers) == ("inline", {"X-A": "1"})


def test_inline_gives_the_content_id():
    """For use in the HTML; made up unless it is given."""
    message = Message(recipients="a@b.example")
    content_id = message.inline("l.png", data=b"x")
    assert message.inline("m.png", data=b"y", content_id="logo") == "logo"
    message.html = f'<img src="cid:{content_id}"><img src="cid:logo">'
    parts = message.check(DEFAULTS).letter.inline_parts
    assert [part.content_id for part in parts] == [content_id, "logo"]
    assert parts[0].content_type == "image/png"


def test_send_hands_the_message_to_the_connection():
    """Flask-Mail's other way round."""

    class Connection:
        def send(self, message):
            self.sent = message

    connection, message = Connection(), Message()
    message.send(connection)
    assert connection.sent is message


def test_the_repr_shows_neither_code_nor_person():
    """A subject often holds a one-time code."""
    message = Message("Your code is 1234", ["ann@example.com"], "secret", bcc=["b@example.com"])
    assert repr(message) == "<Message to 2 recipients>"


ENV = jinja2.Environment(
    loader=jinja2.DictLoader(
        {
            "hi.html": "<p>{{ name }}, {{ site }}</p>",
            "hi.txt": "{{ name }}, {{ site }}",
            "hi.subject.txt": "Hi {{ name }}",
        }
    )
)


def test_rendering_leaves_the_message_alone():
    """One message sent in a loop with another context never says the last one's text."""
    message = Message(recipients="a@b.example", template="hi", context={"name": "Ann"})
    first = message.render(ENV, {"site": "S", "name": "nobody"})
    message.context = {"name": "<Bob>"}
    second = message.render(ENV, {"site": "S"})
    assert (first.subject, first.body, first.html) == ("Hi Ann", "Ann, S", "<p>Ann, S</p>")
    assert (second.subject, second.body) == ("Hi <Bob>", "<Bob>, S")
    assert second.html == "<p>&lt;Bob&gt;, S</p>"
    assert (message.subject, message.body, message.html) == ("", None, None)


def test_the_context_is_not_kept():
    """It may hold anything, and would be read from the row by whoever reads the database."""
    rendered = Message(template="hi", context={"name": "Ann"}, language="de").render(ENV)
    assert (rendered.template, rendered.context, rendered.language) == (None, None, None)


def test_what_the_message_says_wins_over_the_template():
    """Field by field."""
    message = Message("Own", "a@b.example", template="hi", context={"name": "Ann"})
    assert message.render(ENV).subject == "Own"
    message.body = "own"
    assert (message.render(ENV).body, message.render(ENV).html) == ("own", "<p>Ann, </p>")
    message.html = "<b>own"
    assert message.render(ENV).html == "<b>own"


def test_without_a_template_there_is_nothing_to_render():
    """The message itself comes back."""
    message = Message("s")
    assert message.render(ENV) is message


def test_a_message_that_was_not_rendered_is_not_recorded():
    """An empty mail would leave instead."""
    with pytest.raises(MessageError, match="render"):
        Message(recipients="a@b.example", template="hi").check(DEFAULTS)
