"""Places at which a test can let the process die, to see what the row says then.

``DEFERRED_MAIL_CRASH_AT`` names one place; the process then ends there as by SIGKILL: no
``finally``, no ``atexit``, no flush. Outside tests the variable is not set and a place costs one
comparison. ``DEFERRED_MAIL_CRASH_SKIP`` lets the first N passes go by.
"""

from __future__ import annotations

import os
import signal

_ARMED = os.environ.get("DEFERRED_MAIL_CRASH_AT")
_skip = int(os.environ.get("DEFERRED_MAIL_CRASH_SKIP", "0"))


def reached(place: str) -> None:
    """Die here if a test asked for it."""
    if _ARMED is not None and place == _ARMED:
        _die()


def _die() -> None:
    global _skip
    if _skip > 0:
        _skip -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
