"""Servers that refuse, hang, drop, babble or say too much: rows D1 to D12 of the fault table."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from flask_deferred_mail.letter import Part
from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
from flask_deferred_mail.transports.smtp import SmtpTransport
from tests.support.smtp_clients import client
from tests.support.smtp_script import (
    Accept,
    Delay,
    Drop,
    Endless,
    Garbage,
    Hang,
    LongLine,
    Reset,
    Say,
    SayAndDrop,
    Trickle,
)
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import a_letter, fates, send

ANN, BOB, CID = "ann@example.net", "bob@example.net", "cid@example.net"

OPENING = ["banner", "ehlo", "starttls", "auth", "mail"]  # the transport pays
UNDER_WAY = ["rcpt", "data"]  # the mail pays


def attempt(seconds: float = 10.0, patience: float = 10.0, **behaviour: Any) -> Outcome:
    """One mail to a server that does so; it must be over soon, and nobody else is harmed."""
    how: dict[str, Any] = {}
    if "starttls" in behaviour:
        behaviour["tls"] = "starttls"
    if "auth" in behaviour:
        behaviour["credentials"] = {"ann": "sesame"}
        how = {"username": "ann", "password": "sesame"}
    with SmtpServer(**behaviour) as server, client(server, **how) as smtp:
        started = time.monotonic()
        outcome = send(smtp, seconds=seconds, patience=patience)
        assert time.monotonic() - started < seconds + 8
        if outcome.results[0].fate is Fate.DEFERRED:
            assert server.messages == []
    return outcome


def assert_transport_pays(outcome: Outcome, kind: FaultKind = FaultKind.UNREACHABLE) -> None:
    """Nobody was reached, and the attempt is given back."""
    assert outcome.fault
    assert outcome.fault.kind is kind
    assert {result.fate for result in outcome.results} == {Fate.DEFERRED}
    assert not outcome.costs_attempt
    assert outcome.fault.detail


def assert_mail_pays(outcome: Outcome) -> None:
    """Nobody was reached, trying again is safe, and the attempt counts."""
    assert outcome.fault is None
    assert {result.fate for result in outcome.results} == {Fate.DEFERRED}
    assert outcome.costs_attempt


def assert_unknown(outcome: Outcome) -> None:
    """Everything was handed over, and no answer came."""
    assert outcome.fault is None
    assert {result.fate for result in outcome.results} == {Fate.UNKNOWN}
    assert "may have been accepted" in outcome.detail


# -- D1 --------------------------------------------------------------------------------------------


def test_a_closed_port_is_the_transports_fault() -> None:
    """Connection refused: temporary, no mail pays, and the text says where."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    outcome = send(SmtpTransport("default", "127.0.0.1", port))
    assert_transport_pays(outcome)
    assert f"127.0.0.1:{port}" in outcome.detail


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
def test_a_name_that_is_not_found(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """DNS failure: as a closed port."""

    def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    outcome = send(SmtpTransport("default", "mail.example.com", 587))
    assert_transport_pays(outcome)
    assert "name was not found" in outcome.detail


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead first address does not keep the mail from the second."""
    with socket.socket() as listener, SmtpServer() as server, client(server) as smtp:
        listener.bind(("127.0.0.1", 0))
        family, kind = socket.AF_INET, socket.SOCK_STREAM
        places = [listener.getsockname(), (server.host, server.port)]
        found = [(family, kind, 0, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
        assert fates(send(smtp)) == {ANN: "accepted"}


# -- D2, D9: silence -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", OPENING)
def test_silence_before_mail_is_answered(stage: str) -> None:
    """A server that hangs before it answers MAIL: the deadline, and the transport pays."""
    assert_transport_pays(attempt(0.5, **{stage: Hang()}))


@pytest.mark.parametrize("stage", UNDER_WAY)
def test_silence_before_the_dot(stage: str) -> None:
    """A server that hangs at RCPT or DATA: the deadline, the mail pays, a retry is safe."""
    assert_mail_pays(attempt(0.5, **{stage: Hang()}))


@pytest.mark.parametrize(
    "end", [Hang(), Accept(Hang()), Drop(), Accept(Drop()), Reset(), Accept(Reset())]
)
def test_no_answer_to_the_dot(end: Any) -> None:
    """Whether the server took it or not: nobody knows, and that is what is said."""
    assert_unknown(attempt(patience=0.5, dot=end))


def test_patience_after_the_dot() -> None:
    """The answer to the dot may come after the attempt's deadline."""
    outcome = attempt(0.5, patience=20, dot=Delay(1.0))
    assert fates(outcome) == {ANN: "accepted"}


@pytest.mark.parametrize("stage", ["banner", "ehlo", "mail"])
def test_a_trickle_before_mail(stage: str) -> None:
    """One byte at a time never meets a timeout per read, but it meets the deadline."""
    assert_transport_pays(attempt(0.6, **{stage: Trickle(0.1)}))


@pytest.mark.parametrize("stage", UNDER_WAY)
def test_a_trickle_before_the_dot(stage: str) -> None:
    """The same at RCPT and DATA, at the mail's cost."""
    assert_mail_pays(attempt(0.6, **{stage: Trickle(0.1)}))


def test_a_trickle_after_the_dot() -> None:
    """After the dot there is patience, and that too has an end."""
    assert_unknown(attempt(patience=0.6, dot=Trickle(0.1)))
    assert fates(attempt(dot=Trickle(0.005))) == {ANN: "accepted"}


def test_a_limit_for_each_answer() -> None:
    """``timeout`` (MAIL_TIMEOUT) ends the wait for one answer before the attempt's deadline."""
    with SmtpServer(rcpt=Hang()) as server, client(server, timeout=0.3) as smtp:
        started = time.monotonic()
        outcome = send(smtp, seconds=60)
        assert time.monotonic() - started < 20
    assert_mail_pays(outcome)


@pytest.mark.parametrize("ending", [Hang(), Drop(), Reset(), "451 no", Garbage()])
def test_trouble_at_quit_changes_nothing(ending: Any) -> None:
    """D10: the mail is sent, once, whatever becomes of the farewell; close() ends soon."""
    with SmtpServer(quit=ending) as server:
        started = time.monotonic()
        with client(server) as smtp:
            outcome = send(smtp)
        assert time.monotonic() - started < 10
        assert len(server.messages) == 1
    assert fates(outcome) == {ANN: "accepted"}


# -- D3: cut lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Drop(), Reset()])
@pytest.mark.parametrize("stage", ["banner", "ehlo", "auth", "mail"])
def test_a_line_cut_before_mail_is_answered(stage: str, cut: Any) -> None:
    """Cut before MAIL is answered: the transport pays."""
    assert_transport_pays(attempt(**{stage: cut}))


@pytest.mark.parametrize("cut", [Drop(), Reset(), SayAndDrop("354 go ahead")])
@pytest.mark.parametrize("stage", UNDER_WAY)
def test_a_line_cut_before_the_dot(stage: str, cut: Any) -> None:
    """Cut at RCPT or DATA: safe to try again, and the mail pays."""
    if stage == "rcpt" and isinstance(cut, SayAndDrop):
        cut = SayAndDrop("250 ok")
    with SmtpServer(**{stage: cut}) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(ANN, parts=(Part(b"x" * 3_000_000, "image/png"),)))
    assert_mail_pays(outcome)


