"""A closed-loop HTTP client: each connection asks again as soon as it has its answer.

A process of its own, and standard library only, so that it starts fast and disturbs nobody:

    python client.py PORT REQUESTS PATH=CONNECTIONS [PATH=CONNECTIONS ...]

prints, as JSON, PATH -> seconds of each request. Kept connections, one request at a time on each;
it stops when the first path has had its REQUESTS.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


class _Connection:
    """One connection, and the request that is under way on it."""

    def __init__(self, port: int, path: str, times: list[float]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._times, self._buffer, self._asked = times, b"", 0.0

    def ask(self) -> None:
        self._asked = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> bool:
        """True: the answer is complete."""
        received = self.socket.recv(65_536)
        if not received:
            raise ConnectionError(f"the server closed the connection; it had said {self._buffer!r}")
        self._buffer += received
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(repr(self._buffer))
        length = head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
        if len(body) < int(length):
            return False
        self._times.append(time.perf_counter() - self._asked)
        self._buffer = b""
        return True


def run(port: int, requests: int, plan: dict[str, int]) -> dict[str, list[float]]:
    """Path -> the seconds of its requests."""
    times: dict[str, list[float]] = {path: [] for path in plan}
    first = times[next(iter(plan))]
    poll, connections = select.epoll(), {}
    for path, number in plan.items():
        for _ in range(number):
            connection = _Connection(port, path, times[path])
            connections[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
    for connection in connections.values():
        connection.ask()
    while len(first) < requests:
        for number, _ in poll.poll(30):
            if connections[number].read():
                connections[number].ask()
    # What is still under way is answered, so that nothing of it falls into the next round.
    for connection in connections.values():
        connection.socket.settimeout(30)
        while not connection.read():
            pass
        connection.socket.close()
    return times


if __name__ == "__main__":
    _, a_port, number_of_requests, *paths = sys.argv
    chosen = {path: int(number) for path, _, number in (p.partition("=") for p in paths)}
    print(json.dumps(run(int(a_port), int(number_of_requests), chosen)))
