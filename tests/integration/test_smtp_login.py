"""TLS and AUTH: what is demanded, what is refused, and that no password travels in clear text."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome
from flask_deferred_mail.transports import smtp_connection
from tests.support.smtp_clients import client
from tests.support.smtp_script import Drop, Say
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import fates, send

ANN = "ann@example.net"
LOGIN = {"username": "ann", "password": "sesame"}


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server's address pass for one on another machine."""
    monkeypatch.setattr(smtp_connection, "is_loopback", lambda _address: False)


def assert_kept(outcome: Outcome, kind: FaultKind = FaultKind.UNREACHABLE) -> None:
    """The transport rests, the mail is kept and not burned, and the text says where."""
    assert outcome.fault
    assert outcome.fault.kind is kind
    assert {result.fate for result in outcome.results} == {Fate.DEFERRED}
    assert not outcome.costs_attempt
    assert outcome.detail.startswith("127.0.0.1:")


def assert_no_login(server: SmtpServer) -> None:
    """The server was shown neither a login nor a mail."""
    assert server.count("AUTH") == 0
    assert server.count("MAIL") == 0
    assert server.messages == []


# -- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_good_certificate(tls: str) -> None:
    """STARTTLS and TLS from the first byte both carry login and mail."""
    server = SmtpServer(tls=tls, credentials={"ann": "sesame"}, auth_required=True, strict=True)
    with server, client(server, **LOGIN) as smtp:
        outcome = send(smtp)
        (mail,) = server.messages
    assert fates(outcome) == {ANN: "accepted"}
    assert mail.user == "ann"
    assert mail.tls == outcome.server.tls
    assert server.violations == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("self-made", "certificate"),
        ("wrong-host", "not valid for '127.0.0.1'"),
        ("expired", "expired"),
    ],
)
def test_a_bad_certificate(tls: str, certificate: str, reason: str) -> None:
    """Self-made, for another host, expired: refused with the reason, before any login."""
    server = SmtpServer(tls=tls, certificate=certificate, credentials={"ann": "sesame"})
    with server, client(server, **LOGIN) as smtp:
        outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome)
    assert "certificate was not accepted" in outcome.detail
    assert reason in outcome.detail


def test_starttls_is_not_offered() -> None:
    """The default policy sends nothing in clear text, and says what can be set."""
    with SmtpServer(credentials={"ann": "sesame"}) as server:
        with client(server, tls="required", **LOGIN) as smtp:
            outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome)
    assert "does not offer STARTTLS" in outcome.detail
    assert "MAIL_USE_SSL" in outcome.detail


@pytest.mark.parametrize(
    "answer", ["454 4.7.0 not now", "501 no", "502 no", "250 fine, and now?", "334 hm"]
)
def test_starttls_is_refused(answer: str) -> None:
    """Whatever is not 220 is a no; nothing goes out in clear text, not even after a 250."""
    server = SmtpServer(tls="starttls", starttls=answer, credentials={"ann": "sesame"})
    with server, client(server, **LOGIN) as smtp:
        outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome)
    assert answer in outcome.detail


@pytest.mark.parametrize(
    "trick",
    [
        Drop(),
        Say(b"220 go ahead\r\n250-mail.test\r\n250 AUTH PLAIN\r\n"),
        Say(b"220 go ahead\r\n250 2.0.0 Ok\r\n" * 3),
    ],
)
def test_the_handshake_is_cut_or_tampered_with(trick: Any) -> None:
    """Bytes ahead of the handshake are not believed: the connection is given up."""
    server = SmtpServer(tls="starttls", starttls=trick, credentials={"ann": "sesame"})
    with server, client(server, **LOGIN) as smtp:
        outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome)


def test_a_server_that_does_not_speak_tls() -> None:
    """smtps:// to a port that speaks clear text: an error in words, not a hang."""
    with SmtpServer() as server, client(server, tls="implicit") as smtp:
        assert_kept(send(smtp))


