"""`flask mail ...` on a real table and a real mail server, through Flask's own runner."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import datetime

import flask
import pytest

from flask_deferred_mail import Attachment, DeferredMail
from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.errors import StoreBusy
from flask_deferred_mail.store.schema import SCHEMA_VERSION
from tests.support.old_tables import make_tables_of
from tests.support.smtp_script import Accept, Drop
from tests.support.smtp_server import SmtpServer

STATUSES = ["pending", "sending", "sent", "partial", "failed", "held", "cancelled", "expired"]
RESULTS = ["claimed", "sent", "partial", "retry", "failed", "held", "expired", "returned"]


def by_name(turn):
    """A server that knows some people: bad@ is nobody, busy@ has no time."""
    if "bad@" in turn.argument:
        return "550 5.1.1 no \x1b[31msuch user"
    return "451 4.2.1 later" if "busy@" in turn.argument else None


@pytest.fixture
def server():
    """A mail server that takes mail for everybody but bad@ and busy@."""
    with SmtpServer(rcpt=by_name, credentials={"shop": "right"}) as running:
        yield running


class Shop:
    """An app, its mail and its command line."""

    def __init__(self, folder, url, **config):
        self.app = flask.Flask("shop", instance_path=str(folder))
        self.app.config.update(
            {"DEFERRED_MAIL_TRANSPORT": url, "MAIL_DEFAULT_SENDER": "shop@example.com"} | config
        )
        self.mail = DeferredMail(self.app)

    @property
    def runtime(self):
        return self.mail.for_app(self.app).runtime

    def record(self, *addresses, **fields):
        """Record one mail to these; returns its id."""
        with self.app.app_context():
            message = {"subject": "Hi", "recipients": list(addresses), "body": "x"} | fields
            return self.mail.send_after_response(**message).id

    def __call__(self, *arguments, code=0):
        """Run a command and check its exit code."""
        result = self.app.test_cli_runner().invoke(
            mail_group, [str(argument) for argument in arguments]
        )
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def json(self, *arguments, code=0):
        """What a command prints with --json."""
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def execute(self, statement, *values):
        """Change a row behind everybody's back."""
        with sqlite3.connect(self.runtime.database.path) as connection:
            connection.execute(statement, values)
        connection.close()


@pytest.fixture
def make_shop(tmp_path, server):
    """Make shops on one table; by default they send to ``server``."""
    shops = []

    def make(url=None, **config):
        shops.append(Shop(tmp_path, url if url is not None else server.url(), **config))
        return shops[-1]

    yield make
    for shop in shops:
        shop.runtime.close()


@pytest.fixture
def shop(make_shop):
    """A shop that sends to ``server``."""
    return make_shop()


# -- sweep -------------------------------------------------------------------------------------


def test_a_sweep_sends_what_is_due_and_says_what_became_of_it(shop, server):
    """One pass: each mail is counted once, and single failures do not make cron cry."""
    for address in ("ann@example.com", "bad@example.com", "busy@example.com"):
        shop.record(address)
    shop.record("later@example.com", delay=3_600)
    counts = shop.json("sweep")
    assert list(counts) == RESULTS
    assert counts == dict.fromkeys(RESULTS, 0) | {"claimed": 3, "sent": 1, "retry": 1, "failed": 1}
    assert [m.recipients for m in server.messages] == [["ann@example.com"]]
    assert shop("sweep").stdout == "nothing to send\n"


def test_a_sweep_in_words(shop):
    """Without --json, one line."""
    shop.record("ann@example.com")
    assert shop("sweep", "--concurrency", 1).stdout == "1 mail: 1 sent\n"


def test_fail_on_error_is_1_only_for_mail_that_ended_badly(shop):
    """A mail that is tried again is no error; one that nobody will get is."""
    shop.record("busy@example.com")
    shop("sweep", "--fail-on-error")
    shop.record("bad@example.com")
    assert shop.json("sweep", "--fail-on-error", code=1)["failed"] == 1


