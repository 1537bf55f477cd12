"""What providers report, on every database: kept once, joined, and never a step back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from flask_deferred_mail.job import Job, JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.letter import Address, Recipient, Submission
from flask_deferred_mail.reference import reference
from flask_deferred_mail.store.changes import Changes
from flask_deferred_mail.store.claims import Claim, Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.events import Events, Joined
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.purge import Purge
from flask_deferred_mail.store.rows import recipients_json
from flask_deferred_mail.store.schema import events, jobs, recipients
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from flask_deferred_mail.tracking import EventKind, TrackingEvent
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

ANN, BOB = "ann@example.net", "bob@example.net"


class Desk:
    """A database with mails, and what is reported of them."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.create()
        self.jobs = JobStore(self.database)
        self.events = Events(self.database)
        self.claims = Claims(self.database, Lease(60, "host:1"))
        self._numbers = itertools.count(1)

    def claimed(self, *to: str) -> Claim:
        """A mail that a sender has in hand."""
        job = self.jobs.add(Submission(a_letter(*(to or (ANN,))))).job
        claim = self.claims.take_one(job.id)
        assert claim is not None
        return claim

    def record(
        self, claim: Claim, status: str, *became: str, number: str | None = "id-1", **more: Any
    ) -> None:
        """Write down what an attempt came to: the mail's status, and those of its recipients."""
        entries = tuple(
            replace(
                entry,
                status=RecipientStatus(word),
                provider_message_id=number,
                **(
                    {"unknowns": 1, "doubt": "k", "doubted_at": time.time()}
                    if word == "unknown"
                    else {}
                ),
            )
            for entry, word in zip(claim.recipients, became, strict=True)
        )
        note = AttemptNote(time.time(), 0.1, "sent", "")
        verdict = Verdict(JobStatus(status), entries, note, "no answer", **more)
        assert self.jobs.record(claim, verdict)

    def mail(self, status: str, *became: str, number: str | None = "id-1", **more: Any) -> Job:
        """A mail after an attempt that came to this, to Ann and then to Bob."""
        claim = self.claimed(*(ANN, BOB)[: len(became)])
        self.record(claim, status, *became, number=number, **more)
        return self.jobs.get(claim.job_id)

    def event(self, kind: str, recipient: str | None = ANN, **fields: Any) -> TrackingEvent:
        fields.setdefault("event_id", f"e{next(self._numbers)}")
        fields.setdefault("message_id", "id-1")
        fields.setdefault("occurred_at", time.time() + 1)
        return TrackingEvent(EventKind(kind), recipient, transport="default", **fields)

    def report(self, kind: str, recipient: str | None = ANN, **fields: Any) -> list[Joined]:
        return self.events.take_in([self.event(kind, recipient, **fields)])

    def words(self, job: Job | Claim) -> list[str]:
        """The statuses of a mail: its own, then those of its recipients."""
        number = job.id if isinstance(job, Job) else job.job_id
        found = self.jobs.get(number)
        return [str(found.status), *(str(entry.status) for entry in found.recipients)]

    def count(self, *where: Any) -> int:
        query = select(func.count()).select_from(events).where(*where)
        return int(self.database.read(lambda c: c.scalar(query) or 0))


@pytest.fixture(params=DATABASES)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with fresh_database(request.param, tmp_path) as url:
        desk = Desk(url)
        yield desk
        desk.database.close()


PRECEDENCE = ["sent", "deferred", "delivered", "bounced", "complained"]


def test_in_whatever_order_they_come_the_weightiest_stays(desk: Desk) -> None:
    """Every order of four reports ends at the same status; each is kept."""
    for order in itertools.permutations(["deferred", "delivered", "bounced", "complained"]):
        job, number = desk.mail("sent", "sent", number=f"n-{order}"), f"n-{order}"
        reached = 0
        for kind in order:
            desk.report(kind, message_id=number)
            reached = max(reached, PRECEDENCE.index(kind))
            assert desk.words(job) == ["sent", PRECEDENCE[reached]]
        assert len(desk.events.of(job.id)) == 4


