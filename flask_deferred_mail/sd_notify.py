"""Words for the service manager: ``sd_notify`` of systemd, and of all that speak as it does.

One datagram to the socket that ``NOTIFY_SOCKET`` names, as described in systemd's sd_notify(3);
with ``WatchdogSec=`` a word is expected at least every ``WATCHDOG_USEC``. Without the variable
nothing is said. It is all best effort: a manager that does not listen stops no mail.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger("flask_deferred_mail.worker")


class ServiceManager:
    """Takes what it needs out of the environment, so that no child speaks for this process."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        #: Seconds between two signs of life; ``None``: nobody waits for them.
        self.every = _watchdog(environ)
        self._alive_at = 0.0

    def ready(self, status: str) -> None:
        """It works, from now on or again."""
        self._say("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It renews itself; :meth:`ready` says when that is done."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str) -> None:
        """It was told to end."""
        self._say("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """A sign of life, if one is due; call it as often as you like."""
        if self.every is not None and time.monotonic() >= self._alive_at:
            self._alive_at = time.monotonic() + self.every
            self._say("WATCHDOG=1")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is an abstract one.
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(1.0)
                connection.connect(name)
                connection.sendall("\n".join(lines).encode())
        except OSError as error:
            log.warning("the service manager could not be told %s: %s", lines[0], error)


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    """A third of what the manager waits for, in seconds: one word may come late."""
    microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6 / 3 or None
