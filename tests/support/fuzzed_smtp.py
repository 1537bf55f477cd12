"""A mail server that pipelines and answers by chance, and knows exactly what it has done.

    with FuzzedSmtp(seed=7) as server:
        ...
        for dot in server.dots: ...

Of a hundred answers some five are a refusal, a farewell, no SMTP at all, half an answer or a cut
line; the others come in every form that SMTP allows. Answers to commands that came together may
leave together, or in pieces. ``calm=True``: only the forms vary, nothing is refused or cut.

Every answer names whom it is about, so that one which was taken for the answer to something else
can be told by its words. Mails have to come from ``from-<number>@...``, to ``to-<number>-...@...``.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.smtp_script import Action, ConnectionOver, Turn
from tests.support.smtp_server import SmtpServer
from tests.support.smtp_session import Session

#: What is not SMTP: a client has to give up the connection over each.
_GARBAGE = (
    b"\x00\xff\xfe<script>\x1b[31mHTTP/1.1 200 OK\r\n",
    b"\r\n",
    b"199 too low\r\n",
    b"25O letters\r\n",
    b"250-first\r\n550 second\r\n",
    b"250-first\r\nsecond\r\n",
    b"250" + b"-" * 5 + b"\n" + b"250_ok\r\n",
)


@dataclass
class Answered:
    """An answer to MAIL, RCPT or DATA that has left whole."""

    stage: str
    connection: int
    #: Number of the mail.
    mail: int
    #: Whom it is about; for MAIL and DATA everybody of that envelope.
    address: str | None
    code: int


@dataclass
class Dot:
    """A mail that came whole, and what was made of it."""

    connection: int
    #: Number of the mail, by its envelope.
    mail: int
    recipients: tuple[str, ...]
    #: Parameters of MAIL.
    options: tuple[str, ...]
    data: bytes = field(repr=False)
    #: Position among all dots of the server.
    order: int
    accepted: bool = False
    #: The answer has left whole.
    delivered: bool = False
    code: int = 0
    queue_id: str = ""


class FuzzedSmtp(SmtpServer):
    """The server. Offers PIPELINING and SIZE.

    :param seed: of all chances; those of a connection depend on its number, too.
    :param trouble: share of answers that are trouble.
    :param at_dot: told of each mail that came whole, before it is answered.
    """

    def __init__(
        self,
        seed: int,
        *,
        trouble: float = 0.05,
        at_dot: Callable[[Dot], None] = lambda dot: None,
        **options: Any,
    ) -> None:
        stages = {"mail": _mail, "rcpt": _rcpt, "data": _data, "dot": _dot, "rset": _rset}
        super().__init__(size=50_000_000, **{**stages, **options})
        self.session_type = FuzzedSession
        self.seed = seed
        self.trouble = trouble
        self.at_dot = at_dot
        self.dots: list[Dot] = []
        self.answered: list[Answered] = []
        #: What no client may do, in words.
        self.faults: list[str] = []

    def note_dot(self, session: FuzzedSession, turn: Turn) -> Dot:
        """A mail came whole."""
        assert isinstance(turn.argument, bytes)
        recipients, options = tuple(turn.recipients), tuple(session.options)
        with self._lock:
            dot = Dot(
                session.number,
                session.mail,
                recipients,
                options,
                turn.argument,
                len(self.dots),
                queue_id=f"Q{len(self.dots)}of{session.mail}",
            )
            self.dots.append(dot)
        self.at_dot(dot)
        return dot


class FuzzedSession(Session):
    """One connection; its answers may be kept for a moment, to leave with those that follow."""

    server: FuzzedSmtp

    def __init__(self, server: FuzzedSmtp, connection: Any, number: int) -> None:
        super().__init__(server, connection, number)
        self.rng = random.Random(f"{server.seed}/{number}")
        #: The mail that the last MAIL was about.
        self.mail = -1
        self._kept = bytearray()
        #: How much of what is kept has to leave first, and what is done then.
        self._once_out: list[tuple[int, Callable[[], None]]] = []

    @property
    def options(self) -> list[str]:
        return self._options

    @property
    def carried(self) -> int:
        """How many mails came whole so far."""
        return self._mails

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def say(self, data: bytes, whole: Callable[[], None]) -> None:
        """Keep or send words; ``whole`` is called when the last of them has left."""
        self._once_out.append((len(self._kept) + len(data), whole))
        self.send(data)

    def send(self, data: bytes) -> None:
        self._kept += data
        if self.chance(0.3):
            self.flush()

    def _more(self) -> None:
        self.flush()
        super()._more()

    def _handshake(self) -> None:
        self.flush()
        super()._handshake()

    def flush(self) -> None:
        """Let go what was kept, whole or in pieces."""
        data, self._kept = bytes(self._kept), bytearray()
        waiting, self._once_out = self._once_out, []
        out = 0
        while out < len(data):
            end = self.rng.randint(out + 1, len(data)) if self.chance(0.2) else len(data)
            self.socket.sendall(data[out:end])
            for _, whole in (step for step in waiting if out < step[0] <= end):
                whole()
            out = end
            if out < len(data) and self.chance(0.5):
                self.wait(self.rng.uniform(0, 0.003))

    def hang_up(self) -> None:
        """What was kept is lost at times."""
        if self.chance(0.5):
            with contextlib.suppress(OSError, ConnectionOver):
                self.flush()
        super().hang_up()


@dataclass(frozen=True)
class Words(Action):
    """Say this, then note that it was said, then stay or leave."""

    data: bytes
    code: int
    whole: Callable[[], None] = lambda: None
    leave: str = ""

    def play(self, turn: Turn) -> None:
        session = _session(turn)
        # Only what the conversation goes by: whether a mail was taken is noted elsewhere.
        turn.code = str(self.code)
        if session.chance(0.2):
            session.wait(session.rng.uniform(0, 0.01))
        session.say(self.data, self.whole)
        if self.leave == "reset":
            session.flush()
            session.reset()
        elif self.leave:
            session.hang_up()
        if self.leave:
            raise ConnectionOver


def _session(turn: Turn) -> FuzzedSession:
    assert isinstance(turn.wire, FuzzedSession)
    return turn.wire


def _formed(session: FuzzedSession, code: int, text: str) -> bytes:
    """An answer in one of the forms that there are."""
    rng = session.rng
    form = rng.random()
    if form < 0.7:
        return f"{code} {text}\r\n".encode()
    if form < 0.8:
        return f"{code}-{text}\r\n{code} and no more\r\n".encode()
    if form < 0.85:
        lines = "".join(f"{code}-{text} line {n}\r\n" for n in range(rng.randint(2, 20)))
        return f"{lines}{code} {text}\r\n".encode()
    if form < 0.9:
        return f"{code} {text}\n".encode()
    if form < 0.95:
        return f"{code} {text}  \t \N{WHITE SMILING FACE} {'x' * rng.randint(0, 900)}\r\n".encode()
    return f"{code} {text}\r\n".encode() if session.chance(0.5) else f"{code}\r\n".encode()


def _fine(session: FuzzedSession, code: int, text: str, whole: Callable[[], None]) -> Words:
    return Words(_formed(session, code, text), code, whole)


_REFUSALS = {
    "mail": (451, 450, 452, 554, 554, 552),
    "rcpt": (450, 451, 452, 550, 550, 553, 554),
    "data": (451, 450, 554, 503),
    "dot": (451, 450, 452, 554, 550, 552),
}
_ENHANCED = {450: "4.2.1", 451: "4.7.1", 452: "4.5.3", 552: "5.3.4", 503: "5.5.1"}
_WRONG = {"mail": 354, "rcpt": 354, "data": 250, "dot": 354}


def _troubled(session: FuzzedSession, stage: str, text: str, note: Callable[[int], None]) -> Words:
    """Something that is no consent."""
    rng = session.rng
    # A new connection that breaks before MAIL is answered is an outage: mail comes slowly after it.
    often = 100 if stage == "mail" and not session.carried else 6
    others = ["farewell", "drop", "reset", "garbage", "half", "wrong"]
    kind = rng.choice(["refuse"] * often + others)
    if kind == "refuse":
        code = rng.choice(_REFUSALS[stage])
        words = f"{_ENHANCED.get(code, '5.7.1')} refused: {text}"
        return Words(_formed(session, code, words), code, lambda: note(code))
    if kind == "farewell":
        leave = rng.choice(["", "hang up", "reset"])
        return Words(b"421 4.3.2 closing\r\n", 421, lambda: note(421), leave)
    if kind == "garbage":
        leave = rng.choice(["", "hang up"])
        return Words(rng.choice(_GARBAGE), 0, leave=leave)
    if kind == "half":
        whole = f"{rng.choice([250, 354, 550])} 2.0.0 half: {text}"
        return Words(whole[: rng.randint(1, len(whole))].encode(), 0, leave="hang up")
    if kind == "wrong":
        return Words(f"{_WRONG[stage]} what? {text}\r\n".encode(), 0, lambda: note(_WRONG[stage]))
    return Words(b"", 0, leave={"drop": "hang up", "reset": "reset"}[kind])


def _is_troubled(session: FuzzedSession) -> bool:
    return session.chance(session.server.trouble)


def number_in(address: str) -> int:
    """Which mail an address belongs to; -1: none."""
    match = re.search(r"(?:from|to)-(\d+)", address)
    return int(match[1]) if match else -1


def _mail(turn: Turn) -> Action:
    session = _session(turn)
    session.mail = number_in(str(turn.argument))
    if turn.usual[:1] != "2":
        session.server.faults.append(f"{turn.argument}: {turn.usual}")
    return _answer(session, turn, "mail", None, f"sender from-{session.mail}")


def _rcpt(turn: Turn) -> Action:
    session = _session(turn)
    address = str(turn.argument).removeprefix("TO:").split(" ")[0][1:-1]
    return _answer(session, turn, "rcpt", address, f"recipient {address}")


def _data(turn: Turn) -> Action:
    return _answer(_session(turn), turn, "data", None, f"data of from-{_session(turn).mail}")


def _answer(
    session: FuzzedSession, turn: Turn, stage: str, address: str | None, text: str
) -> Action:
    mail = session.mail

    def note(code: int) -> None:
        session.server.answered.append(Answered(stage, session.number, mail, address, code))

    if turn.usual[:1] not in "23" and not session.chance(0.2):
        # Of an envelope that was refused before. A few servers go on as if it had not been.
        code = int(turn.usual[:3])
        return Words(_formed(session, code, f"5.5.1 out of turn: {text}"), code, lambda: note(code))
    if _is_troubled(session):
        return _troubled(session, stage, text, note)
    code = {"data": 354}.get(stage, 250)
    if stage == "rcpt" and session.chance(0.1):
        code = session.rng.choice([251, 252])
    return _fine(session, code, f"fine: {text}", lambda: note(code))


def _dot(turn: Turn) -> Action:
    session = _session(turn)
    dot = session.server.note_dot(session, turn)

    def delivered(code: int) -> None:
        dot.code, dot.delivered = code, True

    if turn.usual[:1] != "2":
        session.server.faults.append(f"{dot}: {turn.usual}")
    text = f"mail of from-{dot.mail}"
    if not _is_troubled(session):
        dot.accepted = True
        return _fine(session, 250, f"2.0.0 queued as {dot.queue_id}", lambda: delivered(250))
    if session.chance(0.5):
        return _troubled(session, "dot", text, delivered)
    dot.accepted = True
    last = session.rng.choice(["drop", "reset", "half", "garbage", "farewell after"])
    if last == "half":
        whole = f"250 2.0.0 queued as {dot.queue_id}"
        return Words(whole[: session.rng.randint(1, len(whole))].encode(), 0, leave="hang up")
    if last == "garbage":
        return Words(session.rng.choice(_GARBAGE), 0)
    if last == "farewell after":
        said = f"250 2.0.0 queued as {dot.queue_id}\r\n421 4.3.2 closing\r\n".encode()
        return Words(said, 250, lambda: delivered(250), "hang up")
    return Words(b"", 0, leave="reset" if last == "reset" else "hang up")


def _rset(turn: Turn) -> Action:
    session = _session(turn)
    if _is_troubled(session):
        return _troubled(session, "mail", "RSET", lambda code: None)
    return _fine(session, 250, "2.0.0 forgotten", lambda: None)
