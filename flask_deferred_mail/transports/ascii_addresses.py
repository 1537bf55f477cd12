"""For providers whose addresses are ASCII: no local part that would need SMTPUTF8 (RFC 6531)."""

from __future__ import annotations

from ..errors import UnsupportedFeature
from ..letter import Letter
from ..mime import address_needs_utf8


def refuse_utf8_addresses(letter: Letter, why: str) -> None:
    """Refuse a letter that shows, or goes to, an address with more than ASCII before the @.

    :raises UnsupportedFeature: says ``why``, and which address.
    """
    for address in (letter.sender, *letter.reply_to, *(r.address for r in letter.recipients)):
        if address_needs_utf8(address.email):
            raise UnsupportedFeature("recipients", f"{why}: {address.email}")