def test_the_limit_bounds_a_sweep(shop):
    """--limit takes so many and leaves the rest."""
    for _ in range(5):
        shop.record("ann@example.com")
    assert shop.json("sweep", "--limit", 3)["claimed"] == 3
    assert shop.json("status")["counts"]["pending"] == 2


def test_a_waiting_sweep_sends_what_becomes_due(shop, server):
    """--wait goes on for so long."""
    shop.record("ann@example.com", delay=0.3)
    assert shop.json("sweep", "--wait", 1.5)["sent"] == 1


def test_no_transport_at_all_is_a_fault_of_the_configuration(shop, make_shop):
    """Nothing is claimed, and the text says what to set."""
    job_id = shop.record("ann@example.com")
    bare = make_shop("")
    result = bare("sweep", "--json", code=3)
    assert "DEFERRED_MAIL_TRANSPORT" in result.stderr
    assert result.stdout == ""
    assert bare.json("show", job_id)["attempts"] == 0


def test_mail_for_a_transport_that_is_gone_is_kept(shop, make_shop, server):
    """It is given back with the reason; other mail leaves."""
    bulk = make_shop(DEFERRED_MAIL_TRANSPORTS={"bulk": "null:"})
    kept, sent = bulk.record("ann@example.com", transport="bulk"), shop.record("ann@example.com")
    result = shop("sweep", "--json")
    assert json.loads(result.stdout)["returned"] == 1
    assert "no transport is named 'bulk'" in result.stderr
    assert shop.json("show", kept)["status"] == "pending"
    assert shop.json("show", kept)["attempts"] == 0
    assert shop.json("show", sent)["status"] == "sent"


def test_a_sweep_says_that_a_transport_rests(make_shop):
    """Mail that is due and left alone is not passed over in silence."""
    shop = make_shop("smtp://127.0.0.1:9?tls=none")
    shop.record("ann@example.com")
    shop("sweep")
    result = shop("sweep", "--json")
    assert json.loads(result.stdout)["claimed"] == 0
    assert "transport default rests for" in result.stderr


@pytest.mark.parametrize("config", [{"MAIL_SUPPRESS_SEND": True}, {"TESTING": True}])
def test_a_suppressed_app_sweeps_nothing(make_shop, server, config):
    """It says so, counts zero and exits with 0."""
    shop = make_shop(**config)
    shop.record("ann@example.com")
    result = shop("sweep", "--json")
    assert json.loads(result.stdout) == dict.fromkeys(RESULTS, 0)
    assert "suppressed" in result.stderr
    assert server.messages == []


def test_json_stays_clean_while_mail_is_printed(make_shop):
    """`console:` prints mail to stdout; with --json that goes to stderr."""
    shop = make_shop("console:")
    shop.record("ann@example.com")
    result = shop("sweep", "--json")
    assert json.loads(result.stdout)["sent"] == 1
    assert "ann@example.com" in result.stderr


# -- status ------------------------------------------------------------------------------------


def test_status_counts_every_status(shop):
    """All eight are there, also those with nothing; the age is null when nothing is due."""
    shop.record("ann@example.com")
    shop("sweep")
    report = shop.json("status")
    assert report == {
        "counts": dict.fromkeys(STATUSES, 0) | {"sent": 1},
        "due": 0,
        "oldest_due_seconds": None,
        "sent_last_hour": 1,
        "failed_last_hour": 0,
    }


def test_limits_make_status_exit_with_2(shop):
    """The JSON is there all the same, and stderr says which limit was passed."""
    job_id = shop.record("ann@example.com")
    shop.execute("UPDATE deferred_mail_job SET first_due_at = first_due_at - 1000")
    shop("status", "--max-age", 2_000, "--max-pending", 1)
    result = shop("status", "--json", "--max-age", 900, "--max-pending", 0, code=2)
    assert json.loads(result.stdout)["oldest_due_seconds"] > 900
    assert "more than 900 s" in result.stderr
    assert "1 mail pending, more than 0" in result.stderr
    assert job_id == 1


