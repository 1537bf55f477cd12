"""Who is on the suppression list gets no mail: before any network call, in every door."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.delivery.learning import Learner
from flask_deferred_mail.errors import StoreBusy
from flask_deferred_mail.suppression import DAY
from tests.support.mail_app import MailApp
from tests.support.smtp_script import Drop
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"


@pytest.fixture
def app(make_app: Make, smtp: SmtpServer) -> MailApp:
    """An app that sends to ``smtp``, and whose list holds Ann, who complained."""
    app = make_app(smtp.url())
    app.runtime.suppressions.add(ANN, "complaint", source="default", detail="abuse report")
    return app


def run(app: MailApp, *arguments: Any, code: int = 0, **how: Any) -> str:
    """A command's stdout."""
    words = [str(argument) for argument in arguments]
    result = app.app.test_cli_runner().invoke(mail_group, words, **how)
    assert result.exit_code == code, result.output
    return result.stdout


# -- sending ------------------------------------------------------------------------------------


def test_a_mail_to_nobody_else_touches_no_network(app: MailApp, smtp: SmtpServer) -> None:
    """It ends failed at its first attempt, and the row, `show` and `explain` say why."""
    job = app.send(ANN)
    assert app.sweep().failed == 1
    assert smtp.connections == 0
    after = app.job(job)
    assert (after.status, after.attempts) == ("failed", 1)
    assert app.statuses(job) == {ANN: "suppressed"}
    assert after.last_error is not None
    assert "ann@example.com: not mailed: on the suppression list (complaint" in after.last_error
    assert app.outcomes(job) == ["failed"]
    for command in ("show", "explain"):
        assert "suppression list (complaint" in run(app, command, job.id)


def test_the_others_get_the_same_mail_as_ever(app: MailApp, smtp: SmtpServer) -> None:
    """Everybody stands in its header; only the envelope lacks who is not to be mailed."""
    job = app.send(ANN, BOB, cc=[EVE])
    assert app.sweep().partial == 1
    [received] = smtp.messages
    assert received.recipients == [BOB, EVE]
    assert b"To: ann@example.com, bob@example.com" in received.data
    assert app.statuses(job) == {ANN: "suppressed", BOB: "sent", EVE: "sent"}
    assert "suppression list" in (app.job(job).last_error or "")


def test_private_copies_go_to_the_others_only(app: MailApp, smtp: SmtpServer) -> None:
    """No envelope is made for who is on the list."""
    app.send(ANN, BOB, private_copies=True)
    app.sweep()
    assert [message.recipients for message in smtp.messages] == [[BOB]]


def test_what_is_to_be_tried_again_is_told_before_who_was_left_out(
    app: MailApp, smtp: SmtpServer
) -> None:
    """The last error of a mail that waits is the server's; who was left out stays so."""
    smtp.script("rcpt", lambda _turn: "451 4.2.1 later")
    job = app.send(ANN, BOB)
    assert app.sweep().retry == 1
    assert app.statuses(job) == {ANN: "suppressed", BOB: "pending"}
    assert "4.2.1" in (app.job(job).last_error or "")
    smtp.script("rcpt", None)
    app.runtime.suppressions.remove(ANN)
    app.make_due()
    assert app.sweep().partial == 1
    assert [message.recipients for message in smtp.messages] == [[BOB]]


def test_a_transactional_mail_passes_an_unsubscribe_only(app: MailApp, smtp: SmtpServer) -> None:
    """Who waits for it gets it; who complained, or has no mailbox, does not."""
    app.runtime.suppressions.add(BOB, "unsubscribe")
    app.runtime.suppressions.add(EVE, "hard_bounce")
    app.send(ANN, BOB, EVE, transactional=True)
    app.send(BOB)
    app.sweep()
    assert [message.recipients for message in smtp.messages] == [[BOB]]


def test_a_mail_sent_after_its_response_is_looked_up_too(app: MailApp, smtp: SmtpServer) -> None:
    """It was never claimed, and knows its tenant and whether somebody waits for it."""
    app.runtime.suppressions.add(BOB, "unsubscribe", tenant="t1")
    jobs: list[int] = []

    def view() -> str:
        jobs.append(app.send(BOB, tenant="t1").id)
        jobs.append(app.send(BOB, tenant="t1", transactional=True).id)
        jobs.append(app.send(BOB).id)
        return "done"

    app.app.add_url_rule("/", "view", view)
    app.app.test_client().get("/").close()
    wait_until(lambda: all(app.job(j).status in ("sent", "failed") for j in jobs))
    assert [app.statuses(j)[BOB] for j in jobs] == ["suppressed", "sent", "sent"]
    assert len(smtp.messages) == 2


