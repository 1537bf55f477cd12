"""What a mail that waits for its turn will ask of its transport, as far as that is plain.

A connection may name the envelope of its next mail together with the end of this one, which saves
a round trip. Only an ordinary mail is told of beforehand: one call, nobody in doubt or settled. If
it turns out otherwise when its turn comes, the connection is dropped, and nothing was sent.
"""

from __future__ import annotations

import time

from ..errors import DeferredMailError
from ..job import RecipientStatus
from ..letter import Letter, Recipient
from .envelopes import envelopes
from .leases import Holding, Phase
from .ledger import Tools

#: Bytes of a mail that is read before its turn: it stands in memory beside the one in hand.
LARGEST = 1_000_000

_UNTOUCHED = {RecipientStatus.PENDING}


def preview(tools: Tools, holding: Holding) -> tuple[Letter, tuple[Recipient, ...]] | None:
    """The letter and recipients of the one call that this mail will be, or ``None``.

    Letter and envelopes are kept with the holding, so neither is made again.
    """
    claim = holding.claim
    now = claim.now()
    if (
        holding.phase is not Phase.QUEUED
        or claim.deaths
        or claim.size > LARGEST
        or (claim.expires_at is not None and claim.expires_at <= now)
        or tools.policy.gives_up_at(claim) <= now
        or {entry.status for entry in claim.recipients} != _UNTOUCHED
    ):
        return None
    try:
        transport = tools.transports(claim.transport)
        if holding.letter is None:
            holding.letter = tools.store.load(claim, holding.content)
        if _somebody_is_listed(tools, holding, holding.letter):
            return None
    except DeferredMailError:
        return None  # its own attempt will say so
    # Nobody is in doubt, so it does not matter what becomes of those who are.
    holding.envelopes = envelopes(transport, holding.letter, claim.recipients, hold=False)
    if len(holding.envelopes) != 1:
        return None
    return holding.letter, holding.envelopes[0].group


def _somebody_is_listed(tools: Tools, holding: Holding, letter: Letter) -> bool:
    """Whether a recipient is on the suppression list, who must not even be named to a server."""
    claim = holding.claim
    left = tools.suppressing.leave_out(
        claim, letter, claim.recipients, hold=False, repeatable=False
    )
    if left is not claim.recipients:
        return True
    holding.looked_up_at = time.monotonic()
    return False
