"""Waiting for a socket that does not wait by itself.

A socket with a timeout asks the system three times for each read: to set the timeout, to wait, and
to read. One that never blocks is simply written to, and waited for only where there is something
to wait for.
"""

from __future__ import annotations

import select
import socket
import ssl

#: Nothing is wrong, but it cannot be done yet.
NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def wait_for(sock: socket.socket, seconds: float, *, room: bool) -> bool:
    """Wait until the socket can be read or, with ``room``, written, but no longer than that.

    False: it cannot.
    """
    seconds = max(seconds, 0)
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock, select.POLLOUT if room else select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    # Windows, and eventlet
    return any(select.select([] if room else [sock], [sock] if room else [], [], seconds))


def needs_room(error: OSError, *, writing: bool) -> bool:
    """What to wait for after an error of :data:`NOT_READY`: TLS may have to write before it can
    read, and the other way round."""
    return isinstance(error, ssl.SSLWantWriteError) if isinstance(error, ssl.SSLError) else writing
