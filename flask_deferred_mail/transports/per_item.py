"""One answer about many mails: what each item of a batch came to, put together as one outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..cleaning import clean
from ..letter import Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from .base import Call
from .classification import Verdict, to_outcome


def accepted(recipient: Recipient, message_id: object) -> Outcome:
    """The item was taken; ``message_id`` is the provider's, if it is a text."""
    number = clean(message_id, 200) if isinstance(message_id, str) else None
    return Outcome((RecipientResult(recipient.email, Fate.ACCEPTED, "", number or None),))


def refused(call: Call, recipient: Recipient, verdict: Verdict, words: str) -> Outcome:
    """The item was not taken, and this is what its code means. ``words`` need no cleaning."""
    return to_outcome(verdict, replace(call, recipients=(recipient,)), clean(words, 300))


def joined(items: Sequence[Outcome], server: ServerNote) -> Outcome:
    """The outcome of the call.

    A fault of the account in one item rests the transport, although others were taken. That items
    were wrongly configured counts only if none was taken: else it was not the account.
    """
    results = tuple(result for item in items for result in item.results)
    taken = any(result.fate is Fate.ACCEPTED for result in results)
    return Outcome(
        results,
        fault=next((item.fault for item in items if item.fault is not None), None),
        message_config=not taken and any(item.message_config for item in items),
        server=server,
    )
