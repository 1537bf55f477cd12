"""From a transport's configuration to the transport, or to what is wrong with it.

Which schemes there are is in :mod:`.schemes`; here every part of a URL is held against its scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..errors import ConfigurationError, NotYetAvailable
from .base import Transport
from .classification import faults_of_overriding, overriding
from .schemes import LATER, Plan, Scheme, is_host, names, scheme_of
from .url import TransportURL, URLFault, combination, parse


class Spec(Protocol):
    """How one transport is configured: its URL, and what a URL cannot hold."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> Callable[[], str] | None: ...
    @property
    def dkim(self) -> Mapping[str, Any] | None: ...
    @property
    def classify(self) -> Mapping[str, str] | None: ...


def build(name: str, spec: Spec, *, timeout: float | None = None) -> Transport:
    """The transport that this configuration means. Connects to nothing.

    ``timeout`` is in seconds and the transport's own by default.

    :raises ConfigurationError: lists everything that is wrong with it, without a secret.
    :raises NotYetAvailable: it asks for something that a later release brings.
    """
    later = _later(spec.url) or _later_beside(spec)
    if later:
        raise NotYetAvailable(f"transport {name!r}: {later}")
    found = list(_faults(spec.url)) or list(_faults_beside(spec))
    if found:
        raise ConfigurationError([f"transport {name!r}: {fault}" for fault in found])
    url = parse(spec.url)
    scheme = scheme_of(url.scheme)
    assert scheme is not None
    overrides = overriding(spec.classify or {})
    return scheme.build(Plan(name, url, timeout, spec.token, spec.dkim, overrides))


def faults(url: str) -> list[str]:
    """What is wrong with a transport URL, one sentence each, without a secret; empty if nothing.

    Nothing is made and no adapter is imported.
    """
    later = _later(url)
    return [later] if later else list(_faults(url))


def faults_of(spec: Spec) -> list[str]:
    """What is wrong with a transport's whole configuration, as :func:`faults` says it."""
    later = _later(spec.url) or _later_beside(spec)
    return [later] if later else list(_faults(spec.url)) or list(_faults_beside(spec))


def _later_beside(spec: Spec) -> str | None:
    if spec.token is not None:
        return "'token' comes with a later release"
    if spec.dkim is not None:
        return "'dkim' comes with a later release"
    return None


def _later(url: object) -> str | None:
    """What the URL asks for that this release does not have, if anything."""
    if not isinstance(url, str):
        return None
    kind = combination(url)
    if kind:
        return f"{kind}(...) comes with a later release; name one transport"
    scheme = url.strip().partition(":")[0].lower()
    if scheme in LATER:
        return f"the scheme {scheme}: comes with a later release"
    try:
        parsed = parse(url)
    except URLFault:
        return None
    if parsed.scheme in ("smtp", "smtps") and parsed.options.get("auth") == "xoauth2":
        return "auth=xoauth2 comes with a later release"
    return None


def _faults(url: object) -> Iterator[str]:
    if not isinstance(url, str) or not url.strip():
        yield "a transport URL is text such as 'smtp://user:password@host' or 'console:'"
        return
    try:
        parsed = parse(url)
    except URLFault as fault:
        yield f"its URL {fault}"
        return
    scheme = scheme_of(parsed.scheme)
    if scheme is None:
        yield f"{_unknown(parsed.scheme)}; there are {_listed(names())}"
        return
    yield from _faults_of_place(parsed, scheme)
    yield from _faults_of_login(parsed, scheme)
    yield from _faults_of_options(parsed, scheme)


def _faults_beside(spec: Spec) -> Iterator[str]:
    """What is wrong with the parts that stand beside the URL."""
    scheme = scheme_of(parse(spec.url).scheme)
    assert scheme is not None
    for part in ("token", "dkim", "classify"):
        if getattr(spec, part) is not None and part not in scheme.takes:
            yield f"{parse(spec.url).scheme}: has no use for {part!r}"
    if spec.classify is not None:
        yield from faults_of_overriding(spec.classify)


def _unknown(scheme: str) -> str:
    # Whoever pastes a bare key here may have written something before a colon that is one.
    plain = re.fullmatch(r"[a-z]{2,12}", scheme)
    return f"its URL has the unknown scheme {scheme}:" if plain else "its URL has an unknown scheme"


def _faults_of_place(url: TransportURL, scheme: Scheme) -> Iterator[str]:
    if scheme.place == "host" and not url.host:
        yield f"{url.scheme}: needs a host, as in {url.scheme}://user:password@mail.example.com"
    if scheme.place == "host" and not is_host(url.host):
        yield f"{url.scheme}: has a host that cannot be a name"
    if scheme.place == "default" and (url.host != "default" or url.port):
        yield f"{url.scheme}: needs the word 'default' after the @"
    if scheme.place in ("folder", "nothing") and url.host:
        example = "file:///var/mail" if scheme.place == "folder" else f"{url.scheme}:"
        yield f"{url.scheme}: takes no host; write it as {example}"
    if scheme.place == "folder":
        if not url.path.strip("/") or not url.path.startswith("/"):
            yield "file: needs an absolute folder, as in file:///var/mail"
    elif url.path.strip("/"):
        yield f"{url.scheme}: takes no path"


def _faults_of_login(url: TransportURL, scheme: Scheme) -> Iterator[str]:
    given = [url.user, url.password]
    if scheme.login is None:
        if any(given):
            yield f"{url.scheme}: takes no user and password"
        return
    form = ":".join(part.upper().replace(" ", "_") for part in scheme.login)
    if len(scheme.login) == 1 and url.password:
        yield f"{url.scheme}: takes no password; before the @ goes {form}"
    if any(given) or scheme.login_required:
        pairs = zip(scheme.login, given, strict=False)
        missing = [part for part, value in pairs if not value]
        if missing:
            yield f"{url.scheme}: lacks its {' and '.join(missing)}; before the @ goes {form}"


def _faults_of_options(url: TransportURL, scheme: Scheme) -> Iterator[str]:
    for name, value in url.options.items():
        check = scheme.options.get(name)
        if check is None:
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,24}", name) else "an odd name"
            known = _listed(scheme.options) if scheme.options else "none"
            yield f"{url.scheme}: has no option {shown}; there is {known}"
        elif expected := check(value):
            yield f"{url.scheme}: option {name!r} should be {expected}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