def test_send_now_says_so_at_once(app: MailApp, smtp: SmtpServer) -> None:
    """The caller gets the job as it ended."""
    with app.app.app_context():
        job = app.mail.send_now(subject="Hi", recipients=[ANN], body="x")
    assert (job.status, smtp.connections) == ("failed", 0)


def test_who_may_have_it_and_is_listed_now_waits_for_a_person(
    make_app: Make, smtp: SmtpServer
) -> None:
    """No second copy goes out, and nobody says that none went out either."""
    smtp.script("dot", Drop())
    app = make_app(smtp.url())
    job = app.send(ANN)
    app.sweep()
    assert app.statuses(job) == {ANN: "unknown"}
    connections = smtp.connections
    app.runtime.suppressions.add(ANN, "complaint")
    app.make_due()
    assert app.sweep().held == 1
    assert smtp.connections == connections
    assert app.statuses(job) == {ANN: "unknown"}
    assert "suppression list" in app.job(job).recipients[0].detail


def test_a_list_that_cannot_be_asked_stops_the_mail(
    app: MailApp, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing leaves, and the mail does not pay: it is there for the next sweep."""

    def busy(*_: Any, **__: Any) -> Any:
        raise StoreBusy("locked")

    job = app.send(BOB)
    claim = app.runtime.claims.take_one(job.id)
    assert claim is not None
    with monkeypatch.context() as patch:
        patch.setattr(app.runtime.suppressions, "found", busy)
        with pytest.raises(StoreBusy):
            app.runtime.deliverer.deliver(app.runtime.leases.hold(claim))
    assert smtp.connections == 0
    assert (app.job(job).status, app.job(job).attempts) == ("pending", 0)
    assert app.sweep().sent == 1


def test_retry_sends_it_once_the_address_is_off_the_list(app: MailApp, smtp: SmtpServer) -> None:
    """While it is on, a retry ends as the first attempt did."""
    job = app.send(ANN)
    app.sweep()
    run(app, "retry", job.id)
    assert app.sweep().failed == 1
    assert "off the list: ann@example.com" in run(app, "suppress", "remove", ANN)
    assert "to be tried again: ann@example.com" in run(app, "retry", job.id)
    assert app.sweep().sent == 1
    assert [message.recipients for message in smtp.messages] == [[ANN]]


# -- who gets onto it ---------------------------------------------------------------------------


def test_refused_twice_by_a_server_then_mailed_no_more(make_app: Make, smtp: SmtpServer) -> None:
    """From RCPT to the list to a mail that is not tried: a day apart, by two mails."""
    smtp.script("rcpt", lambda turn: "550 5.1.1 who?" if "bob@" in turn.argument else None)
    app = make_app(smtp.url())
    for _ in range(2):
        app.send(BOB, EVE)
        app.sweep()
    assert app.runtime.suppressions.of(BOB) == []
    app.sql(f"UPDATE deferred_mail_refusal SET refused_at = refused_at - {DAY}")
    # Eve's server took her mail, and never Bob's.
    app.send(BOB, EVE)
    app.sweep()
    [entry] = app.runtime.suppressions.of(BOB)
    assert (entry.reason, entry.domain, entry.source) == ("unknown_user", "example.com", "default")
    before = smtp.connections
    job = app.send(BOB)
    assert app.sweep().failed == 1
    assert smtp.connections == before
    assert app.statuses(job) == {BOB: "suppressed"}


@pytest.mark.parametrize(
    ("stage", "reply", "noted"),
    [
        ("rcpt", "550 5.1.1 no such user", 1),
        ("rcpt", "550 5.1.10 null MX", 1),
        ("rcpt", "550 5.2.1 disabled", 1),
        ("rcpt", "550 5.7.1 not allowed", 0),
        ("rcpt", "550 no such user", 0),
        ("rcpt", "450 4.1.1 later", 0),
        ("dot", "550 5.1.1 no such user", 0),
    ],
)
def test_only_a_missing_mailbox_at_rcpt_is_noted(
    make_app: Make, smtp: SmtpServer, stage: str, reply: str, noted: int
) -> None:
    """After the body, or with another code, it can be about the mail."""
    smtp.script(stage, lambda _turn: reply)
    app = make_app(smtp.url())
    app.send(BOB)
    app.sweep()
    assert app.sql("SELECT count(*) FROM deferred_mail_refusal") == [(noted,)]


@dataclass
class Report:
    """What a provider says of a mail."""

    kind: str
    bounce_type: str | None = None
    recipient: str | None = "BOB@Example.COM"
    detail: str = ""
    transport: str = "default"
    data: Mapping[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("report", "reason", "days"),
    [
        (Report("complained"), "complaint", None),
        (Report("bounced", "hard"), "hard_bounce", 90),
        (Report("unsubscribed"), "unsubscribe", None),
        (Report("rejected", detail="suppress-bounce"), "hard_bounce", 90),
        (Report("rejected", detail="suppress-unsubscribe"), "unsubscribe", None),
        (Report("rejected", detail="suppress-complaint"), "complaint", None),
        (Report("complained", recipient=None), "complaint", None),
    ],
)
def test_what_is_reported_of_a_mail_keeps_the_next_one_back(
    make_app: Make, smtp: SmtpServer, report: Report, reason: str, days: int | None
) -> None:
    """For mail of the same sender's domain and tenant, and for no other."""
    app = make_app(smtp.url())
    job = app.job(app.send(BOB, tenant="t1"))
    [entry] = Learner(app.runtime.suppressions).on_event(report, job)
    assert (entry.reason, entry.domain, entry.tenant) == (reason, "example.com", "t1")
    [stored] = app.runtime.suppressions.of(BOB)
    assert stored.created_at is not None
    seconds = None if stored.expires_at is None else stored.expires_at - stored.created_at
    assert seconds == (None if days is None else pytest.approx(days * DAY))
    others = [app.send(BOB, tenant="t2"), app.send(BOB, tenant="t1", sender="me@example.org")]
    counts = app.sweep()
    assert (counts.failed, counts.sent) == (1, 2)
    assert app.statuses(job) == {BOB: "suppressed"}
    assert [app.statuses(other)[BOB] for other in others] == ["sent", "sent"]


@pytest.mark.parametrize(
    "report",
    [
        Report("bounced", "soft"),
        Report("bounced"),
        Report("rejected", detail="content"),
        Report("delivered"),
        Report("failed"),
        Report("complained", recipient="not an address"),
    ],
)
def test_what_else_is_reported_changes_nothing(app: MailApp, report: Report) -> None:
    """A full mailbox, a refused content, a report that names nobody."""
    learner = Learner(app.runtime.suppressions)
    assert learner.on_event(report, app.send(BOB)) == []
    assert learner.on_event(Report("complained"), None) == []
    assert app.runtime.suppressions.of(BOB) == []


def test_a_report_of_one_among_several_lists_nobody(
    app: MailApp, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so in words, and raises no alarm."""
    caplog.set_level("INFO", logger="flask_deferred_mail.delivery")
    learner = Learner(app.runtime.suppressions)
    assert learner.on_event(Report("complained", recipient=None), app.send(BOB, EVE)) == []
    [record] = [r for r in caplog.records if "nobody is listed" in r.message]
    assert record.levelname == "INFO"
    assert "complained (complaint)" in record.message


def test_an_unsubscribe_from_a_list_is_for_its_tag(make_app: Make) -> None:
    """Named by the report; two tags are two entries."""
    app = make_app("memory:")
    report = Report("unsubscribed", data={"tags": ["news", "sale", 7]})
    Learner(app.runtime.suppressions).on_event(report, app.send(BOB))
    assert [entry.tag for entry in app.runtime.suppressions.of(BOB)] in (
        ["news", "sale"],
        ["sale", "news"],
    )


# -- by hand ------------------------------------------------------------------------------------


def test_add_list_and_remove(app: MailApp) -> None:
    """Words for people, JSON for scripts, 2 for what is not there."""
    said = run(app, "suppress", "add", BOB, "--reason", "unsubscribe", "--tag", "news")
    assert "on the list: bob@example.com: unsubscribe, tag news, for good" in said
    made = json.loads(run(app, "suppress", "add", EVE, "--expires", "0.5", "--json"))
    assert (made["reason"], made["source"], made["domain"]) == ("manual", "cli", "")
    assert made["expires_at"] > made["created_at"]
    listed = json.loads(run(app, "suppress", "list", "--json"))
    assert [entry["address"] for entry in listed] == [ANN, BOB, EVE]
    assert "tag news" in run(app, "suppress", "list", "--address", "Bob@Example.com")
    paged = json.loads(run(app, "suppress", "list", "--after", ANN, "--limit", 1, "--json"))
    assert [entry["address"] for entry in paged] == [BOB]
    run(app, "suppress", "remove", BOB, "--tag", "sale", code=2)
    run(app, "suppress", "remove", BOB)
    run(app, "suppress", "remove", BOB, code=2)
    run(app, "suppress", "add", "nobody", code=2)
    run(app, "suppress", "add", BOB, "--tag", "news", code=2)


def test_an_import_stores_what_is_good_and_numbers_what_is_not(
    app: MailApp, tmp_path: Path
) -> None:
    """Line by line: a bad one costs no other one, and the exit code says that there was one."""
    file = tmp_path / "blocked.csv"
    lines = [b"Email,Reason", b"bob@example.com,hard_bounce", b"nobody,manual", b"", b"\xff@x.de,"]
    lines += [b"eve@example.com,", b"a@example.com,boredom", b"a@example.com,manual,x"]
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    runner = app.app.test_cli_runner()
    result = runner.invoke(mail_group, ["suppress", "import", str(file), "--reason", "complaint"])
    assert result.exit_code == 2
    assert "2 stored, 4 bad lines" in result.stdout
    told = [line.partition(":")[0] for line in result.stderr.splitlines()]
    assert told == ["line 3", "line 5", "line 7", "line 8"]
    entries = {e.address: e for e in app.runtime.suppressions.all()}
    assert (entries[BOB].reason, entries[EVE].reason) == ("hard_bounce", "complaint")
    assert entries[BOB].expires_at is not None
    run(app, "suppress", "import", tmp_path / "none.csv", code=2)


def test_no_spreadsheet_takes_a_servers_words_for_a_formula(app: MailApp) -> None:
    """They come from whoever runs the recipient's mail server."""
    app.runtime.suppressions.add(ANN, "hard_bounce", detail="=HYPERLINK(1)")
    assert ",'=HYPERLINK(1)," in run(app, "suppress", "export")


def test_what_is_exported_can_be_imported(make_app: Make, app: MailApp, tmp_path: Path) -> None:
    """With every field as it was, also who is on it for good; without a header line, addresses."""
    suppressions = app.runtime.suppressions
    suppressions.add(BOB, "unsubscribe", tag="a, b", tenant="t", domain="example.com", detail='"x"')
    suppressions.add(EVE, "hard_bounce", expires_in=3.5 * DAY)
    text = run(app, "suppress", "export")
    assert text.count("\n") == 4
    assert json.loads(run(app, "suppress", "export", "--json"))[0]["address"] == ANN
    (tmp_path / "other").mkdir()
    other = make_app("memory:", tmp_path / "other")
    assert "3 stored" in run(other, "suppress", "import", "-", input=text)
    assert run(other, "suppress", "export") == text
    said = run(other, "suppress", "import", "-", "--json", input="x@example.com\n\ny@example.com\n")
    assert json.loads(said) == {"stored": 2, "bad_lines": 0}


def test_a_file_with_unknown_columns_is_refused(app: MailApp) -> None:
    """Nothing is read past what nobody understands."""
    run(app, "suppress", "import", "-", input="address,colour\nbob@example.com,red\n", code=2)
    assert app.runtime.suppressions.of(BOB) == []


def test_an_application_changes_the_list_itself(app: MailApp, smtp: SmtpServer) -> None:
    """For its own unsubscribe page: ``mail.suppressions``."""
    with app.app.app_context():
        app.mail.suppressions.add(BOB, "unsubscribe", tag="news")
        assert [entry.tag for entry in app.mail.suppressions.of(BOB)] == ["news"]
        app.mail.suppressions.remove(BOB, tag="news")
        assert app.mail.suppressions.of(BOB) == []


def test_purge_forgets_what_is_over(app: MailApp) -> None:
    """Expired entries go with old mail; those that hold stay."""
    app.runtime.suppressions.add(BOB, "hard_bounce")
    app.sql("UPDATE deferred_mail_suppression SET expires_at = 1.0 WHERE expires_at IS NOT NULL")
    assert "1 expired on the suppression list deleted" in run(app, "purge", "--days", 1)
    assert [entry.address for entry in app.runtime.suppressions.all()] == [ANN]


def test_a_server_that_knows_nobody_is_told_of(make_app: Make, smtp: SmtpServer) -> None:
    """By `doctor`, with 3 while it lasts; it is not believed, and nobody is listed."""
    smtp.script("rcpt", lambda _turn: "550 5.1.1 no such user")
    app = make_app(smtp.url())
    for _ in range(2):
        app.send(*[f"r{n}@example.com" for n in range(12)])
        app.sweep()
        app.sql(f"UPDATE deferred_mail_refusal SET refused_at = refused_at - {DAY} / 2")
    app.sql(f"UPDATE deferred_mail_refusal SET refused_at = refused_at - {DAY}")
    app.send(*[f"r{n}@example.com" for n in range(12)])
    app.sweep()
    assert list(app.runtime.suppressions.all()) == []
    found = json.loads(run(app, "doctor", "--json", code=3))
    told = [finding for finding in found if "unknown" in finding["text"]]
    assert [(finding["level"], finding["topic"]) for finding in told] == [
        ("FAIL", "transport default")
    ]
