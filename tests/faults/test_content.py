"""Content, through the whole line: view, row, sweep, wire (fault table, F3 to F8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_deferred_mail import Attachment
from flask_deferred_mail.errors import BadHeaderError, MessageError
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer

Make = Callable[..., MailApp]


@pytest.fixture
def strict() -> Iterator[SmtpServer]:
    """A server that refuses whatever a strict one may refuse."""
    with SmtpServer(strict=True) as server:
        yield server


# -- F3, F8: caps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"attachments": [Attachment("a", "text/plain", b"x" * 14_000_000)] * 3},
        {"body": "x" * 42_000_000},
        {"attachments": [Attachment("a", "text/plain", b"x")] * 101},
        {"subject": "x" * 1_000_000},
        {"recipients": [f"r{number}@example.com" for number in range(10_000)]},
        {"extra_headers": {f"X-{number}": "x" for number in range(10_000)}},
        {"extra_headers": {"X-Long": "x" * 1_000_000}},
        {"recipients": ["a" * 1_000_000 + "@example.com"]},
        {"sender": ("x" * 1_000_000, "shop@example.com")},
    ],
    ids=["files", "body", "many files", "subject", "recipients", "headers", "header", "address",
         "name"],
)  # fmt: skip
def test_f3_f8_what_is_too_large_is_refused_at_the_call(
    make_app: Make, smtp: SmtpServer, fields: dict[str, Any]
) -> None:
    """A clear error that names the field, in no time, and nothing recorded."""
    app = make_app(smtp.url())
    recipients = fields.pop("recipients", ["ann@example.com"])
    began = time.monotonic()
    with pytest.raises(MessageError) as caught:
        app.send(*recipients, **fields)
    assert time.monotonic() - began < 10
    assert len(str(caught.value)) < 1000
    assert app.runtime.reports.backlog().counts["pending"] == 0


def test_f8_what_is_just_allowed_goes_out(make_app: Make, strict: SmtpServer) -> None:
    """998 characters of subject, 1000 recipients, 100 header fields: recorded, sent, in time."""
    app = make_app(strict.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=60)
    everybody = [f"reader{number}@example.com" for number in range(1000)]
    headers = {f"X-Field-{number}": "value " * 10 for number in range(100)}
    began = time.monotonic()
    job = app.send(*everybody, subject="Ä" * 998, extra_headers=headers)
    assert app.sweep().sent == 1
    assert time.monotonic() - began < 60
    [message] = strict.messages
    assert message.recipients == everybody
    assert message.parsed["Subject"] == "Ä" * 998
    assert set(headers) <= set(message.parsed.keys())
    assert set(app.statuses(job).values()) == {"sent"}
    assert not strict.violations


# -- F4: names that are not ASCII -----------------------------------------------------------------


def test_f4_domains_go_out_as_a_labels(make_app: Make) -> None:
    """Also to a server without SMTPUTF8, in the envelope and in every header."""
    with SmtpServer(strict=True, extensions=()) as server:
        app = make_app(server.url())
        app.send("Ann <ann@bücher.example>", sender="shop@müller.example", cc=["b@例え.example"])
        assert app.sweep().sent == 1
        [message] = server.messages
        assert message.envelope_from == "shop@xn--mller-kva.example"
        assert message.recipients == ["ann@xn--bcher-kva.example", "b@xn--r8jz45g.example"]
        assert message.data.isascii()
        assert not server.violations


def test_f4_a_local_part_that_is_not_ascii_needs_smtputf8(
    make_app: Make, strict: SmtpServer
) -> None:
    """Asked for when it is needed and not otherwise, and the mail arrives as it was written."""
    app = make_app(strict.url())
    app.send("jörg@example.com", subject="Grüße", body="Schön\n")
    app.send("ann@example.com", subject="Grüße", body="Schön\n")
    assert app.sweep(concurrency=1).sent == 2
    options = {message.recipients[0]: message.options for message in strict.messages}
    assert "SMTPUTF8" in options["jörg@example.com"]
    assert "SMTPUTF8" not in options["ann@example.com"]
    assert {message.parsed["Subject"] for message in strict.messages} == {"Grüße"}
    assert not strict.violations


def test_f4_without_smtputf8_it_is_refused_by_name(make_app: Make) -> None:
    """Standing in To it ends the mail; a Bcc recipient alone ends only itself."""
    with SmtpServer(strict=True, extensions=("8BITMIME",)) as server:
        app = make_app(server.url())
        shown = app.send("ann@example.com", "jörg@example.com")
        hidden = app.send("ann@example.com", bcc=["jörg@example.com"])
        app.sweep(concurrency=1)
        assert app.statuses(shown) == {
            "ann@example.com": "rejected",
            "jörg@example.com": "rejected",
        }
        assert app.statuses(hidden) == {"ann@example.com": "sent", "jörg@example.com": "rejected"}
        assert "jörg@example.com" in (app.job(shown).last_error or "")
        assert (app.job(shown).status, app.job(hidden).status) == ("failed", "partial")
        assert app.job(shown).attempts == 1
        assert not server.violations


# -- F5, F6: what must not get into a header ------------------------------------------------------


@pytest.mark.parametrize("char", ["\r", "\n", "\r\n", "\0", "\x0b", "\x85", "\u2028", "\ud800"])
@pytest.mark.parametrize(
    ("field", "make_fields"),
    [
        ("subject", lambda c: {"subject": f"a{c}Bcc: eve@example.com"}),
        ("subject", lambda c: {"subject": f"end{c}"}),
        ("sender", lambda c: {"sender": (f"a{c}Bcc: eve@example.com", "shop@example.com")}),
        ("reply_to", lambda c: {"reply_to": f"a@example.com{c}Bcc: eve@example.com"}),
        ("cc", lambda c: {"cc": [f"a@example.com{c}"]}),
        ("envelope_sender", lambda c: {"envelope_sender": f"a@example.com{c}RCPT TO:<e@x.org>"}),
        ("extra_headers", lambda c: {"extra_headers": {"X-A": f"b{c}Bcc: eve@example.com"}}),
        ("extra_headers", lambda c: {"extra_headers": {f"X-A{c}Bcc": "eve@example.com"}}),
        ("attachments", lambda c: {"attachments": [Attachment(f"a{c}b", "text/plain", b"x")]}),
        ("attachments", lambda c: {"attachments": [Attachment("a", f"text/plain{c}", b"x")]}),
    ],
)  # fmt: skip
def test_f5_f6_breaks_are_refused_at_the_call(
    make_app: Make, smtp: SmtpServer, field: str, make_fields: Any, char: str
) -> None:
    """In the view, with the field's name; nothing is recorded."""
    app = make_app(smtp.url())
    with pytest.raises(MessageError) as caught:
        app.send(**make_fields(char))
    assert isinstance(caught.value, BadHeaderError)
    assert caught.value.field.startswith(field)
    assert app.runtime.reports.backlog().counts["pending"] == 0


