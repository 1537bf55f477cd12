"""The list of addresses that are not mailed any more.

Looked at for each mail before any network call, so it costs one statement by an index; and while
nobody is on the list, one statement every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update

from ..moments import instant, span
from ..suppression import LIFETIME, Mailing, Reason, Suppression, decisive, folded, suppression
from .database import Database
from .dialect import insert_or_ignore, read_now, upsert
from .prepared import Prepared
from .schema import refusals, suppressions

#: Seconds for which a process believes that the list is empty. What this process adds, it knows at
#: once.
BELIEVED = 2.0

#: Seconds that a transaction with an entry may take to commit.
_ON_ITS_WAY = 60.0

#: Addresses of one look, and rows of one transaction.
_AT_ONCE = 500

_COLUMNS = (
    suppressions.c.address,
    suppressions.c.domain,
    suppressions.c.tenant,
    suppressions.c.tag,
    suppressions.c.reason,
    suppressions.c.source,
    suppressions.c.detail,
    suppressions.c.created_at,
    suppressions.c.expires_at,
)
_ANY = Prepared(select(suppressions.c.digest).limit(1))
_OF_ONE = Prepared(select(*_COLUMNS).where(suppressions.c.address == bindparam("address_")))
_OF_SOME = select(*_COLUMNS).where(
    suppressions.c.address.in_(bindparam("addresses_", expanding=True))
)
_ORDER = (suppressions.c.address, suppressions.c.digest)


class Suppressions:
    """Reads and changes the list. Safe for threads; for one process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._lock = threading.Lock()
        self._any = False
        self._read_at = -BELIEVED
        #: Until when an entry of this process may be on its way to the table (monotonic).
        self._expected_until = 0.0

    # -- asked for each mail ----------------------------------------------------------------

    def found(
        self, addresses: Sequence[str], mailing: Mailing, now: float
    ) -> dict[str, Suppression]:
        """Who of these is not to get such a mail, each with the entry that says so.

        ``now`` is the database's time.
        """
        if not addresses or not self.has_any():
            return {}
        by_address: dict[str, list[Suppression]] = {}
        for entry in self._of(list({folded(address) for address in addresses})):
            if entry.keeps_back(mailing, now):
                by_address.setdefault(entry.address, []).append(entry)
        return {
            address: decisive(by_address[folded(address)])
            for address in addresses
            if folded(address) in by_address
        }

    def has_any(self) -> bool:
        """Whether anybody may be on the list; asks the database at most every few seconds."""
        if time.monotonic() < self._read_at + BELIEVED:
            return self._any  # without the lock, for which all sender threads would stand in line
        # The lock is held while the database is asked: an entry that this process adds meanwhile
        # is noted after the answer, never before it.
        with self._lock:
            if time.monotonic() >= self._read_at + BELIEVED:
                found = self.database.read_one(lambda c: _ANY.scalar(c, {}))
                read_at = time.monotonic()
                self._any = found is not None or read_at < self._expected_until
                self._read_at = read_at  # last, for those who look without the lock
            return self._any

    @property
    def in_use(self) -> bool:
        """Whether anybody was on the list when that was last looked at."""
        return self._any

    def added_here(self) -> None:
        """This process has committed an entry: look the next mail up."""
        with self._lock:
            self._any = True

    def _of(self, addresses: list[str]) -> list[Suppression]:
        if len(addresses) == 1:
            values = {"address_": addresses[0]}
            rows = self.database.read_one(lambda c: _OF_ONE.rows(c, values))
            return [_entry(row) for row in rows]
        return [
            _entry(row)
            for some in _portions(addresses)
            for row in self.database.read_one(partial(_some, values={"addresses_": some}))
        ]

    # -- for people and applications --------------------------------------------------------

    def add(
        self,
        address: str,
        reason: str = Reason.MANUAL,
        *,
        domain: str = "",
        tenant: str = "",
        tag: str = "",
        detail: str = "",
        source: str = "api",
        expires_in: float | None = None,
    ) -> Suppression:
        """Mail this address no more. An entry with the same scope and reason is replaced.

        ``domain`` (of the sender) and ``tenant`` say whose mail is kept back; empty means all. An
        unsubscribe can be for one ``tag``. ``expires_in`` is in seconds; without it, a hard bounce
        holds for 90 days, an unknown user for 30, and all else until it is removed.

        :raises MessageError: a field holds what cannot be.
        :raises StoreError: it could not be stored.
        """
        entry = suppression(
            address, reason, domain=domain, tenant=tenant, tag=tag, detail=detail, source=source
        )
        seconds = LIFETIME.get(entry.reason)
        if expires_in is not None:
            seconds = span(expires_in, "expires_in")
            instant(time.time() + seconds, "expires_in")  # a year that can be shown
        self.put([entry], seconds)
        return next((e for e in self.of(entry.address) if e.digest == entry.digest), entry)

    def of(self, address: str) -> list[Suppression]:
        """The entries for this address, also those that have expired."""
        return sorted(self._of([folded(address)]), key=lambda e: (e.weight, e.digest))

    def remove(
        self,
        address: str,
        reason: str | None = None,
        *,
        domain: str | None = None,
        tenant: str | None = None,
        tag: str | None = None,
    ) -> list[Suppression]:
        """Take an address off the list, or only its entries of this reason and scope (empty is the
        scope of all mail). Returns what was removed.

        What servers said of it before is forgotten as well: it is not listed again for that.
        """
        wanted = {"reason": reason, "domain": domain, "tenant": tenant, "tag": tag}
        fields = {name: value for name, value in wanted.items() if value is not None}
        address = folded(address)

        def work(connection: Connection) -> list[Suppression]:
            query = _matching(address, fields).with_for_update()
            gone = [_entry(row) for row in connection.execute(query)]
            digests = [entry.digest for entry in gone]
            connection.execute(delete(suppressions).where(suppressions.c.digest.in_(digests)))
            if reason in (None, Reason.UNKNOWN_USER):
                connection.execute(delete(refusals).where(refusals.c.address == address))
            return gone

        return self.database.write(work)

    # -- many -------------------------------------------------------------------------------

    def put(self, entries: Iterable[Suppression], lifetime: float | None = None) -> int:
        """Store checked entries in transactions of some hundred; what is there is replaced.

        ``lifetime``: seconds from now, for those that say no end. Returns how many there were.
        """
        number = 0
        for some in _portions(entries):
            self.database.write(partial(_put, entries=some, lifetime=lifetime))
            self.added_here()
            number += len(some)
        return number

    def learn(self, entries: Sequence[Suppression]) -> None:
        """Store what was reported. What is there and holds for longer stays as it is."""
        if entries:
            self.database.write(partial(learn, entries=entries))
            self.added_here()

    def learn_inside(self, connection: Connection, entries: Sequence[Suppression]) -> None:
        """:meth:`learn` in a transaction of the caller's, which commits within a minute."""
        learn(connection, entries)
        with self._lock:
            self._expected_until = time.monotonic() + _ON_ITS_WAY
            self._any = True

    def page(self, after: str = "", limit: int = 50) -> list[Suppression]:
        """Entries in the order of their addresses, those after this one. All entries of an address
        come together, so it can be a few more than ``limit``."""

        def work(connection: Connection) -> list[Suppression]:
            query = (
                select(*_COLUMNS)
                .where(suppressions.c.address > after)
                .order_by(*_ORDER)
                .limit(limit)
            )
            rows = connection.execute(query).all()
            if len(rows) < limit:
                return [_entry(row) for row in rows]
            last = rows[-1].address
            rest = connection.execute(_matching(last, {}).order_by(*_ORDER)).all()
            return [_entry(row) for row in [*(r for r in rows if r.address != last), *rest]]

        return self.database.read(work)

    def all(self) -> Iterator[Suppression]:
        """Every entry, read page by page."""
        after = ""
        while page := self.page(after, _AT_ONCE):
            yield from page
            after = page[-1].address

    def drop_expired(self) -> int:
        """Delete entries that hold no more, in small transactions. Returns how many."""
        now, after, dropped = self.database.read(read_now), "", 0
        while digests := self.database.read(_expired(now, after)):
            dropped += self.database.write(_drop(digests, now))
            after = digests[-1]
        return dropped