# -- list and show -----------------------------------------------------------------------------


def test_list_finds_mail_by_status_recipient_and_key(shop):
    """The newest first; before and after the outcome; an address in any spelling of its domain."""
    first = shop.record("bad@example.com")
    second = shop.record("ann@example.com", key="welcome-7")
    shop("sweep")
    third = shop.record("bad@example.com", cc=["Cat <cat@example.com>"], delay=60)
    ids = lambda *options: [job["id"] for job in shop.json("list", *options)]  # noqa: E731 - short
    assert ids() == [third, second, first]
    assert ids("--limit", 1) == [third]
    assert ids("--status", "failed") == [first]
    assert ids("--to", "bad@EXAMPLE.com") == [third, first]
    assert ids("--to", "cat@example.com") == [third]
    assert ids("--key", "welcome-7") == [second]
    assert ids("--status", "held") == []
    assert "no such mail" in shop("list", "--status", "held").stderr
    assert shop("list", "--status", "sent").stdout.splitlines()[1].split()[:2] == ["2", "sent"]


def test_mail_leased_from_the_start_is_listed_as_what_it_reads(shop):
    """A row inserted already leased reads pending, so it is found under pending."""
    shop.record("ann@example.com")
    shop.execute(
        "UPDATE deferred_mail_job SET status = 'sending', lease_token = 't', "
        "lease_owner = 'web:1', due_at = due_at + 60"
    )
    assert [job["status"] for job in shop.json("list", "--status", "pending")] == ["pending"]
    assert shop.json("list", "--status", "sending") == []
    assert "recorded by web:1" in shop("explain", 1).stdout


def test_show_has_recipients_and_attempts(shop, server):
    """One mail, with where it went, when, for how long, and the server's words."""
    job_id = shop.record("ann@example.com", "bad@example.com")
    shop("sweep")
    shown = shop.json("show", job_id)
    assert shown["status"] == "partial"
    assert {r["address"]: r["status"] for r in shown["recipients"]} == {
        "ann@example.com": "sent",
        "bad@example.com": "rejected",
    }
    (attempt,) = shown["attempt_log"]
    assert (attempt["number"], attempt["outcome"], attempt["tls"]) == (1, "partial", None)
    assert attempt["host"] == "127.0.0.1"
    assert attempt["queue_id"] == "Q001001"
    assert datetime.fromisoformat(attempt["started_at"]).utcoffset().total_seconds() == 0
    text = shop("show", job_id).stdout
    assert "queued as Q001001" in text or "Q001001" in text
    assert "connect" in text
    assert "\x1b" not in text


def test_mail_that_is_not_there(shop):
    """Looking at it is wrong usage, told in a sentence."""
    for command in ("show", "explain", "cancel", "retry", "hold", "release"):
        for number in (99, 2**63, 10**30):  # the last two are no number of a row in any database
            assert f"there is no mail {number}" in shop(command, number, code=2).stderr


# -- changes -----------------------------------------------------------------------------------


def test_retry_opens_what_was_refused_and_nothing_else(shop, server):
    """The one who has the mail does not get it again."""
    job_id = shop.record("ann@example.com", "bad@example.com")
    shop("sweep")
    server.script("rcpt", None)
    assert "to be tried again: bad@example.com" in shop("retry", job_id).stdout
    assert shop.json("sweep")["sent"] == 1
    assert [m.recipients for m in server.messages] == [["ann@example.com"], ["bad@example.com"]]


def test_retry_failed_takes_every_failed_mail(shop):
    """--failed without a terminal asks nobody; what cannot be opened is passed over."""
    failed = [shop.record("bad@example.com") for _ in range(3)]
    shop.record("ann@example.com")
    shop("sweep")
    assert [job["id"] for job in shop.json("retry", "--failed")] == failed
    assert "no mail to retry" in shop("retry", "--failed", "--yes").stderr


