"""What a request and a mail cost in statements, commits and round trips.

``docs/reference/costs.md`` states these numbers. They are counted by SQLite itself (its trace) and
by a mail server, not by our own code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from flask_deferred_mail import Attachment
from flask_deferred_mail.job import JobStatus
from flask_deferred_mail.store.claims import Claim
from flask_deferred_mail.store.statements import AttemptNote, Verdict
from flask_deferred_mail.suppression import Mailing, Refusal
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.statements_run import watch_statements
from tests.support.waiting import wait_until

MakeApp = Callable[..., MailApp]

FILE = Attachment("a.txt", "text/plain", b"content")
ONE_OUTCOME = ["BEGIN IMMEDIATE", "UPDATE", "INSERT", "INSERT", "COMMIT"]


class Trace:
    """Every statement that a database runs, as its first word; BEGIN IMMEDIATE as it is."""

    def __init__(self, app: MailApp) -> None:
        self.statements: list[str] = []
        # Those that are open are not watched.
        app.runtime.database.close()
        event.listen(app.runtime.database.engine, "checkout", self._watch)

    def _watch(self, connection: Any, *_rest: object) -> None:
        connection.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        begins = statement.startswith("BEGIN")
        self.statements.append(statement if begins else statement.split()[0])

    def take(self) -> list[str]:
        """What has come since the last time."""
        taken, self.statements[:] = self.statements.copy(), []
        return taken


@pytest.fixture
def app(make_app: MakeApp) -> MailApp:
    """An app that records and leaves all else to the test; its tables are there."""
    app = make_app("null:", DEFERRED_MAIL_DISPATCH="none")
    app.send()
    app.sweep()
    return app


def _claims(app: MailApp, number: int) -> list[Claim]:
    for _ in range(number):
        app.send()
    return app.runtime.claims.take("default", number)


def test_recording_a_mail_is_one_statement(app: MailApp) -> None:
    """One INSERT, and its commit with it: no BEGIN, no COMMIT, nothing read."""
    trace = Trace(app)
    app.send()
    assert trace.take() == ["INSERT"]


def test_a_file_costs_a_transaction_of_three_inserts(app: MailApp) -> None:
    """The row, the content, and which mail has which content; one commit."""
    trace = Trace(app)
    app.send(attachments=[FILE])
    assert trace.take() == ["BEGIN IMMEDIATE", "INSERT", "INSERT", "INSERT", "COMMIT"]


def test_many_mails_are_recorded_with_one_commit(app: MailApp) -> None:
    """``send_many`` is one transaction with one INSERT each."""
    trace = Trace(app)
    fields = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi"}
    with app.app.app_context():
        app.mail.send_many([fields] * 5)
    assert trace.take() == ["BEGIN IMMEDIATE", *["INSERT"] * 5, "COMMIT"]


def test_a_request_that_sends_costs_two_commits(make_app: MakeApp, smtp: SmtpServer) -> None:
    """The row before the answer; after it, the outcome. Nothing is claimed or read back."""
    app = make_app(smtp.url())
    app.app.add_url_rule("/", "view", lambda: f"recorded {app.send().id}")
    _request(app)
    trace = Trace(app)
    _request(app)
    assert _without_looks(trace.take()) == ["INSERT", *ONE_OUTCOME]


def _without_looks(statements: list[str]) -> list[str]:
    """Without what a process looks at once a second, or every other: how the transports are, and
    whether anybody is on the suppression list."""
    left, within = [], ""
    for statement in statements:
        if statement.startswith("BEGIN"):
            within = statement
        if within == "BEGIN IMMEDIATE" or (not within and statement != "SELECT"):
            left.append(statement)
        if statement == "COMMIT":
            within = ""
    return left


def test_a_request_costs_two_commits_by_a_limited_transport_too(
    make_app: MakeApp, smtp: SmtpServer
) -> None:
    """Its token is taken with the row."""
    app = make_app(f"{smtp.url()}&rate=1000/d")
    app.app.add_url_rule("/", "view", lambda: f"recorded {app.send().id}")
    _request(app)
    trace = Trace(app)
    _request(app)
    paced = ["BEGIN IMMEDIATE", "SELECT", "UPDATE", "INSERT", "COMMIT"]
    assert _without_looks(trace.take()) == [*paced, *ONE_OUTCOME]


def test_a_list_of_suppressed_addresses_costs_one_look_for_each_mail(
    app: MailApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many recipients it has; nothing while the list is known to be empty."""
    suppressions, mailing, now = app.runtime.suppressions, Mailing("example.com"), time.time()
    suppressions.found(["ann@example.com"], mailing, now)
    # Whether it is empty is not asked again in this test.
    monkeypatch.setattr("flask_deferred_mail.store.suppressions.BELIEVED", 3_600.0)
    trace = Trace(app)
    suppressions.found(["ann@example.com"], mailing, now)
    assert trace.take() == []
    suppressions.add("eve@example.com")
    trace.take()
    for number in (1, 500):
        suppressions.found([f"r{n}@example.com" for n in range(number)], mailing, now)
        assert trace.take() == ["SELECT"]


