"""The list of suppressed addresses on every database: whom it keeps back, and who gets onto it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from flask_deferred_mail.errors import MessageError
from flask_deferred_mail.job import JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.letter import Submission
from flask_deferred_mail.store.claims import Claims, Lease
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.store.jobs import JobStore
from flask_deferred_mail.store.refusals import Refusals
from flask_deferred_mail.store.schema import meta, refusals, suppressions
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from flask_deferred_mail.store.suppressions import BELIEVED, Suppressions
from flask_deferred_mail.suppression import DAY, Mailing, Reason, Refusal, suppression
from tests.support.databases import DATABASES, fresh_database
from tests.support.transport_calls import a_letter

ANN = "ann@example.net"
SHOP = Mailing("example.com")
NOW = time.time


class Office:
    """A database with a list, and mails whose recipients are refused or taken."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.database.create()
        self.open()

    def open(self) -> None:
        """As another process would see it."""
        self.jobs = JobStore(self.database)
        self.claims = Claims(self.database, Lease(60, "host:1"))
        self.list: Suppressions = self.jobs.suppressions

    def mail(self, *refused: str, taken: tuple[str, ...] = (), tenant: str = "") -> int:
        """A mail ends: these recipients were refused as unknown, those were taken."""
        letter = a_letter(*refused, *taken)
        job_id = self.jobs.add(Submission(letter, tenant=tenant)).job.id
        claim = self.claims.take_one(job_id)
        assert claim is not None
        fates = {True: RecipientStatus.REJECTED, False: RecipientStatus.SENT}
        to = tuple(
            JobRecipient(r.address, r.kind, fates[r.address in refused]) for r in claim.recipients
        )
        status = JobStatus.SENT if not refused else JobStatus.FAILED
        met = tuple(Refusal(a, "example.com", tenant, "550 5.1.1 no such user") for a in refused)
        note = AttemptNote(time.time(), 0.1, status.value, "")
        verdict = Verdict(status, to, note, None, refusals=met)
        assert self.jobs.record(claim, verdict)
        return job_id

    def days_pass(self, days: float) -> None:
        """Everything that was refused was refused so much longer ago."""
        seconds = days * DAY
        self.write(update(refusals).values(refused_at=refusals.c.refused_at - seconds))

    def write(self, statement: Any) -> None:
        self.database.write(lambda c: c.execute(statement))

    def count(self, table: Any) -> int:
        return self.database.read(lambda c: c.scalar(select(func.count()).select_from(table)) or 0)

    def found(self, *addresses: str, mailing: Mailing = SHOP) -> set[str]:
        return set(self.list.found(addresses or (ANN,), mailing, NOW()))


@pytest.fixture(params=DATABASES)
def office(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Office]:
    with fresh_database(request.param, tmp_path) as url:
        made = Office(url)
        yield made
        made.database.close()


# -- the list -----------------------------------------------------------------------------------


def test_an_entry_keeps_back_what_its_scope_says(office: Office) -> None:
    """Domain, tenant and tag each narrow it; empty means all."""
    office.list.add("all@example.net", "manual")
    office.list.add("domain@example.net", "complaint", domain="Example.COM")
    office.list.add("tenant@example.net", "complaint", tenant="t1")
    office.list.add("tag@example.net", "unsubscribe", tag="news")
    everybody = [f"{name}@example.net" for name in ("all", "domain", "tenant", "tag", "free")]

    def found(mailing: Mailing) -> set[str]:
        return {address.partition("@")[0] for address in office.found(*everybody, mailing=mailing)}

    assert found(Mailing("example.com")) == {"all", "domain"}
    assert found(Mailing("example.org", "t1")) == {"all", "tenant"}
    assert found(Mailing("example.org", "", ("sale", "news"))) == {"all", "tag"}
    assert found(Mailing("example.org", "", ("news",), transactional=True)) == {"all"}


def test_a_tag_is_known_again_as_providers_spell_it(office: Office) -> None:
    """In lower case, and with one blank where the message had two."""
    office.list.add(ANN, "unsubscribe", tag="große news")
    assert office.found(ANN, mailing=Mailing("example.com", "", ("Große  News",))) == {ANN}
    assert office.found(ANN, mailing=Mailing("example.com", "", ("news",))) == set()


def test_addresses_are_found_in_any_case(office: Office) -> None:
    """Also one that was recorded in capitals; many are looked up at once."""
    office.list.add("Ann.B@Example.net")
    assert office.found("ann.b@example.net") == {"ann.b@example.net"}
    many = [f"r{n}@example.net" for n in range(1_200)]
    assert office.found(*many, "ANN.B@example.net") == {"ANN.B@example.net"}


