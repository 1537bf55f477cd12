"""What a scripted mail server can do in place of its usual answer.

A stage of :class:`tests.support.smtp_server.SmtpServer` is scripted with one of these:

- ``None``: the usual answer;
- a string: that reply each time (``"550 5.1.1 no such user"``; line breaks make it multi-line);
- an action of this module: ``Drop()``, ``Hang()``, ``Delay(2)``, ...;
- a list, tuple or generator of the above: one is used up per turn, over all connections; once it
  is empty the usual answer comes back;
- a callable that gets the :class:`Turn` and returns any of the above.

At the ``dot`` stage a mail is recorded when a reply that starts with ``2`` is about to be sent.
``Accept(Drop())`` is the server that takes the mail and then says nothing about it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol


class ConnectionOver(Exception):
    """The server has nothing more to do with this connection."""


class Wire(Protocol):
    """What an action may do to a connection."""

    def send(self, data: bytes) -> None: ...
    def wait(self, seconds: float | None) -> None: ...
    def hang_up(self) -> None: ...
    def reset(self) -> None: ...


@dataclass
class Turn:
    """One answer that is due: what was asked, and how often already."""

    stage: str
    #: The rest of the command line, e.g. ``FROM:<a@example.com> SIZE=90``; for ``dot`` the body.
    argument: str | bytes
    #: What a well-behaved server would say.
    usual: str
    #: How many turns this stage had before, on all connections together.
    count: int
    #: Number of the connection, from 1.
    connection: int
    #: How many turns this stage had before on this connection.
    count_here: int
    #: Envelope so far.
    recipients: list[str]
    wire: Wire
    on_accept: Callable[[], None] = lambda: None
    #: The code that went out, once it did.
    code: str = ""
    accepted: bool = field(default=False)

    def accept(self) -> None:
        """Take responsibility for the mail: once per turn."""
        if not self.accepted:
            self.accepted = True
            self.on_accept()

    def said(self, data: bytes) -> None:
        """Note the code of a reply that is about to go out; a 2xx accepts."""
        self.code = data[:3].decode("latin-1")
        if self.code[:1] == "2":
            self.accept()


class Action:
    """Something that a server does when an answer is due."""

    def play(self, turn: Turn) -> None:
        raise NotImplementedError


def as_wire(text: str | bytes) -> bytes:
    """A reply as bytes, with CRLF; bytes are left as they are."""
    if isinstance(text, bytes):
        return text
    return "".join(line + "\r\n" for line in text.splitlines()).encode()


@dataclass(frozen=True)
class Say(Action):
    """Answer with this text; bytes go out untouched. ``None``: the usual answer."""

    text: str | bytes | None = None

    def play(self, turn: Turn) -> None:
        data = as_wire(turn.usual if self.text is None else self.text)
        turn.said(data)
        turn.wire.send(data)


@dataclass(frozen=True)
class Delay(Action):
    """Wait, then answer."""

    seconds: float
    then: Any = None

    def play(self, turn: Turn) -> None:
        turn.wire.wait(self.seconds)
        as_action(self.then, turn).play(turn)


class Hang(Action):
    """Never answer; the connection stays open until the server is closed."""

    def play(self, turn: Turn) -> None:
        turn.wire.wait(None)
        raise ConnectionOver


class Drop(Action):
    """Close the connection in place of an answer."""

    def play(self, turn: Turn) -> None:
        turn.wire.hang_up()
        raise ConnectionOver


class Reset(Action):
    """Reset the connection (RST) in place of an answer."""

    def play(self, turn: Turn) -> None:
        turn.wire.reset()
        raise ConnectionOver


@dataclass(frozen=True)
class SayAndDrop(Action):
    """Answer, then close the connection."""

    text: str | bytes | None = None

    def play(self, turn: Turn) -> None:
        Say(self.text).play(turn)
        Drop().play(turn)


@dataclass(frozen=True)
class Garbage(Action):
    """Bytes that are no SMTP reply."""

    data: bytes = b"\x00\xff\xfe<script>\x1b[31mHTTP/1.1 200 OK\r\n"

    def play(self, turn: Turn) -> None:
        turn.wire.send(self.data)


@dataclass(frozen=True)
class Trickle(Action):
    """Send the answer one byte at a time. A 2xx is accepted before its first byte."""

    interval: float = 0.3
    text: str | None = None

    def play(self, turn: Turn) -> None:
        data = as_wire(turn.usual if self.text is None else self.text)
        turn.said(data)
        for byte in data:
            turn.wire.send(bytes((byte,)))
            turn.wire.wait(self.interval)


@dataclass(frozen=True)
class Endless(Action):
    """Continuation lines without end."""

    line: bytes = b"250-and one more thing\r\n"
    interval: float = 0.0

    def play(self, turn: Turn) -> None:
        while True:
            turn.wire.send(self.line)
            turn.wire.wait(self.interval)


@dataclass(frozen=True)
class LongLine(Action):
    """One reply line of ``length`` characters; with ``end=False`` it never ends."""

    length: int = 100_000
    code: str = "250"
    end: bool = True

    def play(self, turn: Turn) -> None:
        data = self.code.encode() + b" " + b"x" * self.length
        turn.said(data)
        turn.wire.send(data)
        while not self.end:
            turn.wire.send(b"x" * 1000)
        turn.wire.send(b"\r\n")


@dataclass(frozen=True)
class Accept(Action):
    """Take the mail (it is recorded), then do this in place of saying so."""

    then: Any = field(default_factory=Hang)

    def play(self, turn: Turn) -> None:
        turn.accept()
        as_action(self.then, turn).play(turn)


def as_action(item: Any, turn: Turn) -> Action:
    """One of the accepted spellings as an action."""
    if callable(item) and not isinstance(item, Action):
        item = item(turn)
    if item is None or isinstance(item, (str, bytes)):
        return Say(item)
    assert isinstance(item, Action), f"not something a server can do: {item!r}"
    return item


class Script:
    """What to do at each stage; safe to ask from many connections at once."""

    def __init__(self, stages: dict[str, Any]) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._stages: dict[str, Any] = {}
        for stage, item in stages.items():
            self.set(stage, item)

    def set(self, stage: str, item: Any) -> None:
        """Replace what happens at a stage from now on."""
        one_by_one = not isinstance(item, (str, bytes)) and hasattr(item, "__iter__")
        with self._lock:
            self._stages[stage] = iter(item) if one_by_one else item

    def tick(self, stage: str) -> int:
        """Count a turn of this stage; returns how many there were before."""
        with self._lock:
            count = self._counts.get(stage, 0)
            self._counts[stage] = count + 1
            return count

    def action(self, turn: Turn) -> Action:
        """What happens this time."""
        with self._lock:
            item = self._stages.get(turn.stage)
            if isinstance(item, Iterator):
                item = next(item, None)
        return as_action(item, turn)
