"""A mail over a real SMTP conversation: what goes out, and what comes of each recipient."""

from __future__ import annotations

import pytest

from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.outcome import Fate, FaultKind
from tests.support.smtp_clients import client
from tests.support.smtp_script import Turn
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import a_call, a_letter, fates, send
from tests.support.waiting import wait_until

ANN, BOB, CID = "ann@example.net", "bob@example.net", "cid@example.net"


def people(**kinds: str) -> tuple[Recipient, ...]:
    """``to=ANN, bcc=BOB`` as recipients."""
    return tuple(Recipient(Address(email), kind) for kind, email in kinds.items())  # type: ignore[arg-type]


def test_a_mail_arrives_as_it_was_written() -> None:
    """Envelope and bytes arrive; the outcome holds what the server said about itself."""
    with SmtpServer(tls="starttls", strict=True) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(ANN))
        (mail,) = server.messages
    assert fates(outcome) == {ANN: "accepted"}
    assert outcome.fault is None
    assert (mail.envelope_from, mail.recipients) == ("orders@example.com", [ANN])
    assert mail.parsed["Subject"] == "Hello"
    assert mail.tls
    note = outcome.server
    assert (note.host, note.address) == ("127.0.0.1", f"127.0.0.1:{server.port}")
    assert note.tls == mail.tls
    assert note.queue_id == "Q001001"
    assert note.reply == "250 2.0.0 Ok: queued as Q001001"
    assert list(note.phases) == ["connect", "starttls", "mail", "rcpt", "data", "dot"]
    assert all(seconds >= 0 for seconds in note.phases.values())
    assert server.violations == []


def test_each_recipient_has_its_own_fate() -> None:
    """250, 550 and 451 in one mail: the accepted one gets it, each keeps its own words."""
    answers = [None, "550 5.1.1 no such user", "451 4.2.0 later"]
    with SmtpServer(rcpt=answers) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(ANN, BOB, CID))
        assert [mail.recipients for mail in server.messages] == [[ANN]]
    assert fates(outcome) == {ANN: "accepted", BOB: "refused", CID: "deferred"}
    assert [result.detail for result in outcome.results[1:]] == answers[1:]
    assert outcome.costs_attempt


def test_a_retry_sends_the_same_bytes_to_the_rest() -> None:
    """To and Cc of the second try are those of the first; only the envelope is smaller."""
    letter = a_letter(recipients=people(to=ANN, cc=BOB, bcc=CID))
    with SmtpServer(rcpt=[None, "451 later"]) as server, client(server) as smtp:
        first = send(smtp, letter)
        rest = tuple(r for r in letter.recipients if fates(first)[r.email] == "deferred")
        second = send(smtp, letter, recipients=rest)
        one, two = server.messages
    assert fates(second) == {BOB: "accepted"}
    assert one.data == two.data
    assert two.recipients == [BOB]
    assert (one.parsed["To"], one.parsed["Cc"], one.parsed["Bcc"]) == (ANN, BOB, None)


NO_PIPELINING = ("8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8")
PIPELINING = (*NO_PIPELINING, "PIPELINING")


@pytest.mark.parametrize("extensions", [NO_PIPELINING, PIPELINING])
def test_all_refused_means_no_body(extensions: tuple[str, ...]) -> None:
    """Without a recipient no body is sent, and the next mail starts with RSET on the same line."""
    script = ["550 5.1.1 no", "450 4.2.0 later"]
    with SmtpServer(rcpt=script, extensions=extensions) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(ANN, BOB))
        assert server.messages == []
        assert server.count("DATA") == ("PIPELINING" in extensions)
        assert fates(send(smtp)) == {ANN: "accepted"}
        verbs = [command.verb for command in server.commands]
    assert fates(outcome) == {ANN: "refused", BOB: "deferred"}
    reset = verbs.index("RSET")
    assert verbs[reset + 1] == "MAIL"
    assert server.connections == 1


def test_a_server_that_would_take_a_body_for_nobody_gets_none() -> None:
    """A 354 although every recipient was refused: the line is cut, no empty mail is sent."""
    with SmtpServer(rcpt=["550 5.1.1 no"], data="354 go on") as server, client(server) as smtp:
        outcome = send(smtp)
        assert fates(outcome) == {ANN: "refused"}
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert len(server.messages) == 1
        assert server.connections == 2


@pytest.mark.parametrize("full", ["452 4.5.3 too many", "452 too many", "552 too many"])
def test_a_full_envelope_is_split(full: str) -> None:
    """After an accepted RCPT, 452 leaves the rest untried; another call reaches them."""

    def two_at_most(turn: Turn) -> str | None:
        return full if len(turn.recipients) >= 2 else None

    letter = a_letter(*(f"r{n}@example.net" for n in range(5)))
    with SmtpServer(rcpt=two_at_most) as server, client(server) as smtp:
        left = letter.recipients
        for _ in range(3):
            outcome = send(smtp, letter, recipients=left)
            assert outcome.fault is None
            untried = {a for a, fate in fates(outcome).items() if fate == "untried"}
            left = tuple(r for r in left if r.email in untried)
        assert not left
        got = [email for mail in server.messages for email in mail.recipients]
    assert sorted(got) == sorted(r.email for r in letter.recipients)


