"""What the commands print: JSON shapes, tables, sentences. Values in, text out.

Everything that came from outside (subjects, addresses, replies) passes
:func:`~flask_deferred_mail.cleaning.clean` on its way to a terminal. In JSON, control and format
characters are escaped.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from .cleaning import clean
from .job import Job, JobRecipient, JobStatus, moment

if TYPE_CHECKING:
    from .delivery.sweep import Counts
    from .finding import Finding
    from .store.reports import Backlog, LoggedAttempt, Sighting

# What a terminal could take for a command, and what json.dumps leaves as it is.
_ESCAPED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

#: Results of a sweep that mean: a mail did not reach everybody, and nobody will try it again.
ENDED_BADLY = ("partial", "failed", "held", "expired")

# -- JSON ---------------------------------------------------------------------------------------


def as_json(value: object, encoding: str | None = "utf-8") -> str:
    """One line of JSON that no terminal takes for a command.

    For an ``encoding`` that cannot hold all characters, everything but ASCII is escaped.
    """
    wide = (encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(value, ensure_ascii=not wide)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def iso(when: datetime | None) -> str | None:
    """A point in time as ISO 8601 in UTC."""
    return None if when is None else when.astimezone(UTC).isoformat()


def job_object(job: Job) -> dict[str, Any]:
    """A mail as ``list --json`` has it."""
    return {
        "id": job.id,
        "status": job.status.value,
        "message_id": job.message_id,
        "subject": job.subject,
        "sender": job.sender,
        "recipients": [_recipient_object(entry) for entry in job.recipients],
        "attempts": job.attempts,
        "created_at": iso(job.created_at),
        "next_attempt_at": iso(job.next_attempt_at),
        "sent_at": iso(job.sent_at),
        "last_error": job.last_error,
        "transport": job.transport,
        "priority": job.priority,
        "key": job.key,
        "tenant": job.tenant,
    }


def _recipient_object(entry: JobRecipient) -> dict[str, Any]:
    return {
        "address": entry.address,
        "kind": entry.kind,
        "status": entry.status.value,
        "detail": entry.detail,
        "provider_message_id": entry.provider_message_id,
    }


def show_object(
    job: Job, attempts: Sequence[LoggedAttempt], emptied: bool = False
) -> dict[str, Any]:
    """A mail as ``show --json`` has it: with its attempts."""
    log = [_attempt_object(entry) for entry in attempts]
    return {**job_object(job), "content_deleted": emptied, "attempt_log": log}


def _attempt_object(entry: LoggedAttempt) -> dict[str, Any]:
    return {
        "number": entry.number,
        "started_at": iso(moment(entry.started_at)),
        "seconds": entry.seconds,
        "transport": entry.transport,
        "host": entry.host,
        "address": entry.address,
        "tls": entry.tls,
        "queue_id": entry.queue_id,
        "outcome": entry.outcome,
        "detail": entry.detail,
    }


def status_object(backlog: Backlog) -> dict[str, Any]:
    """The queue as ``status --json`` has it."""
    return {
        "counts": dict(backlog.counts),
        "due": backlog.due,
        "oldest_due_seconds": backlog.oldest_due_seconds,
        "sent_last_hour": backlog.sent_last_hour,
        "failed_last_hour": backlog.failed_last_hour,
    }


# -- words --------------------------------------------------------------------------------------


def printable(text: str, encoding: str | None) -> str:
    """The text with ``\\x`` escapes for what the terminal's encoding lacks."""
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)


def clean_lines(text: str) -> str:
    """A text of several lines, each cleaned; indents stay."""
    lines = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        lines.append(" " * min(indent, 20) + clean(line, 2_000))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A length of time in words, to the two largest units: ``4 min 10 s``."""
    if 0 < seconds < 1:
        return "less than 1 s"
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, size in _UNITS:
        number, left = divmod(left, size)
        if number or (unit == "s" and not words):
            words.append(f"{number} {unit}")
    return " ".join(words[:2])


def when(instant: datetime | None) -> str:
    """A point in time for people, in UTC to the second."""
    return "-" if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def counted(number: int, noun: str) -> str:
    """``1 mail``, ``2 mails``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sweep_line(counts: Counts) -> str:
    """What a pass came to, in one line."""
    results = counts.as_dict()
    claimed = results.pop("claimed")
    if not claimed:
        return "nothing to send"
    return f"{counted(claimed, 'mail')}: {_results(results)}"


