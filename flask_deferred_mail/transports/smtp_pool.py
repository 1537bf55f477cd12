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
#: Idle connections kept at most.
MAX_IDLE = 32


class IdleConnections:
    """Connections that ended a transaction cleanly and wait for another one."""

    def __init__(
        self, idle_seconds: float = IDLE_SECONDS, mails: int = MAILS_PER_CONNECTION
    ) -> None:
        self._idle_seconds = idle_seconds
        self._mails = mails
        self._lock = threading.Lock()
        # Newest last: the one used last is taken first, so that the others may grow old and go.
        self._idle: list[SmtpConnection] = []

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
        connection.idle_since = time.monotonic()
        connection.owner = weakref.ref(threading.current_thread())
        with self._lock:
            self._idle.append(connection)
            stale = [c for c in self._idle if not self._is_fresh(c)] or self._idle[:-MAX_IDLE]
            self._idle = [c for c in self._idle if c not in stale]
        for connection in stale:
            connection.leave()

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
        for connection in self._idle:
            connection.hang_up()

    def _empty(self) -> list[SmtpConnection]:
        with self._lock:
            idle, self._idle = self._idle, []
        return idle

    def _newest(self) -> SmtpConnection | None:
        me = threading.current_thread()
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if _is_free(self._idle[index], me):
                    return self._idle.pop(index)
        return None

    def _is_fresh(self, connection: SmtpConnection) -> bool:
        return time.monotonic() - connection.idle_since < self._idle_seconds


def _is_free(connection: SmtpConnection, thread: threading.Thread) -> bool:
    owner = connection.owner() if connection.owner is not None else None
    return owner is None or owner is thread or not owner.is_alive()


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