def test_the_good_ones_of_a_list_are_changed_and_the_others_told(shop):
    """Several ids: each on its own, 2 at the end if one was refused."""
    sent, waiting = shop.record("ann@example.com"), None
    shop("sweep")
    waiting = shop.record("ann@example.com")
    result = shop("cancel", sent, 99, waiting, waiting, code=2)
    assert result.stdout.splitlines() == [
        f"mail {waiting} to ann@example.com: pending -> cancelled"
    ]
    assert f"mail {sent} cannot be changed by cancel" in result.stderr
    assert "there is no mail 99" in result.stderr


def test_cancel_by_key(shop):
    """A key names one mail."""
    job_id = shop.record("ann@example.com", key="invoice-1")
    assert shop.json("cancel", "--key", "invoice-1")[0]["id"] == job_id
    assert "no mail with the key 'invoice-2'" in shop("cancel", "--key", "invoice-2", code=2).stderr


def test_hold_and_release(shop, server):
    """A held mail stays where it is until it is released."""
    job_id = shop.record("ann@example.com")
    assert "pending -> held" in shop("hold", job_id).stdout
    assert shop.json("sweep")["claimed"] == 0
    assert "held -> pending" in shop("release", job_id).stdout
    assert shop.json("sweep")["sent"] == 1


def test_release_as_sent_ends_an_unknown_outcome_without_sending(make_shop, server):
    """The person has looked: it was there."""
    shop = make_shop(DEFERRED_MAIL_ON_UNKNOWN="hold")
    server.script("dot", [Accept(Drop())])
    job_id = shop.record("ann@example.com")
    assert shop.json("sweep")["held"] == 1
    explained = shop("explain", job_id).stdout
    assert "nobody can know whether it arrived" in explained
    assert f"release {job_id} --as-sent" in explained
    (released,) = shop.json("release", job_id, "--as-sent")
    assert (released["status"], released["recipients"][0]["status"]) == ("sent", "sent")
    assert shop.json("sweep")["claimed"] == 0
    assert len(server.messages) == 1


def test_what_is_being_sent_cannot_be_cancelled(shop):
    """It is refused with the reason."""
    job_id = shop.record("ann@example.com")
    assert shop.runtime.claims.take_one(job_id) is not None
    assert "being sent at this moment" in shop("cancel", job_id, code=2).stderr
    assert "being sent at this moment by" in shop("explain", job_id).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry",),
        ("retry", "1", "--failed"),
        ("cancel",),
        ("cancel", "1", "--key", "k"),
        ("hold",),
        ("release", "one"),
        ("show", "0"),
        ("sweep", "--concurrency", "0"),
        ("list", "--status", "lost"),
        ("list", "--to", "nobody"),
        ("list", "--limit", str(2**63)),
        ("suppress", "add", "ann@example.com", "--expires", "1e18"),
        ("purge",),
        ("test",),
        ("no-such-command",),
    ],
)
def test_wrong_usage_exits_with_2(shop, arguments):
    """And says on stderr what is wrong."""
    assert "Error: " in shop(*arguments, code=2).stderr


# -- explain and purge -------------------------------------------------------------------------


def test_explain_names_what_keeps_a_mail(shop, make_shop):
    """Scheduled, waiting for a retry, resting transport, no sweep: whatever holds now."""
    later, due = shop.record("ann@example.com", delay=3_600), shop.record("busy@example.com")
    assert "It is for later" in shop("explain", later).stdout
    fresh = shop("explain", due).stdout
    assert "nothing is in its way" in fresh
    assert "No sweep has ever been seen" in fresh
    shop("sweep")
    waiting = shop("explain", due).stdout
    assert "waits for its next attempt" in waiting
    assert "451 4.2.1 later" in waiting
    dead = make_shop("smtp://127.0.0.1:9?tls=none")
    kept = dead.record("ann@example.com")
    dead("sweep")
    assert "Its transport 'default' rests for" in dead("explain", kept).stdout
    last = shop.record("ann@example.com", send_at="9999-12-31T23:59:00Z")
    assert "given up at 9999-12-31 23:59:59Z at the latest" in shop("explain", last).stdout


