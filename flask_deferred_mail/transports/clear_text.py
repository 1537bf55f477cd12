"""Links without TLS: what ``doctor`` says of them. They are no fault: a proxy on this machine, or a
relay in a network of one's own, may well be asked so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from .base import ProbeStep

#: What to do about a request without TLS.
KEY_IN_CLEAR = (
    "the key and all mail cross the network in clear text: use https:// in ?endpoint=, or keep "
    "http:// for a proxy on this machine or in a network that nobody else hears"
)
#: And about a conversation with a mail server.
MAIL_IN_CLEAR = (
    "all mail crosses the network in clear text: use ?tls=required (MAIL_USE_TLS = True) or "
    "smtps://, unless the server is in a network that nobody else hears"
)


def warned(steps: Iterator[ProbeStep], endpoint: str) -> Iterator[ProbeStep]:
    """The steps of a provider's probe, with a word where its requests go out in clear text."""
    parts = urlsplit(endpoint)
    in_clear = parts.scheme == "http" and not is_here(parts.hostname or "")
    for step in steps:
        told = in_clear and step.ok and step.name == "connect"
        yield replace(step, advice=KEY_IN_CLEAR) if told else step


def is_here(host: str) -> bool:
    """Whether a host's name, or address, is this machine's."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
