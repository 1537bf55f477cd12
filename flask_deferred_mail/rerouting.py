"""Whose mail really leaves a staging server: everybody's goes to the testers instead.

A copy of the production database, or a form that somebody tries out, must not mail customers. What
is changed is the letter, before it is recorded: the row shows who will really be mailed. Rows that
came from elsewhere are looked at once more before they are sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .address import same_mailbox
from .cleaning import clean
from .errors import MessageError, UnsupportedFeature
from .letter import Address, Kind, Letter, Recipient, Submission

#: Header fields that tell who would have been mailed.
ORIGINALLY: Mapping[Kind, str] = {
    "to": "X-Original-To",
    "cc": "X-Original-Cc",
    "bcc": "X-Original-Bcc",
}
#: Longest list in one of them, in characters.
MAX_ORIGINAL = 1_000

_ALLOWED, _OVERRIDE = "DEFERRED_MAIL_ALLOWED_RECIPIENTS", "DEFERRED_MAIL_OVERRIDE_RECIPIENTS"
_MERGED = ("merge_data", "merge_metadata", "merge_headers")


@dataclass(frozen=True, slots=True)
class Rerouting:
    """Who may be mailed from here, and who gets the mail of all others."""

    #: Get what is for others; empty: it is refused.
    override: tuple[Address, ...] = ()
    #: Patterns ``local@domain`` with ``*`` for any text; these people are mailed as usual.
    allowed: tuple[str, ...] = ()

    @property
    def is_on(self) -> bool:
        return bool(self.override or self.allowed)

    def permits(self, email: str) -> bool:
        """Whether an address may be mailed from here."""
        if not self.is_on:
            return True
        own = {same_mailbox(address.email) for address in self.override}
        return same_mailbox(email) in own or any(_fits(email, one) for one in self.allowed)

    def applied(self, letter: Letter) -> Letter:
        """The letter to those who may be mailed; the letter itself if that is everybody.

        Those who stand in for others take the place of the first of them, in a visible list once
        for all. Of private copies each of them gets one, with the merge data of one recipient.

        :raises MessageError: somebody may not be mailed, and nobody stands in for others.
        """
        gone = [r for r in letter.recipients if not self.permits(r.email)]
        if not gone:
            return letter
        if not self.override:
            raise MessageError(_field_of(gone[0]), _refusal(gone))
        kept = [r for r in letter.recipients if r not in gone]
        added = self._standing_in(kept, gone)
        place = letter.recipients.index(gone[0])
        changes: dict[str, Any] = {
            name: _moved(getattr(letter, name), kept, gone, added) for name in _MERGED
        }
        return replace(
            letter,
            recipients=(*kept[:place], *added, *kept[place:]),
            headers=_headers(letter, kept, gone),
            **changes,
        )

    def _standing_in(self, kept: Sequence[Recipient], gone: Sequence[Recipient]) -> list[Recipient]:
        taken = {same_mailbox(recipient.email) for recipient in kept}
        kinds = {recipient.kind for recipient in gone}
        kind = next(kind for kind in ORIGINALLY if kind in kinds)
        return [
            Recipient(address, kind)
            for address in self.override
            if same_mailbox(address.email) not in taken
        ]

    def checked(self, submission: Submission, check: Callable[[Letter], None]) -> Submission:
        """What has passed a transport's check; without our header fields, if it is for them that
        the transport refuses it.

        :raises UnsupportedFeature: the transport cannot carry it.
        """
        try:
            check(submission.letter)
        except UnsupportedFeature:
            if not self.is_on:
                raise
            letter = _without_originals(submission.letter)
            check(letter)
            return replace(submission, letter=letter)
        return submission

    def why_not(self) -> str:
        """Why an address that is in the table already is not mailed."""
        names = [n for n, v in ((_OVERRIDE, self.override), (_ALLOWED, self.allowed)) if v]
        return f"not mailed from here: it is not in {' or '.join(names)}"


def changes_in_words(before: Letter, after: Letter) -> tuple[str, str]:
    """Whom a letter was for and is not any more, and who gets it in their place; for the log."""
    old, new = ([r.email for r in letter.recipients] for letter in (before, after))
    gone, added = ([e for e in one if e not in two] for one, two in ((old, new), (new, old)))
    return clean(_listed(gone), 1_100), clean(_listed(added), 1_100) or "those who get it anyway"


def _without_originals(letter: Letter) -> Letter:
    """For a provider that takes no such header fields: the log has them too."""
    names = {name.lower() for name in ORIGINALLY.values()}
    headers = tuple(pair for pair in letter.headers if pair[0].lower() not in names)
    return replace(letter, headers=headers)


def pattern_of(text: str) -> str | None:
    """A pattern in its full form, ``local@domain``; ``None``: it is none, or fits everybody.

    ``example.com`` and ``@example.com`` are everybody there, ``*.example.com`` everybody below it.
    """
    local, _, domain = text.strip().lower().rpartition("@")
    pattern = f"{local or '*'}@{domain}"
    is_one = re.fullmatch(r"[^\s@<>,;]+@[a-z0-9*._-]+", pattern)
    return pattern if is_one and domain.strip("*.") else None


def _fits(email: str, pattern: str) -> bool:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch("[^@]*".join(parts), email, re.IGNORECASE) is not None


def _moved(
    given: Mapping[str, Any],
    kept: Sequence[Recipient],
    gone: Sequence[Recipient],
    added: Sequence[Recipient],
) -> dict[str, Any]:
    """Merge data: those who are mailed keep theirs, who stands in has that of one who is not."""
    found = {r.email: given[r.email] for r in kept if r.email in given}
    for number, recipient in enumerate(added):
        original = gone[number % len(gone)].email
        if original in given:
            found[recipient.email] = given[original]
    return found


def _headers(
    letter: Letter, kept: Sequence[Recipient], gone: Sequence[Recipient]
) -> tuple[tuple[str, str], ...]:
    """The letter's fields, and who would have been mailed, as far as the others may know it."""
    fields = {}
    for kind, name in ORIGINALLY.items():
        people = [recipient.email for recipient in gone if recipient.kind == kind]
        hidden = kind == "bcc" or letter.private_copies
        if people and not (hidden and kept):
            fields[name] = _listed(people)
    taken = {name.lower() for name in fields}
    others = [pair for pair in letter.headers if pair[0].lower() not in taken]
    return (*others, *fields.items())


def _listed(people: Sequence[str]) -> str:
    shown = list(people)
    while len(", ".join(shown)) > MAX_ORIGINAL:
        shown = shown[: len(shown) // 2]
    more = f" and {len(people) - len(shown)} more" if len(shown) < len(people) else ""
    return f"{', '.join(shown)}{more}"


def _field_of(recipient: Recipient) -> str:
    return "recipients" if recipient.kind == "to" else recipient.kind


def _refusal(gone: Sequence[Recipient]) -> str:
    more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
    return (
        f"{clean(gone[0].email, 254)}{more} may not be mailed from here: it is not in {_ALLOWED}; "
        f"set {_OVERRIDE} to have such mail go to somebody else"
    )