def test_an_entry_ends(office: Office) -> None:
    """When its time is over it keeps nothing back; purging deletes it and no other."""
    office.list.add(ANN, "hard_bounce")
    office.list.add("eve@example.net", "complaint")
    assert office.found() == {ANN}
    [entry] = office.list.of(ANN)
    assert entry.expires_at is not None
    assert entry.created_at is not None
    assert entry.expires_at - entry.created_at == pytest.approx(90 * DAY, abs=1)
    assert office.list.drop_expired() == 0
    office.write(update(suppressions).where(suppressions.c.address == ANN).values(expires_at=1.0))
    assert office.found() == set()
    assert office.list.drop_expired() == 1
    assert [e.address for e in office.list.all()] == ["eve@example.net"]


def test_what_is_learnt_shortens_nothing(office: Office) -> None:
    """A report on an address that is listed for longer leaves the entry; a person replaces it."""
    office.list.add(ANN, "hard_bounce", expires_in=365 * DAY, detail="by hand")
    office.list.learn([suppression(ANN, "hard_bounce", source="default", detail="550")])
    assert office.list.of(ANN)[0].detail == "by hand"
    office.list.add(ANN, "hard_bounce", expires_in=DAY)
    office.list.learn([suppression(ANN, "hard_bounce", source="default", detail="550")])
    [entry] = office.list.of(ANN)
    assert (entry.detail, entry.source) == ("550", "default")
    assert entry.expires_at is not None
    assert entry.expires_at > NOW() + 89 * DAY


def test_the_weightiest_of_several_entries_is_told(office: Office) -> None:
    """A complaint is told before an unsubscribe."""
    office.list.add(ANN, "unsubscribe")
    office.list.add(ANN, "complaint")
    found = office.list.found([ANN], SHOP, NOW())
    assert found[ANN].reason is Reason.COMPLAINT
    assert "complaint" in found[ANN].words


def test_removing_names_what_went(office: Office) -> None:
    """All entries of an address, or those that are named; what was refused before is forgotten."""
    office.list.add(ANN, "unsubscribe", tag="news")
    office.list.add(ANN, "unsubscribe")
    office.mail(ANN)
    gone = office.list.remove(ANN, "unsubscribe", tag="")
    assert [(e.reason, e.tag) for e in gone] == [(Reason.UNSUBSCRIBE, "")]
    assert office.count(refusals) == 1
    assert len(office.list.remove(ANN.upper())) == 1
    assert office.count(refusals) == office.count(suppressions) == 0
    assert office.list.remove(ANN) == []