def test_ehlo_comes_again_after_tls() -> None:
    """What was advertised in clear text is forgotten: AUTH appears only after the handshake."""

    def only_in_tls(turn: Any) -> str | None:
        return "250-mail.test\n250-AUTH CRAM-MD5\n250 STARTTLS" if turn.count == 0 else None

    server = SmtpServer(tls="starttls", ehlo=only_in_tls, credentials={"ann": "sesame"})
    with server, client(server, **LOGIN) as smtp:
        assert fates(send(smtp)) == {ANN: "accepted"}
        verbs = [command.verb for command in server.commands]
    assert verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]


# -- tls=optional ----------------------------------------------------------------------------------


def test_optional_uses_tls_if_it_is_offered() -> None:
    """Offered and verified: as good as required."""
    with SmtpServer(tls="starttls") as server, client(server, tls="optional") as smtp:
        assert send(smtp).server.tls
    with SmtpServer() as server, client(server, tls="optional") as smtp:
        assert send(smtp).server.tls is None
        assert len(server.messages) == 1


def test_optional_takes_clear_text_if_tls_is_put_off() -> None:
    """Without a login, a mail may go out in clear text where the policy says so."""
    server = SmtpServer(tls="starttls", starttls="454 not now")
    with server, client(server, tls="optional") as smtp:
        assert fates(send(smtp)) == {ANN: "accepted"}


@pytest.mark.usefixtures("far_away")
def test_optional_takes_an_unverified_link_for_mail_without_a_login() -> None:
    """A certificate that proves nothing still hides the mail; probe says what it is worth."""
    server = SmtpServer(tls="starttls", certificate="self-made")
    with server, client(server, tls="optional") as smtp:
        outcome = send(smtp)
        steps = {step.name: step for step in smtp.probe()}
        assert server.messages[0].tls
    assert fates(outcome) == {ANN: "accepted"}
    assert "proves nothing" in steps["tls"].detail


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize(
    ("behaviour", "kind", "named"),
    [
        ({}, FaultKind.ACCOUNT, "MAIL_USE_TLS"),
        ({"tls": "starttls", "starttls": "454 4.7.0 not now"}, FaultKind.UNREACHABLE, "454"),
        (
            {"tls": "starttls", "certificate": "self-made"},
            FaultKind.UNREACHABLE,
            "certificate was not accepted",
        ),
    ],
)
def test_no_login_over_a_link_that_is_not_safe(
    behaviour: dict[str, Any], kind: FaultKind, named: str
) -> None:
    """Clear or unverified, and not to this machine: no password; the text names what to set."""
    with SmtpServer(credentials={"ann": "sesame"}, **behaviour) as server:
        with client(server, tls="optional", **LOGIN) as smtp:
            outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome, kind)
    assert named in outcome.detail


@pytest.mark.usefixtures("far_away")
def test_tls_none_never_logs_in_to_another_machine() -> None:
    """tls=none with a user is refused at the login, naming the setting."""
    server = SmtpServer(credentials={"ann": "sesame"})
    with server, client(server, tls="none", **LOGIN) as smtp:
        outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome, FaultKind.ACCOUNT)
    assert "?tls=required" in outcome.detail


@pytest.mark.parametrize("certificate", [None, "self-made"])
def test_this_machine_may_be_logged_in_to(certificate: str | None) -> None:
    """To a loopback address a login may go clear or unverified."""
    tls = {"tls": "starttls", "certificate": certificate} if certificate else {}
    with SmtpServer(credentials={"ann": "sesame"}, **tls) as server:  # type: ignore[arg-type]
        with client(server, tls="optional", **LOGIN) as smtp:
            assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.messages[0].user == "ann"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_what_loopback_is(address: str, wanted: bool) -> None:
    """Only addresses that never leave the machine count."""
    assert smtp_connection.is_loopback(address) is wanted