@pytest.mark.parametrize("cut", [Drop(), Reset()])
def test_a_line_cut_inside_a_large_body(cut: Any) -> None:
    """The first error is the one that is told: the reset, not what cleaning up ran into."""
    handed_over: list[bool] = []
    with SmtpServer(body=cut, receive_buffer=4096) as server, client(server) as smtp:
        letter = a_letter(ANN, parts=(Part(b"x" * 5_000_000, "image/png"),))
        outcome = send(smtp, letter, hand_over=lambda: handed_over.append(True))
    assert_mail_pays(outcome)
    assert handed_over == []
    assert "reset" in outcome.detail


def test_a_server_that_stops_reading() -> None:
    """A full window stalls the writer; the deadline ends it, and a retry is safe."""
    with SmtpServer(body=Hang(), receive_buffer=4096) as server, client(server) as smtp:
        letter = a_letter(ANN, parts=(Part(b"x" * 9_000_000, "image/png"),))
        started = time.monotonic()
        outcome = send(smtp, letter, seconds=1.0)
        assert time.monotonic() - started < 15
    assert_mail_pays(outcome)
    assert "stopped reading" in outcome.detail


# -- D4, D5: refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["banner", "ehlo", "starttls", "auth"])
@pytest.mark.parametrize("text", ["421 4.7.0 closing", "450 busy", "451 4.3.0 trouble"])
def test_put_off_before_mail(stage: str, text: str) -> None:
    """A 4xx before MAIL: the transport rests for a while and no mail pays."""
    outcome = attempt(**{stage: text})
    assert_transport_pays(outcome)
    assert text in outcome.detail
    assert outcome.server.reply == text