@pytest.mark.parametrize(
    ("first", "then", "ends"),
    [
        ("rejected", "accepted", "rejected"),
        ("rejected", "deferred", "rejected"),
        ("rejected", "delivered", "delivered"),
        ("failed", "rejected", "failed"),
        ("deferred", "rejected", "rejected"),
        ("delivered", "failed", "delivered"),
        ("delivered", "opened", "delivered"),
        ("bounced", "accepted", "bounced"),
        ("other", "unsubscribed", "sent"),
    ],
)
def test_a_status_never_goes_back(desk: Desk, first: str, then: str, ends: str) -> None:
    """A provider's refusal weighs more than its promise, and less than a server's word."""
    job = desk.mail("sent", "sent")
    desk.report(first)
    desk.report(then)
    assert desk.words(job) == ["sent", ends]


def test_the_address_index_follows(desk: Desk) -> None:
    """What ``list --to`` looks at says the same as the row."""
    job = desk.mail("sent", "sent", "sent")
    desk.report("bounced", BOB.upper(), bounce_type="hard", detail="550 5.1.1")
    query = select(recipients.c.status).where(recipients.c.job_id == job.id)
    listed = desk.database.read(lambda c: list(c.scalars(query.order_by(recipients.c.position))))
    assert listed == ["sent", "bounced"]
    assert desk.jobs.get(job.id).recipients[1].detail == "550 5.1.1"


def test_a_report_counts_once(desk: Desk) -> None:
    """Its repeat is not stored and not told; nor do further parts under its number count."""
    desk.mail("sent", "sent", "sent")
    first = desk.event("delivered")
    assert len(desk.events.take_in([first, first])) == 1
    assert desk.events.take_in([first]) == []
    assert desk.events.take_in([replace(first, recipient=BOB, part=1)]) == []
    assert desk.count() == 1


def test_the_same_report_at_the_same_time_counts_once(desk: Desk) -> None:
    """From several connections, as a provider and its impatient second try do."""
    desk.mail("sent", "sent")
    event = desk.event("delivered")
    with ThreadPoolExecutor(8) as pool:
        told = [len(joined) for joined in pool.map(desk.events.take_in, [[event]] * 24)]
    assert (sum(told), desk.count()) == (1, 1)


def test_reports_of_one_mail_at_the_same_time_lose_nothing(desk: Desk) -> None:
    """Each changes the recipient that it is about."""
    to = [f"r{n}@example.net" for n in range(12)]
    claim = desk.claimed(*to)
    desk.record(claim, "sent", *["sent"] * 12)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda address: desk.report("delivered", address), to))
    assert desk.words(claim) == ["sent", *["delivered"] * 12]


# -- whose mail it is ---------------------------------------------------------------------------


def test_our_reference_finds_the_mail_before_any_number_is_known(desk: Desk) -> None:
    """And another database's mail of the same number is not taken for it."""
    job = desk.mail("pending", "unknown", number=None, delay=600.0)
    foreign = reference(job.id, "<another@example.com>")
    assert desk.report("delivered", reference=foreign, message_id="x") == []
    ours = reference(job.id, job.message_id)
    (joined,) = desk.report("delivered", reference=ours, message_id="x")
    assert (joined.job.id, joined.ended) == (job.id, True)
    assert desk.words(job) == ["sent", "delivered"]
    assert desk.count(events.c.job_id.is_(None), events.c.open_until.is_(None)) == 1


def test_our_message_id_finds_it_where_the_provider_tells_that(desk: Desk) -> None:
    """By the recipient's address, which has an index."""
    job = desk.mail("pending", "unknown", number=None, delay=600.0)
    desk.report("opened", message_id="unheard of", own_message_id=job.message_id)
    assert desk.words(job) == ["sent", "sent"]


def test_of_several_mails_under_one_number_the_recipients_own_is_meant(desk: Desk) -> None:
    """A call that carried several mails; if that does not decide it, none is changed."""
    claims = [desk.claimed(ANN), desk.claimed(BOB), desk.claimed(BOB)]
    for claim in claims:
        desk.record(claim, "sent", "sent")
    desk.report("delivered", ANN)
    desk.report("delivered", BOB)
    assert [desk.words(claim)[1] for claim in claims] == ["delivered", "sent", "sent"]


