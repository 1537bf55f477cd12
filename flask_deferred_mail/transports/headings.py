"""Whose addresses stand in which field of one mail, for providers that demand a ``to``.

After some recipients of a mail were settled, the rest may be of Cc and Bcc alone. Whoever is not
to be mailed cannot be named to such a provider, so somebody else has to stand in ``to``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..letter import Letter, Recipient


@dataclass(frozen=True, slots=True)
class Heading:
    """One mail as its recipients see it; ``to`` is never empty."""

    to: tuple[Recipient, ...]
    cc: tuple[Recipient, ...] = ()
    bcc: tuple[Recipient, ...] = ()

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        return self.to + self.cc + self.bcc


def headings(letter: Letter, recipients: Sequence[Recipient]) -> list[Heading]:
    """The mails that reach these recipients: one that shows them to each other, or one for each.

    With nobody left in To, those in Cc, whom everybody has seen, take its place. Recipients of Bcc
    alone get a mail each: any other form would show them to one another.
    """
    if letter.private_copies:
        return [Heading((recipient,)) for recipient in recipients]
    to, cc, bcc = (tuple(r for r in recipients if r.kind == kind) for kind in ("to", "cc", "bcc"))
    if to:
        return [Heading(to, cc, bcc)]
    if cc:
        return [Heading(cc, (), bcc)]
    return [Heading((recipient,)) for recipient in bcc]
