"""HTTP servers that say more than one answer, too early, or to nobody: no mail gets another's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_deferred_mail.letter import Part
from flask_deferred_mail.outcome import FaultKind
from flask_deferred_mail.transports import timed_http
from flask_deferred_mail.transports.http_request import Outgoing, Site
from flask_deferred_mail.transports.sendcloud import SendCloudTransport
from flask_deferred_mail.transports.timed_http import Connection, Progress
from tests.support.certificates import certificates
from tests.support.http_provider import Reply, accepted_by_sendcloud, reset
from tests.support.transport_calls import a_call, a_letter, fates, send

DELIVERED = {"ann@example.net": "accepted"}
REFUSED = {"ann@example.net": "refused"}
UNKNOWN = {"ann@example.net": "unknown"}

Deed = Callable[[socket.socket], object]


def an_answer(reply: Reply | None = None) -> bytes:
    """As it goes over the line; by default, the mail was accepted."""
    return b"".join((reply or accepted_by_sendcloud(["ann@example.net"])).parts())


#: What must not be heard for the mail that comes after.
STRAY = an_answer(Reply({"result": False, "statusCode": 400, "message": "stray"}, 400))


class RawServer:
    """Does one thing after each request, on whichever connection; then accepts every mail.

    A thing is bytes to be sent, or a function that gets the socket before the request's body was
    read.
    """

    def __init__(self, *deeds: bytes | Deed, tls: bool = False) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self._deeds = list(deeds)
        self._tls = certificates().server_context() if tls else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SendCloudTransport:
        cafile = certificates().cafile if self._tls else None
        self.transport = SendCloudTransport("default", "u", "k", endpoint=self.url, cafile=cafile)
        return self.transport

    def __exit__(self, *args: object) -> None:
        self.transport.close()
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            if self._tls:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
                self._open.append(sock)
            for head, rest in self._requests(sock):
                self.heads.append(head)
                deed = self._deeds.pop(0) if self._deeds else an_answer()
                if callable(deed):
                    deed(sock)
                    return
                missing = int(head.lower().split(b"content-length: ")[1].split()[0]) - len(rest)
                while missing > 0:
                    missing -= len(sock.recv(65536)) or missing
                sock.sendall(deed)

    def _requests(self, sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
        while True:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = sock.recv(65536)
                if not piece:
                    return
                data += piece
            head, _, rest = data.partition(b"\r\n\r\n")
            yield head + b"\r\n", rest


@pytest.mark.parametrize(
    "before",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n",
    ],
    ids=["100", "103", "three"],
)
def test_what_is_said_before_the_answer_is_not_the_answer(before: bytes) -> None:
    """The answer after it belongs to the same mail, and not to the next one."""
    server = RawServer(before + STRAY)
    with server as transport:
        assert fates(send(transport)) == REFUSED
        assert fates(send(transport)) == DELIVERED
        assert server.connections == 1


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize("size", [None, 8192], ids=["read with it", "not read"])
def test_what_comes_behind_an_answer_is_not_for_the_next_mail(tls: bool, size: int | None) -> None:
    """Whether it waits in the system, where TLS has decrypted it, or in the file of the answer."""
    accepted = accepted_by_sendcloud(["ann@example.net"])
    if size:  # of the file that http.client reads from: what is behind it stays where it is
        accepted.headers["X-Padding"] = ""
        accepted.headers["X-Padding"] = "x" * (size - len(an_answer(accepted)))
    server = RawServer(an_answer(accepted) + STRAY, tls=tls)
    with server as transport:
        assert fates(send(transport)) == DELIVERED
        assert fates(send(transport)) == DELIVERED
        assert server.connections == 2


def test_what_was_said_before_a_mail_went_out_is_no_answer_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other side says something and resets a kept connection just as it is used again."""
    closed = threading.Event()
    late = threading.Event()

    def two(sock: socket.socket) -> None:
        sock.sendall(an_answer())
        late.wait(30)
        sock.sendall(STRAY)
        reset(sock)
        closed.set()

    server = RawServer(two)
    with server as transport:
        assert fates(send(transport)) == DELIVERED
        late.set()
        assert closed.wait(30)
        monkeypatch.setattr(timed_http.TimedSocket, "has_input", lambda line: False)
        assert fates(send(transport)) == DELIVERED
        assert server.connections == 2