@pytest.mark.parametrize("text", ["421 closing", "421 4.7.0 closing", "451 4.3.0 trouble"])
def test_a_server_in_trouble_at_mail(text: str) -> None:
    """421 or 4.3.x in answer to MAIL speaks for the server: the transport pays."""
    assert_transport_pays(attempt(mail=text))


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
def test_put_off_from_mail_on(stage: str) -> None:
    """An ordinary 4xx puts off this mail alone; the connection serves the next one."""
    with SmtpServer(**{stage: ["451 4.7.1 later"]}) as server, client(server) as smtp:
        outcome = send(smtp)
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.connections == 1
    assert_mail_pays(outcome)
    assert outcome.results[0].detail == "451 4.7.1 later"


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
@pytest.mark.parametrize("text", ["421 4.7.0 closing", "421 closing", "451 4.3.0 trouble"])
def test_a_server_in_trouble_after_mail(stage: str, text: str) -> None:
    """Later the mail pays, the words are told for others to compare, the line is dropped."""
    with SmtpServer(**{stage: [text]}) as server, client(server) as smtp:
        outcome = send(smtp)
        assert server.messages == []
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.connections == 2
    assert_mail_pays(outcome)
    assert outcome.server_wide == text


def test_421_in_the_middle_of_the_envelope_mails_nobody() -> None:
    """D4, D6: refused ones stay refused; those accepted before 421 were not mailed."""
    script = ["550 5.1.1 nobody", None, "421 4.7.0 closing"]
    with SmtpServer(rcpt=script) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(ANN, BOB, CID))
        assert server.messages == []
        assert server.count("DATA") == 0
    assert fates(outcome) == {ANN: "refused", BOB: "deferred", CID: "deferred"}
    assert outcome.server_wide == "421 4.7.0 closing"


@pytest.mark.parametrize("stage", ["banner", "ehlo", "auth"])
@pytest.mark.parametrize("text", ["500 what", "535 5.7.8 no", "550 5.7.1 no", "554 5.7.1 no"])
def test_refused_before_mail(stage: str, text: str) -> None:
    """A 5xx at banner, EHLO or AUTH is the account's: the transport rests, nothing is burned."""
    assert_transport_pays(attempt(**{stage: text}), FaultKind.ACCOUNT)


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("text", ["530 5.7.0 log in", "535 no", "550 5.7.57 not logged in"])
def test_a_login_refused_late(stage: str, text: str) -> None:
    """530 and its like are the account's wherever they come."""
    outcome = attempt(**{stage: text})
    assert_transport_pays(outcome, FaultKind.ACCOUNT)
    assert text in outcome.detail


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
@pytest.mark.parametrize("text", ["554 5.6.0 no", "550 5.7.1 spam", "501 syntax"])
def test_refused_for_good(stage: str, text: str) -> None:
    """Any other 5xx from MAIL on ends it at once, with the server's words."""
    outcome = attempt(**{stage: text})
    assert fates(outcome) == {ANN: "refused"}
    assert outcome.results[0].detail == text
    assert outcome.fault is None


