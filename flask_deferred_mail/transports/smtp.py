"""Mail over SMTP: to a relay, a provider's submission port, or the local server.

The parts, from the bottom: ``smtp_replies`` (what a reply means), ``smtp_connection`` (bytes under
a deadline), ``smtp_opening`` (TLS and login), ``smtp_transaction`` (one envelope),
``smtp_pool`` (connections between mails). Here they become a transport.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, cast

from .. import crashpoints
from ..deadline import Deadline
from ..errors import ConfigurationError
from ..letter import Letter, Recipient
from ..mime import render
from ..outcome import Outcome
from .base import Call, Feature, ProbeStep, Transport
from .clear_text import MAIL_IN_CLEAR
from .copies import check_merge_headers
from .schemes import Plan
from .signing import Signer, signer_of
from .smtp_connection import SmtpConnection
from .smtp_envelope import Ahead, ahead_of
from .smtp_opening import CannotOpen, Endpoint, Opening, TlsPolicy, open_connection
from .smtp_pool import MAILS_PER_CONNECTION, IdleConnections
from .smtp_token import TokenSource
from .smtp_transaction import Transaction
from .url import EHLO_NAME

#: Seconds that ``probe`` may take, and ``close`` may spend on farewells.
PROBE_SECONDS = 20.0
FAREWELL_SECONDS = 2.0

_POLICIES = ("implicit", "required", "optional", "none")
_NOTHING = IdleConnections()


class SmtpTransport(Transport):
    """Sends through one SMTP server.

    :param name: the configured name of the transport.
    :param host: name or address of the server; its certificate must be made out to it.
    :param port: usually 587 (``required``), 465 (``implicit``) or 25.
    :param username: for AUTH, together with ``password``; without both, nobody logs in.
    :param tls: ``required`` (STARTTLS, else nothing is sent), ``implicit`` (TLS from the first
        byte), ``optional`` (STARTTLS if offered), ``none``. Certificates are always verified but
        under ``optional``, and no password crosses a clear or unverified link, except to a
        loopback address.
    :param auth: ``None``, or ``xoauth2``: the user logs in with what ``token`` gives.
    :param token: called for an access token at each login.
    :param local_hostname: what to call ourselves in EHLO. By default it is the connection's own
        address as a literal: it is right without asking DNS, which can block, and does not tell
        the machine's name.
    :param cafile: PEM file of the authorities to trust in place of the system's.
    :param connect_timeout: most seconds for one address of the host to answer.
    :param timeout: most seconds for each answer up to the final dot (``MAIL_TIMEOUT``); ``None``:
        the attempt's deadline is the only limit. The answer to the dot has a limit of its own.
    :param signer: signs each mail (DKIM); ``None``: nobody does here.
    :raises ConfigurationError: a value cannot be used.
    """

    #: What MIME has a place for; the rest needs a provider.
    features: ClassVar[frozenset[Feature]] = frozenset(
        {Feature.ALTERNATIVES, Feature.INLINE, Feature.PART_HEADERS, Feature.MERGE_HEADERS}
    )
    label = "SMTP"
    #: The server signs for our domain (DKIM) once that is set up there.
    server_signs: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        username: str | None = None,
        password: str | None = None,
        tls: TlsPolicy = "required",
        auth: str | None = None,
        token: Callable[[], str] | None = None,
        local_hostname: str | None = None,
        cafile: str | None = None,
        connect_timeout: float = 15.0,
        timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        super().__init__(name)
        self.runs_foreign_code = token is not None
        self.signer = signer
        if timeout is not None:
            connect_timeout = min(connect_timeout, timeout)
        self._endpoint = Endpoint(
            host,
            port,
            tls,
            username,
            password,
            TokenSource(token) if token is not None else None,
            local_hostname,
            cafile,
            connect_timeout,
            timeout,
        )
        faults = [f"transport {name!r}: {fault}" for fault in _faults(self._endpoint, auth)]
        if faults:
            raise ConfigurationError(faults)
        self._pools: dict[int, IdleConnections] = {}

    def __repr__(self) -> str:
        login = " with a login" if self._endpoint.username is not None else ""
        return f"<SmtpTransport {self.name!r}: {self._endpoint}, tls={self._endpoint.tls}{login}>"

    def check(self, letter: Letter) -> None:
        """Refuse, in the caller, what a mail that is rendered here cannot hold.

        :raises UnsupportedFeature: header fields of each recipient's own where all get one mail,
            or a Message-ID among them.
        """
        super().check(letter)
        check_merge_headers(letter)

    def signs(self, *headers: str) -> bool:
        return self.server_signs or (self.signer is not None and self.signer.covers(*headers))

    def send(self, call: Call) -> Outcome:
        """Hand over one envelope, on an idle connection if there is one.

        An idle connection that turns out to be dead before MAIL is answered costs nothing: the
        mail goes over a new one, and only what that one does counts.

        :raises HandoverRefused: from ``call.hand_over``.
        """
        pool = self._pool()
        idle = _take_for(call, pool)
        data = (
            idle.ahead.data
            if idle is not None and idle.ahead
            else self._rendered(call.letter, call.recipients)
        )
        if idle is not None:
            # A line that a firewall forgot stays silent: leave time for another connection.
            patience = call.deadline.sooner(max(call.deadline.left(), 0) / 2)
            outcome, stale = self._transact(pool, idle, call, data, patience)
            if not stale or call.deadline.left() <= 0:
                return outcome
        try:
            connection = open_connection(self._endpoint, call.deadline)
        except CannotOpen as trouble:
            return Outcome.not_sent(
                call.recipients, trouble.kind, trouble.detail, server=trouble.note
            )
        crashpoints.reached("smtp.connected")
        return self._transact(pool, connection, call, data)[0]

    def _transact(
        self,
        pool: IdleConnections,
        connection: SmtpConnection,
        call: Call,
        data: bytes,
        patience: Deadline | None = None,
    ) -> tuple[Outcome, bool]:
        """The outcome of one transaction, and whether it failed before MAIL was accepted."""
        transaction = Transaction(connection, self._endpoint, call, data, patience, self._following)
        try:
            outcome = transaction.run()
        except BaseException:
            connection.hang_up()
            raise
        if transaction.reusable:
            pool.give_back(connection)
        else:
            connection.hang_up()
        return outcome, transaction.failed_before_mail

    def _rendered(self, letter: Letter, recipients: Sequence[Recipient]) -> bytes:
        """The mail to these as it goes over the wire, signed if it is to be."""
        data = render(letter, recipients[0] if letter.private_copies else None)
        return data if self.signer is None else self.signer.signed(data)

    def _following(self, call: Call, connection: SmtpConnection) -> Ahead | None:
        """The next mail of this thread, if its envelope may go along with the end of this one."""
        if connection.mails + 2 > MAILS_PER_CONNECTION or "PIPELINING" not in connection.extensions:
            return None
        upcoming = call.upcoming()
        if upcoming is None:
            return None
        letter, recipients = upcoming
        data = self._rendered(letter, recipients)
        return ahead_of(letter, recipients, data, connection.extensions)

    def probe(self) -> Iterator[ProbeStep]:
        """Connect, TLS, login, farewell: each step in words, and no mail."""
        opening = Opening(self._endpoint, Deadline.after(PROBE_SECONDS))
        steps: tuple[tuple[str, Callable[[], None], Callable[[], str]], ...] = (
            ("connect", opening.connect, lambda: f"{self._endpoint} answers ({opening.address})"),
            ("tls", opening.secure, lambda: opening.link),
            ("login", opening.log_in, lambda: self._login_in_words),
            ("ready", opening.check, lambda: "the server answers NOOP; no mail was sent"),
        )
        try:
            for name, step, words in steps:
                try:
                    step()
                except CannotOpen as trouble:
                    yield ProbeStep(name, False, trouble.detail)
                    return
                link = opening.connection if name == "tls" else None
                in_clear = link is not None and link.tls is None and not link.is_loopback
                yield ProbeStep(name, True, words(), MAIL_IN_CLEAR if in_clear else "")
        finally:
            opening.abandon()

    @property
    def _login_in_words(self) -> str:
        if self._endpoint.username is None:
            return "no user is configured, so nobody logs in"
        return f"user and {'token' if self._endpoint.token else 'password'} were accepted"

    def forsake(self) -> None:
        """Cut the connections that this thread has used."""
        self._pool().forsake()

    def close(self) -> None:
        """Say QUIT on idle connections, for two seconds at most."""
        self._pool().close(FAREWELL_SECONDS)

    def _pool(self) -> IdleConnections:
        """This process's connections; those inherited by a fork are let go of, in silence."""
        pid = os.getpid()
        pool = self._pools.get(pid)
        if pool is None:
            for other in [key for key in list(self._pools) if key != pid]:
                self._pools.pop(other, _NOTHING).abandon()
            pool = self._pools.setdefault(pid, IdleConnections())
        return pool


