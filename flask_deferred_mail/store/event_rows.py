"""Reports of providers as rows, and whose mail they are about.

A report names its mail in up to three ways. Best is our own reference, which the request carried:
it is here as soon as the mail is. The provider's number is known only after the answer to the
request was written down; and our Message-ID helps where the provider tells it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select

from ..job import JobRecipient
from ..reference import job_of, reference
from ..tracking import EventKind, TrackingEvent, about
from .schema import events, jobs
from .schema import recipients as recipient_index

#: Values in one ``IN``.
AT_ONCE = 500
#: Mails to one address among which a Message-ID is looked for, the newest.
_NEWEST = 50


@dataclass(frozen=True, slots=True)
class Entry:
    """One report, stored or about to be."""

    event: TrackingEvent
    received_at: float
    #: ``None``: not stored yet.
    id: int | None = None
    #: The mail that it is about, as far as that is known.
    job_id: int | None = None
    #: Its mail was known before, and whoever listens has been told.
    announced: bool = False

    @property
    def moment(self) -> float:
        """When it happened, as well as we know."""
        return self.received_at if self.event.occurred_at is None else self.event.occurred_at

    def of(self, job_id: int | None) -> Entry:
        return replace(self, job_id=job_id)

    def about(self, recipients: tuple[JobRecipient, ...]) -> Entry:
        """The same, now that the recipients of its mail are known."""
        return replace(self, event=about(self.event, recipients))


def digest(event: TrackingEvent, part: int | None = None) -> str:
    """Names a report: the same for each repeat of it."""
    place = event.part if part is None else part
    return sha256(f"{event.transport}\0{event.event_id}\0{place}".encode()).hexdigest()


def row_of(entry: Entry, open_until: float | None) -> dict[str, Any]:
    """The values of a new row."""
    event = entry.event
    own = {
        "among": list(event.among),
        "event_id": event.event_id,
        "by_heading": event.by_heading,
    }
    return {
        "digest": digest(event),
        "transport": event.transport,
        "kind": event.kind.value,
        "bounce_type": event.bounce_type,
        "received_at": entry.received_at,
        "occurred_at": event.occurred_at,
        "job_id": entry.job_id,
        "address": event.recipient,
        "provider_message_id": event.message_id,
        "reference": event.reference,
        "message_id": event.own_message_id,
        "detail": event.detail,
        "data": json.dumps({"facts": dict(event.data), **{k: v for k, v in own.items() if v}}),
        "open_until": open_until,
    }


def entry_of(row: Any) -> Entry:
    """The other way round."""
    data = json.loads(row.data)
    event = TrackingEvent(
        kind=EventKind(row.kind),
        recipient=row.address,
        message_id=row.provider_message_id,
        event_id=data.get("event_id", ""),
        bounce_type=row.bounce_type,
        by_heading=data.get("by_heading", False),
        occurred_at=row.occurred_at,
        reference=row.reference,
        own_message_id=row.message_id,
        detail=row.detail,
        among=tuple(data.get("among", ())),
        transport=row.transport,
        data=data.get("facts", {}),
    )
    return Entry(event, row.received_at, row.id, row.job_id, row.job_id is not None)


def is_of_another_database(entry: Entry) -> bool:
    """Whether the report carries a reference, so that its mail is either here already or never."""
    return job_of(entry.event.reference) is not None


def find_owners(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """The entries, each with the number of its mail if that can be found now."""
    known = _by_reference(connection, entries)
    by_number = _by_number(connection, [e.event for e in entries])
    found = []
    for entry in entries:
        if entry.job_id is not None:
            found.append(entry)
        elif is_of_another_database(entry):
            found.append(entry.of(known.get(entry.event.reference or "")))
        else:
            owner = _owner(entry.event, by_number.get(entry.event.message_id or "", ()))
            found.append(entry.of(owner or _by_message_id(connection, entry.event)))
    return found


def _by_reference(connection: Connection, entries: Iterable[Entry]) -> Mapping[str, int]:
    """Our references among theirs that really are of mails here."""
    claimed = {job_of(e.event.reference) for e in entries if e.job_id is None} - {None}
    found = {}
    for some in _pieces(sorted(filter(None, claimed))):
        query = select(jobs.c.id, jobs.c.message_id).where(jobs.c.id.in_(some))
        for row in connection.execute(query):
            found[reference(row.id, row.message_id)] = int(row.id)
    return found


def _by_number(
    connection: Connection, reported: Iterable[TrackingEvent]
) -> Mapping[str, list[tuple[int, str]]]:
    """Provider's number -> mail and address of all recipients that have it."""
    numbers = {e.message_id for e in reported if e.message_id and job_of(e.reference) is None}
    found: dict[str, list[tuple[int, str]]] = {}
    table = recipient_index.c
    for some in _pieces(sorted(numbers)):
        query = select(table.job_id, table.address, table.provider_message_id).where(
            table.provider_message_id.in_(some)
        )
        for row in connection.execute(query):
            found.setdefault(row.provider_message_id, []).append((row.job_id, row.address))
    return found


def _owner(event: TrackingEvent, having: Sequence[tuple[int, str]]) -> int | None:
    """The one mail among those with the number; of several, the one that went to the recipient."""
    owners = {job_id for job_id, _ in having}
    if len(owners) > 1 and event.recipient is not None:
        address = event.recipient.lower()
        owners = {job_id for job_id, other in having if other.lower() == address}
    return owners.pop() if len(owners) == 1 else None


def _by_message_id(connection: Connection, event: TrackingEvent) -> int | None:
    """The mail to that recipient that has this Message-ID."""
    if event.own_message_id is None or event.recipient is None:
        return None
    addresses = {event.recipient, event.recipient.lower()}
    newest = (
        select(recipient_index.c.job_id)
        .where(recipient_index.c.address.in_(addresses))
        .order_by(recipient_index.c.job_id.desc())
        .limit(_NEWEST)
    )
    numbers = list(connection.scalars(newest))
    query = select(jobs.c.id).where(
        jobs.c.id.in_(numbers), jobs.c.message_id == event.own_message_id
    )
    found = list(connection.scalars(query)) if numbers else []
    return found[0] if len(found) == 1 else None


def unknown_ones(connection: Connection, reported: Sequence[TrackingEvent]) -> list[TrackingEvent]:
    """Those that are not stored yet, each once.

    All parts of one report share its fate: a provider's token is good for one report, so nobody
    can hang further parts on it.
    """
    firsts = [digest(event, 0) for event in reported]
    stored: set[str] = set()
    for some in _pieces(sorted(set(firsts))):
        stored |= set(connection.scalars(select(events.c.digest).where(events.c.digest.in_(some))))
    fresh: dict[str, TrackingEvent] = {}
    for first, event in zip(firsts, reported, strict=True):
        if first not in stored:
            fresh.setdefault(digest(event), event)
    return list(fresh.values())


def _pieces(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]
