"""A mail server on 127.0.0.1 that does what a test tells it to, and remembers everything.

    with SmtpServer(rcpt=[None, "550 5.1.1 no such user"], dot=Delay(2)) as server:
        transport = SmtpTransport("default", server.host, server.port, tls="none")
        ...
        server.wait_for(1)
        assert server.messages[0].recipients == ["ann@example.com"]

**Stages** that can be scripted (see :mod:`tests.support.smtp_script` for what with): ``banner``,
``ehlo``, ``starttls``, ``auth`` (the final answer), ``mail``, ``rcpt``, ``data`` (the answer to
DATA), ``body`` (once the first bytes of the body are there; only actions that end or stall the
connection make sense), ``dot`` (the answer to the final dot), ``rset``, ``noop``, ``quit``.
``server.script(stage, item)`` changes one while the server runs.

**Gates.** ``server.hold("dot")`` makes every later answer of that stage wait until
``server.release("dot")``; ``server.wait_held("dot", 1)`` waits until one is waiting. That shows an
order of events without a sleep. A held mail is recorded when it is released.

**Looking.** ``messages`` (a copy of the list of :class:`Received`), ``wait_for(n)``,
``commands`` / ``count("MAIL")``, ``connections`` (so far), ``open_connections``, ``violations``.
Everything may be asked from any thread. ``drop_connections()`` cuts those that are open now.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any
from urllib.parse import quote, urlencode

from tests.support.certificates import certificates
from tests.support.smtp_script import Script
from tests.support.smtp_session import Command, Received, Session
from tests.support.waiting import wait_until

STAGES = frozenset(
    {
        "banner",
        "ehlo",
        "starttls",
        "auth",
        "mail",
        "rcpt",
        "data",
        "body",
        "dot",
        "rset",
        "noop",
        "quit",
    }
)


class SmtpServer:
    """The server; starts on entering ``with`` (or ``start()``), on a port of its own choice.

    :param tls: ``none``, ``starttls`` (offered) or ``implicit`` (TLS from the first byte).
    :param certificate: a kind of :class:`tests.support.certificates.Certificates`; trust
        ``server.cafile``.
    :param credentials: user -> password; AUTH is offered when there are any.
    :param auth_mechanisms: what is offered, in this order.
    :param auth_required: MAIL before AUTH gets 530.
    :param extensions: further EHLO lines; SIZE comes from ``size``.
    :param size: limit in bytes that is advertised and kept; ``None``: SIZE is not advertised.
    :param strict: refuse what a strict server may refuse: bare CR or LF, 8-bit data without
        8BITMIME, lines over 998, dots that were not stuffed, bytes sent ahead of STARTTLS. What
        was wrong is in ``violations``, and the mail gets a 554.
    :param greylist: seconds that a new (sender, recipient) pair is put off with 451.
    :param max_connections: at a time; one too many gets 421 as banner.
    :param max_messages: per connection; MAIL after that gets 421.
    :param receive_buffer: bytes of the socket's buffer; small ones make writers stall early.
    :param stages: scripts, by the name of the stage.
    """

    host = "127.0.0.1"
    #: What converses on a connection.
    session_type: type[Session] = Session

    def __init__(
        self,
        *,
        port: int = 0,
        tls: str = "none",
        certificate: str = "good",
        credentials: dict[str, str] | None = None,
        auth_mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN"),
        auth_required: bool = False,
        extensions: tuple[str, ...] = ("8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", "SMTPUTF8"),
        size: int | None = None,
        strict: bool = False,
        greylist: float | None = None,
        max_connections: int | None = None,
        max_messages: int | None = None,
        receive_buffer: int | None = None,
        **stages: Any,
    ) -> None:
        unknown = set(stages) - STAGES
        assert not unknown, f"no such stage: {unknown}"
        self.port = port
        self.tls = tls
        self.credentials = credentials or {}
        self.auth_mechanisms = auth_mechanisms
        self.auth_required = auth_required
        self.extensions = extensions
        self.size = size
        self.strict = strict
        self.greylist = greylist
        self.max_connections = max_connections
        self.max_messages = max_messages
        self.stopping = threading.Event()
        self.ssl_context = certificates().server_context(certificate) if tls != "none" else None
        self.turns = Script(stages)
        self._receive_buffer = receive_buffer
        self._lock = threading.Lock()
        self._messages: list[Received] = []
        self._commands: list[Command] = []
        self._violations: list[str] = []
        self._sessions: set[Session] = set()
        self._connections = 0
        self._gates: dict[str, threading.Event] = {}
        self._held: dict[str, int] = {}
        self._first_seen: dict[tuple[str, str], float] = {}

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> SmtpServer:
        """Listen. The port is known afterwards."""
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._listener.bind((self.host, self.port))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="smtp-accept", daemon=True)
        self._acceptor.start()
        return self

    def close(self) -> None:
        """Stop listening, cut every connection, wait for the threads."""
        self.stopping.set()
        for gate in self._gates.values():
            gate.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        self.drop_connections()
        for session in self._open():
            session.thread.join(5)

    __enter__ = start

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # A reply in two writes must not wait for the client's delayed acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections += 1
                session = self.session_type(self, connection, self._connections)
                self._sessions.add(session)
            session.thread.start()

    def forget(self, session: Session) -> None:
        """A connection is over."""
        with self._lock:
            self._sessions.discard(session)

    def _open(self) -> list[Session]:
        with self._lock:
            return list(self._sessions)

    # -- telling it what to do -------------------------------------------------------------------

    def script(self, stage: str, item: Any) -> None:
        """Change what happens at a stage, from now on."""
        assert stage in STAGES, f"no such stage: {stage}"
        self.turns.set(stage, item)

    def hold(self, stage: str) -> None:
        """Let answers of this stage wait for :meth:`release`."""
        self._gates[stage] = threading.Event()

    def release(self, stage: str) -> None:
        """Let the waiting answers go, and those that come later."""
        self._gates.pop(stage).set()

    def held(self, stage: str) -> int:
        """How many answers are waiting at this gate now."""
        with self._lock:
            return self._held.get(stage, 0)

    def wait_held(self, stage: str, number: int = 1, timeout: float = 10.0) -> None:
        """Wait until that many answers are waiting."""
        wait_until(lambda: self.held(stage) >= number, timeout, f"{number} held at {stage}")

    def pass_gate(self, stage: str) -> None:
        """Wait at a stage's gate, if there is one."""
        gate = self._gates.get(stage)
        if gate is None:
            return
        self._count_held(stage, 1)
        gate.wait()
        self._count_held(stage, -1)

    def _count_held(self, stage: str, change: int) -> None:
        with self._lock:
            self._held[stage] = self._held.get(stage, 0) + change

    def drop_connections(self, text: str | None = None) -> None:
        """Cut every connection that is open now, with a last word (``"421 idle"``) if given."""
        for session in self._open():
            with contextlib.suppress(OSError):
                if text:
                    session.send(text.encode() + b"\r\n")
                session.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not any(s.thread.is_alive() for s in self._open()))

    # -- what it saw -----------------------------------------------------------------------------

    @property
    def messages(self) -> list[Received]:
        """The mails taken so far, in order."""
        with self._lock:
            return list(self._messages)

    @property
    def commands(self) -> list[Command]:
        """Every command line so far, in order (the body of mails is not among them)."""
        with self._lock:
            return list(self._commands)

    @property
    def violations(self) -> list[str]:
        """What the strict mode found wrong."""
        with self._lock:
            return list(self._violations)

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        with self._lock:
            return self._connections

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._open())

    @property
    def cafile(self) -> str:
        """What a client has to trust for ``certificate="good"``."""
        return certificates().cafile

    def count(self, verb: str) -> int:
        """How often a command was given, e.g. ``MAIL``."""
        return sum(command.verb == verb.upper() for command in self.commands)

    def wait_for(self, number: int, timeout: float = 10.0) -> list[Received]:
        """Wait until that many mails were taken; returns them all."""
        wait_until(
            lambda: len(self.messages) >= number,
            timeout,
            f"{number} mails were to arrive at the server within {timeout} s",
        )
        return self.messages

    def url(self, user: str = "", password: str = "", **options: str) -> str:
        """A transport URL for this server; ``tls=none`` unless it speaks TLS."""
        options = {"tls": "none"} | options if self.tls == "none" else options
        if self.tls != "none":
            options = {"cafile": self.cafile} | options
        scheme = "smtps" if self.tls == "implicit" else "smtp"
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"{scheme}://{login}{self.host}:{self.port}?{urlencode(options)}"

    # -- for sessions ----------------------------------------------------------------------------

    def take(self, message: Received) -> None:
        """Record a mail."""
        with self._lock:
            self._messages.append(message)

    def note(self, command: Command) -> None:
        """Record a command."""
        with self._lock:
            self._commands.append(command)

    def blame(self, fault: str) -> None:
        """Record something that a strict server does not take."""
        with self._lock:
            self._violations.append(fault)

    def too_many(self) -> bool:
        """Whether the newest connection is one too many."""
        return self.max_connections is not None and self.open_connections > self.max_connections

    def greylisted(self, sender: str, recipient: str) -> bool:
        """Whether this pair still has to wait."""
        if self.greylist is None:
            return False
        with self._lock:
            first = self._first_seen.setdefault((sender, recipient), time.monotonic())
        return time.monotonic() - first < self.greylist
