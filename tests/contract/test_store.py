"""What every database must do for us: one suite, passed by all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from flask_deferred_mail.errors import IllegalTransition, JobNotFound, SchemaError, StoreError
from flask_deferred_mail.job import Job, JobStatus
from flask_deferred_mail.letter import Part, Submission
from flask_deferred_mail.store.changes import Changes
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.reports import Reports
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from flask_deferred_mail.store.transport_state import TransportStates
from tests.support.databases import DATABASES, fresh_database
from tests.support.statements_run import watch_statements
from tests.support.transport_calls import a_letter


class Store:
    """All parts of a store on one database."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.jobs = JobStore(self.database)
        self.changes = Changes(self.database)
        self.reports = Reports(self.database)
        self.states = TransportStates(self.database)
        self.claims = Claims(self.database, Lease(60, "host:1"))

    def add(self, *to: str, **how: object) -> Job:
        return self.jobs.add(Submission(a_letter(*to), **how)).job  # type: ignore[arg-type]

    def rows(self, table: str) -> int:
        return int(
            self.database.read(
                lambda c: c.scalar(text(f"SELECT count(*) FROM deferred_mail_{table}")) or 0
            )
        )


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = Store(url)
    made.database.create()
    yield made
    made.database.close()


def _sent(claim: object) -> Verdict:
    note = AttemptNote(time.time(), 0.1, "sent", "")
    return Verdict(JobStatus.SENT, claim.recipients, note, None)  # type: ignore[attr-defined]


def mariadb(store: Store) -> bool:
    return store.database.engine.dialect.name in ("mysql", "mariadb")


def _counting(store: Store) -> list[str]:
    """The first word of every statement that the database itself runs from now on."""
    statements: list[str] = []
    store.database.close()  # open connections are not watched
    watch_statements(store.database.engine, lambda sql, _: statements.append(sql.split()[0]))
    return statements


def test_recording_is_one_statement(store: Store) -> None:
    """A mail without attachments costs a single INSERT, which is its own transaction."""
    store.add()
    statements = _counting(store)
    store.add()
    assert statements == ["INSERT"]


def test_an_outcome_is_one_transaction(store: Store) -> None:
    """Row, attempt log and addresses are written together: three statements, or PostgreSQL's one,
    and one commit."""
    store.add()
    claim = store.claims.take("default", 1)[0]
    statements = _counting(store)
    assert store.jobs.record(claim, _sent(claim))
    # SQLite's BEGIN and COMMIT are statements of ours, the servers' are their drivers'.
    written = [s for s in statements if s not in ("BEGIN", "COMMIT")]
    at_once = store.database.engine.dialect.name == "postgresql"
    assert written == (["WITH"] if at_once else ["UPDATE", "INSERT", "INSERT"])


def test_what_is_recorded_is_read_back(store: Store) -> None:
    """Letter, attachments and recipients come back equal."""
    letter = a_letter(
        "ann@example.net",
        "bob@example.net",
        parts=(Part(b"\x00\xff" * 99, "application/pdf", "a.pdf"),),
        html="<p>é</p>",
    )
    store.jobs.add(Submission(letter))
    claim = store.claims.take("default", 1)[0]
    assert store.jobs.load(claim) == letter


def test_equal_attachments_are_stored_once(store: Store) -> None:
    """Content is kept once, whatever mails and names it comes with."""
    part = Part(b"report" * 1000, "text/csv", "one.csv")
    for name in ("one.csv", "two.csv"):
        renamed = Part(part.data, part.content_type, name)
        store.jobs.add(Submission(a_letter(parts=(renamed,))))
    assert (store.rows("blob"), store.rows("job_blob"), store.rows("job")) == (1, 2, 2)


