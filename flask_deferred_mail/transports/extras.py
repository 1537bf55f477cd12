"""Fields of the request that only one provider knows (``esp_extra``), and those that are ours.

An extra field that means one of ours would mail somebody whom the row does not know, or show what
the letter hides. Servers differ in whether they look at upper and lower case, and whether ``to[0]``
is ``to``; so all of these are taken for the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UnsupportedFeature

_NOBODYS = frozenset({"to", "cc", "bcc"})


def refuse_ours(extra: Mapping[str, Any], ours: Iterable[str]) -> None:
    """:raises UnsupportedFeature: a field that we set ourselves is among them."""
    lower = _NOBODYS.union(name.lower() for name in ours)
    taken = sorted(name for name in extra if plain(name) in lower)
    if taken:
        raise UnsupportedFeature("esp_extra", f"{', '.join(taken)} cannot be set this way")


def plain(name: str) -> str:
    """The name that a server may take it for."""
    return name.strip().lower().partition("[")[0]
