"""How one transport is configured, before anything is made of it.

The URL may hold a password or a key, so neither ``repr`` nor any error shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .cleaning import clean
from .conversion import Unfit, table, transport_url

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)[:(]", re.IGNORECASE)
_PARTS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<login>[^/?#]*@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d+)?(?:[/?#][^@]*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, repr=False)
class TransportSpec:
    """How one transport is configured: its URL, and what a URL cannot hold."""

    url: str
    #: Called for a fresh access token at each login; with a later release.
    token: Callable[[], str] | None = None
    #: Selector and key for signing; with a later release.
    dkim: Mapping[str, Any] | None = None
    #: Seconds for one step of the conversation (``MAIL_TIMEOUT``); ``None``: the transport's own.
    timeout: float | None = None

    @property
    def shown(self) -> str:
        """Scheme and host, for people; everything that could be a secret is left out."""
        # Without an @ the place of the host may hold a misplaced key; an @ further on means that
        # an unencoded password was cut in two. Neither is shown.
        parts = _PARTS.fullmatch(self.url)
        if parts and (parts["login"] or parts["scheme"].lower() in ("smtp", "smtps")):
            return f"{parts['scheme']}://{parts['host']}"
        scheme = _SCHEME.match(self.url)
        return scheme[1] if scheme else "?"

    def __repr__(self) -> str:
        extras = [name for name in ("token", "dkim") if getattr(self, name) is not None]
        return f"<TransportSpec {' '.join([self.shown, *extras])}>"


def transport_spec(value: Any) -> TransportSpec:
    """What a setting says of a transport: a URL, a dict with ``url``, or that as JSON text.

    :raises Unfit: it is none of these, or asks for what a later release brings.
    """
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return TransportSpec(transport_url(value))
    if not isinstance(value, (str, Mapping)):
        raise Unfit("a transport URL, or a dict with 'url'")
    parts = table(value)
    if unknown := sorted(set(parts) - {"url", "token", "dkim"}):
        raise Unfit(f"a dict with 'url' only, not {clean(', '.join(unknown))}")
    for name in ("token", "dkim"):
        if parts.get(name):
            raise Unfit(f"a dict with 'url' only: {name!r} comes with a later release")
    return TransportSpec(transport_url(parts.get("url")))
