"""Who is claimed first, on every database: nobody's pile makes another wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from flask_deferred_mail import Job
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store import picking
from flask_deferred_mail.store.claims import Claim, Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from tests.support.bulk_rows import add_waiting
from tests.support.databases import DATABASES, fresh_database
from tests.support.mail_app import MailApp
from tests.support.rows_read import RowsRead
from tests.support.transport_calls import a_letter

#: What a sweep has in hand at a time, about.
HAND = 8
#: A newsletter, or a customer's import.
PILE = 50_000
GONE_THROUGH = "SELECT count(*) FROM deferred_mail_job WHERE subject = 'nobody has it'"


class Queue:
    """A queue on one database, filled and emptied by a test."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.create()
        self.jobs = JobStore(self.database)
        self.claims = Claims(self.database, Lease(60, "host:1"))

    def add(self, number: int = 1, **how: object) -> list[int]:
        """Record mails in one transaction; their numbers."""
        submissions = [Submission(a_letter(), **how) for _ in range(number)]  # type: ignore[arg-type]
        return [added.job.id for added in self.jobs.add_many(submissions)]

    def make_tried(self, ids: list[int], seconds_ago: float) -> None:
        """As if their second attempt had been due for that long."""
        change = "UPDATE deferred_mail_job SET attempts = 1, due_at = due_at - :s WHERE id <= :last"
        values = {"s": seconds_ago, "last": max(ids)}
        self.database.write(lambda c: c.execute(text(change), values))

    def take(self, limit: int = HAND, due_before: float | None = None) -> list[int]:
        return [claim.job_id for claim in self.claim(limit, due_before)]

    def claim(self, limit: int = HAND, due_before: float | None = None) -> list[Claim]:
        return self.claims.take("default", limit, due_before=due_before)


@pytest.fixture(params=DATABASES)
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
    with fresh_database(request.param, tmp_path) as url:
        made = Queue(url)
        yield made
        made.database.close()


def test_a_less_urgent_backlog_is_no_hindrance(queue: Queue) -> None:
    """A password reset goes before three hundred newsletters that were there first."""
    queue.add(300, priority=-10)
    [reset] = queue.add()
    assert queue.take()[0] == reset


def test_another_tenants_import_is_no_hindrance(queue: Queue) -> None:
    """At the same priority tenants take turns: the reset is among the first mails claimed."""
    queue.add(300, tenant="import")
    queue.take()
    [reset] = queue.add()
    assert reset in queue.take()[:2]


def test_new_mail_and_retries_take_turns(queue: Queue) -> None:
    """Half of the places each, though the retries have been due for longer; the rest follows."""
    tried = queue.add(20)
    queue.make_tried(tried, 500)
    new = queue.add(6)
    first, second = queue.take(), queue.take()
    assert len(set(first) & set(new)) == HAND // 2
    assert set(first + second) >= set(new), "new mail that was left over waited"
    assert {first[0] in new, first[1] in new} == {True, False}, "not by turns"
    assert len(queue.take(100)) == 26 - 2 * HAND, "what was left was not all claimed"


def test_one_place_at_a_time_takes_turns_as_well(queue: Queue) -> None:
    """A prober claims single mails: neither kind waits for the end of the other."""
    queue.make_tried(queue.add(6), 500)
    new = queue.add(6)
    taken = [queue.take(1)[0] in new for _ in range(6)]
    assert sorted(taken) == [False] * 3 + [True] * 3


def test_places_are_shared_and_none_is_left_empty(queue: Queue) -> None:
    """Three tenants share the places; what one has no use for, the others get."""
    small = queue.add(1, tenant="small")
    queue.add(50, tenant="a")
    queue.add(50, tenant="z")
    taken = queue.claim(9)
    assert len(taken) == 9
    assert small[0] in [claim.job_id for claim in taken]
    of_a = [claim for claim in taken if claim.job_id <= 51 and claim.job_id not in small]
    assert len(of_a) >= 3, "less than its share"


