"""Fixtures for faults: a site of real processes around one database and one mail server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flask_deferred_mail.store.database import Database
from tests.support.databases import fresh_database
from tests.support.fault_site import FaultSite
from tests.support.mail_app import MailApp
from tests.support.row_facts import SCHEDULE
from tests.support.smtp_server import SmtpServer
from tests.support.worker_process import WorkerProcess


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
def start() -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker of a site: ``start(site, "--processes", "2")``."""
    with ExitStack() as workers:

        def start(site: FaultSite, *options: str, **env: str) -> WorkerProcess:
            worker = WorkerProcess(site, *options, **env)
            workers.callback(worker.close)
            return worker

        yield start


@pytest.fixture
def shared(
    make_site: Callable[..., FaultSite], tmp_path: Path
) -> Iterator[Callable[..., FaultSite]]:
    """A site on a database of a kind: ``shared("postgresql")``."""
    with ExitStack() as resources:

        def make(kind: str, **config: Any) -> FaultSite:
            url = resources.enter_context(fresh_database(kind, tmp_path))
            database = Database(url)
            database.create()
            database.close()
            site = make_site(DEFERRED_MAIL_DATABASE_URI=url, **config)
            resources.callback(site.rows.close)
            return site

        yield make


@pytest.fixture
def make_paced(make_app: Callable[..., MailApp]) -> Callable[..., MailApp]:
    """Like ``make_app``, with a schedule by which one can tell who pays for a failure."""

    def make(transport: str | None, **config: Any) -> MailApp:
        return make_app(transport, **({"DEFERRED_MAIL_BACKOFF": SCHEDULE} | config))

    return make