def test_purge_deletes_what_has_ended_and_only_that(shop):
    """Old ended mail goes with its attempts and attachments; held and waiting mail stays."""
    shared = Attachment("a.txt", "text/plain", b"shared")
    own = Attachment("b.txt", "text/plain", b"own")
    gone = [
        shop.record("ann@example.com", attachments=[shared, own], key="k"),
        shop.record("bad@example.com"),
    ]
    shop("sweep")
    recent = shop.record("ann@example.com")
    shop("sweep")
    shop.execute("UPDATE deferred_mail_job SET ended_at = ended_at - 90000 WHERE id <> ?", recent)
    held = shop.record("ann@example.com", attachments=[shared])
    shop("hold", held)
    waiting = shop.record("ann@example.com")
    assert shop("purge", "--days", 1, "--batch", 1).stdout == "2 mails deleted\n"
    assert [job["id"] for job in shop.json("list")] == [waiting, held, recent]
    database = sqlite3.connect(shop.runtime.database.path)
    left = {
        table: [row[0] for row in database.execute(f"SELECT job_id FROM deferred_mail_{table}")]
        for table in ("attempt", "recipient", "job_blob")
    }
    assert left == {"attempt": [recent], "recipient": [recent], "job_blob": [held]}
    assert [row[0] for row in database.execute("SELECT data FROM deferred_mail_blob")] == [
        b"shared"
    ]
    database.close()
    assert shop.record("ann@example.com", key="k") > max(gone)


# -- test --------------------------------------------------------------------------------------


def test_the_test_mail_is_sent_now_and_tells_how(shop, server):
    """Server, reply and queue id are printed; 0, since it was accepted."""
    text = shop("test", "ann@example.com", "--sender", "me@example.com").stdout
    assert "accepted" in text
    assert "Q001001" in text
    assert "dot" in text
    assert server.messages[0].envelope_from == "me@example.com"


@pytest.mark.parametrize("address", ["bad@example.com", "busy@example.com"])
def test_a_test_mail_that_is_refused_is_over(shop, server, address):
    """1, with the server's words; there is no second attempt that would come as a surprise."""
    assert "not accepted" in shop("test", address, code=1).stdout
    counts = shop.json("status")["counts"]
    assert counts["pending"] == counts["held"] == 0


def test_a_test_mail_tells_of_a_wrong_password_and_ends_the_rest_when_it_is_right(
    make_shop, server
):
    """A person who has corrected the password does not have to wait until the rest is over."""
    wrong, right = make_shop(server.url("shop", "wr0ng")), make_shop(server.url("shop", "right"))
    refused = wrong("test", "ann@example.com", code=1)
    assert "535" in refused.stderr
    assert "wr0ng" not in refused.output
    assert right.json("sweep")["claimed"] == 0
    right("test", "ann@example.com")
    waiting = right.record("ann@example.com")
    right("sweep")
    assert right.json("show", waiting)["status"] == "sent"
    assert right.json("status")["counts"]["pending"] == 0


def test_a_test_mail_needs_a_known_transport_and_a_sender(make_shop):
    """What is missing is named: the transport is the configuration's, the sender the caller's."""
    shop = make_shop(MAIL_DEFAULT_SENDER=None)
    assert (
        "no transport is named 'bulk'"
        in shop("test", "ann@example.com", "--transport", "bulk", code=3).stderr
    )
    assert "sender" in shop("test", "ann@example.com", code=2).stderr
    assert "not an address" in shop("test", "ann", "--sender", "a@b.test", code=2).stderr