def test_refused_recipients_are_noted_with_the_outcome(app: MailApp) -> None:
    """No commit more; a mail whose recipients were not refused so pays nothing."""
    [claim] = _claims(app, 1)
    trace = Trace(app)
    refused = (Refusal("ann@example.com", "example.com", "", "550 5.1.1"),)
    note = AttemptNote(0.0, 0.1, "failed", "")
    verdict = Verdict(JobStatus.FAILED, claim.recipients, note, None, refusals=refused)
    app.runtime.jobs.record(claim, verdict)
    statements = trace.take()
    assert statements[:4] == ONE_OUTCOME[:4]
    assert statements[4:] == ["INSERT", *["SELECT"] * 3, "COMMIT"]


def _request(app: MailApp) -> None:
    """A request, until its mail's outcome is written. Asks the database nothing."""
    app.app.test_client().get("/").close()
    wait_until(lambda: app.runtime.leases.count() == 0, message="the mail was not sent")


def test_a_claim_costs_the_same_for_one_and_for_fifty(app: MailApp) -> None:
    """One transaction with one UPDATE takes them all; reading is by steps through the index.

    One step more is for mail that waits for another attempt, where there is some or some in hand.
    """
    costs = []
    for number in (1, 2, 50):
        for _ in range(number):
            app.send()
        trace = Trace(app)
        assert len(app.runtime.claims.take("default", number)) == number
        costs.append(trace.take())
    first, *others = costs
    assert first == ["BEGIN IMMEDIATE", *["SELECT"] * 3, "UPDATE", "COMMIT"]
    assert others == [["BEGIN IMMEDIATE", *["SELECT"] * 4, "UPDATE", "COMMIT"]] * 2


def test_looking_for_work_is_four_steps_through_the_index(app: MailApp) -> None:
    """Which transports have something due, when it is one: nothing is counted or sorted."""
    app.send()
    trace = Trace(app)
    assert app.runtime.claims.transports_with_due() == ["default"]
    assert trace.take() == ["SELECT"] * 4


def test_notes_on_a_mail_in_hand_are_one_statement(app: MailApp) -> None:
    """Before the last byte of a mail that must not go twice, and between two envelopes."""
    [claim] = _claims(app, 1)
    trace = Trace(app)
    assert app.runtime.jobs.mark_handing_over(claim)
    assert app.runtime.jobs.progress(claim, claim.recipients, 1)
    assert trace.take() == ["UPDATE", "UPDATE"]


def test_reading_a_mail_back_is_one_statement(app: MailApp) -> None:
    """A swept mail is read by one SELECT; files cost one more."""
    [claim] = _claims(app, 1)
    trace = Trace(app)
    app.runtime.jobs.load(claim)
    assert trace.take() == ["SELECT"]
    app.send(attachments=[FILE])
    [claim] = app.runtime.claims.take("default", 1)
    trace.take()
    app.runtime.jobs.load(claim)
    assert trace.take() == ["SELECT", "SELECT"]


def test_mails_that_are_claimed_together_are_read_together(app: MailApp) -> None:
    """One SELECT for the texts of all that a sweep with many senders has in hand: 1.2 MB here."""
    for _ in range(120):
        app.send(body="x" * 10_000)
    app.runtime.database.close()
    reads: list[str] = []

    def note(sql: str, _parameters: object) -> None:
        if sql.startswith("SELECT") and ".payload" in sql:
            reads.append(sql)

    watch_statements(app.runtime.database.engine, note)
    assert app.sweep(concurrency=64).sent == 120
    assert len(reads) == 1


def test_an_outcome_is_one_commit(app: MailApp) -> None:
    """Row, attempt log and index of addresses, at once."""
    [claim] = _claims(app, 1)
    trace = Trace(app)
    note = AttemptNote(0.0, 0.1, "sent", "")
    app.runtime.jobs.record(claim, Verdict(JobStatus.SENT, claim.recipients, note, None))
    assert trace.take() == ONE_OUTCOME


def test_making_sure_of_room_is_two_statements(app: MailApp) -> None:
    """Written and taken back, each with a commit of its own."""
    trace = Trace(app)
    app.runtime.jobs.make_room(1)
    assert trace.take() == ["INSERT", "DELETE"]


def test_leases_are_renewed_by_one_statement(app: MailApp) -> None:
    """However many mails are in hand."""
    claims = _claims(app, 20)
    trace = Trace(app)
    app.runtime.jobs.renew([(claim.job_id, claim.token) for claim in claims], 60)
    assert trace.take() == ["UPDATE"]


def test_a_mail_on_a_kept_connection_is_four_round_trips(
    make_app: MakeApp, smtp: SmtpServer
) -> None:
    """MAIL, RCPT, DATA and the final dot; the greeting is paid once per connection."""
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="none")
    for _ in range(3):
        app.send()
    assert app.sweep(concurrency=1).sent == 3
    verbs = [command.verb for command in smtp.commands if command.verb != "QUIT"]
    assert verbs == ["EHLO", *["MAIL", "RCPT", "DATA"] * 3]
    assert smtp.connections == 1