def test_a_full_mailbox_splits_nothing() -> None:
    """452 on the very first RCPT, or with another meaning, puts that recipient off."""
    answers = ["452 4.5.3 too many", None, "452 4.2.2 full"]
    with SmtpServer(rcpt=answers) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(ANN, BOB, CID))
    assert fates(outcome) == {ANN: "deferred", BOB: "accepted", CID: "deferred"}


@pytest.mark.parametrize(
    ("answer", "fate"), [("451 4.7.1 later", "deferred"), ("421 closing", "deferred")]
)
def test_the_untried_wait_if_the_mail_was_put_off(answer: str, fate: str) -> None:
    """When those in the envelope were put off, at once is no good time for the others either."""
    rcpt = [None, "452 4.5.3 too many"]
    with SmtpServer(rcpt=rcpt, dot=answer) as server, client(server) as smtp:
        assert fates(send(smtp, a_letter(ANN, BOB))) == {ANN: fate, BOB: fate}


def test_private_copies_show_one_recipient() -> None:
    """Each copy is an envelope of its own with only its reader in To."""
    letter = a_letter(ANN, BOB, private_copies=True)
    with SmtpServer() as server, client(server) as smtp:
        calls = smtp.calls(letter, letter.recipients)
        for recipients in calls:
            send(smtp, letter, recipients=recipients)
        shown = [(mail.recipients, mail.parsed["To"]) for mail in server.messages]
    assert shown == [([ANN], ANN), ([BOB], BOB)]


def test_leave_is_asked_for_right_before_the_dot() -> None:
    """When leave to hand over is asked for, the server has the body and not its end."""
    bodies: list[str | bytes] = []
    seen = []

    def look() -> None:
        wait_until(lambda: bodies)
        seen.append((b"Subject: Hello" in bytes(bodies[0]), len(server.messages)))

    server = SmtpServer(body=lambda turn: bodies.append(turn.argument))
    with server, client(server) as smtp:
        outcome = send(smtp, a_letter(text="x" * 70 + "\n" * 20_000), hand_over=look)
    assert seen == [(True, 0)]
    assert fates(outcome) == {ANN: "accepted"}


def test_without_leave_there_is_no_dot() -> None:
    """A refused handover passes through, and the server gets nothing: the line is cut."""

    def refuse() -> None:
        raise HandoverRefused("the lease is about to end")

    with SmtpServer() as server, client(server) as smtp:
        with pytest.raises(HandoverRefused):
            smtp.send(a_call(hand_over=refuse))
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert len(server.messages) == 1
        assert server.connections == 2


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_being_stopped_passes_through(stop: type[BaseException]) -> None:
    """SystemExit in the middle of a mail is not swallowed, and nothing was handed over."""

    def die() -> None:
        raise stop

    with SmtpServer() as server, client(server) as smtp:
        with pytest.raises(stop):
            smtp.send(a_call(hand_over=die))
        assert server.messages == []


# -- what the server says it can do --------------------------------------------------------------


def test_size_is_told_and_kept() -> None:
    """MAIL names the size; a mail over the limit is refused before MAIL, and pays itself."""
    with SmtpServer(size=20_000) as server, client(server) as smtp:
        small = send(smtp)
        big = send(smtp, a_letter(ANN, text="x" * 30_000))
        (mail,) = server.messages
        assert server.count("MAIL") == 1
    assert fates(small) == {ANN: "accepted"}
    assert mail.options == [f"SIZE={len(mail.data)}"]
    assert fates(big) == {ANN: "refused"}
    assert "takes 20000" in big.results[0].detail
    assert big.fault is None


def test_smtputf8_is_asked_for_only_if_needed() -> None:
    """An ASCII envelope asks for nothing, a non-ASCII local part for SMTPUTF8."""
    with SmtpServer(strict=True) as server, client(server) as smtp:
        outcome = [
            send(smtp, a_letter(ANN, subject="Grüße", text="Grüße")),
            send(smtp, a_letter("jürgen@example.net")),
            send(smtp, a_letter(recipients=people(to=ANN, bcc="jürgen@example.net"))),
        ]
        options = [mail.options for mail in server.messages]
    assert all(one.results[0].fate is Fate.ACCEPTED for one in outcome)
    assert options == [[], ["SMTPUTF8", "BODY=8BITMIME"], ["SMTPUTF8", "BODY=8BITMIME"]]
    assert server.violations == []


def test_without_smtputf8_a_hidden_recipient_ends_alone() -> None:
    """Bcc to a non-ASCII local part: refused, named; the others get the mail."""
    with SmtpServer(extensions=()) as server, client(server) as smtp:
        outcome = send(smtp, a_letter(recipients=people(to=ANN, bcc="jürgen@example.net")))
        assert [mail.recipients for mail in server.messages] == [[ANN]]
    assert fates(outcome) == {ANN: "accepted", "jürgen@example.net": "refused"}
    assert "jürgen@example.net" in outcome.results[1].detail


