"""From a host's name to a connection that may take mail: connect, TLS, EHLO, AUTH.

Whatever goes wrong here belongs to the transport: no mail has been spoken of yet, so none pays.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from ..deadline import Deadline
from ..outcome import FaultKind, ServerNote
from .smtp_connection import Broken, CertificateProblem, SmtpConnection, dial
from .smtp_replies import Reply, Stage, judge
from .smtp_token import NoToken, TokenSource, initial_response

TlsPolicy = Literal["implicit", "required", "optional", "none"]

_WORDS = {
    Stage.CONNECT: "as its greeting",
    Stage.EHLO: "to EHLO",
    Stage.STARTTLS: "to STARTTLS",
    Stage.AUTH: "to the login",
    Stage.MAIL: "to NOOP",
}


class CannotOpen(Exception):
    """No connection that may take mail could be had. ``detail`` says to people why."""

    def __init__(self, kind: FaultKind, detail: str, note: ServerNote) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        #: How far it got.
        self.note = note


@dataclass(frozen=True)
class Endpoint:
    """Where to send and how to get in. ``repr`` shows neither user nor password."""

    host: str
    port: int
    tls: TlsPolicy
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    #: Gives what to log in with in place of a password (XOAUTH2).
    token: TokenSource | None = field(default=None, repr=False)
    #: Name for EHLO; ``None``: the connection's own address as a literal.
    local_hostname: str | None = None
    #: Trust these authorities in place of the system's.
    cafile: str | None = None
    #: Most seconds for one address of the host to answer.
    connect_timeout: float = 15.0
    #: Most seconds for each answer; ``None``: only the attempt's deadline counts.
    timeout: float | None = None
    _contexts: dict[bool, ssl.SSLContext] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def step(self, deadline: Deadline) -> Deadline:
        """The deadline of one command within that of the attempt."""
        return deadline if self.timeout is None else deadline.sooner(self.timeout)

    def context(self, *, verify: bool = True) -> ssl.SSLContext:
        """How TLS is spoken: made once, because reading the authorities takes a while.

        Without ``verify`` (for ``tls=optional`` alone) it hides the mail from listeners and proves
        nothing about who reads it.
        """
        if verify not in self._contexts:
            context = ssl.create_default_context(cafile=self.cafile)
            if not verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[verify] = context
        return self._contexts[verify]


class Opening:
    """One try to open a connection, in steps that a person can follow.

    :meth:`connect`, then :meth:`secure`, then :meth:`log_in`; each raises :class:`CannotOpen`, with
    the connection closed.
    """

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._refused_tls: Reply | None = None
        self._problem: Exception | None = None
        self._phases: dict[str, float] = {}
        self.connection: SmtpConnection | None = None

    def connect(self) -> None:
        """Connect and read the greeting; with ``smtps``, TLS comes in between."""
        self._dial()
        if self._endpoint.tls == "implicit":
            self._start_tls()
        self._greet()

    def _dial(self) -> None:
        place = self._endpoint
        with self._phase(Stage.CONNECT):
            self.connection = dial(place.host, place.port, self._deadline, place.connect_timeout)

    def _greet(self) -> None:
        with self._phase(Stage.CONNECT):
            self._expect(Stage.CONNECT, self._open.read_reply(self._step()))
        self._ehlo()

    def secure(self) -> None:
        """STARTTLS as the policy says; EHLO again after it."""
        policy = self._endpoint.tls
        if policy in ("none", "implicit"):
            return
        if "STARTTLS" not in self._open.extensions:
            if policy == "required":
                self._fail(FaultKind.UNREACHABLE, _NO_STARTTLS)
            return
        reply = self._ask_for_tls()
        if reply.code == 220:
            self._upgrade()
        elif policy == "required" or reply.code == 421:
            self._refuse(Stage.STARTTLS, reply)
        else:
            self._refused_tls = reply

    def log_in(self) -> None:
        """AUTH with the first of PLAIN and LOGIN that the server offers, and one try only.

        A second try with another mechanism would count twice against a lock-out. With tokens it is
        XOAUTH2, and a token that is refused is replaced by a fresh one once.
        """
        place = self._endpoint
        user, password = place.username, place.password
        if user is not None and place.token is not None:
            self._log_in_by_token(user, place.token)
            return
        if user is None or password is None:
            return
        self._demand_safe_link()
        offered = self._open.extensions.get("AUTH", "").upper().split()
        with self._phase(Stage.AUTH):
            if "PLAIN" in offered:
                reply = self._auth_plain(user, password)
            elif "LOGIN" in offered:
                reply = self._auth_login(user, password)
            else:
                self._fail(FaultKind.ACCOUNT, _no_mechanism(offered))
        self._expect(Stage.AUTH, reply)

    def check(self) -> None:
        """Ask for a sign of life."""
        with self._phase(Stage.MAIL):
            self._expect(Stage.MAIL, self._open.command("NOOP", self._step()))

    @property
    def address(self) -> str:
        """Address and port at the other end."""
        return self._open.address

    @property
    def link(self) -> str:
        """How the link is protected, in words."""
        if self._open.tls is None:
            refused = f"; STARTTLS was answered {self._refused_tls}" if self._refused_tls else ""
            return f"clear text (tls={self._endpoint.tls}){refused}"
        if self._open.verified:
            return f"{self._open.tls}, the certificate is valid for {self._endpoint.host}"
        return f"{self._open.tls}, but the certificate proves nothing: {self._problem}"

    # -- TLS -------------------------------------------------------------------------------------

    def _ask_for_tls(self) -> Reply:
        with self._phase(Stage.STARTTLS):
            return self._open.command("STARTTLS", self._step())

    def _upgrade(self) -> None:
        try:
            self._start_tls()
        except CannotOpen as trouble:
            if self._endpoint.tls != "optional" or not isinstance(
                trouble.__cause__, CertificateProblem
            ):
                raise
            self._problem = trouble.__cause__
            self._upgrade_unverified(trouble)
        self._ehlo()

    def _upgrade_unverified(self, trouble: CannotOpen) -> None:
        """``tls=optional``: a link that only hides is better than clear text, if no login is due.

        The handshake that failed has cost the connection, so this takes another one.
        """
        self._dial()
        if self._endpoint.username is not None and not self._open.is_loopback:
            self.abandon()
            raise trouble
        self._greet()
        if self._ask_for_tls().code != 220:
            raise trouble
        self._start_tls(verify=False)

    def _start_tls(self, *, verify: bool = True) -> None:
        with self._phase(Stage.STARTTLS):
            self._open.start_tls(self._endpoint.context(verify=verify), self._step())

    # -- AUTH ------------------------------------------------------------------------------------

    def _demand_safe_link(self) -> None:
        if self._open.verified or self._open.is_loopback:
            return
        if self._refused_tls is not None:
            self._fail(
                FaultKind.UNREACHABLE,
                f"answered {self._refused_tls} to STARTTLS: no password is sent in clear text",
            )
        self._fail(FaultKind.ACCOUNT, _UNSAFE_LOGIN)

    def _hide(self, user: str, password: str) -> None:
        """Some servers repeat what they were told in their refusal; it must not be kept."""
        forms = (_base64(f"\0{user}\0{password}"), _base64(password), password)
        self._open.secrets = tuple(filter(None, forms))

    def _auth_plain(self, user: str, password: str) -> Reply:
        token = _base64(f"\0{user}\0{password}")
        self._hide(user, password)
        return self._open.command(f"AUTH PLAIN {token}", self._step())

    def _auth_login(self, user: str, password: str) -> Reply:
        self._hide(user, password)
        reply = self._open.command("AUTH LOGIN", self._step())
        for answer in (user, password):
            if reply.code != 334:
                break
            reply = self._open.command(_base64(answer), self._step())
        return reply

    def _log_in_by_token(self, user: str, tokens: TokenSource) -> None:
        reply = self._auth_xoauth2(user, tokens)
        if reply.code == 535:
            # On a new connection, because servers may end one on which a login failed.
            self._open.leave()
            self.connect()
            self.secure()
            reply = self._auth_xoauth2(user, tokens)
        self._expect(Stage.AUTH, reply)

    def _auth_xoauth2(self, user: str, tokens: TokenSource) -> Reply:
        self._demand_safe_link()
        offered = self._open.extensions.get("AUTH", "").upper().split()
        if "XOAUTH2" not in offered:
            self._fail(FaultKind.ACCOUNT, _no_mechanism(offered))
        with self._phase(Stage.AUTH):
            try:
                token = tokens.fetch(self._deadline)
            except NoToken as trouble:
                self._fail(FaultKind.ACCOUNT, f"cannot be logged in to: {trouble}")
            response = initial_response(user, token)
            self._open.secrets = (response, token)
            reply = self._open.command(f"AUTH XOAUTH2 {response}", self._step())
            if reply.code == 334:
                # What was wrong, in base64; the refusal itself comes after an empty line.
                reply = self._open.command("", self._step())
        return reply

    # -- the rest --------------------------------------------------------------------------------

    @property
    def _open(self) -> SmtpConnection:
        assert self.connection is not None, "connect() comes first"
        return self.connection

    def _step(self) -> Deadline:
        return self._endpoint.step(self._deadline)

    def _ehlo(self) -> None:
        with self._phase(Stage.EHLO):
            reply = self._open.ehlo(self._endpoint.local_hostname, self._step())
            self._expect(Stage.EHLO, reply)

    def _expect(self, stage: Stage, reply: Reply) -> None:
        """Go on after a 2xx; anything else ends the opening."""
        if not reply.ok:
            self._refuse(stage, reply)

    def _refuse(self, stage: Stage, reply: Reply) -> NoReturn:
        kind = judge(stage, reply).fault or FaultKind.UNREACHABLE
        advice = ""
        if stage is Stage.AUTH and kind is FaultKind.ACCOUNT:
            advice = _BEARER_ADVICE if self._endpoint.token else _LOGIN_ADVICE
        self._fail(kind, f"answered {reply} {_WORDS[stage]}{advice}", reply)

    @contextmanager
    def _phase(self, stage: Stage) -> Iterator[None]:
        """Time a phase (EHLO is part of connecting), and turn a break into :class:`CannotOpen`."""
        started = time.monotonic()
        name = "connect" if stage is Stage.EHLO else stage.value
        try:
            yield
        except Broken as trouble:
            self._note_time(name, started)
            during = {Stage.CONNECT: "connecting", Stage.STARTTLS: "the start of TLS"}
            words = during.get(stage, "NOOP" if stage is Stage.MAIL else stage.value.upper())
            self._fail(FaultKind.UNREACHABLE, f"failed during {words}: {trouble}", cause=trouble)
        self._note_time(name, started)

    def _note_time(self, name: str, started: float) -> None:
        self._phases[name] = self._phases.get(name, 0.0) + time.monotonic() - started
        if self.connection is not None:
            self.connection.phases = self._phases

    def _fail(
        self,
        kind: FaultKind,
        problem: str,
        reply: Reply | None = None,
        cause: Exception | None = None,
    ) -> NoReturn:
        note = self._note(reply)
        self.abandon()
        raise CannotOpen(kind, f"{self._endpoint} {problem}", note) from cause

    def abandon(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            self.connection.leave()

    def _note(self, reply: Reply | None) -> ServerNote:
        return ServerNote(
            host=self._endpoint.host,
            address=self.connection.address if self.connection else None,
            tls=self.connection.tls if self.connection else None,
            reply=str(reply) if reply else None,
            phases=dict(self._phases),
        )


def open_connection(endpoint: Endpoint, deadline: Deadline) -> SmtpConnection:
    """A connection on which MAIL may come next.

    :raises CannotOpen: with the transport to blame.
    """
    opening = Opening(endpoint, deadline)
    try:
        opening.connect()
        opening.secure()
        opening.log_in()
    except CannotOpen:
        raise
    except BaseException:
        # SystemExit in the middle of it, for example: do not leave a socket behind.
        opening.abandon()
        raise
    assert opening.connection is not None
    return opening.connection


_NO_STARTTLS = (
    "does not offer STARTTLS, and tls=required never sends in clear text; if its port speaks TLS "
    "from the first byte use smtps:// (MAIL_USE_SSL = True), if the link may be clear use "
    "?tls=optional (MAIL_USE_TLS = False)"
)
_UNSAFE_LOGIN = (
    "would get a password over a link that is clear or not verified; set ?tls=required in the "
    "transport URL (MAIL_USE_TLS = True), or smtps:// (MAIL_USE_SSL = True), or leave out the user "
    "(MAIL_USERNAME)"
)
_LOGIN_ADVICE = (
    "; check user and password in the transport URL (MAIL_USERNAME and MAIL_PASSWORD; in a URL "
    "both are percent-encoded)"
)

_BEARER_ADVICE = (
    "; two tokens were tried: check the user in the transport URL, what the token is for (its "
    "scope), and that the mailbox may use SMTP"
)


def _no_mechanism(offered: list[str]) -> str:
    what = f"offers only {' '.join(offered)[:100]} for AUTH" if offered else "offers no AUTH"
    return (
        f"{what}, so the login is of no use; leave it out of the transport URL "
        "(MAIL_USERNAME), or use the port that is meant for submission, usually 587 or 465"
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