@pytest.mark.parametrize(
    ("text", "fate"),
    [("501 5.1.7 no", "refused"), ("552 5.3.4 big", "refused"), ("550 no", "failed")],
)
def test_the_sender_refused_for_good(text: str, fate: str) -> None:
    """At MAIL it concerns everybody; a sender that may not be used is configuration."""
    assert fates(attempt(mail=text)) == {ANN: fate}


# -- D8: nonsense ----------------------------------------------------------------------------------

NONSENSE = [
    Garbage(),
    Garbage(b"\r\n"),
    Garbage(b"\x00" * 2000 + b"\n"),
    Garbage(b"HTTP/1.1 400 Bad Request\r\n"),
    Garbage(b"2\xb250 ok\r\n"),
    Garbage(b"250-ok\r\n550 no\r\n"),
    LongLine(),
    LongLine(end=False),
    Endless(),
    Endless(b"\x00\xff\xfe\r\n"),
    Say("334 what"),
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda n: type(n).__name__)
def test_nonsense_at_every_stage(nonsense: Any) -> None:
    """Bounded in memory and time; before the dot it is safe, after it nobody knows."""
    assert_transport_pays(attempt(banner=nonsense))
    assert_transport_pays(attempt(ehlo=nonsense))
    assert_transport_pays(attempt(mail=nonsense))
    assert_mail_pays(attempt(rcpt=nonsense))
    assert_mail_pays(attempt(data=nonsense))
    assert_unknown(attempt(dot=nonsense))
    assert_unknown(attempt(dot=Accept(nonsense)))


def test_a_reply_of_moderate_length_is_fine() -> None:
    """A line of some kilobytes and many lines are odd, and still SMTP; the text is capped."""
    lines = "\n".join(["250-chatter"] * 98 + ["250 done"])
    assert fates(attempt(rcpt=LongLine(20_000), dot=lines)) == {ANN: "accepted"}
    outcome = attempt(rcpt=LongLine(20_000, "550"))
    assert fates(outcome) == {ANN: "refused"}
    assert len(outcome.results[0].detail) <= 510


def test_hostile_words_are_cleaned() -> None:
    """Terminal escapes, NUL, and bytes that are not UTF-8 do not reach the row."""
    hostile = b"550 5.1.1 \x1b[31mno\x1b]0;x\x07 \x00\xff\xfe \xe2\x80\xae <b>user</b>\r\n"
    detail = attempt(rcpt=hostile).results[0].detail
    assert detail.startswith("550 5.1.1 ")
    assert detail.isprintable()
    assert "no" in detail


def test_many_lines_become_one() -> None:
    """A reply over several lines is one text, with its enhanced code once."""
    script = "550-5.1.1 The account does\n550-5.1.1 not exist.\n550 5.1.1 Try another."
    detail = attempt(rcpt=script).results[0].detail
    assert detail == "550 5.1.1 The account does not exist. Try another."


def test_a_reply_that_comes_too_early_is_not_taken_for_the_answer() -> None:
    """A 250 that stands in the line before the dot would be read as the answer to it."""
    early = b"354 go ahead\r\n250 2.0.0 Ok: queued as FAKE\r\n"
    handed_over: list[bool] = []
    with SmtpServer(data=Say(early)) as server, client(server) as smtp:
        outcome = send(smtp, hand_over=lambda: handed_over.append(True))
    assert_mail_pays(outcome)
    assert handed_over == []


# -- D12 -------------------------------------------------------------------------------------------


def test_greylisting_is_passed_by_the_same_envelope() -> None:
    """Put off, then accepted: the sender in the envelope is the same both times."""
    with SmtpServer(greylist=0.2) as server, client(server) as smtp:
        letter = a_letter()
        outcome = send(smtp, letter)
        assert_mail_pays(outcome)
        assert outcome.results[0].detail.startswith("451 4.7.1")
        end = time.monotonic() + 10
        while fates(send(smtp, letter)) != {ANN: "accepted"}:
            assert time.monotonic() < end
        senders = {c.line for c in server.commands if c.verb == "MAIL"}
    assert senders == {"MAIL FROM:<orders@example.com>"}


def test_too_many_connections() -> None:
    """421 as a greeting is the transport's: the mail is kept and not burned."""
    assert_transport_pays(attempt(max_connections=0))