@pytest.mark.parametrize(
    "letter",
    [
        a_letter(recipients=people(to=ANN, cc="jürgen@example.net")),
        a_letter(ANN, sender=Address("jürgen@example.net")),
        a_letter(ANN, envelope_sender="jürgen@example.net"),
    ],
)
def test_without_smtputf8_a_shown_address_ends_the_mail(letter: Letter) -> None:
    """In From, To or Cc, or as envelope sender, it ends the whole mail, and is named."""
    with SmtpServer(extensions=()) as server, client(server) as smtp:
        outcome = send(smtp, letter)
        assert server.messages == []
    assert {result.fate for result in outcome.results} == {Fate.REFUSED}
    assert "jürgen@example.net" in outcome.detail
    assert outcome.fault is None


@pytest.mark.parametrize(
    "text",
    [
        "line\n.\n..\n.dot\nend",
        ".\n" * 50,
        "x" * 5000,
        "bare\rreturn and\r\nboth\n",
        "Grüße \U0001f600\n" * 400,
        "trailing blanks   \n\ttabs\t\nFrom here\n",
        "",
    ],
)
def test_a_strict_server_gets_the_same_text(text: str) -> None:
    """Long lines, 8-bit, bare line ends, lone dots: nothing to complain of, and nothing lost."""
    letter = a_letter(ANN, text=text, parts=(Part(bytes(range(256)) * 40, "application/x-a", "a"),))
    with SmtpServer(strict=True, extensions=()) as server, client(server) as smtp:
        outcome = send(smtp, letter)
        assert server.violations == []
        (mail,) = server.messages
    assert fates(outcome) == {ANN: "accepted"}
    body, attached = mail.parsed.iter_parts()
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    assert body.get_content().replace("\r\n", "\n").rstrip("\n") == wanted.rstrip("\n")
    assert attached.get_content() == bytes(range(256)) * 40


def test_an_address_with_parameters_never_reaches_the_wire() -> None:
    """The last door: what could end a path and start a parameter is refused, alone."""
    odd = "a@x.test> NOTIFY=NEVER <b@x.test"
    with SmtpServer() as server, client(server) as smtp:
        outcome = send(smtp, a_letter(recipients=people(to=ANN, bcc=odd)))
        assert [c.line for c in server.commands if "NOTIFY" in c.line] == []
    assert fates(outcome) == {ANN: "accepted", odd: "refused"}


# -- limits and faults that a reply names ----------------------------------------------------------


def test_a_limit_rests_the_transport_if_nobody_was_decided() -> None:
    """Throttled at RCPT: put off, the transport rests; had another been accepted, it does not."""
    with SmtpServer(rcpt=["454 4.7.0 Throttling failure"] * 2) as server, client(server) as smtp:
        nobody = send(smtp)
        somebody = send(smtp, a_letter(ANN, BOB))
    assert nobody.fault
    assert nobody.fault.kind is FaultKind.RATE_LIMITED
    assert not nobody.costs_attempt
    assert fates(somebody) == {ANN: "deferred", BOB: "accepted"}
    assert somebody.fault is None


def test_a_sender_that_may_not_be_used_fails_its_mail() -> None:
    """550 at MAIL is this mail's configuration: it fails, the transport goes on."""
    script = ["550 5.7.1 not your sender"]
    with SmtpServer(mail=script) as server, client(server) as smtp:
        outcome = send(smtp)
        assert fates(send(smtp)) == {ANN: "accepted"}
    assert fates(outcome) == {ANN: "failed"}
    assert outcome.message_config
    assert outcome.fault is None


def test_the_same_address_twice_is_one_recipient() -> None:
    """An address in To and Cc is named once in the envelope and has one fate."""
    with SmtpServer() as server, client(server) as smtp:
        outcome = send(smtp, a_letter(recipients=people(to=ANN, cc=ANN)))
        assert server.count("RCPT") == 1
    assert [result.fate for result in outcome.results] == [Fate.ACCEPTED] * 2


def test_probe_sends_nothing() -> None:
    """doctor's probe walks connect, TLS and login, and no mail is begun."""
    server = SmtpServer(tls="starttls", credentials={"ann": "sesame"})
    with server, client(server, username="ann", password="sesame") as smtp:
        steps = list(smtp.probe())
        assert server.count("MAIL") == 0
        wait_until(lambda: server.count("QUIT") == 1)  # noted by the server in its own time
    assert [(step.name, step.ok) for step in steps] == [
        ("connect", True),
        ("tls", True),
        ("login", True),
        ("ready", True),
    ]
    assert "certificate is valid" in steps[1].detail
    assert "sesame" not in repr(steps)


def test_probe_stops_at_what_is_wrong() -> None:
    """A wrong password ends the probe at the login, in words and without the password."""
    server = SmtpServer(credentials={"ann": "sesame"})
    with server, client(server, username="ann", password="wrong-one") as smtp:
        steps = list(smtp.probe())
    assert [step.ok for step in steps] == [True, True, False]
    assert "MAIL_PASSWORD" in steps[-1].detail
    assert "wrong-one" not in repr(steps)