TOO_LARGE = an_answer(Reply({"result": False, "statusCode": 413, "message": "no"}, 413))


def test_a_refusal_before_all_was_read_is_heard() -> None:
    """9 MB are too much for this server: it says so after the head, and hangs up."""
    letter = a_letter(parts=(Part(bytes(9_000_000), "application/pdf", "report.pdf"),))
    server = RawServer(lambda sock: sock.sendall(TOO_LARGE))
    with server as transport:
        assert fates(send(transport, letter)) == REFUSED
        assert fates(send(transport)) == DELIVERED
        assert server.connections == 2


@pytest.mark.parametrize("error", [BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError])
def test_whoever_hangs_up_is_listened_to(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Whichever word the system or TLS has for it."""
    write = timed_http.TimedSocket.write
    written: list[int] = []

    def until_he_hangs_up(line: timed_http.TimedSocket, data: bytes) -> None:
        if written:
            raise error
        written.append(len(data))
        write(line, data)

    def refuse(sock: socket.socket) -> None:
        sock.sendall(TOO_LARGE)
        while sock.recv(65536):
            pass

    monkeypatch.setattr(timed_http.TimedSocket, "write", until_he_hangs_up)
    letter = a_letter(parts=(Part(bytes(200_000), "application/pdf", "report.pdf"),))
    with RawServer(refuse) as transport:
        assert fates(send(transport, letter)) == REFUSED


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + bytes(900_000),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
    ],
    ids=["a chunk without an end", "the same for ever"],
)
def test_an_answer_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch, flood: bytes) -> None:
    """Also one that is read by http.client itself, which knows of no limit."""
    monkeypatch.setattr(timed_http, "_MOST_INPUT", 500_000)
    server = RawServer(flood)
    with server as transport:
        outcome = send(transport)
        assert fates(outcome) == UNKNOWN
        assert "does not end" in outcome.results[0].detail
        assert fates(send(transport)) == DELIVERED
        assert server.connections == 2


def test_a_break_in_the_leave_to_hand_over_is_not_one_of_the_connection() -> None:
    """It does not end in waiting for an answer to a request that was not sent."""

    def gone() -> None:
        raise ConnectionResetError("of a database")

    server = RawServer()
    with server as transport:
        outcome = send(transport, hand_over=gone, seconds=2)
        assert outcome.fault is not None
        assert "of a database" in outcome.fault.detail


def test_a_header_host_goes_out_once() -> None:
    """Two of them are refused by servers."""
    server = RawServer()
    with server:
        port = int(server.url.rpartition(":")[2])
        site, progress = Site("127.0.0.1", port, tls=False), Progress(a_call().deadline, 5)
        fields = (("host", "mail.example"), ("Content-Length", "0"))
        with contextlib.closing(Connection(site, None)) as connection:  # type: ignore[arg-type]
            connection.post(Outgoing(site, "POST", "/", fields, b""), [b""], progress).read()
    assert [
        line for line in server.heads[0].split(b"\r\n") if line.lower().startswith(b"host")
    ] == [b"host: mail.example"]


def test_an_address_that_the_system_cannot_use_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one of IPv6, where names have them and the kernel has none."""
    look_up = socket.getaddrinfo

    def found(*args: Any, **options: Any) -> list[Any]:
        return [(255, socket.SOCK_STREAM, 0, "", ("::1", 1)), *look_up(*args, **options)]

    server = RawServer()
    with server as transport:
        monkeypatch.setattr(socket, "getaddrinfo", found)
        assert fates(send(transport)) == DELIVERED


def test_what_cannot_be_a_name_is_not_reached() -> None:
    """The codec for names has an error of its own, which is no sign of a mistake in our code."""
    transport = SendCloudTransport("default", "u", "k", endpoint="http://a..b")
    outcome = send(transport)
    assert outcome.fault is not None
    assert outcome.fault.kind is FaultKind.UNREACHABLE
    assert not next(iter(transport.probe())).ok
