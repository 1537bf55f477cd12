"""The hook on real servers: the client has its whole response while the work behind it waits.

The work of a request cannot end before the test releases it, and the test releases it after it
has read the response. A server on which the client had to wait would run into the time-out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.held_work import HeldWork
from tests.support.hook_app import FILE_VARIABLE, LARGE_FILE_VARIABLE
from tests.support.raw_http import Answer, RawClient, get
from tests.support.services import require_service
from tests.support.waiting import wait_until
from tests.support.web_server import SERVERS, WebServer

FACTORY = "tests.support.hook_app:create_app"
FILE_SIZE = 300_000


@pytest.fixture(scope="module")
def work() -> Iterator[HeldWork]:
    """One listener for all requests of this module; their names differ."""
    with HeldWork() as held:
        yield held


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, work: HeldWork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    """Each kind of server in turn, with one worker process."""
    folder = tmp_path_factory.mktemp(request.param)
    with WebServer(request.param, FACTORY, folder / "log", env=environment(folder, work)) as up:
        yield up


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for this test's work, different from every other's."""
    return re.sub(r"[^\w.-]+", "-", request.node.name)


def environment(folder: Path, work: HeldWork) -> dict[str, str]:
    """Variables for the application: where the test listens, and files to send."""
    file, large_file = folder / "file.bin", folder / "large.bin"
    file.write_bytes(b"f" * FILE_SIZE)
    with large_file.open("wb") as out:
        out.truncate(64_000_000)
    return {**work.env, FILE_VARIABLE: str(file), LARGE_FILE_VARIABLE: str(large_file)}


def finish(work: HeldWork, name: str, server: WebServer) -> None:
    """Let the work go on, and see that it was there once, and only now ended."""
    work.wait_arrived(name)
    assert name not in work.finished
    work.release(name)
    work.wait_finished(name)
    get(server.port, "/nothing")  # a second run would have come before the next answer
    assert work.arrived.count(name) == 1, server.log()


def keeps_connection(kind: str, path: str) -> bool:
    """Which servers keep a connection after which response, so that none drops out unseen."""
    if kind == "waitress":
        return path in {"/plain", "/file"}
    return kind in {"gunicorn-gthread", "gunicorn-gevent"}


CASES: dict[str, tuple[str, str, str, dict[str, str], int, bytes | None]] = {
    "plain": ("GET", "/plain", "1.1", {}, 200, b"plain"),
    "http 1.0": ("GET", "/plain", "1.0", {}, 200, b"plain"),
    "connection close": ("GET", "/plain", "1.1", {"Connection": "close"}, 200, b"plain"),
    "scheduled in the stream": ("GET", "/late", "1.1", {}, 200, b"first second"),
    "stream to http 1.0": ("GET", "/late", "1.0", {}, 200, b"first second"),
    "head": ("HEAD", "/plain", "1.1", {}, 200, b""),
    "204": ("GET", "/empty", "1.1", {}, 204, b""),
    "304": ("GET", "/unchanged", "1.1", {}, 304, b""),
    "file": ("GET", "/file", "1.1", {}, 200, b"f" * FILE_SIZE),
    "head of a file": ("HEAD", "/file", "1.1", {}, 200, b""),
    "range of a file": ("GET", "/file", "1.1", {"Range": "bytes=10-29"}, 206, b"f" * 20),
    "handled 500": ("GET", "/fails", "1.1", {}, 500, None),
    "exception let through": ("GET", "/raw/fails", "1.1", {}, 500, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_whole_response_comes_before_the_work_ends(
    server: WebServer, work: HeldWork, name: str, case: str
) -> None:
    """Whatever the answer is, it is complete while its work is held; the work runs once."""
    method, path, version, headers, status, body = CASES[case]
    answer = get(server.port, f"{path}?id={name}", method, version=version, headers=headers)
    assert (answer.status, answer.whole) == (status, True), server.log()
    assert body is None or answer.body == body
    finish(work, name, server)


def test_nothing_runs_before_the_stream_has_ended(
    server: WebServer, work: HeldWork, name: str
) -> None:
    """While half of a stream is out, nothing that it scheduled has begun."""
    with RawClient(server.port) as client:
        client.send(f"/stream?id={name}")
        answer = client.read_head()
        assert client.read_piece(answer) == b"first "
        work.wait_arrived(f"{name}-gate")
        assert name not in work.arrived
        work.release(f"{name}-gate")
        assert rest_of(client, answer) == b"second"
    finish(work, name, server)


def test_the_connection_closes_without_waiting(
    server: WebServer, work: HeldWork, name: str
) -> None:
    """A client that reads until the end of the connection does not wait for the work either."""
    with RawClient(server.port) as client:
        answer = client.request(f"/late?id={name}", version="1.0")
        assert answer.body == b"first second"
        assert client.closed_by_server()
    finish(work, name, server)


@pytest.mark.parametrize("path", ["/plain", "/late", "/file", "/empty"])
def test_the_next_request_on_the_connection_does_not_wait(
    server: WebServer, work: HeldWork, name: str, path: str
) -> None:
    """Where the server keeps the connection, the next answer comes while the work is held."""
    with RawClient(server.port) as client:
        first = client.request(f"{path}?id={name}")
        assert first.keeps_connection == keeps_connection(server.kind, path)
        if first.keeps_connection:
            assert client.request("/nothing").body == b"nothing scheduled"
    finish(work, name, server)


def test_another_connection_does_not_wait(server: WebServer, work: HeldWork, name: str) -> None:
    """The one worker answers others while the work is held."""
    assert get(server.port, f"/plain?id={name}").body == b"plain"
    work.wait_arrived(name)
    assert get(server.port, "/nothing").body == b"nothing scheduled"
    finish(work, name, server)


def test_a_stream_that_breaks(server: WebServer, work: HeldWork, name: str) -> None:
    """A generator that raises midway cuts the response, and its work runs."""
    with RawClient(server.port) as client:
        client.send(f"/breaks?id={name}")
        answer = client.read_head()
        assert client.read_piece(answer) == b"first"
    finish(work, name, server)


@pytest.mark.parametrize("path", ["/big", "/large_file"])
def test_a_client_that_leaves_midway(
    server: WebServer, work: HeldWork, name: str, path: str
) -> None:
    """The client resets the connection in the middle of a large body or file: the work runs."""
    client = RawClient(server.port)
    client.send(f"{path}?id={name}")
    assert client.read_piece(client.read_head())
    client.reset()
    finish(work, name, server)


def rest_of(client: RawClient, answer: Answer) -> bytes:
    """What is left of a body."""
    body = b""
    while (piece := client.read_piece(answer)) is not None:
        body += piece
    return body


def test_sendfile_is_still_used(
    start_server: Callable[..., WebServer], held_work: HeldWork, tmp_path: Path
) -> None:
    """gunicorn hands a file to the kernel in one call, as it does without the hook."""
    require_service("strace", shutil.which("strace") is not None, "needed to see system calls")
    trace = tmp_path / "trace"
    strace = ("strace", "-D", "-f", "-e", "trace=sendfile", "-o", str(trace))
    server = start_server(
        "gunicorn-sync", FACTORY, env=environment(tmp_path, held_work), prefix=strace
    )
    answer = get(server.port, "/file?id=traced")
    assert len(answer.body) == FILE_SIZE
    finish(held_work, "traced", server)
    calls = wait_until(lambda: re.findall(r"sendfile\(.* = (\d+)", trace.read_text()))
    assert calls == [str(FILE_SIZE)]
