"""Who stands together on one copy of a letter. For the transports that make the copies here."""

from __future__ import annotations

from ..errors import UnsupportedFeature
from ..letter import Letter, Recipient
from .base import Call


def copies(call: Call) -> list[tuple[Recipient | None, tuple[Recipient, ...]]]:
    """The copies that a call stands for, each with the recipients who get it.

    The first of the pair is the one whom a private copy shows, ``None`` in a letter that shows
    everybody; it is what :func:`flask_deferred_mail.mime.render` takes as ``only``.
    """
    if call.letter.private_copies:
        return [(recipient, (recipient,)) for recipient in call.recipients]
    return [(None, call.recipients)]


def check_merge_headers(letter: Letter) -> None:
    """Refuse header fields of each recipient's own where no copies are made.

    :raises UnsupportedFeature: one mail for all of them cannot differ; or a Message-ID, of which
        the copies have one together.
    """
    if letter.merge_headers and not letter.private_copies:
        raise UnsupportedFeature("merge_headers", "it needs private_copies=True")
    for own in letter.merge_headers.values():
        if any(name.lower() == "message-id" for name in own):
            raise UnsupportedFeature("merge_headers", "all copies have one Message-ID")
