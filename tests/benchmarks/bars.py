"""What we want to reach, before anything is measured. The page shows every line of this."""

from __future__ import annotations

#: Bar -> what it is about, and what must be reached. Order: that of the page.
BARS: dict[str, tuple[str, str]] = {
    "added": (
        "p50 that recording one mail adds to a view, SQLite, one client",
        "at most 1.8 times (aim: 1.3) what `json.dumps` and one INSERT on a kept `sqlite3` "
        "connection add, same round",
    ),
    "request-cpu": (
        "CPU of the web processes per request: recording, delivery and status",
        "at most 2.0 times the view that sends nothing",
    ),
    "rendering": (
        "rendering one mail (2 KB text, 4 KB HTML)",
        "at most 0.15 ms of CPU, non-ASCII included",
    ),
    "drain": (
        "drain over loopback, from the database, statuses written, all cores",
        "at least 0.5 of `smtp-source -s 10` in the same round, SQLite and PostgreSQL",
    ),
    "drain-peers": (
        "the same, beside others",
        "at least 4 times django-post_office, 15 times Celery prefork",
    ),
    "drain-cpu": ("CPU per mail in the drain, sender processes", "at most 0.4 ms"),
    "slow": (
        "drain against 50 ms a reply, one process",
        "32 connections at least 300 mails/s, 128 at least 1,500",
    ),
    "claims": (
        "claim of 100 beside 1M finished rows / beside 1k; with 50k waiting / with 1k",
        "at most 1.5 times",
    ),
    "memory": ("memory of one draining process", "at most 50 MiB PSS"),
    "memory-flat": ("the same with 1M queued and with 1k", "the same (at most 1.1 times)"),
    "p99": (
        "p99 of a view that records a mail, 8 clients, SQLite",
        "at most 2 times the p99 of the view that sends nothing",
    ),
    "guarantees": (
        "guarantees at this speed",
        "all of them: one mail in doubt for each connection, no more",
    ),
    "providers": ("the drain through HTTP providers (local server)", "none: state it"),
}
