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

#: What a dict may hold beside the URL.
_BESIDE_URL = ("token", "dkim", "classify")
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
    #: Called for a fresh access token at each login.
    token: Callable[[], str] | None = None
    #: Domain, selector and key for signing.
    dkim: Mapping[str, Any] | None = None
    #: What answers of the provider mean, where its table is to be overridden: code -> class.
    classify: Mapping[str, str] | None = None
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
        extras = [name for name in _BESIDE_URL if getattr(self, name) is not None]
        return f"<TransportSpec {' '.join([self.shown, *extras])}>"


def transport_spec(value: Any) -> TransportSpec:
    """What a setting says of a transport: a URL, a dict with ``url``, or that as JSON text.

    :raises Unfit: it is none of these.
    """
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return TransportSpec(transport_url(value))
    if not isinstance(value, (str, Mapping)):
        raise Unfit("a transport URL, or a dict with 'url'")
    parts = table(value)
    if unknown := sorted(set(parts) - {"url", *_BESIDE_URL}):
        known = ", ".join(map(repr, ("url", *_BESIDE_URL)))
        raise Unfit(f"a dict with {known}, not {clean(', '.join(unknown))}")
    token, dkim, classify = (parts.get(name) or None for name in _BESIDE_URL)
    if token is not None and not callable(token):
        raise Unfit("a dict whose 'token' is a callable that returns an access token")
    for name, given in (("dkim", dkim), ("classify", classify)):
        if given is not None and not isinstance(given, Mapping):
            raise Unfit(f"a dict whose {name!r} is a dict")
    return TransportSpec(transport_url(parts.get("url")), token, dkim, classify)
