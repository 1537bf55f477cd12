"""PostgreSQL behind a PgBouncer that pools transactions: each one may be on another connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from flask_deferred_mail.doctor_database import examine_database
from flask_deferred_mail.errors import StoreError
from flask_deferred_mail.finding import Level
from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from tests.support.databases import fresh_database
from tests.support.mail_app import MailApp
from tests.support.pgbouncer import PgBouncer
from tests.support.smtp_server import SmtpServer
from tests.support.transport_calls import a_letter

THREADS = 8
MAILS = 20


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    with fresh_database("postgresql", tmp_path) as url:
        with closing(Database(url)) as database:
            database.create()
        yield url


@pytest.fixture
def pooled(postgresql: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database behind a pooler."""
    with PgBouncer(postgresql, tmp_path) as pooler:
        yield pooler.url


def _with(url: str, **query: str) -> str:
    return make_url(url).update_query_dict(query).render_as_string(hide_password=False)


def _threshold(url: str) -> Any:
    with closing(Database(url)) as database, database.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        return driver.prepare_threshold


def test_the_server_keeps_no_statements_of_ours(postgresql: str) -> None:
    """The driver prepares nothing by itself, so nothing can be lost or mistaken by a pooler."""
    assert _threshold(postgresql) is None


def test_without_a_pooler_statements_may_be_kept(postgresql: str) -> None:
    """The URL says after how many runs; what is no number is named."""
    assert _threshold(_with(postgresql, prepare_threshold="7")) == 7
    with pytest.raises(StoreError, match="prepare_threshold"):
        _threshold(_with(postgresql, prepare_threshold="soon"))


def test_many_threads_share_a_pooler(pooled: str) -> None:
    """Recorded, claimed, renewed, read and sent by eight threads: each mail once, no error."""
    with closing(Database(pooled)) as database:
        jobs, claims = JobStore(database), Claims(database, Lease(60, "host:1"))

        def work(_number: int) -> list[int]:
            done = []
            for _ in range(MAILS):
                jobs.add(Submission(a_letter()))
                for claim in claims.take("default", 2):
                    assert jobs.renew([(claim.job_id, claim.token)], 60) == {claim.job_id}
                    assert jobs.load(claim).subject
                    note = AttemptNote(claim.claimed_at, 0.1, "sent", "")
                    assert jobs.record(claim, Verdict(JobStatus.SENT, claim.recipients, note, None))
                    done.append(claim.job_id)
            return done

        with ThreadPoolExecutor(THREADS) as threads:
            found = [job for done in threads.map(work, range(THREADS)) for job in done]
        found += [claim.job_id for claim in claims.take("default", THREADS * MAILS)]
    assert sorted(found) == list(range(1, THREADS * MAILS + 1))


def test_mail_is_recorded_and_swept_through_a_pooler(
    pooled: str, make_app: Callable[..., MailApp], smtp: SmtpServer
) -> None:
    """The whole way, often enough for a driver to begin with prepared statements."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DATABASE_URI=pooled, DEFERRED_MAIL_DISPATCH="none")
    for _ in range(30):
        app.send()
    assert app.sweep().sent == 30


@pytest.mark.parametrize("threshold", [None, "5"])
def test_doctor_says_what_a_pooler_means(pooled: str, threshold: str | None) -> None:
    """Waiting sweeps poll; and statements that are kept by name would fail."""
    url = _with(pooled, prepare_threshold=threshold) if threshold else pooled
    with closing(Database(url)) as database:
        found = {f.level: f.text for f in examine_database(database) if "pooler" in f.text}
    assert "a waiting sweep polls" in found[Level.WARN]
    assert (Level.FAIL in found) == (threshold is not None)
