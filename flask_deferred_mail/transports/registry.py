"""Which transport a URL means: scheme -> what its URL may hold, and how it is made.

Adding a transport takes one entry in :data:`SCHEMES` here. An adapter is imported when it is
chosen, so that nobody pays for (or must install) what he does not use.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from ..errors import ConfigurationError, NotYetAvailable
from .base import Transport
from .url import EHLO_NAME, TransportURL, URLFault, combination, parse

if TYPE_CHECKING:
    from .smtp_opening import TlsPolicy

#: Looks at an option's value; answers what was expected instead, or ``None`` if it is right.
OptionCheck = Callable[[str], str | None]


class Spec(Protocol):
    """How one transport is configured: its URL, and what a URL cannot hold."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> Callable[[], str] | None: ...
    @property
    def dkim(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Scheme:
    """What the URLs of one scheme look like, and what is made of them."""

    #: Name, URL, timeout in seconds (``None``: the transport's own) -> the transport.
    build: Callable[[str, TransportURL, float | None], Transport]
    #: What stands after ``//``: a host with or without a port, the word ``default``, a folder in
    #: the path, or nothing at all.
    place: Literal["host", "default", "folder", "nothing"]
    #: What stands before ``@``: the names of the two parts, or ``None`` if nothing may.
    login: tuple[str, str] | None = None
    login_required: bool = False
    options: Mapping[str, OptionCheck] = field(default_factory=dict)


def build(name: str, spec: Spec, *, timeout: float | None = None) -> Transport:
    """The transport that this configuration means. Connects to nothing.

    ``timeout`` is in seconds and the transport's own by default.

    :raises ConfigurationError: lists everything that is wrong with the URL, without a secret.
    :raises NotYetAvailable: it asks for something that a later release brings.
    """
    _refuse_what_comes_later(name, spec)
    found = list(_faults(spec.url))
    if found:
        raise ConfigurationError([f"transport {name!r}: {fault}" for fault in found])
    url = parse(spec.url)
    return SCHEMES[url.scheme].build(name, url, timeout)


def faults(url: str) -> list[str]:
    """What is wrong with a transport URL, one sentence each, without a secret; empty if nothing.

    Nothing is made and no adapter is imported.
    """
    later = _later(url)
    return [later] if later else list(_faults(url))


def _refuse_what_comes_later(name: str, spec: Spec) -> None:
    later = _later(spec.url)
    if later is None and spec.token is not None:
        later = "'token' (logging in with OAuth tokens) comes with a later release"
    if later is None and spec.dkim is not None:
        later = "'dkim' (signing) comes with a later release"
    if later:
        raise NotYetAvailable(f"transport {name!r}: {later}")


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
    scheme = SCHEMES.get(parsed.scheme)
    if scheme is None:
        yield f"{_unknown(parsed.scheme)}; there are {_listed(SCHEMES)}"
        return
    yield from _faults_of_place(parsed, scheme)
    yield from _faults_of_login(parsed, scheme)
    yield from _faults_of_options(parsed, scheme)


def _unknown(scheme: str) -> str:
    # Whoever pastes a bare key here may have written something before a colon that is one.
    plain = re.fullmatch(r"[a-z]{2,12}", scheme)
    return f"its URL has the unknown scheme {scheme}:" if plain else "its URL has an unknown scheme"


def _faults_of_place(url: TransportURL, scheme: Scheme) -> Iterator[str]:
    if scheme.place == "host" and not url.host:
        yield f"{url.scheme}: needs a host, as in {url.scheme}://user:password@mail.example.com"
    if scheme.place == "host" and not _is_host(url.host):
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
    elif any(given) or scheme.login_required:
        missing = [part for part, value in zip(scheme.login, given, strict=True) if not value]
        if missing:
            form = ":".join(part.upper().replace(" ", "_") for part in scheme.login)
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


def _one_of(*words: str) -> OptionCheck:
    return lambda value: None if value in words else " or ".join(words)


def _http_url(value: str) -> str | None:
    expected = "a URL such as https://127.0.0.1:8443, without user, options or '#'"
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return expected
    odd = "@" in parts.netloc or parts.query or parts.fragment or not host or not _is_host(host)
    return expected if odd or parts.scheme not in ("http", "https") else None


def _is_host(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _existing_file(value: str) -> str | None:
    return None if os.path.isfile(value) else "the path of a PEM file that exists"


def _own_name(value: str) -> str | None:
    expected = "a host name such as web1.example.com, or an address such as [192.0.2.7]"
    return None if EHLO_NAME.fullmatch(value) else expected


def _smtp(name: str, url: TransportURL, timeout: float | None) -> Transport:
    from .smtp import SmtpTransport

    implicit = url.scheme == "smtps"
    return SmtpTransport(
        name,
        url.host,
        url.port or (465 if implicit else 587),
        username=url.user,
        password=url.password,
        tls=cast("TlsPolicy", "implicit" if implicit else url.options.get("tls", "required")),
        local_hostname=url.options.get("local_hostname"),
        cafile=url.options.get("cafile"),
        timeout=timeout,
    )


def _sendcloud(name: str, url: TransportURL, timeout: float | None) -> Transport:
    from .sendcloud import SendCloudTransport

    return SendCloudTransport(
        name,
        url.user or "",
        url.password or "",
        endpoint=url.options.get("endpoint"),
        cafile=url.options.get("cafile"),
        timeout=timeout,
    )


def _console(name: str, _url: TransportURL, _timeout: float | None) -> Transport:
    from .console import ConsoleTransport

    return ConsoleTransport(name)


def _file(name: str, url: TransportURL, _timeout: float | None) -> Transport:
    from .file import FileTransport

    return FileTransport(name, url.path)


def _memory(name: str, _url: TransportURL, _timeout: float | None) -> Transport:
    from .in_memory import InMemoryTransport

    return InMemoryTransport(name)


def _null(name: str, _url: TransportURL, _timeout: float | None) -> Transport:
    from .null import NullTransport

    return NullTransport(name)


_USER = ("user", "password")
_SMTP_OPTIONS: dict[str, OptionCheck] = {"cafile": _existing_file, "local_hostname": _own_name}

#: Every scheme of this release.
SCHEMES: dict[str, Scheme] = {
    "smtp": Scheme(
        _smtp,
        "host",
        login=_USER,
        options={"tls": _one_of("required", "optional", "none"), **_SMTP_OPTIONS},
    ),
    "smtps": Scheme(_smtp, "host", login=_USER, options=_SMTP_OPTIONS),
    "sendcloud": Scheme(
        _sendcloud,
        "default",
        login=("API user", "API key"),
        login_required=True,
        options={"endpoint": _http_url, "cafile": _existing_file},
    ),
    "console": Scheme(_console, "nothing"),
    "file": Scheme(_file, "folder"),
    "memory": Scheme(_memory, "nothing"),
    "null": Scheme(_null, "nothing"),
}

#: Schemes of the public contract that later releases bring.
LATER = frozenset(
    {"mailgun", "ses", "postmark", "sendgrid", "resend", "brevo", "aliyun", "tencentses"}
)