def _results(results: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {result}" for result, number in results.items() if number)


def status_lines(backlog: Backlog, seen: Sighting | None, now: float) -> list[str]:
    """How the queue stands, for people."""
    remarks = {
        "pending": _due_remark(backlog),
        "sent": f"{backlog.sent_last_hour} in the last hour" if backlog.counts["sent"] else "",
        "failed": f"{backlog.failed_last_hour} in the last hour"
        if backlog.counts["failed"]
        else "",
        "held": "waiting for a decision: flask mail list --status held"
        if backlog.counts["held"]
        else "",
    }
    lines = []
    for status in JobStatus:
        remark = f"  ({remarks[status]})" if remarks.get(status) else ""
        lines.append(f"{status.value:<10}{backlog.counts[status]:>8}{remark}")
    return [*lines, f"last sweep  {seen_words(seen, now)}"]


def _due_remark(backlog: Backlog) -> str:
    if not backlog.due:
        return ""
    age = backlog.oldest_due_seconds
    return f"{backlog.due} due" + (f", the oldest for {duration(age)}" if age is not None else "")


def seen_words(seen: Sighting | None, now: float) -> str:
    """When a kind of process was seen last, and where."""
    if seen is None:
        return "never"
    age = duration(max(0.0, now - seen.seen_at))
    return f"{age} ago, on {clean(seen.host)} (pid {seen.pid})"


def workers_words(workers: Sequence[Sighting]) -> str:
    """How many worker processes there are, and where."""
    pids = [f"{clean(seen.host)} (pid {seen.pid})" for seen in workers[:4]]
    more = f" and {len(workers) - 4} more" if len(workers) > 4 else ""
    return f"{len(workers)} at work, on {', '.join(pids)}{more}"


def limits_passed(backlog: Backlog, max_age: float | None, max_pending: int | None) -> list[str]:
    """Which limits of a monitor are passed, one sentence each."""
    passed = []
    age, pending = backlog.oldest_due_seconds, backlog.counts["pending"]
    if max_age is not None and age is not None and age > max_age:
        passed.append(f"the oldest due mail has waited for {age:.0f} s, more than {max_age:g} s")
    if max_pending is not None and pending > max_pending:
        passed.append(f"{counted(pending, 'mail')} pending, more than {max_pending}")
    return passed


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows in columns as wide as their widest cell; the last column is left as it is."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)]
    return [
        "  ".join([*(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells
    ]


def job_table(jobs: Sequence[Job]) -> list[str]:
    """Mails for people, one a line."""
    rows = [
        (
            job.id,
            job.status.value,
            job.attempts,
            when(job.created_at),
            when(job.next_attempt_at or job.sent_at),
            recipients_words(job),
            clean(job.subject, 60),
        )
        for job in jobs
    ]
    return table(("id", "status", "attempts", "recorded", "next/sent", "to", "subject"), rows)


def recipients_words(job: Job) -> str:
    """The first recipient, and how many more there are."""
    first, more = clean(job.recipients[0].address, 40), len(job.recipients) - 1
    return f"{first} +{more}" if more else first


def show_lines(job: Job, attempts: Sequence[LoggedAttempt], emptied: bool = False) -> list[str]:
    """One mail with recipients and attempts, for people."""
    facts: dict[str, object] = {
        "mail": job.id,
        "status": job.status.value,
        "subject": clean(job.subject),
        "sender": clean(job.sender),
        "message-id": clean(job.message_id),
        "transport": clean(job.transport),
        "key": clean(job.key) if job.key else None,
        "tenant": clean(job.tenant) or None,
        "priority": job.priority or None,
        "recorded": when(job.created_at),
        "next": when(job.next_attempt_at) if job.next_attempt_at else None,
        "sent": when(job.sent_at) if job.sent_at else None,
        "attempts": job.attempts,
        "content": "deleted (purge --bodies-days); it cannot be sent again" if emptied else None,
        "last error": clean(job.last_error) if job.last_error else None,
    }
    lines = [f"{name:<12}{value}" for name, value in facts.items() if value is not None]
    lines += ["", "recipients", *_indented(_recipient_lines(job.recipients))]
    if attempts:
        lines += ["", "attempts"]
        for entry in attempts:
            lines += _indented(attempt_lines(entry))
    return lines


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _recipient_lines(recipients: Sequence[JobRecipient]) -> list[str]:
    rows = [
        (
            entry.kind,
            clean(entry.address, 254),
            entry.status.value,
            clean(" ".join(filter(None, (entry.detail, entry.provider_message_id)))),
        )
        for entry in recipients
    ]
    return table(("kind", "address", "status", "detail"), rows)


def attempt_lines(entry: LoggedAttempt) -> list[str]:
    """One attempt: what came of it, where, and how long each step took."""
    lines = [
        f"{entry.number}  {when(moment(entry.started_at))}  {entry.outcome}"
        f"  {clean(entry.detail)}".rstrip()
    ]
    place = clean(" ".join(filter(None, (entry.host, entry.address and f"({entry.address})"))))
    facts = {
        "transport": clean(entry.transport),
        "server": place,
        "tls": clean(entry.tls or ""),
        "queue id": clean(entry.queue_id or ""),
        "seconds": _seconds(entry),
    }
    return lines + [f"   {name:<10}{value}" for name, value in facts.items() if value]


def _seconds(entry: LoggedAttempt) -> str:
    steps = ", ".join(f"{clean(name, 20)} {took:.3f}" for name, took in entry.phases.items())
    return f"{entry.seconds:.3f}" + (f" ({steps})" if steps else "")


def changed_line(before: Job, after: Job) -> str:
    """What a command did to a mail."""
    known = {entry.address: entry.status for entry in before.recipients}
    opened = [
        clean(entry.address, 254)
        for entry in after.recipients
        if entry.status == "pending" and known.get(entry.address) != "pending"
    ]
    again = f"; to be tried again: {', '.join(opened[:5])}" if opened else ""
    more = f" and {len(opened) - 5} more" if len(opened) > 5 else ""
    return (
        f"mail {after.id} to {recipients_words(after)}: "
        f"{before.status.value} -> {after.status.value}{again}{more}"
    )


def finding_object(finding: Finding) -> dict[str, str]:
    """One thing that ``doctor --json`` found."""
    return {
        "level": finding.level.value,
        "topic": finding.topic,
        "text": finding.text,
        "advice": finding.advice,
    }


def finding_lines(finding: Finding) -> list[str]:
    """One thing that ``doctor`` found, and what to do about it."""
    lines = [f"{finding.level.value:<5} {finding.topic:<18} {finding.text}"]
    return [*lines, f"{'':<24} -> {finding.advice}"] if finding.advice else lines


# -- while it runs ------------------------------------------------------------------------------


class Progress:
    """A bar on a terminal that counts mails as they come through; safe to feed from threads."""

    WIDTH = 30
    #: Seconds between two drawings: a terminal may be at the end of a slow line.
    PAUSE = 0.05

    def __init__(self, stream: TextIO, total: int) -> None:
        self.stream = stream
        self.total = total
        self._results: dict[str, int] = {}
        self._drawn_at = -self.PAUSE
        self._lock = threading.Lock()

    def add(self, result: str) -> None:
        """One more mail, and what came of it."""
        with self._lock:
            self._results[result] = self._results.get(result, 0) + 1
            if time.monotonic() - self._drawn_at >= self.PAUSE:
                self._draw()

    def end(self) -> None:
        """Leave the last state on the screen, and go to the next line."""
        with self._lock:
            if self._results:
                self._draw()
                self.stream.write("\n")
                self.stream.flush()

    def _draw(self) -> None:
        done = sum(self._results.values())
        # More than was due at the start may come (``--wait``, other sweeps that end).
        total = max(self.total, done)
        filled = self.WIDTH * done // total
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        # Back to the first column: a line of the log then takes the bar's place.
        self.stream.write(f"\r[{bar}] {done}/{total}  {_results(self._results)}\x1b[K\r")
        self.stream.flush()
        self._drawn_at = time.monotonic()
