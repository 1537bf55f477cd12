"""Who of a mail's recipients is left out of it, and what is learnt from those who were refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..cleaning import clean
from ..job import JobRecipient, RecipientStatus
from ..letter import Letter
from ..outcome import Fate, Outcome
from ..rerouting import Rerouting
from ..store.claims import Claim
from ..store.suppressions import Suppressions
from ..suppression import Mailing, Refusal, domain_of
from .verdict import still_open


class Suppressing:
    """Leaves recipients out who are on the list, before anything is sent."""

    def __init__(self, suppressions: Suppressions, rerouting: Rerouting | None = None) -> None:
        self.suppressions = suppressions
        #: Who may be mailed from here at all (staging).
        self.rerouting = rerouting or Rerouting()
        self._reroutes = self.rerouting.is_on

    @property
    def in_use(self) -> bool:
        """Whether anybody was on the list when it was last looked at."""
        return self.suppressions.in_use

    def leave_out(
        self,
        claim: Claim,
        letter: Letter,
        recipients: tuple[JobRecipient, ...],
        *,
        hold: bool,
        repeatable: bool,
    ) -> tuple[JobRecipient, ...]:
        """The recipients, with those settled who are not to be mailed any more; they themselves
        if nobody is.

        ``hold``: the attempt is not for those who are in doubt. ``repeatable``: the provider
        recognises a repeated call.

        :raises StoreError: the list could not be asked.
        """
        if not self._reroutes and not self.suppressions.has_any():
            return recipients
        addresses = [entry.address for entry in still_open(recipients, hold)]
        found: dict[str, Listed] = dict(self._not_from_here(addresses))
        found |= self.suppressions.found(addresses, mailing_of(claim, letter), claim.now())
        if not found:
            return recipients
        return tuple(
            _settled(entry, found, _spoilt(recipients, found, repeatable)) for entry in recipients
        )

    def _not_from_here(self, addresses: Sequence[str]) -> Iterator[tuple[str, Listed]]:
        """Recipients of rows that were recorded elsewhere: in a copy of another database."""
        for address in addresses:
            if not self.rerouting.permits(address):
                yield address, _NotFromHere(self.rerouting.why_not())


class Listed(Protocol):
    """Why somebody is left out."""

    @property
    def words(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _NotFromHere:
    words: str


def mailing_of(claim: Claim, letter: Letter) -> Mailing:
    """What the scopes of entries are compared with."""
    domain = domain_of(letter.sender.email)
    return Mailing(domain, claim.tenant, letter.tags, claim.transactional)


def _spoilt(
    recipients: Iterable[JobRecipient], found: Mapping[str, Listed], repeatable: bool
) -> set[str]:
    """Keys of calls that cannot be repeated as they were: somebody in them is left out now. The
    provider would recognise no other call, and the others in it would get a second copy."""
    if not repeatable:
        return set()
    return {entry.doubt for entry in recipients if entry.doubt and entry.address in found}


def _settled(entry: JobRecipient, found: Mapping[str, Listed], spoilt: set[str]) -> JobRecipient:
    listed = found.get(entry.address)
    if entry.status is RecipientStatus.PENDING and listed is not None:
        return replace(entry, status=RecipientStatus.SUPPRESSED, detail=listed.words)
    if entry.status is RecipientStatus.UNKNOWN and (listed is not None or entry.doubt in spoilt):
        # It may be there already, so it is not called suppressed: a person has to look.
        why = listed.words if listed is not None else "not mailed: others of its call are no more"
        return replace(entry, unknowns=2, detail=clean(f"no answer came; {why}"))
    return entry


def words_of(before: Iterable[JobRecipient], after: Iterable[JobRecipient]) -> str:
    """Who was left out, for the row's last error; empty if nobody was."""
    out = [b for a, b in zip(before, after, strict=True) if a is not b]
    if not out:
        return ""
    more = f" (and {len(out) - 1} more)" if len(out) > 1 else ""
    return clean(f"{out[0].address}: {out[0].detail}{more}")


def refusals_of(
    claim: Claim, letter: Letter | None, outcomes: Iterable[Outcome]
) -> tuple[Refusal, ...]:
    """The recipients of an attempt of whom a server said that there is no such mailbox."""
    refused = [
        result
        for outcome in outcomes
        for result in outcome.results
        if result.no_mailbox and result.fate is Fate.REFUSED
    ]
    if letter is None or not refused:
        return ()
    domain = domain_of(letter.sender.email)
    return tuple(Refusal(r.address, domain, claim.tenant, r.detail) for r in refused)