def test_many_mails_are_recorded_or_none(store: Store) -> None:
    """``add_many`` is one transaction: a row that the database refuses leaves nothing."""
    good = [Submission(a_letter()) for _ in range(3)]
    ids = [added.job.id for added in store.jobs.add_many(good)]
    assert ids == sorted(set(ids))
    refused = Submission(a_letter(), priority=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        store.jobs.add_many([*good, refused])
    assert store.rows("job") == 3


def test_a_key_is_unique_per_tenant(store: Store) -> None:
    """The same key gives the first job back, another tenant's is another mail."""
    first = store.jobs.add(Submission(a_letter(), key="k"))
    again = store.jobs.add(Submission(a_letter(subject="other"), key="k"))
    other = store.jobs.add(Submission(a_letter(), key="k", tenant="t"))
    assert (first.created, again.created, other.created) == (True, False, True)
    assert again.job.id == first.job.id
    found = store.jobs.find("k")
    assert found is not None
    assert found.id == first.job.id
    assert store.jobs.find("nobody") is None


def test_other_content_under_the_same_key_is_warned_of(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The first mail stays; that the second differed is in the log."""
    store.jobs.add(Submission(a_letter(), key="k"))
    store.jobs.add(Submission(a_letter(message_id="<2@example.com>"), key="k"))
    assert "other content" not in caplog.text
    store.jobs.add(Submission(a_letter(subject="other"), key="k"))
    assert "other content" in caplog.text


def test_a_mail_is_claimed_once(store: Store) -> None:
    """Twenty claimers over a hundred mails: everybody gets different ones, all are taken."""
    for _ in range(100):
        store.add()
    taken: list[int] = []

    def claim() -> None:
        while claims := store.claims.take("default", 3):
            taken.extend(c.job_id for c in claims)

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 101))


def test_claims_take_the_most_urgent_and_oldest(store: Store) -> None:
    """Priority first, then due time; other transports and the future are left alone."""
    low = store.add(priority=-10)
    old = store.add()
    new = store.add()
    high = store.add(priority=10)
    store.add(transport="other", priority=100)
    store.add(send_at=time.time() + 3600, priority=100)
    order = [claim.job_id for claim in store.claims.take("default", 10)]
    assert order == [high.id, old.id, new.id, low.id]
    assert store.claims.transports_with_due() == ["other"]


def test_a_claim_counts_and_a_give_back_refunds(store: Store) -> None:
    """The attempt is counted when the mail is taken, and given back with it."""
    job = store.add()
    claim = store.claims.take_one(job.id)
    assert claim is not None
    assert (store.jobs.get(job.id).status, store.jobs.get(job.id).attempts) == ("sending", 1)
    assert store.claims.take_one(job.id) is None
    assert store.jobs.give_back([claim]) == 1
    assert (store.jobs.get(job.id).status, store.jobs.get(job.id).attempts) == ("pending", 0)


def test_a_preleased_row_reads_as_pending(store: Store) -> None:
    """Inserted already leased: nobody else can claim it, and people see it waiting."""
    added = store.jobs.add(Submission(a_letter()), Lease(60, "host:1"))
    assert added.claim is not None
    job = store.jobs.get(added.job.id)
    assert (job.status, job.attempts) == ("pending", 0)
    assert store.claims.take("default", 5) == []
    assert store.reports.backlog().counts["pending"] == 1
    assert store.jobs.record(added.claim, _sent(added.claim))
    assert (store.jobs.get(job.id).status, store.jobs.get(job.id).attempts) == ("sent", 1)


def test_renewal_is_one_statement_for_all(store: Store) -> None:
    """The leases of everything in hand are renewed at once; lost ones are told apart."""
    for _ in range(3):
        store.add()
    claims = store.claims.take("default", 3)
    store.jobs.record(claims[0], _sent(claims[0]))
    statements = _counting(store)
    assert store.jobs.renew([(c.job_id, c.token) for c in claims], 60) == {2, 3}
    # MariaDB cannot tell which rows an UPDATE changed.
    assert statements == (["UPDATE", "SELECT"] if mariadb(store) else ["UPDATE"])


def test_an_outcome_without_the_token_is_not_written(store: Store) -> None:
    """A write is fenced by the claim's token; nothing of it appears otherwise."""
    store.add()
    claim = store.claims.take("default", 1)[0]
    store.jobs.give_back([claim])
    assert store.jobs.record(claim, _sent(claim)) is False
    assert store.rows("attempt") == 0
    assert store.rows("recipient") == 0


def test_people_can_change_what_waits_and_nothing_else(store: Store) -> None:
    """hold, release and cancel follow the state machine; what is being sent is refused."""
    job = store.add()
    assert store.changes.hold(job.id).status == "held"
    assert store.claims.take("default", 1) == []
    assert store.changes.release(job.id).status == "pending"
    assert store.changes.cancel(job.id).status == "cancelled"
    with pytest.raises(IllegalTransition, match="ended as cancelled"):
        store.changes.cancel(job.id)
    assert store.changes.retry(job.id).status == "pending"
    claim = store.claims.take_one(job.id)
    assert claim is not None
    with pytest.raises(IllegalTransition, match="being sent"):
        store.changes.cancel(job.id)
    store.jobs.record(claim, _sent(claim))
    with pytest.raises(IllegalTransition, match="everybody has it"):
        store.changes.retry(job.id)
    with pytest.raises(JobNotFound):
        store.changes.hold(99)


def test_a_scheduled_mail_that_is_released_keeps_its_time(store: Store) -> None:
    """Held and let go before its day, it waits for that; held beyond it, it is due at once."""
    send_at = round(time.time()) + 3600.0
    early, late = store.add(send_at=send_at), store.add(send_at=send_at)
    store.changes.hold(early.id)
    released = store.changes.release(early.id)
    assert released.next_attempt_at is not None
    assert released.next_attempt_at.timestamp() == send_at
    assert store.claims.take("default", 5) == []
    store.changes.hold(late.id)
    past = text("UPDATE deferred_mail_job SET first_due_at = 1000 WHERE id = :id")
    store.database.write(lambda c: c.execute(past, {"id": late.id}))
    store.changes.release(late.id)
    [claim] = store.claims.take("default", 5)
    assert claim.job_id == late.id
    assert claim.first_due_at > send_at - 4000


def test_a_row_that_is_leased_from_the_start_says_whose_it_is(store: Store) -> None:
    """It reads as ``pending``, so a refusal to change it needs the reason."""
    added = store.jobs.add(Submission(a_letter()), Lease(60, "web-1:17"))
    assert store.jobs.get(added.job.id).status == "pending"
    with pytest.raises(IllegalTransition, match="about to be sent by web-1:17; try again"):
        store.changes.cancel(added.job.id)


def test_the_database_refuses_impossible_rows(store: Store) -> None:
    """Constraints hold what the code promises."""
    store.add()
    for change in (
        "status = 'sleeping'",
        "status = 'sending'",
        "status = 'sent'",
        "due_at = NULL",
        "attempts = -1",
    ):
        with pytest.raises(StoreError):
            store.database.write(
                lambda c, change=change: c.execute(text(f"UPDATE deferred_mail_job SET {change}"))
            )


def test_a_transport_rests_once_however_many_meet_its_fault(store: Store) -> None:
    """Ten senders meet the same outage: one fault; the next counts when the rest is over."""
    pauses = {1: 60.0, 2: 120.0}
    answers = [store.states.rest("default", "unreachable", "down", pauses) for _ in range(10)]
    assert answers == [1, *[None] * 9]
    assert 0 < store.states.all()["default"].rests_for <= 60


def test_one_prober_at_a_time(store: Store) -> None:
    """When the rest is over, one sender may try; the others wait for what it finds."""
    store.states.rest("default", "unreachable", "down", {1: -1.0})
    assert [store.states.try_probe("default", str(i), 60) for i in range(3)] == [True, False, False]
    assert store.states.recovered("default", keep_streaks=False) is True
    assert store.states.all()["default"].failures == 0
    assert store.states.try_probe("default", "x", 60) is False


def test_a_newer_schema_is_left_alone(store: Store, url: str) -> None:
    """Tables of a version from the future: a clear text, and nothing touched."""
    store.add()
    store.database.write(
        lambda c: c.execute(
            text("UPDATE deferred_mail_meta SET value = '99' WHERE name = 'schema'")
        )
    )
    other = Store(url)
    with pytest.raises(SchemaError, match="version 99"):
        other.add()
    assert store.rows("job") == 1


def test_rows_of_a_newer_format_are_left_alone(store: Store) -> None:
    """A row that a newer version wrote is not claimed by this one."""
    store.add()
    store.database.write(lambda c: c.execute(text("UPDATE deferred_mail_job SET format = 99")))
    assert store.claims.take("default", 1) == []
    assert store.claims.take_one(1) is None


def test_missing_tables_are_named_with_the_command(store: Store) -> None:
    """A table that is gone: the error says what to run."""
    store.add()
    store.database.write(lambda c: c.execute(text("DROP TABLE deferred_mail_attempt")))
    claim = store.claims.take("default", 1)[0]
    with pytest.raises(SchemaError, match="init-db"):
        store.jobs.record(claim, _sent(claim))


def test_listings_find_by_status_and_address(store: Store) -> None:
    """``to`` finds mails with an outcome by index, waiting ones by a bounded look."""
    done = store.add("ann@example.net")
    waiting = store.add("ann@example.net", "bob@example.net")
    store.add("eve@example.net")
    claim = store.claims.take_one(done.id)
    assert claim is not None
    store.jobs.record(claim, _sent(claim))
    found = store.reports.listing(to="ann@example.net")
    assert [job.id for job in found] == [waiting.id, done.id]
    assert [job.id for job in store.reports.listing(status=JobStatus.SENT)] == [done.id]
    assert len(store.reports.listing(limit=2)) == 2


def test_the_backlogs_age_counts_from_the_first_due_time(store: Store) -> None:
    """A mail that waits for a retry is as old as its first attempt."""
    store.add()
    store.database.write(
        lambda c: c.execute(
            text("UPDATE deferred_mail_job SET first_due_at = :then, due_at = :later"),
            {"then": time.time() - 500, "later": time.time() + 500},
        )
    )
    backlog = store.reports.backlog()
    assert backlog.due == 0
    assert backlog.oldest_due_seconds is not None
    assert 490 < backlog.oldest_due_seconds < 560
