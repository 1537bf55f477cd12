"""Transport URLs: taken apart, and shown without their secrets.

A URL that cannot be taken apart may have its password in any place: a ``/``, ``?`` or ``#`` that
was not percent-encoded moves the rest of the password into what looks like a port, a path or an
option. So nothing of such a URL is ever shown but its scheme, if we know that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

#: What a client may call itself in EHLO (RFC 5321 4.1.1.1): a host name or an address literal.
EHLO_NAME = re.compile(r"[A-Za-z0-9.-]+|\[[A-Za-z0-9.:]+\]")

_ENCODE = "percent-encode '/', '?', '#', '@' and '%' in user and password"
_COMBINATION = re.compile(r"(failover|roundrobin)\s*\(", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
# Options whose values are never secret.
_SHOWN_OPTIONS = frozenset(
    {
        *("tls", "auth", "endpoint", "cafile", "local_hostname"),
        *("region", "configuration_set", "batch", "schedule", "stream"),
        *("rate", "connections", "weight"),
    }
)
_SHOWN_SCHEMES = frozenset(
    {
        *("smtp", "smtps", "sendcloud", "console", "file", "memory", "null", "mailgun", "ses"),
        *("postmark", "sendgrid", "resend", "brevo", "aliyun", "tencentses"),
        *("gmail", "m365", "aliyun+smtp"),
    }
)


class URLFault(ValueError):
    """A URL cannot be taken apart. The text says why and holds nothing of the URL."""


@dataclass(frozen=True, slots=True)
class TransportURL:
    """A transport URL's parts. User and password are percent-decoded."""

    scheme: str
    host: str = ""
    port: int | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    #: Percent-decoded, as written after the host.
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


def combination(url: str) -> str | None:
    """``failover`` or ``roundrobin``, if the URL is one of these around other URLs."""
    match = _COMBINATION.match(url.strip())
    return match[1].lower() if match else None


def parse(url: str) -> TransportURL:
    """Take a URL apart.

    :raises URLFault: if that cannot be done without a guess.
    """
    parts = _split(url)
    login, at, _ = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    return TransportURL(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port,
        user=_decoded(user) if at and user else None,
        password=_decoded(password) if colon and password else None,
        path=_decoded(parts.path),
        options=_options(parts.query),
    )


def mask(url: str) -> str:
    """A URL fit to be shown: who logs in, and with what, is replaced by ``***``."""
    text = url.strip()
    kind = combination(text)
    if kind:
        inner = text[text.index("(") + 1 :].removesuffix(")")
        return f"{kind}({' '.join(mask(part) for part in inner.split())})"
    try:
        parts = _split(text)
        options = _options(parts.query)
    except URLFault:
        scheme = text.partition(":")[0].lower()
        return f"{scheme}:***" if scheme in _SHOWN_SCHEMES else "***"
    if parts.scheme not in _SHOWN_SCHEMES:
        return "***"
    return _shown(parts, options)


def _shown(parts: SplitResult, options: Mapping[str, str]) -> str:
    login, at, place = parts.netloc.rpartition("@")
    if at:
        place = f"{'***:***' if ':' in login else '***'}@{place}"
    elif parts.scheme not in ("smtp", "smtps", "file", "ses") and place:
        place = "***"  # A key that was put where the host belongs.
    shown = [
        f"{name}={value}" if name in _SHOWN_OPTIONS and "@" not in value else "***"
        for name, value in options.items()
    ]
    slashes = "//" if place or parts.scheme == "file" else ""
    query = f"?{'&'.join(shown)}" if shown else ""
    return f"{parts.scheme}:{slashes}{place}{parts.path}{query}"


def _split(url: str) -> SplitResult:
    text = url.strip()
    # urlsplit drops tabs and line breaks silently; a password would no longer be the one meant.
    if any(char.isspace() or not char.isprintable() for char in text):
        raise URLFault("holds a blank or a control character; percent-encode it")
    scheme, colon, _ = text.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise URLFault("has no scheme, such as smtp: or console:")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise URLFault(f"has no readable host; {_ENCODE}") from None
    _check_place(parts, "#" in text)
    return parts


def _check_place(parts: SplitResult, has_fragment: bool) -> None:
    """Refuse what looks like a password that was cut in two by a character of its own."""
    try:
        port = parts.port
    except ValueError:
        raise URLFault(f"has a port that is not a number from 1 to 65535; {_ENCODE}") from None
    if port == 0:
        raise URLFault("has port 0; ports go from 1 to 65535")
    if has_fragment:
        raise URLFault(f"holds a '#'; {_ENCODE}")
    # However a password is cut, the '@' behind it ends up in the later part.
    if parts.scheme != "file" and "@" in parts.path + parts.query:
        raise URLFault(f"has an '@' after its host; {_ENCODE}")


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise URLFault(f"holds a '%' without two hex digits after it; {_ENCODE}")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise URLFault("holds percent-encoded bytes that are not UTF-8") from None


def _options(query: str) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise URLFault("has options that are not of the form ?name=value&name=value") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise URLFault("names an option twice")
    return options
