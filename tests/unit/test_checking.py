"""From a message to a letter: what is refused, what is made of the rest."""

import codecs
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail import checking
from flask_deferred_mail.errors import AddressError, BadHeaderError, MessageError, MessageTooLarge
from flask_deferred_mail.letter import Address, Letter, Recipient, Submission
from flask_deferred_mail.message import Defaults, Message

NOW = 1_900_000_000.0
DEFAULTS = Defaults(sender=Address("shop@example.com", "Shop"), now=NOW)
BREAKS = ["\r", "\n", "\r\n ", "\0", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028",
          "\u2029", "\ud800"]  # fmt: skip


def submit(*args, defaults=DEFAULTS, **fields) -> Submission:
    fields.setdefault("recipients", ["ann@example.com"])
    return Message(*args, **fields).check(defaults)


def letter(*args, **fields) -> Letter:
    return submit(*args, **fields).letter


def refusal(**fields) -> MessageError:
    with pytest.raises(MessageError) as caught:
        submit(**fields)
    return caught.value


def test_a_plain_mail():
    """Subject, one recipient and a text: everything else has its default."""
    submission = submit("Welcome", body="Hello")
    found = submission.letter
    assert (found.subject, found.text, found.html) == ("Welcome", "Hello", None)
    assert found.sender == Address("shop@example.com", "Shop")
    assert found.recipients == (Recipient(Address("ann@example.com"), "to"),)
    assert (found.envelope_sender, found.charset) == ("shop@example.com", "utf-8")
    assert found.date == "Sun, 17 Mar 2030 17:46:40 +0000"
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.com>", found.message_id)
    assert submission == Submission(found)


@pytest.mark.parametrize("char", BREAKS)
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (lambda c: {"subject": f"a{c}"}, "subject"),
        (lambda c: {"sender": ("A" + c, "a@example.com")}, "sender"),
        (lambda c: {"recipients": [f"a@example.com{c}"]}, "recipients"),
        (lambda c: {"cc": [f"a{c}@example.com"]}, "cc"),
        (lambda c: {"bcc": [f"{c}a@example.com"]}, "bcc"),
        (lambda c: {"reply_to": f"a@example.com{c}"}, "reply_to"),
        (lambda c: {"envelope_sender": f"a@example.com{c}"}, "envelope_sender"),
        (lambda c: {"extra_headers": {"X-A": f"a{c}b"}}, "extra_headers"),
        (lambda c: {"extra_headers": {f"X{c}A": "a"}}, "extra_headers"),
        (lambda c: {"charset": f"utf-8{c}"}, "charset"),
        (lambda c: {"alts": {f"calendar{c}": "a"}}, "alts"),
        (lambda c: {"key": f"a{c}"}, "key"),
        (lambda c: {"tenant": f"a{c}"}, "tenant"),
        (lambda c: {"transport": f"a{c}"}, "transport"),
        (lambda c: {"tags": [f"a{c}"]}, "tags"),
        (lambda c: {"metadata": {"a": f"b{c}d"}}, "metadata"),
        (lambda c: {"metadata": {f"a{c}d": "b"}}, "metadata"),
        (lambda c: {"template_id": f"a{c}"}, "template_id"),
        (lambda c: {"merge_headers": {"ann@example.com": {"X-A": f"a{c}b"}}}, "merge_headers"),
    ],
)
def test_line_breaks_nul_and_surrogates_are_refused_naming_the_field(fields, name, char):
    """Every field that could come to stand in a header, an envelope or a provider's call."""
    error = refusal(**fields(char))
    assert isinstance(error, BadHeaderError)
    assert error.field.startswith(name)
    assert char not in str(error)


@pytest.mark.parametrize("char", ["\0", "\ud800"])
@pytest.mark.parametrize(
    "fields",
    [
        lambda c: {"body": f"a{c}"},
        lambda c: {"html": f"é{c}"},
        lambda c: {"alts": {"calendar": c}},
        lambda c: {"merge_data": {"ann@example.com": {"x": [{"y": c}]}}},
        lambda c: {"merge_data": {"ann@example.com": {c: "x"}}},
        lambda c: {"merge_global_data": {"x": c}},
        lambda c: {"esp_extra": {"x": {c: 1}}},
    ],
)
def test_no_text_holds_what_a_database_cannot_keep(fields, char):
    """PostgreSQL would refuse NUL at the commit, and nothing can encode a surrogate."""
    error = refusal(**fields(char))
    assert error.field in fields(char)


# --- who ---------------------------------------------------------------------------------------


def test_the_sender_of_the_message_wins():
    """Name, address, Message-ID and envelope follow it."""
    found = letter(sender=("Bob", "bob@bücher.example"))
    assert found.sender == Address("bob@xn--bcher-kva.example", "Bob")
    assert found.envelope_sender == "bob@xn--bcher-kva.example"
    assert found.message_id.endswith("@xn--bcher-kva.example>")