def test_a_report_before_the_rows_own_outcome_has_its_effect_later(desk: Desk) -> None:
    """Kept open while nothing is known of its mail; a second look finds it, and tells once."""
    claim = desk.claimed()
    assert desk.report("delivered") == []
    assert desk.events.look_again() == []
    desk.record(claim, "sent", "sent")
    (joined,) = desk.events.look_again()
    assert (joined.job.id, joined.event.kind) == (claim.job_id, "delivered")
    assert desk.words(claim) == ["sent", "delivered"]
    assert (desk.events.look_again(), desk.count(events.c.open_until.isnot(None))) == ([], 0)


def test_the_next_report_of_a_mail_takes_those_along_that_came_too_early(desk: Desk) -> None:
    """Nobody has to sweep for that."""
    claim = desk.claimed()
    desk.report("bounced", bounce_type="hard")
    desk.record(claim, "sent", "sent")
    assert [one.event.kind for one in desk.report("delivered")] == ["bounced", "delivered"]
    assert desk.words(claim) == ["sent", "bounced"]


def test_a_row_in_hand_is_not_changed_and_loses_nothing(desk: Desk) -> None:
    """The outcome would write over it: the report waits until that is in, told at once."""
    claim = desk.claimed(ANN, BOB)
    ours = reference(claim.job_id, claim.message_id)
    assert len(desk.report("complained", reference=ours)) == 1
    assert desk.words(claim) == ["sending", "pending", "pending"]
    assert desk.events.look_again() == []
    desk.record(claim, "sent", "sent", "sent")
    assert desk.events.look_again() == []
    assert desk.words(claim) == ["sent", "complained", "sent"]


def test_what_a_dead_sender_left_is_settled_without_a_second_copy(desk: Desk) -> None:
    """It died before it wrote that the mail is out; the provider says so."""
    claim = desk.claimed()
    expired = update(jobs).where(jobs.c.id == claim.job_id).values(due_at=time.time() - 5)
    desk.database.write(lambda c: c.execute(expired))
    (joined,) = desk.report("delivered", reference=reference(claim.job_id, claim.message_id))
    assert joined.ended
    assert desk.words(claim) == ["sent", "delivered"]
    assert desk.claims.take_one(claim.job_id) is None
    desk.jobs.get(claim.job_id)
    note = AttemptNote(time.time(), 0.1, "sent", "")
    late = Verdict(JobStatus.PENDING, claim.recipients, note, None, delay=0.0)
    assert not desk.jobs.record(claim, late), "the late writer lost its lease"


# -- unknown outcomes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("accepted", ["sent", "sent"]),
        ("delivered", ["sent", "delivered"]),
        ("deferred", ["sent", "deferred"]),
        ("bounced", ["sent", "bounced"]),
        ("complained", ["sent", "complained"]),
        ("opened", ["sent", "sent"]),
        ("clicked", ["sent", "sent"]),
        ("rejected", ["failed", "rejected"]),
        ("failed", ["failed", "failed"]),
        ("other", None),
    ],
)
@pytest.mark.parametrize("status", ["held", "pending"])
def test_a_report_settles_an_unknown_outcome(
    desk: Desk, status: str, kind: str, ends: list[str] | None
) -> None:
    """A held mail, and one that waits for another try, end without one."""
    delay = 600.0 if status == "pending" else None
    job = desk.mail(status, "unknown", delay=delay)
    desk.report(kind)
    assert desk.words(job) == (ends or [status, "unknown"])
    due = select(jobs.c.due_at, jobs.c.ended_at, jobs.c.sent_at).where(jobs.c.id == job.id)
    row = desk.database.read(lambda c: c.execute(due).one())
    if ends:
        assert (row.due_at, row.ended_at is not None) == (None, True)
        assert (row.sent_at is not None) == (ends[0] == "sent")


