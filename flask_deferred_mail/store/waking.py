"""Waking a sender that waits, instead of asking the database again and again.

On PostgreSQL, whoever has committed mail for others to send says so by NOTIFY, on a connection of
its own, from a thread of its own, at most once in 50 ms; and whoever waits has said LISTEN. All of
it is best effort: a waiting sender looks at the table all the same, only seldom. Through a
PgBouncer that pools transactions LISTEN succeeds and nothing is ever heard, so a listener first
sends itself a word.

Other databases have nothing of the kind: there the sender polls, at the pace of
:mod:`flask_deferred_mail.delivery.rhythm`.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import selectors
import threading
import time
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreError
from .database import Database

log = logging.getLogger("flask_deferred_mail.store")

#: The same in every database of PostgreSQL, which keeps the channels of its databases apart.
CHANNEL = "flask_deferred_mail"

#: Seconds between two notifications of one process, at least.
AT_MOST_EVERY = 0.05

#: Seconds after which the thread that notifies ends, if there is nothing more to say.
_IDLE = 5.0
#: Seconds that a process which ends waits for its last notification.
_AT_EXIT = 0.5
#: Seconds for a listener's word to itself.
_SELF_TEST = 2.0
#: Seconds until listening is tried again after it broke, or did not work.
_LISTEN_AGAIN = 60.0

_NOTIFY = text("SELECT pg_notify(:channel, :word)")


def notifies(database: Database) -> bool:
    """Whether this kind of database can wake a sender."""
    return database.backend.url.get_backend_name() == "postgresql"


def notify(database: Database, word: str = "") -> None:
    """Wake all who listen, in a transaction of its own.

    :raises StoreError: it did not work.
    """
    values = {"channel": CHANNEL, "word": word}
    database.write_one(lambda c: c.execute(_NOTIFY, values), patience=0.0)


class Bell:
    """Tells the senders of other processes that there is mail. Costs the caller a few
    microseconds, whatever the database does, and never raises."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._works = notifies(database)
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._rung = threading.Event()
        self._said = threading.Event()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """Something may be due: call it after the commit."""
        if not self._works:
            return  # or closed: a thread would open connections again
        if self._pid != os.getpid():
            self._start_anew()  # forked: thread and lock are the parent's
        with self._lock:
            self._said.clear()
            self._rung.set()
            if self._thread is None:
                self._start()

    def close(self) -> None:
        """Say what is to be said, and then nothing more."""
        self._works = False
        if self._pid == os.getpid() and self._thread is not None:
            self._said.wait(_AT_EXIT)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="deferred-mail-bell", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the interpreter ends; whoever waits will look by itself
        self._thread = thread
        atexit.register(self._last_word)

    def _run(self) -> None:
        while True:
            if not self._rung.wait(_IDLE):
                with self._lock:
                    if not self._rung.is_set():
                        self._thread = None
                        atexit.unregister(self._last_word)
                        return
            self._rung.clear()
            self._say()
            if not self._rung.is_set():
                self._said.set()
            time.sleep(AT_MOST_EVERY)

    def _say(self) -> None:
        try:
            notify(self._database)
        except (StoreError, SQLAlchemyError) as error:
            log.debug("waiting senders were not woken: %s", error)

    def _last_word(self) -> None:
        if self._pid == os.getpid():
            self._said.wait(_AT_EXIT)


class Ear:
    """A connection that listens, apart from the pool.

    :raises StoreError: it cannot be had.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._faults: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
        self._interrupted, self._interrupt = os.pipe()
        try:
            engine = database.engine
            self._faults += (engine.dialect.loaded_dbapi.Error,)
            pooled = engine.raw_connection()
            driven: Any = pooled.driver_connection
            self._connection = driven
            pooled.detach()
            self._connection.autocommit = True
            self._connection.execute(f"LISTEN {CHANNEL}")
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._connection.fileno(), selectors.EVENT_READ)
            self._selector.register(self._interrupted, selectors.EVENT_READ)
        except self._faults as error:
            self.close()
            raise StoreError(f"{database.shown}: LISTEN failed") from error

    def works(self) -> bool:
        """Whether a word to oneself arrives.

        :raises StoreError: the connection is lost.
        """
        word = secrets.token_hex(8)
        notify(self._database, word)
        until = time.monotonic() + _SELF_TEST
        while (left := until - time.monotonic()) > 0:
            if word in self.words(left):
                return True
        return False

    def words(self, seconds: float) -> list[str]:
        """What was said; waits for it for so many seconds, or until interrupted.

        :raises StoreError: the connection is lost.
        """
        until = time.monotonic() + seconds
        while not (found := self._pending()):
            ready = self._selector.select(max(0.0, until - time.monotonic()))
            if any(key.fd == self._interrupted for key, _ in ready) or not ready:
                return self._pending()
            # What came may be no word: a server that closes the connection first says why.
        return found

    def _pending(self) -> list[str]:
        words: list[str] = []
        try:
            self._connection.pgconn.consume_input()
            while (notification := self._connection.pgconn.notifies()) is not None:
                words.append(notification.extra.decode("utf-8", "replace"))
        except self._faults as error:
            raise StoreError(
                f"{self._database.shown}: the connection that listens is lost"
            ) from error
        return words

    def interrupt(self) -> None:
        """Let :meth:`words` return at once, now and from now on; from any thread."""
        os.write(self._interrupt, b".")

    def close(self) -> None:
        """Listen no more."""
        if selector := getattr(self, "_selector", None):
            selector.close()
        if connection := getattr(self, "_connection", None):
            connection.close()
        os.close(self._interrupted)
        os.close(self._interrupt)


class Waiter:
    """Waits until there may be mail, for one sweep."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopped = threading.Event()
        self._ear: Ear | None = None
        self._lock = threading.Lock()
        self._listen_at = 0.0 if notifies(database) else float("inf")

    @property
    def listening(self) -> bool:
        """Whether it is woken when there is mail; else it has to look often."""
        return self._ear is not None

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or less if somebody says that there is mail (true) or stops it."""
        ear = self._listen()
        if ear is None:
            self._stopped.wait(seconds)
            return False
        try:
            return bool(ear.words(seconds))
        except StoreError as error:
            self._give_up(f"{error}; asking the database from time to time instead")
            return True  # who knows what was missed

    def stop(self) -> None:
        """Let :meth:`wait` return at once, now and from now on; from any thread."""
        self._stopped.set()
        with self._lock:
            if self._ear is not None:
                self._ear.interrupt()

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    def _listen(self) -> Ear | None:
        if self._ear is None and time.monotonic() >= self._listen_at:
            self._listen_at = time.monotonic() + _LISTEN_AGAIN
            self._open()
        return self._ear

    def _open(self) -> None:
        try:
            ear = Ear(self._database)
        except StoreError as error:
            log.info("%s; asking the database from time to time instead", error)
            return
        with self._lock:
            self._ear = ear
            if self._stopped.is_set():
                ear.interrupt()
        try:
            works = ear.works()
        except StoreError:
            works = False
        if not works:
            self._give_up("LISTEN is of no use here (a pooler in between?): the sweep polls")

    def _give_up(self, why: str) -> None:
        log.info("%s", why)
        self.close()


def hears(database: Database) -> bool | None:
    """Whether a sender that waits is woken; ``None``: this kind of database wakes nobody."""
    if not notifies(database):
        return None
    try:
        ear = Ear(database)
    except StoreError:
        return False
    try:
        return ear.works()
    except StoreError:
        return False
    finally:
        ear.close()
