"""A mailbox as text for providers that write the header themselves, and encode it themselves."""

from __future__ import annotations

import re

from ..letter import Address
from ..mime_headers import encoded_words

# What may not stand in a display name without quotes (RFC 5322 section 3.2.3).
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')


def mailbox(address: Address) -> str:
    """An address with its name, which is quoted if need be, but not encoded."""
    name = address.name
    if not name:
        return address.email
    if "=?" in name:
        # Would be decoded by whoever reads it, though its writer meant it literally.
        name = " ".join(encoded_words(name))
    elif _SPECIALS.search(name):
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        name = f'"{escaped}"'
    return f"{name} <{address.email}>"
