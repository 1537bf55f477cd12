"""Tells somebody else's queue that there is mail: numbers of jobs, and nothing but numbers.

``ring`` is all that runs inside the server's ``close()``: it puts numbers into a bounded list. One
thread takes them out and talks to the broker, which may be down, slow or silent for ever. Nothing
depends on it: a number that is lost leaves a row that is due, and the sweep sends it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..cleaning import clean

log = logging.getLogger("flask_deferred_mail.delivery")

#: Hands numbers over in one message. May block and raise.
Dispatch = Callable[[list[int]], None]

#: Numbers in one message at most: one worker sends them one after the other.
PER_MESSAGE = 20
#: Numbers that wait for the broker at most.
PLACES = 10_000
#: Seconds that one message may take; then its thread counts as standing still.
PATIENCE = 10.0
#: Seconds for which nothing is handed over after an error; and after a thread stood still.
PAUSE_AFTER_ERROR = 5.0
PAUSE_AFTER_SILENCE = 30.0
#: Threads that may stand still at the same time, before no other is started.
MOST_STUCK = 3
#: Seconds between two lines in the log about the same trouble.
SAID_EVERY = 60.0

_LOGIN = re.compile(r"://[^/@\s]*@")


class HandOver:
    """The thread of one app in one process that talks to a broker. It starts with the first mail.

    :param dispatch: hands numbers over in one message.
    :param release: lets go of what ``dispatch`` keeps open; called by the same thread at its end.
    :param usable: False where threads do not run; everything is left to the sweep then.
    """

    def __init__(
        self, dispatch: Dispatch, release: Callable[[], None], *, usable: bool = True
    ) -> None:
        self._dispatch = dispatch
        self._release = release
        self._usable = usable
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._messages: deque[list[int]] = deque()
        self._waiting = 0
        #: Whoever holds this may take messages; a thread that stands still has lost it.
        self._turn: object | None = None
        self._thread: threading.Thread | None = None
        #: When the message in work was begun; ``None``: none is.
        self._begun: float | None = None
        self._stuck = 0
        self._paused_until = 0.0
        self._quiet_until = 0.0
        self._left = 0

    def ring(self, job_ids: Sequence[int]) -> bool:
        """Have these handed over soon. False: (some of) them are left to the sweep."""
        with self._lock:
            if self._begun is not None and time.monotonic() - self._begun > PATIENCE:
                self._pass_by()
            if not self._takes(len(job_ids)):
                self._leave(len(job_ids))
                return False
            for start in range(0, len(job_ids), PER_MESSAGE):
                self._messages.append(list(job_ids[start : start + PER_MESSAGE]))
            self._waiting += len(job_ids)
            self._changed.notify_all()
            return self._turn is not None or self._start()

    def _takes(self, number: int) -> bool:
        if not self._usable or time.monotonic() < self._paused_until:
            return False
        return self._waiting + number <= PLACES and self._stuck < MOST_STUCK

    def _start(self) -> bool:
        turn = self._turn = object()
        thread = self._thread = threading.Thread(
            target=self._work, args=(turn,), name="deferred-mail-handover", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._turn = None
            self._give_up(f"no thread can be started ({error})", PAUSE_AFTER_SILENCE)
            return False
        return True

    # -- in the thread ----------------------------------------------------------------------

    def _work(self, turn: object) -> None:
        self._hand_over(turn)
        try:
            self._release()
        except Exception as error:  # noqa: BLE001 - as below
            log.debug("letting go of the broker: %s", _words(error))

    def _hand_over(self, turn: object) -> None:
        while (job_ids := self._next(turn)) is not None:
            trouble: BaseException | None = None
            try:
                self._dispatch(job_ids)
            except BaseException as error:  # noqa: BLE001 - a broker's library may raise anything
                trouble = error
            with self._lock:
                if self._turn is not turn:
                    self._stuck -= 1
                    return
                self._begun = None
                if trouble is not None:
                    self._left += len(job_ids)
                    self._give_up(_words(trouble), PAUSE_AFTER_ERROR)
                self._changed.notify_all()

    def _next(self, turn: object) -> list[int] | None:
        """The next message; waits for it. ``None``: this thread is needed no more."""
        with self._lock:
            while self._turn is turn and self._usable and not self._messages:
                self._changed.wait()
            if self._turn is not turn or not self._messages:
                return None
            job_ids = self._messages.popleft()
            self._waiting -= len(job_ids)
            self._begun = time.monotonic()
            return job_ids

    # -- trouble ----------------------------------------------------------------------------

    def _pass_by(self) -> None:
        """The thread stands still: count on it no more, and do not ask the broker for a while."""
        self._turn = self._begun = None
        self._stuck += 1
        self._give_up(f"no answer within {PATIENCE:.0f} s", PAUSE_AFTER_SILENCE)

    def _give_up(self, why: str, pause: float) -> None:
        self._paused_until = time.monotonic() + pause
        number, self._waiting = self._waiting, 0
        self._messages.clear()
        self._leave(number, why)

    def _leave(self, number: int, why: str = "") -> None:
        """These wait for the sweep; the log says so now and then, not for each."""
        self._left += number
        now = time.monotonic()
        if not (why or self._usable) or now < self._quiet_until:
            return
        self._quiet_until = now + SAID_EVERY
        log.error(
            "%s: %d mails are left to `flask mail sweep`",
            f"mail cannot be handed over: {why}" if why else "no mail is handed over at present",
            self._left,
        )
        self._left = 0

    # -- at exit ----------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Numbers that wait, and 1 for a message in work."""
        with self._lock:
            return self._pending()

    def _pending(self) -> int:
        return self._waiting + (self._begun is not None)

    def shut_down(self, seconds: float) -> None:
        """Wait a short while for what waits, and take no more; the rest is left to the sweep."""
        end = time.monotonic() + seconds
        with self._lock:
            self._usable = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._pending(), seconds)
            self._messages.clear()
            self._waiting = 0
            if self._begun is None:
                self._turn = None
            thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(max(0.0, end - time.monotonic()))


def _words(error: BaseException) -> str:
    """What went wrong, without the login that a broker's URL holds."""
    return clean(f"{type(error).__name__}: {_LOGIN.sub('://***@', str(error))}", 300)