def test_a_mail_with_somebody_left_goes_on(desk: Desk) -> None:
    """Only the settled one is left out of the next try; the last doubt ends a held mail."""
    job = desk.mail("pending", "unknown", "pending", delay=600.0)
    desk.report("delivered")
    assert desk.words(job) == ["pending", "delivered", "pending"]
    held = desk.mail("held", "unknown", "unknown", number="id-2")
    desk.report("delivered", ANN, message_id="id-2")
    assert desk.words(held) == ["held", "delivered", "unknown"]
    desk.report("rejected", BOB, message_id="id-2")
    assert desk.words(held) == ["partial", "delivered", "rejected"]


def test_a_mail_that_a_person_holds_stays_held(desk: Desk) -> None:
    """Nobody there is in doubt; what is reported of others changes nothing of that."""
    job = desk.mail("held", "sent", "pending")
    desk.report("delivered")
    assert desk.words(job) == ["held", "delivered", "pending"]


def test_what_happened_before_a_mail_was_let_go_again_is_of_another_copy(desk: Desk) -> None:
    """Somebody said retry: an old report does not keep the new copy back."""
    job = desk.mail("failed", "rejected")
    Changes(desk.database).retry(job.id)
    desk.report("accepted", occurred_at=time.time() - 3600)
    assert desk.words(job) == ["pending", "pending"]
    # In the same second, by a clock that shows no fractions.
    desk.report("accepted", occurred_at=float(int(time.time())))
    assert desk.words(job) == ["sent", "sent"]


def test_a_provider_whose_clock_is_behind_is_believed(desk: Desk) -> None:
    """There is one copy only, so the report can be of no other."""
    job = desk.mail("held", "unknown")
    desk.report("accepted", occurred_at=time.time() - 600)
    assert desk.words(job) == ["sent", "sent"]


def test_the_only_one_in_to_is_not_blamed_for_those_in_cc(desk: Desk) -> None:
    """Where a report names To alone, a bounce may be anybody's, and acceptance is everybody's."""
    people = (Recipient(Address(ANN)), Recipient(Address(BOB), "cc"))
    submission = Submission(a_letter(recipients=people))
    sent, doubtful = (desk.jobs.add(submission).job for _ in range(2))
    for job, status, words in ((sent, "sent", "sent"), (doubtful, "held", "unknown")):
        claim = desk.claims.take_one(job.id)
        assert claim is not None
        desk.record(claim, status, words, words, number=f"n{job.id}")
    [bounced] = desk.report("bounced", message_id=f"n{sent.id}", by_heading=True, among=(ANN,))
    assert desk.words(sent) == ["sent", "sent", "sent"]
    assert bounced.event.recipient is None
    desk.report("accepted", message_id=f"n{doubtful.id}", by_heading=True, among=(ANN,))
    assert desk.words(doubtful) == ["sent", "sent", "sent"]


def test_the_only_one_in_to_is_meant_where_nobody_else_was(desk: Desk) -> None:
    """So with private copies, of which each has its own number."""
    job = desk.mail("sent", "sent", "sent")
    [joined] = desk.report("bounced", BOB, by_heading=True, among=(BOB,))
    assert desk.words(job) == ["sent", "sent", "bounced"]
    assert joined.event.recipient == BOB


def test_a_reference_that_is_not_ours_hides_no_number(desk: Desk) -> None:
    """Somebody's metadata may have a name like ours."""
    job = desk.mail("sent", "sent")
    desk.report("delivered", reference="order 7")
    assert desk.words(job) == ["sent", "delivered"]


def test_a_crowd_of_somebody_elses_reports_is_not_looked_for_all_the_time(desk: Desk) -> None:
    """What waits for a row that was in hand is looked at all the same."""
    desk.events.take_in([desk.event("delivered", message_id=f"x{i}") for i in range(150)])
    desk.events.look_again()
    waiting, late = desk.claimed(), desk.claimed()
    desk.report(
        "delivered", message_id=None, reference=reference(waiting.job_id, waiting.message_id)
    )
    desk.report("delivered", message_id="late")
    for claim, number in ((waiting, "n"), (late, "late")):
        desk.record(claim, "sent", "sent", number=number)
    desk.events._rests_until = time.monotonic() + 60.0
    desk.events.look_again()
    assert [desk.words(c)[1] for c in (waiting, late)] == ["delivered", "sent"]
    desk.events._rests_until = 0.0
    desk.events.look_again()
    assert desk.words(late)[1] == "delivered"
    assert desk.events._rests_until > 0.0


