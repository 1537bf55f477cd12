"""Who stands together on one copy of a letter. For the transports that make the copies here."""

from __future__ import annotations

from ..letter import Recipient
from .base import Call


def copies(call: Call) -> list[tuple[Recipient | None, tuple[Recipient, ...]]]:
    """The copies that a call stands for, each with the recipients who get it.

    The first of the pair is the one whom a private copy shows, ``None`` in a letter that shows
    everybody; it is what :func:`flask_deferred_mail.mime.render` takes as ``only``.
    """
    if call.letter.private_copies:
        return [(recipient, (recipient,)) for recipient in call.recipients]
    return [(None, call.recipients)]
