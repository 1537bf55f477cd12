"""cli_output.py: JSON shapes that scripts rely on, and text that cannot drive a terminal."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest

from flask_deferred_mail import cli_output as output
from flask_deferred_mail.delivery.sweep import Counts
from flask_deferred_mail.job import Job, JobRecipient, JobStatus, RecipientStatus
from flask_deferred_mail.store.reports import Backlog, LoggedAttempt, Sighting

MORNING = datetime(2024, 5, 17, 8, 30, 0, 250_000, tzinfo=UTC)
HOSTILE = "\x1b[31mred\x07 \x9b2J \u202egnp.exe"


def job(**fields):
    """A mail with two recipients, one of them refused."""
    known = {
        "id": 17,
        "status": JobStatus.PARTIAL,
        "message_id": "<1@example.com>",
        "attempts": 2,
        "next_attempt_at": None,
        "created_at": MORNING,
        "sent_at": MORNING,
        "last_error": "550 no such user",
        "recipients": (
            JobRecipient("ann@example.com", "to", RecipientStatus.SENT, "250 ok", "P1"),
            JobRecipient("bob@example.com", "bcc", RecipientStatus.REJECTED, "550 no such user"),
        ),
        "subject": "Hello",
        "sender": "shop@example.com",
        "key": "k1",
    }
    return Job(**{**known, **fields})


def attempt(**fields):
    """One line of an attempt log."""
    known = {
        "number": 1,
        "started_at": MORNING.timestamp(),
        "seconds": 0.25,
        "transport": "default",
        "host": "mail.example.com",
        "address": "192.0.2.1",
        "tls": "TLSv1.3",
        "queue_id": "4F2D",
        "outcome": "partial",
        "detail": "250 queued",
        "phases": {"connect": 0.1, "dot": 0.05},
    }
    return LoggedAttempt(**{**known, **fields})


def backlog(**fields):
    """A queue with one mail that is due."""
    counts = dict.fromkeys((status.value for status in JobStatus), 0)
    known = {
        "counts": counts | {"pending": 3, "held": 1},
        "due": 1,
        "oldest_due_seconds": 90.5,
        "sent_last_hour": 0,
        "failed_last_hour": 0,
    }
    return Backlog(**{**known, **fields})


# -- JSON --------------------------------------------------------------------------------------


def test_a_mail_as_json_has_the_documented_fields():
    """What the contract names is there, with times in UTC and one object per recipient."""
    assert output.job_object(job()) == {
        "id": 17,
        "status": "partial",
        "message_id": "<1@example.com>",
        "subject": "Hello",
        "sender": "shop@example.com",
        "recipients": [
            {
                "address": "ann@example.com",
                "kind": "to",
                "status": "sent",
                "detail": "250 ok",
                "provider_message_id": "P1",
            },
            {
                "address": "bob@example.com",
                "kind": "bcc",
                "status": "rejected",
                "detail": "550 no such user",
                "provider_message_id": None,
            },
        ],
        "attempts": 2,
        "created_at": "2024-05-17T08:30:00.250000+00:00",
        "next_attempt_at": None,
        "sent_at": "2024-05-17T08:30:00.250000+00:00",
        "last_error": "550 no such user",
        "transport": "default",
        "priority": 0,
        "key": "k1",
        "tenant": "",
    }


def test_show_adds_the_attempts_with_exactly_the_documented_fields():
    """`show --json` is the mail and its attempt_log."""
    shown = output.show_object(job(), [attempt()])
    assert shown.pop("attempt_log") == [
        {
            "number": 1,
            "started_at": "2024-05-17T08:30:00.250000+00:00",
            "seconds": 0.25,
            "transport": "default",
            "host": "mail.example.com",
            "address": "192.0.2.1",
            "tls": "TLSv1.3",
            "queue_id": "4F2D",
            "outcome": "partial",
            "detail": "250 queued",
        }
    ]
    assert shown.pop("content_deleted") is False
    assert shown == output.job_object(job())


def test_json_is_one_line_without_anything_a_terminal_obeys():
    """Control and format characters are escaped, and come back as they were."""
    line = output.as_json({"subject": HOSTILE + "\r\n\x85 Größe 你"})
    assert json.loads(line) == {"subject": HOSTILE + "\r\n\x85 Größe 你"}
    assert line.isprintable()
    assert "Größe 你" in line


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-15", None])
def test_json_for_a_narrow_terminal_is_ascii(encoding):
    """Cron runs with any locale; the same JSON fits into it."""
    line = output.as_json(["Größe 你"], encoding)
    assert line.isascii()
    assert json.loads(line) == ["Größe 你"]


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        output.job_table([job(subject=HOSTILE, recipients=job().recipients[:1])]),
        output.show_lines(
            job(subject=HOSTILE, last_error=HOSTILE, message_id=HOSTILE, key=HOSTILE),
            [attempt(detail=HOSTILE, host=HOSTILE, queue_id=HOSTILE, phases={HOSTILE: 1.0})],
        ),
        output.show_lines(
            job(recipients=(JobRecipient(HOSTILE, "to", RecipientStatus.SENT, HOSTILE, HOSTILE),)),
            [],
        ),
        [output.clean_lines(HOSTILE + "\n  - " + HOSTILE)],
    ],
    ids=["list", "show", "recipients", "errors"],
)
def test_nothing_from_outside_reaches_a_terminal_raw(lines):
    """No escape code, control or direction character is left in what people see."""
    for line in "\n".join(lines).split("\n"):
        assert line.isprintable(), line
    assert "red" in "\n".join(lines)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "less than 1 s"),
        (59.9, "59 s"),
        (250, "4 min 10 s"),
        (3_600, "1 h"),
        (90_061, "1 d 1 h"),
        (-3, "0 s"),
    ],
)
def test_durations_in_words(seconds, words):
    """The two largest units, none of them zero."""
    assert output.duration(seconds) == words


def test_a_pass_in_one_line():
    """Only what happened is told."""
    assert output.sweep_line(Counts()) == "nothing to send"
    counts = Counts(claimed=3, sent=2, retry=1)
    assert output.sweep_line(counts) == "3 mails: 2 sent, 1 retry"


def test_the_queue_for_people():
    """Every status has its line; what is due and held says so, and when the last sweep was."""
    lines = output.status_lines(backlog(), Sighting("sweep", "web1", 7, 1_000.0), 1_060.0)
    assert [line.split()[0] for line in lines[:8]] == [status.value for status in JobStatus]
    assert "3  (1 due, the oldest for 1 min 30 s)" in lines[0]
    assert any("held" in line and "waiting for a decision" in line for line in lines)
    assert lines[-1] == "last sweep  1 min ago, on web1 (pid 7)"


def test_limits_are_passed_only_beyond_them():
    """A monitor's limit is the last good value; each limit that is passed has its sentence."""
    assert output.limits_passed(backlog(), 90.5, 3) == []
    assert output.limits_passed(backlog(oldest_due_seconds=None), 0, None) == []
    age, pending = output.limits_passed(backlog(), 90, 2)
    assert "more than 90 s" in age
    assert pending == "3 mails pending, more than 2"


