"""What the row says after each trouble with a mail server (fault table, part D).

The server does one thing wrong, a sweep meets it, and the whole row is held against what it should
say: status, attempts, recipient, when it is due again, whether the transport rests. Then the
server is well again, and the mail arrives.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from flask_deferred_mail import Attachment, settings
from tests.support.http_provider import unused_port
from tests.support.mail_app import MailApp
from tests.support.row_facts import (
    IN_DOUBT,
    MAIL_PAYS,
    SENT,
    UNREACHABLE,
    Row,
    assert_repaired,
    assert_row,
    assert_sent_later,
)
from tests.support.smtp_script import (
    Accept,
    Drop,
    Endless,
    Garbage,
    Hang,
    LongLine,
    Reset,
    SayAndDrop,
    Trickle,
)
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

#: Seconds of an attempt and of the final reply, where a server keeps silent.
SHORT = {"DEFERRED_MAIL_ATTEMPT_DEADLINE": 0.7, "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 0.7}


# -- D1: nobody there -----------------------------------------------------------------------------


def test_d1_a_refused_connection_costs_no_mail_anything(make_paced: Make) -> None:
    """Nobody listens: the transport rests and says why, the mail waits with it, unburned."""
    port = unused_port()
    app = make_paced(f"smtp://127.0.0.1:{port}?tls=none")
    job = app.send()
    after = assert_row(app, job, UNREACHABLE)
    assert f"127.0.0.1:{port}" in (after.last_error or "")
    with SmtpServer(port=port) as server:
        assert_sent_later(app, job, 1)
        assert len(server.messages) == 1


def test_d1_a_name_that_does_not_resolve_costs_no_mail_anything(
    make_paced: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DNS failure is the transport's as well."""

    def unknown(*_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    app = make_paced("smtp://mail.invalid:25?tls=none")
    after = assert_row(app, app.send(), UNREACHABLE)
    assert "mail.invalid" in (after.last_error or "")


def test_d1_a_hundred_mails_of_an_outage_are_not_tried_one_by_one(make_paced: Make) -> None:
    """The breaker: one pass over many mails takes a few of them, counts none, and leaves it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        app = make_paced(f"smtp://127.0.0.1:{listener.getsockname()[1]}?tls=none")
    jobs = [app.send() for _ in range(100)]
    counts = app.sweep(concurrency=4)
    assert counts.claimed == counts.returned < 50
    assert {app.job(job).attempts for job in jobs} == {0}
    assert app.sweep().claimed == 0
    assert app.runtime.states.all()["default"].failures == 1


# -- D2: silence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "expected", "copies"),
    [
        ("banner", UNREACHABLE, 1),
        ("ehlo", UNREACHABLE, 1),
        ("starttls", UNREACHABLE, 1),
        ("auth", UNREACHABLE, 1),
        ("mail", UNREACHABLE, 1),
        ("rcpt", MAIL_PAYS, 1),
        ("data", MAIL_PAYS, 1),
        ("dot", IN_DOUBT, 1),
    ],
)
def test_d2_silence_ends_at_the_deadline(
    make_paced: Make, stage: str, expected: Row, copies: int
) -> None:
    """Up to the answer to MAIL the transport pays, then the mail; after the dot it is in doubt."""
    with SmtpServer(tls="starttls", credentials={"me": "pw"}, **{stage: [Hang()]}) as server:
        app = make_paced(server.url("me", "pw"), **SHORT)
        job = app.send()
        began = time.monotonic()
        assert_row(app, job, expected)
        assert time.monotonic() - began < 20
        assert_repaired(app, job, expected, server)
        assert len(server.messages) == copies


def test_d2_a_final_reply_that_never_comes_may_mean_a_second_copy(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """The server took the mail and keeps silent: in doubt, sent once more, one Message-ID."""
    smtp.script("dot", [Accept(Hang())])
    app = make_paced(smtp.url(), **SHORT)
    job = app.send()
    assert_row(app, job, IN_DOUBT)
    assert_repaired(app, job, IN_DOUBT, smtp)
    assert len(smtp.messages) == 2
    assert smtp.messages[0].data == smtp.messages[1].data


def test_d2_and_no_second_copy_where_that_was_asked_for(make_paced: Make, smtp: SmtpServer) -> None:
    """``on_unknown="hold"``: the mail waits for a person, and no sweep touches it."""
    smtp.script("dot", [Accept(Hang())])
    app = make_paced(smtp.url(), **SHORT)
    job = app.send(on_unknown="hold")
    assert_row(app, job, Row("held", 1, "unknown", "unknown"))
    app.make_due()
    assert app.sweep().claimed == 0
    assert len(smtp.messages) == 1


@pytest.mark.parametrize(
    "item", [Hang(), Drop(), Reset(), "451 4.3.0 no", "500 what?", Garbage(), Endless()]
)
def test_d2_d10_trouble_at_quit_comes_after_the_mail(
    make_paced: Make, smtp: SmtpServer, item: Any
) -> None:
    """250, then anything at all: sent, once, and the process can take its leave."""
    smtp.script("quit", item)
    app = make_paced(smtp.url(), **SHORT)
    job = app.send()
    assert_row(app, job, SENT)
    began = time.monotonic()
    app.runtime.close_transports()
    assert time.monotonic() - began < 20
    assert app.job(job).status == "sent"
    assert app.sweep().claimed == 0
    assert len(smtp.messages) == 1


# -- D3, D8, D9: broken lines and odd replies -----------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "item", "expected", "copies"),
    [
        ("banner", Drop(), UNREACHABLE, 1),
        ("banner", Garbage(), UNREACHABLE, 1),
        ("banner", Endless(b"220-wait\r\n"), UNREACHABLE, 1),
        ("banner", LongLine(100_000, "220"), UNREACHABLE, 1),
        ("ehlo", Reset(), UNREACHABLE, 1),
        ("ehlo", Endless(), UNREACHABLE, 1),
        ("mail", Drop(), UNREACHABLE, 1),
        ("mail", Garbage(), UNREACHABLE, 1),
        ("rcpt", Drop(), MAIL_PAYS, 1),
        ("rcpt", Garbage(), MAIL_PAYS, 1),
        ("rcpt", Trickle(0.3), MAIL_PAYS, 1),
        ("data", Reset(), MAIL_PAYS, 1),
        ("data", Garbage(), MAIL_PAYS, 1),
        ("body", Drop(), MAIL_PAYS, 1),
        ("body", Reset(), MAIL_PAYS, 1),
        ("dot", Drop(), IN_DOUBT, 1),
        ("dot", Accept(Reset()), IN_DOUBT, 2),
        ("dot", Accept(Garbage()), IN_DOUBT, 2),
        ("dot", Trickle(0.3), IN_DOUBT, 2),
        ("dot", Accept(LongLine(100_000, end=False)), IN_DOUBT, 2),
        ("dot", SayAndDrop(), SENT, 1),
    ],
)
def test_d3_d8_d9_a_broken_conversation(
    make_paced: Make, smtp: SmtpServer, stage: str, item: Any, expected: Row, copies: int
) -> None:
    """Safe to repeat until the dot is out; what was said is kept short and printable."""
    smtp.script(stage, [item])
    app = make_paced(smtp.url(), **SHORT)
    # Larger than what the buffers hold, so that a break in the body is met in the body.
    job = app.send(body="x" * 70 + "\n", attachments=_bulk() if stage == "body" else ())
    began = time.monotonic()
    after = assert_row(app, job, expected)
    assert time.monotonic() - began < 40
    assert len(after.last_error or "") <= 700
    assert (after.last_error or "").isprintable()
    assert_repaired(app, job, expected, smtp)
    assert len(smtp.messages) == copies


def _bulk() -> tuple[Attachment, ...]:
    """More than the buffers of a connection hold."""
    return (Attachment("bulk.bin", "application/octet-stream", bytes(6_000_000)),)


def test_d3_a_server_that_stops_reading_costs_the_deadline(make_paced: Make) -> None:
    """The window is full: writing has a deadline too, and the mail is tried again."""
    with SmtpServer(body=[Hang()], receive_buffer=4096) as server:
        # The clock of a mail grows by 1 s per 50 kB of what the row says; two minutes for this one.
        app = make_paced(server.url(), DEFERRED_MAIL_ATTEMPT_DEADLINE=0.1)
        job = app.send(attachments=_bulk())
        app.sql("UPDATE deferred_mail_job SET size = 50000")
        assert_row(app, job, MAIL_PAYS)
        assert not server.messages


# -- D7: TLS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["self-made", "wrong-host", "expired"])
def test_d7_a_bad_certificate_keeps_the_mail_and_burns_nothing(make_paced: Make, kind: str) -> None:
    """Refused with host and reason; neither the login nor the mail crossed the link."""
    with SmtpServer(tls="starttls", certificate=kind, credentials={"me": "pw"}) as server:
        app = make_paced(server.url("me", "pw"))
        job = app.send()
        after = assert_row(app, job, UNREACHABLE)
        assert "certificate" in (after.last_error or "").lower()
        assert f"127.0.0.1:{server.port}" in (after.last_error or "")
        assert server.count("AUTH") == server.count("MAIL") == 0


def test_d7_starttls_that_is_not_offered_keeps_the_mail(make_paced: Make) -> None:
    """A server, or somebody in between, without STARTTLS: no clear text, no login, kept."""
    with SmtpServer(credentials={"me": "pw"}) as server:
        app = make_paced(server.url("me", "pw", tls="required"))
        after = assert_row(app, app.send(), UNREACHABLE)
        assert "STARTTLS" in (after.last_error or "")
        assert server.count("AUTH") == server.count("MAIL") == 0


@pytest.mark.parametrize("item", [Drop(), SayAndDrop("220 go ahead"), "502 5.5.1 no", Garbage()])
def test_d7_a_handshake_that_fails_keeps_the_mail(make_paced: Make, item: Any) -> None:
    """Dropped, refused or interrupted at STARTTLS: the transport pays, then the mail goes."""
    with SmtpServer(tls="starttls", credentials={"me": "pw"}) as server:
        server.script("starttls", [item])
        app = make_paced(server.url("me", "pw"), **SHORT)
        job = app.send()
        assert_row(app, job, UNREACHABLE)
        assert server.count("AUTH") == 0
        assert_sent_later(app, job, 1)
        assert server.messages[0].tls


# -- D11: connections that are used again ---------------------------------------------------------


def test_d11_a_limit_of_mails_per_connection_costs_nothing(make_paced: Make) -> None:
    """421 at the fourth MAIL of each connection: ten mails, one attempt each, no rest."""
    with SmtpServer(max_messages=3) as server:
        app = make_paced(server.url())
        jobs = [app.send() for _ in range(10)]
        assert app.sweep(concurrency=1).sent == 10
        assert {app.job(job).attempts for job in jobs} == {1}
        assert {tuple(app.outcomes(job)) for job in jobs} == {("sent",)}
        assert server.connections == 4
        assert not any(state.failures for state in app.runtime.states.all().values())


def test_d11_an_idle_connection_that_was_dropped_costs_nothing(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """One reconnect, no error counted."""
    app = make_paced(smtp.url())
    first = app.send()
    assert app.sweep().sent == 1
    smtp.drop_connections("421 4.4.2 idle")
    second = app.send()
    assert app.sweep().sent == 1
    assert [app.outcomes(job) for job in (first, second)] == [["sent"], ["sent"]]
    assert smtp.connections == 2


def test_d11_a_refused_mail_leaves_the_connection_to_the_next(
    make_paced: Make, smtp: SmtpServer
) -> None:
    """A 550 at RCPT, then another mail: the same connection, reset in between."""
    smtp.script("rcpt", ["550 5.1.1 no such user"])
    app = make_paced(smtp.url())
    app.send()
    app.send()
    counts = app.sweep(concurrency=1)
    assert (counts.failed, counts.sent) == (1, 1)
    assert smtp.connections == 1


# -- D12: greylisting -----------------------------------------------------------------------------


def test_d12_greylisting_is_over_at_the_second_retry(
    make_app: Make, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the schedule as it ships, and 300 s of greylisting: put off twice, accepted third.

    The wall clock is moved to each due time. The pair that a server remembers never changes.
    """
    real, shift, first = time.time, 0.0, time.time()
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    smtp.script("rcpt", lambda _turn: "451 4.7.1 greylisted" if time.time() - first < 300 else None)
    shipped = next(key for key in settings.KEYS if key.name == "DEFERRED_MAIL_BACKOFF").default
    app = make_app(smtp.url(), DEFERRED_MAIL_BACKOFF=shipped)
    job = app.send()
    first = time.time()
    moments = []
    while app.job(job).status == "pending":
        due = app.job(job).next_attempt_at
        assert due is not None
        if moments:
            assert app.sweep().claimed == 0, "it was tried before it was due"
        shift += max(0.0, due.timestamp() - time.time())
        moments.append(time.time() - first)
        assert app.sweep().claimed == 1
    assert app.job(job).status == "sent"
    assert app.outcomes(job) == ["retry", "retry", "sent"]
    assert moments[1] >= 60
    assert 360 <= moments[2] <= 460
    senders = {c.line.split(" ")[1] for c in smtp.commands if c.verb == "MAIL"}
    assert senders == {"FROM:<shop@example.com>"}
    wait_until(lambda: len(smtp.messages) == 1)