@pytest.mark.parametrize("sender", [None, ""])
def test_a_missing_sender_names_the_setting(sender):
    """It is the first thing that a new application lacks."""
    with pytest.raises(MessageError, match="MAIL_DEFAULT_SENDER"):
        submit(sender=sender, defaults=Defaults(now=NOW))


def test_the_envelope_sender():
    """The message's own, else the configured one, else the sender's."""
    configured = Defaults(Address("a@example.com"), envelope_sender="bounce@example.com")
    assert letter(defaults=configured).envelope_sender == "bounce@example.com"
    own = letter(defaults=configured, envelope_sender="own@EXAMPLE.com")
    assert own.envelope_sender == "own@example.com"
    assert refusal(envelope_sender="<>").field == "envelope_sender"


@pytest.mark.parametrize("kind", ["recipients", "cc", "bcc"])
def test_recipients_of_any_one_kind_will_do(kind):
    """A mail to bcc only is a mail."""
    fields = {"recipients": None, kind: ["a@example.com"]}
    assert [r.email for r in submit(**fields).letter.recipients] == ["a@example.com"]


@pytest.mark.parametrize("value", [None, [], "", ()])
def test_no_recipients(value):
    """Nobody to send to."""
    assert refusal(recipients=value).field == "recipients"


def test_an_address_that_stands_twice_gets_one_copy():
    """The first place wins, across kinds; the local part keeps its case, the domain has none."""
    found = letter(
        recipients=["Ann <ann@example.com>", "ann@EXAMPLE.com", "Ann@example.com"],
        cc=["ann@example.com", "bob@example.com"],
        bcc=["bob@example.com", "cy@example.com"],
    )
    assert [(r.email, r.kind) for r in found.recipients] == [
        ("ann@example.com", "to"),
        ("Ann@example.com", "to"),
        ("bob@example.com", "cc"),
        ("cy@example.com", "bcc"),
    ]
    assert found.recipients[0].address.name == "Ann"


def test_a_bad_address_among_several_is_counted_out():
    """The error says which one, for lists that came out of a database."""
    error = refusal(cc=["a@example.com", "b@example.com", "c"])
    assert isinstance(error, AddressError)
    assert (error.field, "number 3 of 3" in error.problem) == ("cc", True)


@pytest.mark.parametrize("value", [5, b"a@b.example", {"a@b.example": 1}])
def test_recipients_that_are_no_list(value):
    """A mapping or bytes would be taken apart into something else."""
    with pytest.raises(MessageError, match="list"):
        submit(recipients=value)


def test_reply_to_is_one_or_several():
    """A tuple is a name and an address, as in Flask-Mail."""
    assert letter(reply_to=("A", "a@example.com")).reply_to == (Address("a@example.com", "A"),)
    assert len(letter(reply_to=["a@example.com", ("B", "b@example.com")]).reply_to) == 2
    assert letter(reply_to="").reply_to == ()


def test_private_copies():
    """Asked for, or implied by merge data; never together with cc or bcc."""
    assert letter().private_copies is False
    assert letter(private_copies=True).private_copies is True
    assert letter(merge_data={}).private_copies is True
    assert letter(merge_data={}, private_copies=False).private_copies is False
    assert letter(merge_data={}, private_copies=False, cc=["b@example.com"]).private_copies is False
    for fields in ({"private_copies": True, "cc": ["b@example.com"]},
                   {"merge_data": {}, "bcc": ["b@example.com"]}):  # fmt: skip
        assert refusal(**fields).field == "private_copies"


# --- what --------------------------------------------------------------------------------------


def test_a_missing_text_part_is_derived():
    """Mail that has only HTML is taken for spam."""
    assert letter(html="<p>Hello <b>Ann</b></p>").text == "Hello Ann\n"


def test_an_empty_body_asks_for_html_alone():
    """The way to spare the derivation, or the part."""
    assert letter(html="<p>Hello</p>", body="").text is None


def test_a_mail_without_any_body_has_an_empty_text():
    """Unless the provider's template brings one."""
    assert letter().text == ""
    assert letter(template_id="welcome").text is None


def test_alternatives():
    """Flask-Mail names subtypes; content types with parameters are taken too."""
    found = letter(body="b", alts=[("html", "<p>h"), ("text/calendar; method=REQUEST", "BEGIN:"),
                                   ("x-amp-html", "<html amp4email>"), ("plain", "p")])  # fmt: skip
    assert (found.text, found.html) == ("b", "<p>h")
    assert found.alternatives == (
        ("text/calendar; method=REQUEST", "BEGIN:"),
        ("text/x-amp-html", "<html amp4email>"),
    )
    assert letter(alts={"plain": "p"}).text == "p"
    assert refusal(alts={"multipart/mixed": "x"}).field == "alts"
    assert refusal(alts={"calendar": b"x"}).field == "alts"
    with pytest.raises(MessageError, match="alts"):
        Message(alts="html")


