"""The tables, their indexes and constraints, each with its reason.

Times are seconds since the epoch (UTC) as double precision: exact to a microsecond, comparable
and indexable on every database, and free of time zones. Durations are added by the database's own
clock. Two ideas carry the claim:

* ``due_at`` says when *somebody may take the row next*: the next attempt of a pending mail, or the
  end of the lease of one that is being sent. So one comparison finds both what is due and what a
  dead process left behind. It is NULL in every row that nobody may take.
* the claim indexes hold only rows whose ``due_at`` is not NULL: finished rows cost a claim nothing.
  MySQL has no such partial indexes; there, the rows that nobody may take lie together at one end,
  since ``queue``, the first column of those indexes, is NULL in them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
)

from ..job import ENDED, JobStatus
from .dialect import Derived
from .table_options import DATA, HOLDS, LONG, NEVER_AGAIN

#: Version of the tables as this code knows them. Whoever changes the tables of a released version
#: raises it, and writes the revision that leads there (``migrations/versions``).
SCHEMA_VERSION = 3

PREFIX = "deferred_mail_"

metadata = MetaData()

# SQLite only makes INTEGER PRIMARY KEY an alias of the rowid.
_Id = BigInteger().with_variant(Integer, "sqlite")


def _quoted(statuses: object) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))  # type: ignore[call-overload]


jobs = Table(
    f"{PREFIX}job",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    # Format of the payload: a process leaves rows alone that a newer version wrote.
    Column("format", SmallInteger, nullable=False),
    Column("status", String(10), nullable=False),
    Column("transport", String(64), nullable=False),
    Column("tenant", String(100), nullable=False, server_default=""),
    Column("key", String(200)),
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", Double),
    # When the mail was due for the first time: the age of the backlog and the time to give up
    # count from here, so that retries do not hide an outage.
    Column("first_due_at", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("ended_at", Double),
    Column("sent_at", Double),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # Attempts that do not count against the budget any more, because a person said ``retry``.
    Column("budget_start", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer),
    # Attempts in a row that ended with no outcome at all.
    Column("deaths", Integer, nullable=False, server_default="0"),
    # Part of the idempotency key: advances with every answer that says "not sent".
    Column("generation", Integer, nullable=False, server_default="0"),
    # Generation in which a sender died: the row's record of an unknown outcome for its keys.
    Column("died_generation", Integer),
    Column("on_unknown", String(5)),
    Column("transactional", Boolean, nullable=False, server_default=false()),
    # Set before the last byte of a mail that must not be sent twice (``on_unknown="hold"``).
    Column("handing_over", Boolean, nullable=False, server_default=false()),
    Column("lease_token", String(64)),
    Column("lease_owner", String(255)),
    Column("size", Integer, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("last_error", Text),
    # Of the content, only where a key is given: the same key with other content is warned of.
    Column("fingerprint", String(64)),
    # Everybody's address and outcome, as JSON; the one source of truth about recipients.
    Column("recipients", LONG, nullable=False),
    # The transport, as long as somebody may take the row; else NULL. Kept by the database itself.
    Column(
        "queue",
        String(64),
        Derived("CASE WHEN due_at IS NOT NULL THEN transport END"),
    ),
    # 0: nobody has tried to send it yet; 1: it waits for another attempt, or is in hand.
    Column(
        "tried",
        SmallInteger,
        Derived("CASE WHEN attempts > 0 THEN 1 ELSE 0 END"),
    ),
    # Last, so that reading the columns before it does not touch a long body.
    Column("payload", LONG),
    CheckConstraint(f"status IN ({_quoted(JobStatus)})", name=f"{PREFIX}job_status"),
    CheckConstraint("(lease_token IS NOT NULL) = (status = 'sending')", name=f"{PREFIX}job_lease"),
    CheckConstraint(
        "(due_at IS NOT NULL) = (status IN ('pending', 'sending'))", name=f"{PREFIX}job_due"
    ),
    CheckConstraint(
        f"(ended_at IS NOT NULL) = (status IN ({_quoted(ENDED)}))", name=f"{PREFIX}job_ended"
    ),
    CheckConstraint("attempts >= 0 AND deaths >= 0", name=f"{PREFIX}job_attempts"),
    # Logs stay unambiguous.
    info={NEVER_AGAIN: True},
)

_WAITS = {HOLDS: jobs.c.queue.isnot(None)}
# Serves the claim: the steps from priority to priority and from tenant to tenant, and within a
# tenant what is new and what waits for another attempt, each in order of its due time.
Index(
    f"{PREFIX}job_claim",
    jobs.c.queue,
    jobs.c.priority,
    jobs.c.tenant,
    jobs.c.tried,
    jobs.c.due_at,
    info=_WAITS,
)
# Serves the list of transports that have something due, the next due time, and a claim where there
# are more tenants than it looks at one by one.
Index(f"{PREFIX}job_due", jobs.c.queue, jobs.c.priority, jobs.c.due_at, info=_WAITS)
# Serves counts per status, ``list --status``, "sent in the last hour" and ``purge``; and, since
# ``ended_at`` is NULL in what has not ended, the age of the oldest mail that waits.
Index(f"{PREFIX}job_status", jobs.c.status, jobs.c.ended_at, jobs.c.first_due_at)
Index(
    f"{PREFIX}job_key",
    jobs.c.key,
    jobs.c.tenant,
    unique=True,
    info={HOLDS: jobs.c.key.isnot(None)},
)

attempts = Table(
    f"{PREFIX}attempt",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("job_id", _Id, ForeignKey(jobs.c.id), nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("transport", String(64), nullable=False),
    Column("host", String(255)),
    Column("address", String(255)),
    Column("tls", String(20)),
    Column("queue_id", String(255)),
    Column("outcome", String(10), nullable=False),
    Column("detail", Text, nullable=False),
    # Seconds per phase, as JSON.
    Column("phases", Text),
    CheckConstraint(
        "outcome IN ('sent', 'partial', 'retry', 'failed', 'unknown', 'returned')",
        name=f"{PREFIX}attempt_outcome",
    ),
)
Index(f"{PREFIX}attempt_job", attempts.c.job_id, attempts.c.number)

# An index of addresses, filled with the outcome: ``list --to`` and webhooks look here. What a
# recipient's status is, the row above says.
recipients = Table(
    f"{PREFIX}recipient",
    metadata,
    Column("job_id", _Id, ForeignKey(jobs.c.id), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("address", String(320), nullable=False),
    Column("kind", String(3), nullable=False),
    Column("status", String(10), nullable=False),
    Column("provider_message_id", String(255)),
)
Index(f"{PREFIX}recipient_address", recipients.c.address, recipients.c.job_id)
# Serves webhooks, which name a mail by the number that the provider gave it.
Index(f"{PREFIX}recipient_provider", recipients.c.provider_message_id)

# Attachments, stored once per distinct content.
blobs = Table(
    f"{PREFIX}blob",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("data", DATA, nullable=False),
)
job_blobs = Table(
    f"{PREFIX}job_blob",
    metadata,
    Column("job_id", _Id, ForeignKey(jobs.c.id), primary_key=True, autoincrement=False),
    Column("digest", String(64), ForeignKey(blobs.c.digest), primary_key=True),
)
Index(f"{PREFIX}job_blob_digest", job_blobs.c.digest)

# What all processes know about a transport. No row: nothing is wrong with it.
transports = Table(
    f"{PREFIX}transport",
    metadata,
    Column("name", String(64), primary_key=True),
    # Faults in a row; 0: nothing is wrong any more.
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("kind", String(20)),
    Column("reason", Text),
    Column("since", Double),
    Column("resting_until", Double),
    # The one sender that may try whether the transport is back, and until when it may.
    Column("probe_token", String(64)),
    Column("probe_until", Double),
    # The last server-wide reply that a mail met after MAIL, and which mail that was.
    Column("wide_reply", Text),
    Column("wide_job", _Id),
    # Mails in a row that failed as wrongly configured, as JSON.
    Column("config_jobs", Text),
    # Since when, and by whom, it is kept from sending until somebody lets it go on.
    Column("paused_at", Double),
    Column("paused_by", String(255)),
    # After an outage: senders that may use it at once, and when that last grew. NULL: no cap.
    Column("ramp", Integer),
    Column("ramp_at", Double),
)

# What a limited transport may still send: one bucket of tokens per limit, shared by all hosts.
limits = Table(
    f"{PREFIX}limit",
    metadata,
    Column("transport", String(64), primary_key=True),
    # Length in seconds of the limit's window: 1, 60, 3600, 86400.
    Column("seconds", Integer, primary_key=True, autoincrement=False),
    Column("tokens", Double, nullable=False),
    Column("filled_at", Double, nullable=False),
)

# What providers report of mails that they took. A report is kept even if nothing is known of its
# mail yet: it may be here before the row's own outcome.
events = Table(
    f"{PREFIX}event",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    # Of the transport and the provider's own number of the event: the same one comes twice.
    Column("digest", String(64), nullable=False),
    Column("transport", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("bounce_type", String(8)),
    Column("received_at", Double, nullable=False),
    Column("occurred_at", Double),
    # NULL: no mail of ours was found for it so far.
    Column("job_id", _Id),
    Column("address", String(320)),
    Column("provider_message_id", String(255)),
    # What our own request said of the mail, if the provider gave it back.
    Column("reference", String(100)),
    Column("message_id", Text),
    Column("detail", Text, nullable=False),
    # Further facts, as JSON: URL, user agent, tags, metadata.
    Column("data", LONG, nullable=False),
    # Until when it is worth looking again: its mail was not found, or was in a sender's hands and
    # could not be changed. NULL: it has had its effect.
    Column("open_until", Double),
)
Index(f"{PREFIX}event_digest", events.c.digest, unique=True)
Index(f"{PREFIX}event_job", events.c.job_id, events.c.id)
# Serves ``purge`` of what never found its mail.
Index(f"{PREFIX}event_received", events.c.received_at)
# Serves the second look, which every sweep takes.
Index(f"{PREFIX}event_open", events.c.open_until)

# Addresses that are not mailed any more, and why.
suppressions = Table(
    f"{PREFIX}suppression",
    metadata,
    # Of address, scope and reason: one row for each.
    Column("digest", String(64), primary_key=True),
    Column("address", String(320), nullable=False),
    # The scope: the sender's domain and the tenant, each empty for all.
    Column("domain", String(255), nullable=False, server_default=""),
    Column("tenant", String(100), nullable=False, server_default=""),
    # Of an unsubscribe: the tag that it is for; empty: everything.
    Column("tag", String(255), nullable=False, server_default=""),
    Column("reason", String(20), nullable=False),
    Column("source", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # NULL: for ever.
    Column("expires_at", Double),
)
Index(f"{PREFIX}suppression_address", suppressions.c.address)

# Recipients whom a server called unknown: two of these a day apart make a suppression, too many at
# once an alarm.
refusals = Table(
    f"{PREFIX}refusal",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("address", String(320), nullable=False),
    Column("domain", String(255), nullable=False),
    Column("tenant", String(100), nullable=False, server_default=""),
    Column("transport", String(64), nullable=False),
    Column("job_id", _Id, nullable=False),
    Column("refused_at", Double, nullable=False),
    Column("detail", Text, nullable=False),
)
Index(f"{PREFIX}refusal_address", refusals.c.address, refusals.c.refused_at)
Index(f"{PREFIX}refusal_time", refusals.c.transport, refusals.c.refused_at)

# Who was seen last, and when: ``sweep`` is what people forget.
sightings = Table(
    f"{PREFIX}sighting",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("seen_at", Double, nullable=False),
)

meta = Table(
    f"{PREFIX}meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)