def test_everybody_gets_a_turn_however_many_there_are(queue: Queue) -> None:
    """More tenants than one claim looks at: the next goes on where the last one stopped."""
    tenants = picking.TENANTS * 2 + 3
    firsts = [queue.add(4, tenant=f"t{number:03}")[0] for number in range(tenants)]
    taken = [queue.take() for _ in range(-(-tenants // HAND))]
    assert {job_id for some in taken for job_id in some} >= set(firsts)


def test_mail_that_is_not_due_yet_hides_none_that_is(queue: Queue) -> None:
    """Many tenants with newsletters for tomorrow: the one mail that is due is found at once."""
    for number in range(picking.TENANTS * 2):
        queue.add(1, tenant=f"t{number:03}", send_at=time.time() + 86_400)
    [reset] = queue.add(tenant="u")
    assert queue.take() == [reset]
    assert queue.take() == []
    assert queue.claims.transports_with_due() == []


def test_new_mail_does_not_wait_for_the_end_of_a_pass(queue: Queue) -> None:
    """A pass takes what was recorded since it began, but tries nobody twice."""
    again, _ = queue.add(2)
    began = queue.claims.now()
    for claim in queue.claim(1):
        assert claim.job_id == again
        queue.jobs.give_back([claim])
    queue.make_tried([again], 0)
    [new] = queue.add(priority=10)
    assert queue.take(due_before=began)[0] == new
    assert again not in queue.take(due_before=began)
    assert queue.take() == [again]


@pytest.fixture(params=DATABASES)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MailApp]:
    """An application whose sweeps send to nowhere, at once."""
    with fresh_database(request.param, tmp_path) as url:
        made = MailApp(tmp_path, "null:", DEFERRED_MAIL_DATABASE_URI=url)
        made.runtime.database.create()
        yield made
        made.close()


def _until_sent(app: MailApp, job: Job) -> int:
    """How many mails a sweep has sent when this one is among them, its hand at a time."""
    for hands in range(1, 4):
        assert app.sweep(limit=HAND).sent == HAND
        if app.job(job).status == "sent":
            return hands * HAND
    raise AssertionError(f"{3 * HAND} others went before it")


def test_fifty_thousand_newsletters_are_no_hindrance(app: MailApp) -> None:
    """A sweep is at work on 50,000 low-priority mails: a password reset goes out within a hand."""
    add_waiting(app.runtime.database, PILE, priority=-10)
    app.sweep(limit=HAND)
    reset = app.send()
    assert _until_sent(app, reset) <= HAND


def test_an_import_of_fifty_thousand_is_no_hindrance(app: MailApp) -> None:
    """At the same priority as 50,000 mails of another tenant, a password reset goes out as soon."""
    add_waiting(app.runtime.database, PILE, tenant="import")
    app.sweep(limit=HAND)
    reset = app.send(tenant="shop")
    assert _until_sent(app, reset) <= HAND


def test_fifty_thousand_retries_are_no_hindrance(app: MailApp) -> None:
    """After an outage 50,000 mails wait for another attempt: new mail of the same tenant goes out
    by turns with them."""
    add_waiting(app.runtime.database, PILE, attempts=1)
    app.sweep(limit=HAND)
    reset = app.send()
    assert _until_sent(app, reset) <= HAND


@pytest.mark.parametrize("others", [{"priority": -10}, {"tenant": "import"}, {"attempts": 1}])
def test_a_claim_does_not_go_through_a_pile(
    queue: Queue, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside 50,000 waiting mails a claim reads what it takes, and some steps through an index."""
    add_waiting(queue.database, PILE, **others)
    [reset] = queue.add()
    read = RowsRead(queue.database, monkeypatch)
    assert reset in queue.take()[:2]
    assert 0 < read.rows < PILE / 50
    queue.database.write(lambda c: c.scalar(text(GONE_THROUGH)))
    assert read.rows > PILE / 10, "going through all of it was not noticed"
