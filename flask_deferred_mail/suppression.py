"""Addresses that are not mailed any more: why, for whose mail, and until when.

An entry is for one address. Its scope says whose mail it keeps back: that of one sender's domain,
or of one tenant, or both; empty means all. An unsubscribe can be for a tag (a list) only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from .address import parse_address, same_mailbox
from .characters import shown
from .cleaning import clean
from .errors import MessageError

DAY = 86_400.0

#: Longest scope and tag, in characters: those of the columns.
_LONGEST = {"domain": 253, "tenant": 100, "tag": 255, "source": 64}


class Reason(StrEnum):
    """Why an address is not mailed, the weightiest first."""

    #: Its owner called a mail of ours spam.
    COMPLAINT = "complaint"
    #: A mail came back because there is no such mailbox.
    HARD_BOUNCE = "hard_bounce"
    #: Its server refused it twice, a day apart, as no mailbox of its own.
    UNKNOWN_USER = "unknown_user"
    #: A person decided so.
    MANUAL = "manual"
    #: Its owner wants no more of a list, or of all lists.
    UNSUBSCRIBE = "unsubscribe"


#: Seconds for which an entry holds; what is not here holds until somebody removes it.
LIFETIME = {Reason.HARD_BOUNCE: 90 * DAY, Reason.UNKNOWN_USER: 30 * DAY}

_WEIGHT = {reason: place for place, reason in enumerate(Reason)}


def folded(address: str) -> str:
    """The address as it is compared here: in lower case throughout.

    Elsewhere only the domain ignores case. But reports come back in whatever case a provider likes,
    and hardly any server has two people whose addresses differ in nothing else: to mail somebody
    who has complained is worse than to leave such a neighbour out.
    """
    local, domain = same_mailbox(address)
    return f"{local.lower()}@{domain}"


def domain_of(address: str) -> str:
    """The domain of a sender, in lower case."""
    return same_mailbox(address)[1]


@dataclass(frozen=True, slots=True)
class Mailing:
    """What an entry's scope is compared with: what a mail is, apart from its recipients."""

    #: Of the sender, in lower case.
    domain: str
    tenant: str = ""
    tags: tuple[str, ...] = ()
    transactional: bool = False


@dataclass(frozen=True, slots=True)
class Suppression:
    """One entry of the list. Make it by :func:`suppression`, which checks it.

    Times are seconds since the epoch, by the database's clock.
    """

    #: As :func:`folded` has it.
    address: str
    reason: Reason
    domain: str = ""
    tenant: str = ""
    tag: str = ""
    #: Who says so: ``cli``, ``api``, ``import``, or a transport.
    source: str = ""
    detail: str = ""
    #: ``None`` before it is stored, if it is to be the moment when it is.
    created_at: float | None = None
    #: ``None``: it holds until somebody removes it.
    expires_at: float | None = None

    @property
    def digest(self) -> str:
        """Names the entry: one per address, scope and reason."""
        parts = (self.address, self.domain, self.tenant, self.tag, self.reason.value)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def keeps_back(self, mailing: Mailing, now: float) -> bool:
        """Whether such a mail is not to go to this address."""
        if self.expires_at is not None and self.expires_at <= now:
            return False
        if self.domain not in ("", mailing.domain) or self.tenant not in ("", mailing.tenant):
            return False
        if self.reason is not Reason.UNSUBSCRIBE:
            return True
        if mailing.transactional:
            return False
        return not self.tag or _alike(self.tag) in map(_alike, mailing.tags)

    @property
    def weight(self) -> int:
        """Which of several entries is told: the one with the least."""
        return _WEIGHT[self.reason]

    @property
    def words(self) -> str:
        """What a recipient's row says of it."""
        since = f", noted {_day(self.created_at)}" if self.created_at is not None else ""
        by = f" by {self.source}" if self.source else ""
        tag = f" from {self.tag!r}" if self.tag else ""
        until = f", until {_day(self.expires_at)}" if self.expires_at is not None else ""
        why = self.reason.value.replace("_", " ") + tag
        return clean(f"not mailed: on the suppression list ({why}{since}{by}{until})")


def _alike(tag: str) -> str:
    """A tag as it is compared: providers report it in lower case, and we keep it on one line."""
    return clean(tag, _LONGEST["tag"]).casefold()


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def suppression(
    address: object,
    reason: object = Reason.MANUAL,
    *,
    domain: str = "",
    tenant: str = "",
    tag: str = "",
    source: str = "",
    detail: str = "",
    created_at: float | None = None,
    expires_at: float | None = None,
) -> Suppression:
    """A checked entry.

    :raises MessageError: a field holds what cannot be; it is named.
    """
    texts = {"domain": domain, "tenant": tenant, "tag": tag, "source": source}
    for name, text in texts.items():
        _require_short(name, text)
    try:
        why = Reason(str(reason))
    except ValueError:
        known = ", ".join(Reason)
        raise MessageError("reason", f"{shown(str(reason))} is none of {known}") from None
    if tag and why is not Reason.UNSUBSCRIBE:
        raise MessageError("tag", "goes with the reason 'unsubscribe' only")
    return Suppression(
        address=folded(parse_address(address, "address").email),
        reason=why,
        domain=checked_domain(domain),
        tenant=tenant,
        tag=tag,
        source=source,
        detail=clean(detail),
        created_at=created_at,
        expires_at=expires_at,
    )


def checked_domain(domain: str) -> str:
    """A sender's domain in lower-case A-labels; empty stays empty.

    :raises MessageError: it is the name of no host.
    """
    return domain and domain_of(parse_address(f"x@{domain}", "domain").email)


def _require_short(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise MessageError(name, f"must be a text, not {type(text).__name__}")
    if len(text) > _LONGEST[name]:
        raise MessageError(name, f"has {len(text)} characters, {_LONGEST[name]} are allowed")
    if not text.isprintable():
        raise MessageError(name, "holds a character that cannot be shown")


def decisive(entries: Iterable[Suppression]) -> Suppression:
    """The one of several entries for an address that is told."""
    return min(entries, key=lambda entry: (entry.weight, entry.digest))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A recipient of whom a server said, at RCPT, that there is no such mailbox."""

    #: As it was mailed.
    address: str
    #: Of the sender, in lower case.
    domain: str
    tenant: str
    #: The server's words, cleaned and capped.
    detail: str
