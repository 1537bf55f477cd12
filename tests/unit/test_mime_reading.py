"""Messages of the standard library, of both its APIs."""

import email
import email.policy
from email.header import Header
from email.message import EmailMessage
from email.message import Message as OldMessage
from email.mime.application import MIMEApplication
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest

from flask_deferred_mail.errors import AddressError, MessageError
from flask_deferred_mail.foreign import adopt
from flask_deferred_mail.letter import Address
from flask_deferred_mail.message import Defaults

DEFAULTS = Defaults(sender=Address("default@example.com"), now=1_900_000_000.0)
PNG = b"\x89PNG\r\n\x1a\n"


def letter(given):
    return adopt(given).check(DEFAULTS).letter


def new_message(**headers):
    message = EmailMessage()
    for name, value in {"To": "a@b.example", **headers}.items():
        message[name.replace("_", "-")] = value
    return message


def rich_message():
    message = new_message(
        Subject="Grüße", From='"Shop, Ltd." <shop@example.com>', Cc="c@example.com",
        Bcc="d@example.com", Reply_To="help@example.com", Message_ID="<mine@example.com>",
        Date="Tue, 01 Jan 2030 01:00:00 +0100", X_A="1",
    )  # fmt: skip
    # With an A-label: the library itself would write "bücher" as an encoded word, which is wrong.
    message.replace_header("To", "Jörg <j@xn--bcher-kva.example>, b@example.com")
    message.set_content("Täxt\n")
    message.add_alternative('<img src="cid:logo">', subtype="html")
    html = message.get_payload()[1]
    html.add_related(PNG, "image", "png", cid="<logo>", filename="l.png")
    message.add_attachment("ä", filename="ä.txt")
    message.add_attachment(b"\xff", maintype="application", subtype="pdf", filename="a.pdf")
    return message


def assert_is_rich(found):
    assert found.subject == "Grüße"
    assert found.sender == Address("shop@example.com", "Shop, Ltd.")
    assert [(r.address.name, r.email, r.kind) for r in found.recipients] == [
        ("Jörg", "j@xn--bcher-kva.example", "to"),
        ("", "b@example.com", "to"),
        ("", "c@example.com", "cc"),
        ("", "d@example.com", "bcc"),
    ]
    assert found.reply_to == (Address("help@example.com"),)
    assert (found.message_id, found.headers) == ("<mine@example.com>", (("X-A", "1"),))
    assert found.date == "Tue, 01 Jan 2030 00:00:00 +0000"
    assert (found.text, found.html) == ("Täxt\n", '<img src="cid:logo">\n')
    (image,) = found.inline_parts
    assert (image.content_id, image.data, image.filename) == ("logo", PNG, "l.png")
    text, pdf = found.attachments
    assert (text.filename, text.data.decode().strip()) == ("ä.txt", "ä")
    assert text.content_type == "text/plain; charset=utf-8"
    assert (pdf.content_type, pdf.data) == ("application/pdf", b"\xff")


def test_a_message_of_the_newer_api():
    """Everything that can be said there arrives."""
    assert_is_rich(letter(rich_message()))


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32, email.policy.SMTP])
def test_a_message_that_was_parsed(policy):
    """Out of a file, by either API, with encoded and folded headers."""
    raw = rich_message().as_bytes(policy=email.policy.SMTP)
    found = letter(email.message_from_bytes(raw, policy=policy))
    assert_is_rich(found)


def test_a_message_of_the_older_api():
    """Built from MIME classes, as tutorials do it."""
    message = MIMEMultipart("mixed")
    message["Subject"] = Header("Grüße", "utf-8")
    message["From"] = "=?utf-8?q?J=C3=B6rg=2C_B=2E?= <j@example.com>"
    message["To"] = '"Bob, Jr." <bob@example.com>,\r\n ann@example.com, '
    related = MIMEMultipart("related")
    related.attach(MIMEText("<img src='cid:x'>", "html", "utf-8"))
    image = MIMEImage(PNG)
    image["Content-ID"] = "<x>"
    related.attach(image)
    message.attach(related)
    part = MIMEApplication(b"\0\1")
    part.add_header("Content-Disposition", "attachment", filename="a.bin")
    message.attach(part)
    found = letter(message)
    assert (found.subject, found.sender) == ("Grüße", Address("j@example.com", "Jörg, B."))
    assert [r.address for r in found.recipients] == [
        Address("bob@example.com", "Bob, Jr."),
        Address("ann@example.com"),
    ]
    assert (found.html, found.inline_parts[0].data) == ("<img src='cid:x'>", PNG)
    assert (found.attachments[0].filename, found.attachments[0].data) == ("a.bin", b"\0\1")