def learn(connection: Connection, entries: Sequence[Suppression]) -> None:
    """Add entries inside a transaction; those that hold for longer already stay as they are.

    Without an end of their own, entries hold as long as their reason says.
    """
    moment = read_now(connection)
    rows = {
        entry.digest: _row(entry, moment, LIFETIME.get(entry.reason))
        for entry in sorted(entries, key=lambda entry: entry.digest)
    }
    query = (
        select(suppressions.c.digest, suppressions.c.expires_at)
        .where(suppressions.c.digest.in_(list(rows)))
        .order_by(suppressions.c.digest)
        .with_for_update()
    )
    there = {row.digest: row.expires_at for row in connection.execute(query)}
    for digest, row in rows.items():
        if digest not in there:
            connection.execute(insert_or_ignore(suppressions, connection.dialect.name), row)
        elif _ends_before(there[digest], row["expires_at"]):
            changes = {name: row[name] for name in ("expires_at", "source", "detail")}
            connection.execute(
                update(suppressions).where(suppressions.c.digest == digest).values(changes)
            )


def _ends_before(first: float | None, second: float | None) -> bool:
    return first is not None and (second is None or first < second)


def _put(connection: Connection, entries: Sequence[Suppression], lifetime: float | None) -> None:
    moment, dialect = read_now(connection), connection.dialect.name
    # In one order, so that two who store the same ones do not wait for each other in a circle.
    rows = {entry.digest: _row(entry, moment, lifetime) for entry in entries}
    ordered = [rows[digest] for digest in sorted(rows)]
    changing = ("source", "detail", "created_at", "expires_at")
    connection.execute(upsert(suppressions, dialect, *changing), ordered)


