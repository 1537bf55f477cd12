"""Servers and load generators that are no Python packages: where they are, and how to get them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_until

#: A folder into which Debian packages were unpacked with ``dpkg -x``.
UNPACKED = Path(os.environ.get("BENCH_PROGRAMS", "/"))

_HOW = {
    "smtp-sink": "Debian's package postfix (BENCH_PROGRAMS: a folder that it was unpacked into)",
    "smtp-source": "Debian's package postfix (BENCH_PROGRAMS: a folder that it was unpacked into)",
    "redis-server": "Debian's package redis-server",
}


class Missing(Exception):
    """A program is not on this machine; the text says which, and where it comes from."""


def find(name: str) -> str:
    """The path of a program.

    :raises Missing: it is not here.
    """
    folders = [UNPACKED / folder for folder in ("usr/sbin", "usr/bin")]
    places = os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise Missing(f"{name} is not here; it comes with {_HOW[name]}")
    return found


def environment() -> dict[str, str]:
    """For programs of Postfix: unpacked, they do not find their own libraries."""
    libraries = UNPACKED / "usr/lib/postfix"
    return (
        {**os.environ, "LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {**os.environ}
    )


def free_port() -> int:
    """A port of loopback that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def as_nobody() -> Sequence[str]:
    """``smtp-sink`` wants to know whom to run as where root starts it."""
    return () if os.geteuid() else ("-u", pwd.getpwnam("nobody").pw_name)


@contextmanager
def redis() -> Iterator[int]:
    """The port of a Redis of our own that keeps nothing on disk.

    :raises Missing: there is none here.
    """
    port = free_port()
    options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", str(port))
    process = subprocess.Popen([find("redis-server"), *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), 20, "redis-server did not come up")
        yield port
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
