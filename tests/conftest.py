"""Fixtures for all tests: real servers and work that the test holds back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.held_work import HeldWork
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
