"""sd_notify.py: what the service manager hears."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_deferred_mail.sd_notify import ServiceManager


@pytest.fixture(params=["a file", "an abstract name"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as the manager gives it, and its socket."""
    name = f"@deferred-mail-{os.getpid()}"
    if request.param == "a file":
        name = os.path.relpath(tmp_path / "s")  # the whole path may be too long for a socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(5)
        yield name, listener


def test_it_says_what_goes_on(heard: tuple[str, socket.socket]) -> None:
    """READY, RELOADING with a time, STOPPING, each with what systemd wants beside it."""
    name, listener = heard
    environ = {"NOTIFY_SOCKET": name}
    manager = ServiceManager(environ)
    assert environ == {}, "a child could speak for it"
    manager.ready("2 processes")
    manager.reloading()
    manager.stopping("soon")
    manager.alive()  # not asked for
    said = [listener.recv(999).decode().split("\n") for _ in range(3)]
    assert said[0] == ["READY=1", "STATUS=2 processes"]
    assert said[1][0] == "RELOADING=1"
    assert said[1][1].removeprefix("MONOTONIC_USEC=").isdecimal()
    assert said[2] == ["STOPPING=1", "STATUS=soon"]
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(999)


def test_a_watchdog_hears_of_it_and_not_too_often(heard: tuple[str, socket.socket]) -> None:
    """Once in a third of its time, however often it is said."""
    name, listener = heard
    environ = {
        "NOTIFY_SOCKET": name,
        "WATCHDOG_USEC": "900000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    manager = ServiceManager(environ)
    assert manager.every == 300
    for _ in range(3):
        manager.alive()
    assert listener.recv(999) == b"WATCHDOG=1"
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(999)


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "nonsense"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
def test_without_a_manager_nothing_is_said(environ: dict[str, str]) -> None:
    """Nor where the watchdog waits for another process."""
    manager = ServiceManager(environ)
    manager.ready("here")
    manager.alive()
    assert manager.every is None


def test_a_manager_that_does_not_listen_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and that is all."""
    with caplog.at_level(logging.WARNING):
        ServiceManager({"NOTIFY_SOCKET": "@deferred-mail-nobody"}).ready("here")
    assert "could not be told READY=1" in caplog.text
