"""Work that cannot go on before the test lets it: what a slow mail server is for real mail.

The test process listens; work in a server process connects, names itself and waits. So a test can
read a response to its end while the work behind it is provably unfinished, then release it.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from types import TracebackType

from .waiting import wait_until

#: Variable that tells the server process where the test listens.
PORT_VARIABLE = "HELD_WORK_PORT"

#: Seconds after which work that nobody releases gives up, so that a failed test ends.
GIVE_UP = 30.0


class HeldWork:
    """The test's side: sees work arrive, lets it go on, sees it finish."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.finished: list[str] = []
        self._released: set[str] = set()
        self._change = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> HeldWork:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        with self._change:  # whoever still waits is let go
            self._released.update(self.arrived)
            self._change.notify_all()
        self._server.server_close()

    @property
    def env(self) -> dict[str, str]:
        """Variables for the server process."""
        return {PORT_VARIABLE: str(self._server.server_address[1])}

    def wait_arrived(self, name: str) -> None:
        """Wait until work of this name waits to be released."""
        wait_until(lambda: name in self.arrived, message=f"{name!r} never came: {self.arrived}")

    def release(self, name: str) -> None:
        """Let work of this name go on, now or when it comes."""
        with self._change:
            self._released.add(name)
            self._change.notify_all()

    def wait_finished(self, name: str) -> None:
        """Wait until released work has ended."""
        wait_until(lambda: name in self.finished, message=f"{name!r} never ended")

    def _hold(self, name: str) -> None:
        with self._change:
            self.arrived.append(name)
            self._change.wait_for(lambda: name in self._released, GIVE_UP)


def wait_for_release(name: str) -> None:
    """The server process's side: come, wait for the test, tell that it is done."""
    address = ("127.0.0.1", int(os.environ[PORT_VARIABLE]))
    with socket.create_connection(address, GIVE_UP) as connection:
        connection.sendall(name.encode("ascii") + b"\n")
        if connection.recv(3) == b"go\n":
            connection.sendall(b"done\n")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True


def _handler_of(work: HeldWork) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            name = self.rfile.readline().strip().decode("ascii")
            work._hold(name)
            try:
                self.wfile.write(b"go\n")
                if self.rfile.readline() == b"done\n":
                    work.finished.append(name)
            except OSError:
                pass  # the server process was stopped meanwhile

    return Handler