@pytest.mark.parametrize("char", ["\0", "\ud800"])
def test_f5_bodies_hold_nothing_that_a_database_cannot_keep(
    make_app: Make, smtp: SmtpServer, char: str
) -> None:
    """NUL and surrogates in text and HTML are refused at the call, not at the commit."""
    app = make_app(smtp.url())
    for fields in ({"body": f"a{char}b"}, {"html": f"<p>{char}</p>"}):
        with pytest.raises(MessageError):
            app.send(**fields)


#: What turned into header fields of its own somewhere, some time.
ENCODED_BREAKS = [
    "Grüße =?UTF-8?Q?=0A?=Bcc: eve@example.com",
    "=?UTF-8?B?DQpCY2M6IGV2ZUBleGFtcGxlLmNvbQ==?=",
    "=?utf-8?q?=0d=0aBcc:_eve=40example.com?= ü",
    "a %0d%0aBcc: eve@example.com",
    "a\\r\\nBcc: eve@example.com",
]


@pytest.mark.parametrize("text", ENCODED_BREAKS)
def test_f6_encoded_breaks_stay_text(make_app: Make, strict: SmtpServer, text: str) -> None:
    """The header names on the wire are exactly those meant, in every field that takes text."""
    app = make_app(strict.url())
    app.send(
        "ann@example.com",
        subject=text,
        sender=(text, "shop@example.com"),
        extra_headers={"X-Note": text},
        attachments=[Attachment(text, "text/plain", b"x")],
    )
    assert app.sweep().sent == 1
    [message] = strict.messages
    head = message.data.partition(b"\r\n\r\n")[0].decode("ascii")
    names = [line.partition(":")[0] for line in head.split("\r\n") if line[:1] not in " \t"]
    assert sorted(names) == [
        "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To", "X-Note",
    ]  # fmt: skip
    assert message.recipients == ["ann@example.com"]
    assert message.parsed["Subject"] == text
    assert not strict.violations


# -- F7: bodies -----------------------------------------------------------------------------------

BODIES = {
    "lone dots": ".\n..\n.\n\n.hidden\n...\n",
    "smuggled end": "a\n.\nMAIL FROM:<eve@example.com>\n.\n",
    "mixed breaks": "a\rb\nc\r\nd\n\re\r\r\nf",
    "smuggled breaks": "x\r.\ry\n.\nz\r\n.\r\n",
    "long line": "x" * 20_000 + "\n" + "é" * 5_000,
    "eight bit": "Grüße, 你好, مرحبا, 🎉\n",
    "from": "From the start\n>From\nFrom: x\n",
    "blanks": "trailing \t \n\t\n   \nend ",
    "controls": "bell \x07 escape \x1b[31m form \x0c feed\n",
    "nothing": "",
    "equals": "=0A=3D = == =\n",
    "boundary": "--\n--=_\n------------\n",
}


@pytest.mark.parametrize("name", list(BODIES))
@pytest.mark.parametrize("extensions", [("8BITMIME", "SMTPUTF8", "SIZE 50000000"), ()])
def test_f7_a_strict_server_takes_every_body_and_it_arrives_equal(
    make_app: Make, name: str, extensions: tuple[str, ...]
) -> None:
    """Lines of any length, 8-bit text, bare CR and LF, dots: nothing to complain of on the wire;
    read again it is what was written, but for the line ends, which are CRLF."""
    body = BODIES[name]
    with SmtpServer(strict=True, extensions=extensions) as server:
        app = make_app(server.url())
        html = {"html": f"<pre>{body}</pre>"} if body else {}
        file = Attachment("body.bin", "application/octet-stream", body.encode())
        app.send(body=body, attachments=[file], **html)
        assert app.sweep().sent == 1
        [message] = server.messages
        assert not server.violations
        assert message.data.isascii()
        assert max(len(line) for line in message.data.split(b"\r\n")) <= 998
        [part] = message.parsed.iter_attachments()
        assert part.get_content() == body.encode()
        text = message.parsed.get_body(("plain",))
        assert text is not None
        assert _lines(text.get_payload(decode=True).decode("utf-8")) == _lines(body)


def _lines(text: str) -> list[str]:
    """The lines, whatever ends them; one break at the end more or less is no difference."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return unified.removesuffix("\n").split("\n")