def test_a_suppressed_test_mail_says_so(make_shop):
    """Nothing is recorded either."""
    shop = make_shop(MAIL_SUPPRESS_SEND=True)
    assert "suppressed" in shop("test", "ann@example.com", code=1).stderr
    assert shop.json("list") == []


# -- doctor ------------------------------------------------------------------------------------


def findings(shop, topic, code=0):
    """What doctor says on one topic."""
    return [f for f in shop.json("doctor", code=code) if f["topic"] == topic]


def test_doctor_finds_a_healthy_app_healthy(shop, server):
    """0, every part is named, nothing is sent, and the missing cron line is given."""
    found = shop.json("doctor")
    assert {"versions", "settings", "hook", "database", "transport default", "sweep"} <= {
        f["topic"] for f in found
    }
    assert {f["level"] for f in found} <= {"ok", "warn"}
    (sweep,) = [f for f in found if f["topic"] == "sweep"]
    assert sweep["level"] == "warn"
    assert sweep["advice"].startswith("crontab: * * * * *")
    assert server.count("MAIL") == 0
    shop("sweep")
    assert findings(shop, "sweep")[0]["level"] == "ok"
    assert shop("doctor").stdout.startswith("ok    versions")


def test_doctor_says_that_the_password_is_wrong(make_shop, server):
    """FAIL with the server's answer, 3, and the password nowhere."""
    shop = make_shop(server.url("shop", "wr0ng"))
    result = shop("doctor", code=3)
    assert "FAIL" in result.stdout
    assert "535" in result.stdout
    assert "wr0ng" not in result.output


def test_doctor_says_why_a_transport_rests(make_shop):
    """What senders met is told beside what the probe finds now."""
    shop = make_shop("smtp://127.0.0.1:9?tls=none")
    shop.record("ann@example.com")
    shop("sweep")
    levels = {f["level"]: f["text"] for f in findings(shop, "transport default", code=3)}
    assert "rests for" in levels["warn"]
    assert "connect" in levels["FAIL"]


def test_doctor_misses_a_transport_and_the_mail_for_it(make_shop, shop):
    """No default, and mail for a name that is not configured any more: both FAIL."""
    bulk = make_shop(DEFERRED_MAIL_TRANSPORTS={"bulk": "null:"})
    bulk.record("ann@example.com", transport="bulk")
    (orphans,) = findings(shop, "transport bulk", code=3)
    assert orphans["text"].startswith("1 mail to leave by it")
    bare = make_shop("")
    assert "DEFERRED_MAIL_TRANSPORT" in findings(bare, "transport default", code=3)[0]["advice"]


def test_doctor_notices_that_the_hook_is_gone(shop):
    """Somebody put another application in its place; a middleware around it is no fault."""
    inner = shop.app.wsgi_app
    shop.app.wsgi_app = lambda environ, start_response: inner(environ, start_response)
    assert findings(shop, "hook")[0]["level"] == "ok"
    shop.app.wsgi_app = lambda environ, start_response: []
    assert findings(shop, "hook")[0]["level"] == "warn"


def test_doctor_fails_when_nobody_sweeps_an_old_backlog(shop):
    """A missing cron line is a warning until mail gets old over it."""
    shop.record("ann@example.com")
    shop.execute("UPDATE deferred_mail_job SET first_due_at = first_due_at - 1000")
    assert findings(shop, "sweep", code=3)[0]["level"] == "FAIL"
    assert findings(shop, "queue", code=3)[0]["level"] == "warn"


def test_doctor_tells_of_attempts_too_far_ahead(shop):
    """A clock that jumped back leaves mail waiting longer than any retry takes."""
    shop.record("ann@example.com")
    shop.record("later@example.com", delay=10 * 86_400)
    assert findings(shop, "clock") == []
    shop.execute("UPDATE deferred_mail_job SET attempts = 1, due_at = due_at + 864000 WHERE id = 1")
    assert "1 mail waiting for up to 9 d 23 h" in findings(shop, "clock")[0]["text"]