def _row(entry: Suppression, moment: float, lifetime: float | None) -> dict[str, Any]:
    expires_at = entry.expires_at
    if expires_at is None and lifetime is not None:
        expires_at = moment + lifetime
    return {
        "digest": entry.digest,
        "address": entry.address,
        "domain": entry.domain,
        "tenant": entry.tenant,
        "tag": entry.tag,
        "reason": entry.reason.value,
        "source": entry.source,
        "detail": entry.detail,
        "created_at": moment if entry.created_at is None else entry.created_at,
        "expires_at": expires_at,
    }


def _entry(row: Any) -> Suppression:
    address, domain, tenant, tag, reason, source, detail, created_at, expires_at = row
    return Suppression(
        address, _reason(reason), domain, tenant, tag, source, detail, created_at, expires_at
    )


def _reason(text: str) -> Reason:
    """A reason that only a newer version knows keeps mail back all the same."""
    return Reason(text) if text in _REASONS else Reason.MANUAL


_REASONS = frozenset(reason.value for reason in Reason)
_T = TypeVar("_T")


def _portions(things: Iterable[_T]) -> Iterator[list[_T]]:
    left = iter(things)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _some(connection: Connection, values: dict[str, Any]) -> Sequence[Any]:
    return connection.execute(_OF_SOME, values).all()


def _matching(address: str, fields: dict[str, str]) -> Any:
    conditions = [suppressions.c[name] == value for name, value in fields.items()]
    return select(*_COLUMNS).where(suppressions.c.address == address, *conditions)


def _expired(now: float, after: str) -> Callable[[Connection], list[str]]:
    query = (
        select(suppressions.c.digest)
        .where(suppressions.c.digest > after, suppressions.c.expires_at <= now)
        .order_by(suppressions.c.digest)
        .limit(_AT_ONCE)
    )
    return lambda connection: list(connection.scalars(query))


def _drop(digests: list[str], now: float) -> Callable[[Connection], int]:
    # One that was given a new end meanwhile stays.
    gone = delete(suppressions).where(
        suppressions.c.digest.in_(digests), suppressions.c.expires_at <= now
    )
    return lambda connection: int(connection.execute(gone).rowcount)