def test_charsets():
    """Those that leave ASCII alone; UTF-8 where the text does not fit."""
    assert letter(body="ä", charset="latin-1").charset == "iso-8859-1"
    assert letter(body="ä", charset="UTF8").charset == "utf-8"
    assert letter(body="日本", charset="iso-2022-jp").charset == "iso-2022-jp"
    assert letter(body="€", charset="latin-1").charset == "utf-8"
    assert letter(body="ä", html="<p>€", charset="iso-8859-1").charset == "utf-8"


@pytest.mark.parametrize(
    "charset", ["utf-16", "utf-7", "rot13", "base64", "idna", "unicode_escape", "nope", "cp037"]
)
def test_what_is_no_charset_for_mail(charset):
    """Codecs of other kinds, and those that would move line ends."""
    assert refusal(charset=charset, body="a").field == "charset"


def test_subjects():
    """Blanks at the ends would be lost on the way; nothing at all is a subject too."""
    assert letter(" Hello  Ann ").subject == "Hello  Ann"
    assert letter(None).subject == ""
    assert letter("x" * 998).subject == "x" * 998
    with pytest.raises(MessageTooLarge, match="998"):
        letter("x" * 999)


def test_a_folded_subject_is_refused():
    """Flask-Mail lets it through; nobody ever meant it."""
    with pytest.raises(BadHeaderError, match="one line"):
        letter("Hello\r\n there")


def test_default_headers_give_way_to_the_messages_own():
    """By name, whatever the case."""
    defaults = Defaults(Address("a@example.com"), default_headers=(("X-A", "1"), ("X-B", "2")))
    found = letter(defaults=defaults, extra_headers={"x-a": "own"})
    assert found.headers == (("x-a", "own"), ("X-B", "2"))


def test_a_message_id_of_the_applications_own():
    """Used as it is, and out of the other headers."""
    found = letter(extra_headers={"message-id": "<own@elsewhere.example>", "X-A": "1"})
    assert found.message_id == "<own@elsewhere.example>"
    assert found.headers == (("X-A", "1"),)
    assert refusal(extra_headers={"Message-ID": "own"}).field == "extra_headers"


def test_message_ids_are_random_and_at_a_configured_domain():
    """Never the host's name; no two the same."""
    defaults = Defaults(Address("a@example.com"), message_id_domain="id.example")
    found = {letter(defaults=defaults).message_id for _ in range(50)}
    assert len(found) == 50
    assert all(one.endswith("@id.example>") for one in found)


def test_attachments_are_numbered_in_errors():
    """So that the one at fault can be found."""
    message = Message(recipients="a@example.com")
    message.attach("a.txt", "text/plain", b"")
    message.attach("b\n.txt", "text/plain", b"")
    with pytest.raises(BadHeaderError, match="attachments, number 2, file name"):
        message.check(DEFAULTS)


@pytest.mark.parametrize("name", checking.CHARSETS)
def test_every_charset_leaves_ascii_alone(name):
    """Line ends and markup must not change their bytes."""
    sample = "".join(map(chr, range(32, 127))) + "\r\n"
    known = codecs.lookup(checking.CHARSETS[name])
    assert known.name == name
    assert sample.encode(name) == sample.encode()


def test_two_inline_images_of_one_name():
    """The HTML could not tell them apart."""
    message = Message(recipients="a@example.com", html="<p>")
    message.inline("a.png", data=b"1", content_id="logo")
    message.inline("b.png", data=b"2", content_id="logo")
    with pytest.raises(MessageError, match="same content id"):
        message.check(DEFAULTS)


def test_caps():
    """Each says what was given and what is allowed."""
    many = [f"a{n}@example.com" for n in range(1001)]
    assert len(letter(recipients=many[:1000]).recipients) == 1000
    for fields in (
        {"recipients": many},
        {"recipients": many[:600], "bcc": many[:600]},
        {"extra_headers": {f"X-{n}": "1" for n in range(101)}},
        {"key": "k" * 201},
        {"tenant": "t" * 101},
        {"tags": [str(n) for n in range(21)]},
        {"tags": ["t" * 256]},
        {"metadata": {str(n): "1" for n in range(51)}},
        {"body": "x" * (checking.MAX_CONTENT + 1)},
        {"attachments": [Attached()] * 101},
    ):
        assert isinstance(refusal(**fields), MessageTooLarge)


class Attached:
    filename, content_type, data, disposition, headers = "a", "text/plain", b"", None, None


