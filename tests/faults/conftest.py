"""Fixtures for faults: a site of real processes around one database and one mail server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_site import FaultSite
from tests.support.mail_app import MailApp
from tests.support.row_facts import SCHEDULE
from tests.support.smtp_server import SmtpServer


@pytest.fixture
def make_site(tmp_path: Path, smtp: SmtpServer) -> Iterator[Callable[..., FaultSite]]:
    """Make sites: ``make_site(DEFERRED_MAIL_LEASE=2, transport=..., smtp=...)``."""
    with ExitStack() as resources:

        def make(smtp: SmtpServer = smtp, transport: str | None = None, **config: Any) -> FaultSite:
            return FaultSite(tmp_path, smtp, resources, transport or smtp.url(), **config)

        yield make


@pytest.fixture
def site(make_site: Callable[..., FaultSite]) -> FaultSite:
    """The site with short leases and a mail server that takes everything."""
    return make_site()


@pytest.fixture
def make_paced(make_app: Callable[..., MailApp]) -> Callable[..., MailApp]:
    """Like ``make_app``, with a schedule by which one can tell who pays for a failure."""

    def make(transport: str | None, **config: Any) -> MailApp:
        return make_app(transport, **({"DEFERRED_MAIL_BACKOFF": SCHEDULE} | config))

    return make
