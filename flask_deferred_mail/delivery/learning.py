"""What providers report of a mail that came back: who is not to be mailed any more."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Protocol

from ..cleaning import clean
from ..errors import MessageError
from ..job import Job
from ..store.suppressions import Suppressions
from ..suppression import Reason, Suppression, domain_of, suppression

log = logging.getLogger("flask_deferred_mail.delivery")


class Reported(Protocol):
    """The part of a provider's report that is looked at here."""

    @property
    def kind(self) -> str:
        """``complained``, ``unsubscribed``, ``bounced``, ``rejected``, or what is passed over."""

    @property
    def bounce_type(self) -> str | None:
        """``hard`` or ``soft``."""

    @property
    def recipient(self) -> str | None:
        """Whom it is about; ``None``: the provider does not say."""

    @property
    def detail(self) -> str:
        """The provider's words."""

    @property
    def transport(self) -> str:
        """By which the mail went."""

    @property
    def data(self) -> Mapping[str, Any]:
        """Further facts: ``word`` and ``code`` of the provider, ``tags`` of the mail."""


_REASONS: Mapping[tuple[str, str | None], Reason] = {
    ("complained", None): Reason.COMPLAINT,
    ("unsubscribed", None): Reason.UNSUBSCRIBE,
    ("bounced", "hard"): Reason.HARD_BOUNCE,
}


def reason_of(event: Reported) -> Reason | None:
    """Why the address is not to be mailed any more; ``None``: it may be.

    A mail that the provider would not take because the address is on a list of its own counts like
    what put it there; if the provider does not say that, like a hard bounce.
    """
    if event.kind == "rejected":
        return _of_rejection(event)
    bounce = event.bounce_type if event.kind == "bounced" else None
    return _REASONS.get((event.kind, bounce))


#: Mailgun's codes for an address on its lists.
_CODES = {"605": Reason.HARD_BOUNCE, "606": Reason.UNSUBSCRIBE, "607": Reason.COMPLAINT}
#: By which words providers name a list of theirs: several, SendGrid, SendCloud, Brevo.
_LIST = re.compile(
    "suppress|unsubscribed address|spam reporting address|bounced address|in (sendcloud )?blacklist"
    "|blacklist user"
)
_COMPLAINT = re.compile(r"complain|spam reporting")


def _of_rejection(event: Reported) -> Reason | None:
    code = str(event.data.get("code", ""))
    if code in _CODES:
        return _CODES[code]
    words = f"{event.detail} {event.data.get('word', '')} {code}".lower()
    if not _LIST.search(words):
        return None
    if "unsubscribe" in words:
        return Reason.UNSUBSCRIBE
    return Reason.COMPLAINT if _COMPLAINT.search(words) else Reason.HARD_BOUNCE


class Learner:
    """Puts addresses on the list for what is reported of them."""

    def __init__(self, suppressions: Suppressions) -> None:
        self.suppressions = suppressions

    def on_event(self, event: Reported, job: Job | None) -> list[Suppression]:
        """Take in one report; ``job`` is the mail that it is about. Returns what it leads to.

        :raises StoreError: it could not be stored.
        """
        entries = entries_of(event, job)
        self.suppressions.learn(entries)
        return entries

    def hook(self, connection: Any, event: Reported, job: Job | None) -> None:
        """The same inside the transaction that stores the report: both are there, or neither."""
        entries = entries_of(event, job)
        if entries:
            self.suppressions.learn_inside(connection, entries)


def entries_of(event: Reported, job: Job | None) -> list[Suppression]:
    """What follows from a report on a mail.

    Nothing does if the mail is not known here: an account can be shared with somebody whose mail is
    none of our business.
    """
    reason = reason_of(event)
    if reason is None or job is None:
        return []
    address = event.recipient or _only(job)
    if not address:
        log.info(
            "mail %d: %s (%s), of one among several: nobody is listed", job.id, event.kind, reason
        )
        return []
    # A provider's own list is for all mail.
    tags = _tags(event) if event.kind == "unsubscribed" else []
    try:
        return [_entry(event, address, job, reason, tag) for tag in tags or [""]]
    except MessageError as error:
        log.warning("mail %d: %s (%s) names nobody: %s", job.id, event.kind, reason, error)
        return []


def _only(job: Job) -> str:
    return job.recipients[0].address if len(job.recipients) == 1 else ""


def _tags(event: Reported) -> list[str]:
    given = event.data.get("tags")
    named = [given] if isinstance(given, str) else given
    if not isinstance(named, (list, tuple)):
        return []
    return list(dict.fromkeys(clean(tag, 255) for tag in named if isinstance(tag, str) and tag))


def _entry(event: Reported, address: str, job: Job, reason: Reason, tag: str) -> Suppression:
    return suppression(
        address,
        reason,
        domain=domain_of(job.sender),
        tenant=job.tenant,
        tag=tag,
        source=clean(event.transport, 64),
        detail=event.detail,
    )