def test_columns_line_up():
    """Each column is as wide as its widest cell, and nothing trails."""
    assert output.table(("id", "name", "x"), [(1, "a", ""), (100, "bcd", "e")]) == [
        "id   name  x",
        "1    a",
        "100  bcd   e",
    ]


def test_a_change_names_who_is_tried_again():
    """`retry` says which recipients it opened, and only those."""
    first, second = job().recipients
    after = job(
        status=JobStatus.PENDING,
        recipients=(first, JobRecipient(second.address, second.kind)),
    )
    assert output.changed_line(job(), after) == (
        "mail 17 to ann@example.com +1: partial -> pending; to be tried again: bob@example.com"
    )
    assert output.changed_line(after, after).endswith("pending -> pending")


def test_a_narrow_terminal_gets_escapes_instead_of_an_error():
    """Printing never fails over a character."""
    assert output.printable("Größe", "ascii") == "Gr\\xf6\\xdfe"
    assert output.printable("Größe", "utf-8") == "Größe"


def test_the_bar_counts_up_and_ends_its_line():
    """The last state stays on the screen, also when more came than was expected."""
    stream = io.StringIO()
    bar = output.Progress(stream, total=2)
    bar.add("sent")
    bar.add("retry")
    bar.add("sent")
    bar.end()
    *_, last, end = stream.getvalue().split("\r")
    assert last.startswith("[" + "#" * bar.WIDTH + "] 3/3  2 sent, 1 retry")
    assert end == "\n"


def test_a_bar_without_mail_draws_nothing():
    """A sweep with nothing to do leaves no trace on the terminal."""
    stream = io.StringIO()
    output.Progress(stream, total=0).end()
    assert stream.getvalue() == ""