def _faults(endpoint: Endpoint, auth: str | None) -> Iterator[str]:
    """What is wrong with the configuration, in sentences that hold no secret."""
    if not endpoint.host or not 0 < endpoint.port < 65536:
        yield "needs a host and a port between 1 and 65535 (MAIL_SERVER, MAIL_PORT)"
    if endpoint.tls not in _POLICIES:
        yield f"tls must be one of {', '.join(_POLICIES)}"
    yield from _faults_of_login(endpoint, auth)
    if "\0" in f"{endpoint.username}{endpoint.password}":
        yield "user and password cannot hold NUL"
    if not EHLO_NAME.fullmatch(endpoint.local_hostname or "x"):
        yield "local_hostname must be a host name or an address literal"
    if endpoint.cafile is not None:
        try:
            endpoint.context()
        except OSError as error:
            yield f"cafile cannot be used: {error.strerror or 'it holds no certificate'}"


def _faults_of_login(endpoint: Endpoint, auth: str | None) -> Iterator[str]:
    if auth not in (None, "xoauth2"):
        yield "auth: only xoauth2 is a choice; PLAIN and LOGIN need none"
    if (auth == "xoauth2") != (endpoint.token is not None):
        yield "auth=xoauth2 and 'token', a callable that gives an access token, go together"
    elif endpoint.token is None:
        if (endpoint.username is None) != (endpoint.password is None):
            yield "user and password go together (MAIL_USERNAME, MAIL_PASSWORD)"
    elif endpoint.username is None or endpoint.password is not None:
        yield "auth=xoauth2 takes a user and no password"
    elif not endpoint.username.isprintable():
        yield "auth=xoauth2 takes no user with control characters"


def from_plan(plan: Plan) -> SmtpTransport:
    """``smtp:`` and ``smtps:``, as the URL says."""
    url = plan.url
    implicit = url.scheme == "smtps"
    return SmtpTransport(
        plan.name,
        url.host,
        url.port or (465 if implicit else 587),
        username=url.user,
        password=url.password,
        tls=cast("TlsPolicy", "implicit" if implicit else plan.option("tls") or "required"),
        auth=plan.option("auth"),
        token=plan.token if plan.option("auth") else None,
        local_hostname=plan.option("local_hostname"),
        cafile=plan.option("cafile"),
        timeout=plan.timeout,
        signer=signer_of(plan.dkim),
    )


def _take_for(call: Call, pool: IdleConnections) -> SmtpConnection | None:
    """An idle connection that is to have this mail next, or waits for none in particular."""
    while (idle := pool.take()) is not None:
        if idle.ahead is None or idle.ahead.is_of(call.letter, call.recipients):
            return idle
        # It waits for the body of another mail, which is not coming. So may the next one do: each
        # thread that has ended can have left one.
        idle.hang_up()
    return None
