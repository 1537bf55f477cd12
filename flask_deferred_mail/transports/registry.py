"""From a transport's configuration to the transport, or to what is wrong with it.

Which schemes there are is in :mod:`.schemes`; here every part of a URL is held against its scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..rates import limits_from
from . import signing
from .base import Transport
from .classification import faults_of_overriding, overriding
from .combination import Combination, Share
from .combining import Group, member_names, take_apart
from .schemes import COMMON, Plan, Scheme, is_host, names, scheme_of
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
    """
    found = _faults_of_all(spec.url) or list(_faults_beside(spec))
    if found:
        raise ConfigurationError([f"transport {name!r}: {fault}" for fault in found])
    if not combination(spec.url):
        return _one(name, spec.url, spec, timeout)
    group = take_apart(spec.url)
    names = iter(member_names(name, _urls(spec.url)))
    return _combined(name, group, names, lambda member, url: _one(member, url, spec, timeout))


def _combined(
    name: str, group: Group, names: Iterator[str], make: Callable[[str, str], Transport]
) -> Combination:
    shares = [
        Share(
            _combined(name, member.what, names, make)
            if isinstance(member.what, Group)
            else make(next(names), member.url),
            member.weight,
        )
        for member in group.members
    ]
    return Combination(name, group.kind, shares)


def _one(name: str, text: str, spec: Spec, timeout: float | None) -> Transport:
    """One transport by its URL, with those parts beside the URL that it has a use for."""
    url = parse(text)
    scheme = _known(url.scheme)
    token, dkim, classify = (
        getattr(spec, part) if part in scheme.takes else None for part in _BESIDE
    )
    overrides = overriding(classify or {})
    transport = scheme.build(Plan(name, url, timeout, token, dkim, overrides))
    transport.limits = limits_from(url.options.get("rate", "")) or transport.limits
    transport.connections = int(url.options.get("connections", 0)) or transport.connections
    return transport


#: What may stand beside the URL.
_BESIDE = ("token", "dkim", "classify")


def faults(url: str) -> list[str]:
    """What is wrong with a transport URL, one sentence each, without a secret; empty if nothing.

    Nothing is made and no adapter is imported.
    """
    return _faults_of_all(url)


def faults_of(spec: Spec) -> list[str]:
    """What is wrong with a transport's whole configuration, as :func:`faults` says it."""
    return _faults_of_all(spec.url) or list(_faults_beside(spec))


def _urls(url: str) -> list[str]:
    """The URL itself, or those of all members.

    :raises URLFault: it combines others, and cannot be taken apart.
    """
    return [m.url for m in take_apart(url).leaves()] if combination(url) else [url]


def _faults_of_all(url: str) -> list[str]:
    """The faults of a URL, or of every member of a combination."""
    if not isinstance(url, str) or not combination(url):
        return list(_faults(url))
    try:
        members = list(take_apart(url).leaves())
    except URLFault as fault:
        return [f"its URL {fault}"]
    return [
        f"member {member.place}: {fault}"
        for member in members
        for fault in _faults(member.url, member=True)
    ]


def _faults(url: object, *, member: bool = False) -> Iterator[str]:
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
    yield from _faults_of_options(parsed, scheme, member=member)


def _faults_beside(spec: Spec) -> Iterator[str]:
    """What is wrong with the parts that stand beside the URL."""
    urls = [parse(url) for url in _urls(spec.url)]
    schemes = list(dict.fromkeys(url.scheme for url in urls))
    for part in _BESIDE:
        takers = [url for url in urls if _takes(url, part)]
        if getattr(spec, part) is not None and not takers:
            yield f"{_listed(f'{name}:' for name in schemes)} has no use for {part!r}"
        if part == "token" and takers and spec.token is None:
            yield (
                f"{takers[0].scheme}: logs in with access tokens: put 'token' beside the URL, a "
                "callable that gives one"
            )
    if spec.classify is not None:
        yield from faults_of_overriding(spec.classify)
    if spec.dkim is not None:
        yield from (f"dkim: {fault}" for fault in signing.faults_of(spec.dkim))


def _takes(url: TransportURL, part: str) -> bool:
    scheme = _known(url.scheme)
    return scheme.by_token(url) if part == "token" else part in scheme.takes


def _known(name: str) -> Scheme:
    scheme = scheme_of(name)
    assert scheme is not None
    return scheme


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
    names = scheme.login[:1] if scheme.by_token(url) else scheme.login
    form = ":".join(part.upper().replace(" ", "_") for part in names)
    if len(names) == 1 and url.password:
        yield f"{url.scheme}: takes no password; before the @ goes {form}"
    if any(given) or scheme.login_required or scheme.by_token(url):
        pairs = zip(names, given, strict=False)
        missing = [part for part, value in pairs if not value]
        if missing:
            yield f"{url.scheme}: lacks its {' and '.join(missing)}; before the @ goes {form}"
    if "classify" in scheme.takes:
        for part, value in zip(names, given, strict=False):
            # It goes into a header, and what refuses it there would tell it to everybody.
            if value and not re.fullmatch(r"[!-~]+", value):
                yield (
                    f"{url.scheme}: its {part} holds a blank, a line break or another character "
                    "that no provider puts into one; was more copied than the key?"
                )


def _faults_of_options(url: TransportURL, scheme: Scheme, *, member: bool) -> Iterator[str]:
    checks = COMMON | dict(scheme.options)
    for name, value in url.options.items():
        if name == "weight":
            # A member's was looked at with the combination.
            if not member:
                yield f"{url.scheme}: 'weight' is for the members of roundrobin(...)"
            continue
        check = checks.get(name)
        if check is None:
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,24}", name) else "an odd name"
            yield f"{url.scheme}: has no option {shown}; there is {_listed(checks)}"
        elif expected := check(value):
            yield f"{url.scheme}: option {name!r} should be {expected}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