def test_one_call_took_them_all(desk: Desk) -> None:
    """Where a report lists the recipients of its request, the others are not in doubt either."""
    job = desk.mail("held", "unknown", "unknown")
    desk.report("delivered", None, among=(ANN, BOB))
    assert desk.words(job) == ["sent", "sent", "sent"]


def test_a_refusal_of_one_says_nothing_of_the_others(desk: Desk) -> None:
    """Only what shows acceptance speaks for the whole request."""
    job = desk.mail("held", "unknown", "unknown")
    desk.report("rejected", ANN, among=(ANN, BOB))
    assert desk.words(job) == ["held", "rejected", "unknown"]


# -- hooks, purge -------------------------------------------------------------------------------


def test_a_hook_runs_in_the_transaction_of_the_report(desk: Desk) -> None:
    """Both are there, or neither; an unknown mail is told of again when it is found."""
    told: list[tuple[str, int | None]] = []
    desk.events.hooks.append(lambda _c, event, job: told.append((event.kind, job and job.id)))
    claim = desk.claimed()
    desk.report("complained")
    desk.record(claim, "sent", "sent")
    desk.events.look_again()
    assert told == [("complained", None), ("complained", claim.job_id)]

    def breaks(*_: Any) -> None:
        raise RuntimeError("no")

    desk.events.hooks[:] = [breaks]
    before = desk.count()
    with pytest.raises(RuntimeError):
        desk.report("bounced")
    assert (desk.count(), desk.words(claim)[1]) == (before, "complained")


def test_purge_takes_reports_along(desk: Desk) -> None:
    """With their mail; those that never found one by their age."""
    ended, waits = desk.mail("sent", "sent"), desk.mail("held", "unknown", number="id-2")
    desk.report("delivered")
    desk.report("other", message_id="id-2")
    desk.report("delivered", message_id="nobody's")
    assert Purge(desk.database).older_than(3600, 100) == 0
    assert desk.count() == 3
    old = update(events).where(events.c.job_id.is_(None)).values(received_at=time.time() - 7200)
    desk.database.write(lambda c: c.execute(old))
    gone = update(jobs).where(jobs.c.id == ended.id).values(ended_at=time.time() - 7200)
    desk.database.write(lambda c: c.execute(gone))
    assert Purge(desk.database).older_than(3600, 1) == 1
    assert [desk.count(events.c.job_id == job.id) for job in (ended, waits)] == [0, 1]
    assert desk.count() == 1


def test_a_thousand_reports_in_one_request(desk: Desk) -> None:
    """As SendGrid posts them: one transaction, in a bounded number of statements."""
    claim = desk.claimed(*(f"r{n}@example.net" for n in range(1000)))
    desk.record(claim, "sent", *["sent"] * 1000)
    statements = 0
    engine = desk.database.engine

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    from sqlalchemy import event as watch

    watch.listen(engine, "before_cursor_execute", count)
    told = desk.events.take_in([desk.event("delivered", f"r{n}@example.net") for n in range(1000)])
    watch.remove(engine, "before_cursor_execute", count)
    assert len(told) == 1000
    assert statements < 30
    assert set(desk.words(claim)[1:]) == {"delivered"}


def test_rows_made_by_hand_read_back(desk: Desk) -> None:
    """A recipient whose doubt was settled has none left in its row."""
    job = desk.mail("held", "unknown")
    desk.report("delivered")
    (entry,) = desk.jobs.get(job.id).recipients
    assert (entry.doubt, entry.doubted_at, entry.provider_message_id) == (None, None, "id-1")
    assert '"c"' not in recipients_json((entry,))
    assert isinstance(entry, JobRecipient)
