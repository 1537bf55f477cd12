"""Idle connections of one process, kept for the next mail.

A connection goes back to the thread that used it last. That is more than tidiness: a thread
records what became of its mail before it sends the next one, so on one connection there is never
more than one mail whose outcome is not in its row (requirement 2 of the fault table). Another
thread gets the connection once the first one has ended.
"""

from __future__ import annotations

import threading
import time
import weakref

from ..deadline import Deadline
from .smtp_connection import Broken, SmtpConnection

#: Seconds after which an idle connection is not trusted any more.
IDLE_SECONDS = 30.0
#: Seconds after which an idle connection is looked at before it is used.
JUST_NOW = 0.25
#: Mails after which a connection is given up: many servers count, and end it rudely.
MAILS_PER_CONNECTION = 100
#: Idle connections kept at most: more than senders, who let go of theirs between two mails.
MAX_IDLE = 512
#: Seconds between two looks for connections that are idle for too long.
_LOOK_EVERY = 1.0


class IdleConnections:
    """Connections that ended a transaction cleanly and wait for another one."""

    def __init__(
        self, idle_seconds: float = IDLE_SECONDS, mails: int = MAILS_PER_CONNECTION
    ) -> None:
        self._idle_seconds = idle_seconds
        self._mails = mails
        self._lock = threading.Lock()
        # By the thread that used it last; it has one at most. The oldest are first.
        self._idle: dict[int, SmtpConnection] = {}
        self._look_at = 0.0

    def take(self) -> SmtpConnection | None:
        """The newest connection of this thread that still lives; it is the caller's now."""
        while (connection := self._newest()) is not None:
            if self._is_fresh(connection) and (_was_just_used(connection) or _is_quiet(connection)):
                return connection
            connection.leave()
        return None

    def give_back(self, connection: SmtpConnection) -> None:
        """Keep a connection after a clean transaction; never waits for the server."""
        if connection.mails >= self._mails:
            connection.leave()
            return
        now = connection.idle_since = time.monotonic()
        connection.owner = weakref.ref(threading.current_thread())
        me = threading.get_ident()
        with self._lock:
            former = self._idle.pop(me, None)
            self._idle[me] = connection
            stale = [] if former is None else [former]
            if now >= self._look_at or len(self._idle) > MAX_IDLE:
                self._look_at = now + _LOOK_EVERY
                stale += self._old_ones()
        for other in stale:
            other.leave()

    def _old_ones(self) -> list[SmtpConnection]:
        """Take out what has been idle for too long, and what is too many."""
        too_many = len(self._idle) - MAX_IDLE
        keys = [
            key
            for number, (key, connection) in enumerate(self._idle.items())
            if number < too_many or not self._is_fresh(connection)
        ]
        return [self._idle.pop(key) for key in keys]

    def forsake(self) -> None:
        """Cut this thread's connections: one may wait for the body of its next mail."""
        while (connection := self._newest()) is not None:
            connection.hang_up()

    def close(self, seconds: float) -> None:
        """Say goodbye on all of them, within ``seconds`` altogether."""
        deadline = Deadline.after(seconds)
        for connection in self._empty():
            connection.quit(deadline)

    def abandon(self) -> None:
        """Close our copies of connections that belong to the process we were forked from.

        Not a byte is sent: the connection is still the parent's. Takes no lock, because a thread
        that held it may not have come along.
        """
        for connection in list(self._idle.values()):
            connection.hang_up()

    def _empty(self) -> list[SmtpConnection]:
        with self._lock:
            idle, self._idle = self._idle, {}
        return list(idle.values())

    def _newest(self) -> SmtpConnection | None:
        """This thread's own, else the newest of those whose thread has ended."""
        with self._lock:
            connection = self._idle.pop(threading.get_ident(), None)
            if connection is not None:
                return connection
            free = [key for key, other in self._idle.items() if _has_no_owner(other)]
            return self._idle.pop(free[-1]) if free else None

    def _is_fresh(self, connection: SmtpConnection) -> bool:
        return time.monotonic() - connection.idle_since < self._idle_seconds


def _has_no_owner(connection: SmtpConnection) -> bool:
    owner = connection.owner() if connection.owner is not None else None
    return owner is None or not owner.is_alive()


def _was_just_used(connection: SmtpConnection) -> bool:
    """Then a look costs more than it can save: what the server says now answers MAIL, and a new
    connection is tried. One whose next envelope is out already is expected to say something."""
    return connection.ahead is not None or time.monotonic() - connection.idle_since < JUST_NOW


def _is_quiet(connection: SmtpConnection) -> bool:
    """Whether the server neither left nor said something (as ``421``) while nobody listened."""
    try:
        return connection.unsolicited() is None
    except Broken:
        return False