def test_an_empty_list_is_asked_for_now_and_then(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look serves for a while; what this process adds it knows at once, others soon."""
    other = Suppressions(office.database)
    assert not office.list.found([ANN], SHOP, NOW())
    assert not other.found([ANN], SHOP, NOW())
    office.list.add(ANN)
    assert office.list.found([ANN], SHOP, NOW())
    assert not other.found([ANN], SHOP, NOW())
    later = time.monotonic() + BELIEVED
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert other.found([ANN], SHOP, NOW())


def test_pages_hold_each_entry_once(office: Office) -> None:
    """Also where an address has several entries at the edge of a page."""
    entries = [suppression(f"r{n:04}@example.net") for n in range(1_100)]
    entries += [suppression("r0003@example.net", reason) for reason in ("complaint", "hard_bounce")]
    assert office.list.put(entries) == 1_102
    assert office.list.put(entries) == 1_102
    first = office.list.page(limit=4)
    assert [e.address[:5] for e in first] == ["r0000", "r0001", "r0002", "r0003", "r0003", "r0003"]
    assert office.list.page(first[-1].address, 1)[0].address == "r0004@example.net"
    assert len({e.digest for e in office.list.all()}) == office.count(suppressions) == 1_102


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        ("nobody", {}),
        (ANN, {"reason": "boredom"}),
        (ANN, {"tag": "news"}),
        (ANN, {"domain": "no host"}),
        (ANN, {"tenant": "t" * 101}),
        (ANN, {"reason": "unsubscribe", "tag": "a\nb"}),
    ],
)
def test_an_entry_that_cannot_be_is_refused(address: str, fields: dict[str, Any]) -> None:
    """By the name of the field."""
    with pytest.raises(MessageError):
        suppression(address, **{"reason": "manual"} | fields)


@pytest.mark.parametrize("seconds", [-1.0, 1e18, float("inf"), float("nan")])
def test_an_end_that_no_calendar_has_is_refused(office: Office, seconds: float) -> None:
    """Before it is stored: the list could not be shown any more."""
    with pytest.raises(MessageError, match="expires_in"):
        office.list.add(ANN, expires_in=seconds)
    assert office.list.of(ANN) == []


# -- refusals -----------------------------------------------------------------------------------


def test_refused_twice_a_day_apart_is_listed(office: Office) -> None:
    """By two mails; for the sender's domain and the tenant of both, for 30 days."""
    office.mail("Ann@example.net", tenant="t1")
    office.mail("Ann@example.net", tenant="t1")
    assert not office.count(suppressions)
    office.days_pass(1)
    office.mail("Ann@example.net", tenant="t2")
    assert not office.count(suppressions)
    office.mail("Ann@example.net", tenant="t1")
    [entry] = office.list.of(ANN)
    assert (entry.reason, entry.domain, entry.tenant) == ("unknown_user", "example.com", "t1")
    assert (entry.source, entry.detail) == ("default", "550 5.1.1 no such user")
    assert entry.expires_at == pytest.approx(NOW() + 30 * DAY, abs=60)
    # This process knows it although the list was empty a moment ago.
    assert office.found(mailing=Mailing("example.com", "t1")) == {ANN}


def test_who_was_reached_in_between_is_not_listed(office: Office) -> None:
    """The server knew him again: the first refusal counts for nothing any more."""
    office.mail(ANN)
    office.days_pass(2)
    office.mail(taken=(ANN,))
    office.mail(ANN)
    assert not office.count(suppressions)


def test_the_same_mail_counts_once(office: Office) -> None:
    """A retry by a person a day later is no second mail; nor is what was long ago a first."""
    job_id = office.mail(ANN)
    office.days_pass(2)
    office.write(update(refusals).values(job_id=job_id + 1))
    office.mail(ANN)
    assert not office.count(suppressions)
    office.days_pass(91)
    office.mail(ANN)
    assert not office.count(suppressions)
    assert Refusals(office.list).forget_old() == 2
    assert office.count(refusals) == 1


def test_a_server_that_knows_nobody_is_not_believed(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is listed, who was within the hour comes off again, and it is told once an hour."""
    people = [f"r{n}@example.net" for n in range(9)]
    for address in people:
        office.mail(address)
    office.days_pass(1.5)
    office.list.add("by-hand@example.net")
    with caplog.at_level(logging.ERROR, "flask_deferred_mail.store"):
        for address in people:
            office.mail(address)
        # So few can be true.
        assert office.count(suppressions) == 1 + len(people)
        for n in range(3):
            # Each in a process of its own, none of which has looked before.
            office.open()
            office.mail(f"further{n}@example.net")
    assert [entry.address for entry in office.list.all()] == ["by-hand@example.net"]
    [told] = [record.message for record in caplog.records]
    assert "called 10 of 19 recipients unknown" in told
    [alarm] = Refusals(office.list).alarms()
    assert (alarm.transport, alarm.refused, alarm.recipients) == ("default", 10, 19)


def test_what_was_refused_during_an_alarm_counts_for_nothing(office: Office) -> None:
    """Else a directory that is broken for an hour and a mailbox that is full would be two."""
    people = [f"r{n}@example.net" for n in range(12)]
    office.mail(*people)
    assert len(Refusals(office.list).alarms()) == 1
    office.days_pass(2)
    shift_alarm(office, 2 * DAY)
    office.open()
    office.mail(people[0])
    assert not office.count(suppressions)
    office.days_pass(2)
    office.mail(people[0])
    assert [entry.address for entry in office.list.all()] == [people[0]]


def test_few_among_many_are_listed(office: Office) -> None:
    """Twelve refused among three hundred are one in twenty-five."""
    gone = [f"gone{n}@example.net" for n in range(12)]
    office.mail(*gone, taken=tuple(f"t{n}@example.net" for n in range(300)))
    office.days_pass(1.5)
    office.mail(*gone, taken=tuple(f"t{n}@example.net" for n in range(300)))
    assert office.count(suppressions) == 12
    assert not Refusals(office.list).alarms()


def test_two_processes_that_learn_the_same_write_one_entry_each(office: Office) -> None:
    """In whatever order they come: none undoes the other's."""
    entries = [suppression(f"r{n}@example.net", "complaint") for n in range(50)]
    others = Suppressions(Database(office.url))
    try:
        office.list.learn(entries)
        others.learn(list(reversed(entries)))
    finally:
        others.database.close()
    assert office.count(suppressions) == 50


def test_a_mail_without_refusals_writes_nothing_here(office: Office) -> None:
    """No row, whatever the other statements are."""
    office.mail(taken=(ANN,))
    assert office.count(refusals) == 0


def shift_alarm(office: Office, seconds: float) -> None:
    """The last alarm was so much longer ago."""
    query = select(meta.c.name, meta.c.value).where(meta.c.name.like("refusals:%"))
    [(name, value)] = office.database.read(lambda c: c.execute(query).all())
    transport, since, until, refused, of, told = json.loads(value)
    shifted = json.dumps([transport, since - seconds, until - seconds, refused, of, told - seconds])
    office.write(update(meta).where(meta.c.name == name).values(value=shifted))