def test_text_that_was_never_encoded():
    """set_payload() takes any text; the library would later take it for bytes."""
    message = OldMessage()
    message["To"] = "a@b.example"
    message.set_payload("Grüße €")
    assert letter(message).text == "Grüße €"


def test_a_calendar_invitation():
    """An alternative keeps its method, and leaves its charset to us."""
    message = new_message()
    message.set_content("come")
    message.add_alternative("BEGIN:VCALENDAR", subtype="calendar", params={"method": "REQUEST"})
    found = letter(message)
    assert found.alternatives == (("text/calendar; method=REQUEST", "BEGIN:VCALENDAR\n"),)


def test_a_second_text_is_an_attachment():
    """A list's footer in multipart/mixed is not lost, and not taken for the body."""
    message = MIMEMultipart()
    message["To"] = "a@b.example"
    message.attach(MIMEText("body"))
    message.attach(MIMEText("füße", "plain", "iso-8859-1"))
    found = letter(message)
    assert (found.text, len(found.attachments)) == ("body", 1)
    (footer,) = found.attachments
    assert (footer.data, footer.content_type) == (
        "füße".encode("iso-8859-1"),
        "text/plain; charset=iso-8859-1",
    )


def test_an_enclosed_message():
    """As a file, whole."""
    inner = new_message(Subject="inner")
    inner.set_content("x")
    message = new_message()
    message.set_content("see below")
    message.add_attachment(inner)
    (part,) = letter(message).attachments
    assert part.content_type == "message/rfc822"
    assert b"Subject: inner" in part.data


def test_undisclosed_recipients():
    """An empty group stands for nobody."""
    for make in (EmailMessage, OldMessage):
        message = make()
        message["To"] = "undisclosed-recipients:;"
        message["Bcc"] = "a@b.example"
        assert [r.kind for r in letter(message).recipients] == ["bcc"]


def test_a_missing_sender_is_the_default_one():
    """As for our own messages."""
    assert letter(new_message()).sender == Address("default@example.com")


def test_two_senders():
    """There is one MAIL FROM."""
    with pytest.raises(MessageError, match="2 senders"):
        adopt(new_message(From="a@b.example, c@d.example"))


@pytest.mark.parametrize("make", [EmailMessage, OldMessage])
@pytest.mark.parametrize(
    "value",
    [
        "alice@example.org)bob@example.com",
        "alice@example.org(<bob@example.com>",
        '"ann@example.com',
        "Ann <ann@example.com",
        "ann",
    ],
)
def test_lists_that_are_no_lists(make, value):
    """Nobody is guessed out of a damaged list."""
    message = make()
    message["To"] = value
    with pytest.raises((AddressError, MessageError)):
        letter(message)


@pytest.mark.parametrize("subtype", ["signed", "encrypted"])
def test_what_must_not_be_rewritten(subtype):
    """A signature would no longer hold."""
    message = MIMEMultipart(subtype)
    message["To"] = "a@b.example"
    message.attach(MIMEText("x"))
    with pytest.raises(MessageError, match=subtype):
        adopt(message)


def test_a_message_that_is_sent_on():
    """Resent fields have an envelope of their own."""
    with pytest.raises(MessageError, match="Resent-To"):
        adopt(new_message(Resent_To="x@y.example"))


def test_a_date_that_is_none():
    """Told, not replaced."""
    message = OldMessage()
    message["To"], message["Date"] = "a@b.example", "soon"
    with pytest.raises(MessageError, match="Date"):
        adopt(message)


def test_eight_bit_text():
    """Read by its charset, with plain line ends."""
    raw = b"To: a@b.example\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xe4\r\nb\r\n"
    for policy in (email.policy.default, email.policy.compat32):
        assert letter(email.message_from_bytes(raw, policy=policy)).text == "ä\nb\n"


def test_text_in_no_charset():
    """Neither its own charset nor UTF-8 can read it."""
    raw = b"To: a@b.example\nContent-Type: text/plain; charset=x-none\n\n\xff\n"
    with pytest.raises(MessageError, match="x-none"):
        adopt(email.message_from_bytes(raw))


def test_endless_nesting():
    """Bounded, not a RecursionError."""
    message = inner = MIMEMultipart()
    message["To"] = "a@b.example"
    for _ in range(50):
        child = MIMEMultipart()
        inner.attach(child)
        inner = child
    with pytest.raises(MessageError, match="nested"):
        adopt(message)


def test_a_header_that_hides_a_line_break():
    """An encoded line feed stays encoded, or is refused; never a header of its own."""
    for make in (EmailMessage, OldMessage):
        message = make()
        message["To"] = "a@b.example"
        message["Subject"] = "=?utf-8?q?x=0ABcc=3A_v=40x=2Eexample?="
        try:
            found = letter(message)
        except MessageError:
            continue
        assert "\n" not in found.subject
