"""Fixtures for all tests: real servers and work that the test holds back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.held_work import HeldWork
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.web_server import WebServer


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., WebServer]]:
    """Start real servers: ``start_server(kind, factory, env=..., options=..., workers=...)``."""
    with ExitStack() as servers:

        def start(kind: str, factory: str, **how: Any) -> WebServer:
            number = len(list(tmp_path.glob("server-*.log")))
            log = tmp_path / f"server-{number}-{kind}.log"
            log.touch()
            return servers.enter_context(WebServer(kind, factory, log, **how))

        yield start


@pytest.fixture
def held_work() -> Iterator[HeldWork]:
    """Work in a server process that waits for the test."""
    with HeldWork() as work:
        yield work


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., MailApp]]:
    """Make apps with mail: ``make_app(transport_url, KEY=value, ...)``; closed at the end."""
    with ExitStack() as apps:

        def make(transport: str | None, folder: Path = tmp_path, **config: Any) -> MailApp:
            return apps.enter_context(closing(MailApp(folder, transport, **config)))

        yield make


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    """A mail server that accepts everything until it is told otherwise."""
    with SmtpServer() as server:
        yield server