# -- AUTH ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "line"),
    [
        (("PLAIN", "LOGIN"), "AUTH PLAIN"),
        (("LOGIN", "PLAIN"), "AUTH PLAIN"),
        (("CRAM-MD5", "LOGIN"), "AUTH LOGIN"),
    ],
)
def test_mechanisms(offered: tuple[str, ...], line: str) -> None:
    """PLAIN where it is offered, else LOGIN; non-ASCII passwords travel as UTF-8."""
    server = SmtpServer(credentials={"änn": "sésame:@/ü"}, auth_mechanisms=offered)
    with server, client(server, username="änn", password="sésame:@/ü") as smtp:
        assert fates(send(smtp)) == {ANN: "accepted"}
        (auth,) = [command for command in server.commands if command.verb == "AUTH"]
    assert auth.line.startswith(line)


@pytest.mark.parametrize("offered", [("PLAIN", "LOGIN"), ("LOGIN",)])
def test_a_wrong_password_is_tried_once(offered: tuple[str, ...]) -> None:
    """One AUTH, then the transport rests: a second mechanism would count towards a lock-out."""
    server = SmtpServer(credentials={"ann": "sesame"}, auth_mechanisms=offered)
    with server, client(server, username="ann", password="wrong-one") as smtp:
        outcome = send(smtp)
        assert server.count("AUTH") == 1
        assert server.connections == 1
    assert_kept(outcome, FaultKind.ACCOUNT)
    assert "535 5.7.8" in outcome.detail
    assert "MAIL_PASSWORD" in outcome.detail


@pytest.mark.parametrize("offered", [(), ("CRAM-MD5", "XOAUTH2")])
def test_no_mechanism_of_ours(offered: tuple[str, ...]) -> None:
    """AUTH not offered, or only in ways that we do not speak: said, and nothing burned."""

    def ehlo(_turn: Any) -> str:
        return "250-mail.test\n250 AUTH " + " ".join(offered) if offered else "250 mail.test"

    with SmtpServer(ehlo=ehlo) as server, client(server, **LOGIN) as smtp:
        outcome = send(smtp)
        assert_no_login(server)
    assert_kept(outcome, FaultKind.ACCOUNT)
    assert "MAIL_USERNAME" in outcome.detail


def test_throttled_login() -> None:
    """Amazon's 454 at AUTH is a limit, not a wrong password."""
    server = SmtpServer(auth="454 4.7.0 Throttling failure", credentials={"ann": "x"})
    with server, client(server, **LOGIN) as smtp:
        assert_kept(send(smtp), FaultKind.RATE_LIMITED)


def test_a_server_that_repeats_the_password() -> None:
    """What the server echoes of a login is not kept, neither plain nor encoded."""
    token = base64.b64encode(b"\0ann\0sesame").decode()
    text = f"535 5.7.8 AUTH PLAIN {token} means sesame (user ann)"
    server = SmtpServer(auth=text, credentials={"ann": "x"})
    with server, client(server, **LOGIN) as smtp:
        outcome = send(smtp)
    assert "sesame" not in repr(outcome)
    assert token not in repr(outcome)
    assert "***" in outcome.detail


def test_a_login_that_is_not_needed() -> None:
    """Without a user nobody logs in, even if the server would let us."""
    with SmtpServer(credentials={"ann": "sesame"}) as server, client(server) as smtp:
        assert fates(send(smtp)) == {ANN: "accepted"}
        assert server.count("AUTH") == 0


@pytest.mark.parametrize(("name", "said"), [(None, "[127.0.0.1]"), ("app.example", "app.example")])
def test_what_we_call_ourselves(name: str | None, said: str) -> None:
    """EHLO gives the connection's own address, or what is configured; never the host's name."""
    with SmtpServer() as server, client(server, local_hostname=name) as smtp:
        send(smtp)
        assert server.commands[0].line == f"EHLO {said}"


@pytest.mark.parametrize("said", ["web1.example.com", "[192.0.2.7]"])
def test_what_we_call_ourselves_can_stand_in_the_url(make_app: Any, said: str) -> None:
    """``?local_hostname=`` is for relays that look at the name in EHLO."""
    with SmtpServer() as server:
        app = make_app(server.url(local_hostname=said))
        app.send()
        assert app.sweep().sent == 1
        assert server.commands[0].line == f"EHLO {said}"