def test_doctor_tells_of_held_mail_and_a_missing_sender(make_shop):
    """Both are warnings: somebody has to look, but mail leaves."""
    shop = make_shop(MAIL_DEFAULT_SENDER=None)
    shop("hold", shop.record("ann@example.com", sender="me@example.com"))
    assert any("1 mail held" in f["text"] for f in findings(shop, "queue"))
    assert any("no default sender" in f["text"] for f in findings(shop, "settings"))


# -- faults ------------------------------------------------------------------------------------


def test_an_app_without_the_extension(tmp_path):
    """3, and what to do."""
    bare = flask.Flask("bare", instance_path=str(tmp_path))
    result = bare.test_cli_runner().invoke(mail_group, ["status"])
    assert result.exit_code == 3
    assert "init_app" in result.stderr


def test_a_database_that_is_none(shop):
    """A file that SQLite cannot read: 3 for every command, a text, no traceback; doctor FAILs."""
    path = shop.runtime.database.path
    path.write_bytes(b"this is no database, but long enough to look like one to nobody" * 20)
    for command in (["status"], ["list"], ["sweep"], ["show", 1], ["hold", 1], ["init-db"]):
        assert "not a database" in shop(*command, code=3).stderr
    assert findings(shop, "database", code=3)[0]["level"] == "FAIL"


def test_tables_of_a_newer_version_are_left_alone(shop):
    """3, and what to upgrade."""
    shop("init-db")
    shop.execute("UPDATE deferred_mail_meta SET value = '99' WHERE name = 'schema'")
    shop.runtime.database.close()
    assert "version 99" in shop("init-db", code=3).stderr


def test_what_was_done_before_the_database_failed_is_told(shop, monkeypatch):
    """A change of several mails that breaks halfway shows its first half."""
    first, second = shop.record("ann@example.com"), shop.record("ann@example.com")
    hold = shop.runtime.changes.hold

    def failing(job_id):
        if job_id == second:
            raise StoreBusy("another process held the write lock")
        return hold(job_id)

    monkeypatch.setattr(shop.runtime.changes, "hold", failing)
    result = shop("hold", first, second, "--json", code=3)
    assert [job["id"] for job in json.loads(result.stdout)] == [first]
    assert "write lock" in result.stderr


def test_init_db_makes_the_tables_and_may_be_repeated(shop):
    """The file is there afterwards, and is not touched by a second run."""
    assert f"made tables of version {SCHEMA_VERSION} in sqlite:" in shop("init-db").stdout
    before = time.time_ns()
    assert "nothing to do" in shop("init-db").stdout
    assert "nothing to do" in shop("upgrade-db").stdout
    assert shop.runtime.database.path.stat().st_mtime_ns < before


def test_upgrade_db_says_what_it_did(shop):
    """Makes tables, upgrades older ones, takes in those that have no revision."""
    make_tables_of(1, shop.runtime.database)
    assert "of version 1, this process needs version" in shop("init-db", code=3).stderr
    upgraded = f"upgraded tables of version 1 to version {SCHEMA_VERSION} in sqlite:"
    assert upgraded in shop("upgrade-db").stdout
    shop.execute("DROP TABLE deferred_mail_alembic_version")
    assert "noted their revision" in shop("upgrade-db").stdout


@pytest.mark.parametrize("command", ["init-db", "upgrade-db"])
def test_tables_of_the_application_are_left_to_it(shop, command):
    """0, who owns them and what to run instead; nothing is made."""
    database = shop.runtime.database
    database.backend.application_owns = True
    said = shop(command).stdout
    assert "belong to the application" in said
    assert "flask db upgrade" in said
    assert not database.path.exists()