def test_the_size_of_all_parts_together_is_capped():
    """Two files may pass the cap that each of them keeps."""
    half = bytes(checking.MAX_CONTENT // 2 + 1)
    message = Message(recipients="a@example.com")
    message.attach("a.bin", None, half)
    message.check(DEFAULTS)
    message.attach("b.bin", None, half)
    with pytest.raises(MessageTooLarge, match="link"):
        message.check(DEFAULTS)


# --- when and how ------------------------------------------------------------------------------


def test_send_at_and_delay():
    """Both say when the mail is due, and which date it bears."""
    later = datetime.fromtimestamp(NOW + 3600, UTC)
    for fields in ({"send_at": later}, {"delay": timedelta(hours=1)}, {"delay": 3600},
                   {"scheduled_time": NOW + 3600}):  # fmt: skip
        submission = submit(**fields)
        assert submission.send_at == NOW + 3600
        assert submission.letter.date == "Sun, 17 Mar 2030 18:46:40 +0000"
    assert submit().send_at is None
    assert refusal(send_at=later, delay=5).field == "delay"
    assert refusal(send_at=datetime(2030, 1, 1)).field == "send_at"


def test_an_explicit_date_wins():
    """Flask-Mail's field: seconds, or a datetime."""
    assert letter(date=0.0).date == "Thu, 01 Jan 1970 00:00:00 +0000"
    assert letter(date=datetime(2031, 1, 1, tzinfo=UTC), delay=5).date.startswith(
        "Wed, 01 Jan 2031"
    )


def test_expiry_lies_behind_the_due_time():
    """A length of time counts from when the mail is due."""
    assert submit(expires_at=timedelta(minutes=10)).expires_at == NOW + 600
    assert submit(expires_at=timedelta(minutes=10), delay=60).expires_at == NOW + 660
    assert submit(expires_at=NOW + 1).expires_at == NOW + 1
    assert refusal(expires_at=NOW).field == "expires_at"
    assert refusal(expires_at=NOW + 60, delay=60).field == "expires_at"


@pytest.mark.parametrize(
    ("given_value", "number"),
    [("low", -10), ("medium", 0), ("high", 10), ("now", 100), (-1000, -1000), (7, 7)],
)
def test_priorities(given_value, number):
    """Names and numbers."""
    assert submit(priority=given_value).priority == number


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "urgent"),
        ("priority", 1001),
        ("priority", True),
        ("priority", 1.0),
        ("priority", ["low"]),
        ("priority", None),
        ("max_attempts", 0),
        ("max_attempts", 10_001),
        ("max_attempts", True),
        ("max_attempts", "3"),
        ("on_unknown", "ignore"),
        ("on_unknown", True),
        ("transactional", "yes"),
        ("private_copies", 1),
        ("track_opens", "yes"),
        ("track_clicks", 0),
        ("key", ""),
        ("key", 5),
        ("key", " a"),
        ("transport", ""),
        ("tags", 5),
        ("tags", [5]),
        ("metadata", ["a"]),
        ("metadata", {"a": None}),
        ("template_id", True),
        ("merge_data", ["a"]),
        ("merge_data", {"ann@example.com": 5}),
        ("merge_data", {"ann": {}}),
        ("merge_data", {"ann@example.com": {"x": object()}}),
        ("merge_global_data", {"x": float("nan")}),
        ("merge_global_data", {"x": b"x"}),
        ("merge_headers", {"ann@example.com": {"Bcc": "x"}}),
        ("esp_extra", "x"),
        ("attachments", 5),
        ("body", b"x"),
        ("html", 5),
        ("subject", 5),
    ],
)
def test_values_that_a_field_cannot_have(field, value):
    """Refused, naming the field."""
    assert refusal(**{field: value}).field == field


def test_how_a_mail_is_treated():
    """The fields travel as they are."""
    found = submit(key="k", tenant="t", transport="bulk", max_attempts=3, on_unknown="hold",
                   transactional=True)  # fmt: skip
    assert (found.key, found.tenant, found.transport) == ("k", "t", "bulk")
    assert (found.max_attempts, found.on_unknown, found.transactional) == (3, "hold", True)
    assert submit(defaults=Defaults(Address("a@b.example"), transport="main")).transport == "main"


@given(st.text(), st.text(), st.text(), st.text())
def test_every_text_is_taken_or_refused(subject, body, header, key):
    """Nothing that a form can hold raises anything but our own errors."""
    message = Message(subject, ["a@b.example"], body, extra_headers={"X-A": header}, key=key)
    try:
        found = message.check(DEFAULTS)
    except MessageError:
        return
    assert len(found.letter.subject.splitlines()) <= 1
    assert len(dict(found.letter.headers)["X-A"].splitlines()) == 1
    assert found.letter.text == body
