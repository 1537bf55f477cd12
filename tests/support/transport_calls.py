"""Letters and calls for tests that talk to a transport directly, without a store."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.outcome import Outcome
from flask_deferred_mail.transports.base import Call, Transport


def a_letter(*to: str, **fields: Any) -> Letter:
    """A small letter to these addresses, by default to Ann, with whatever fields are given."""
    recipients = tuple(Recipient(Address(email)) for email in to or ("ann@example.net",))
    base = Letter(
        sender=Address("orders@example.com"),
        recipients=recipients,
        envelope_sender="orders@example.com",
        message_id="<20261122.1@example.com>",
        date="Sun, 22 Nov 2026 08:30:00 +0000",
        subject="Hello",
        text="Hi Ann\n",
    )
    return replace(base, **fields)


def letter_from_neutral(neutral: dict[str, Any]) -> Letter:
    """The letter that a fixture's ``neutral`` message describes, with nothing dropped."""
    recipients = tuple(
        Recipient(_address(person), kind)
        for kind in ("to", "cc", "bcc")
        for person in neutral.get(kind, ())
    )
    parts = [
        Part(_data(part), part["content_type"], part["filename"])
        for part in neutral.get("attachments", ())
    ]
    parts += [
        Part(_data(part), part["content_type"], part["filename"], "inline", part["content_id"])
        for part in neutral.get("inline", ())
    ]
    return a_letter(
        sender=_address(neutral["from"]),
        recipients=recipients,
        subject=neutral["subject"],
        text=neutral.get("text"),
        html=neutral.get("html"),
        reply_to=tuple(map(_address, neutral.get("reply_to", ()))),
        headers=tuple(neutral.get("headers", {}).items()),
        parts=tuple(parts),
        tags=tuple(neutral.get("tags", ())),
        metadata=neutral.get("metadata", {}),
        template_id=neutral.get("template_id"),
        merge_data=neutral.get("substitutions", {}),
        private_copies="substitutions" in neutral,
    )


def a_call(
    letter: Letter | None = None,
    *,
    recipients: Sequence[Recipient] | None = None,
    seconds: float = 30.0,
    patience: float = 30.0,
    key: str = "3f0c9a527d5e4c2b9a510d6f3f1a2b42",
    in_doubt: bool = False,
    hand_over: Callable[[], None] = lambda: None,
) -> Call:
    """A call with a letter, all its recipients and generous deadlines."""
    letter = letter or a_letter()
    return Call(
        letter=letter,
        recipients=tuple(recipients or letter.recipients),
        idempotency_key=key,
        in_doubt=in_doubt,
        deadline=Deadline.after(seconds),
        final_reply_timeout=patience,
        hand_over=hand_over,
        job_id=42,
    )


def send(transport: Transport, letter: Letter | None = None, **how: Any) -> Outcome:
    """One try with a call as :func:`a_call` makes it."""
    return transport.send(a_call(letter, **how))


def fates(outcome: Outcome) -> dict[str, str]:
    """Address -> fate, by name."""
    return {result.address: result.fate.value for result in outcome.results}


def _address(person: dict[str, str]) -> Address:
    return Address(person["email"], person.get("name", ""))


def _data(part: dict[str, str]) -> bytes:
    return base64.b64decode(part["content_b64"])
