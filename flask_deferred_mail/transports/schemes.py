"""The schemes of transport URLs: what the URL of each may hold, and which module makes it.

A transport is one line in :data:`SCHEMES` here. Its module is imported when it is chosen, so that
nobody pays for (or must install) what he does not use. A package of somebody else's brings its own
line through the entry point group ``flask_deferred_mail.transports``: the name is the scheme, the
object a :class:`Scheme`.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from ..rates import EXPECTED, limits_from
from .base import Transport
from .classification import Rule
from .url import EHLO_NAME, TransportURL

#: Looks at an option's value; answers what was expected instead, or ``None`` if it is right.
OptionCheck = Callable[[str], str | None]

#: Entry point group of other packages' transports.
GROUP = "flask_deferred_mail.transports"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a transport is made from. ``repr`` shows no secret."""

    name: str
    url: TransportURL
    #: Seconds for one step (``MAIL_TIMEOUT``); ``None``: the transport's own.
    timeout: float | None = None
    #: Called for a fresh access token at each login.
    token: Callable[[], str] | None = field(default=None, repr=False)
    #: Domain, selector and key for signing.
    dkim: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Goes before the transport's own rules.
    overrides: tuple[Rule, ...] = ()

    def option(self, name: str) -> str | None:
        """An option of the URL, if it has it."""
        return self.url.options.get(name)


@dataclass(frozen=True, slots=True)
class Scheme:
    """What the URLs of one scheme look like, and what is made of them."""

    #: Module of this package with a function ``from_plan``; or such a function.
    make: str | Callable[[Plan], Transport]
    #: What stands after ``//``: a host with or without a port, the word ``default``, a folder in
    #: the path, or nothing at all.
    place: Literal["host", "default", "folder", "nothing"]
    #: What stands before ``@``: the names of user and password, of the user alone, or ``None`` if
    #: nothing may.
    login: tuple[str, str] | tuple[str] | None = None
    login_required: bool = False
    options: Mapping[str, OptionCheck] = field(default_factory=dict)
    #: Which of ``token``, ``dkim`` and ``classify`` a dict may hold beside the URL.
    takes: frozenset[str] = frozenset()

    def by_token(self, url: TransportURL) -> bool:
        """Whether such a URL logs in with access tokens, and so has a user and no password."""
        if "token" not in self.takes:
            return False
        return url.options["auth"] == "xoauth2" if "auth" in url.options else self._presets(url)

    def _presets(self, url: TransportURL) -> bool:
        """A scheme without the choice means tokens where no password is given."""
        return "auth" not in self.options and not url.password

    def build(self, plan: Plan) -> Transport:
        """The transport; connects to nothing."""
        make = self.make
        if isinstance(make, str):
            make = cast(
                "Callable[[Plan], Transport]",
                import_module(f".{make}", __package__).from_plan,
            )
        return make(plan)


def scheme_of(name: str) -> Scheme | None:
    """The scheme of that name, ours or another package's; ``None`` if there is none."""
    return SCHEMES.get(name) or _elsewhere().get(name)


def names() -> list[str]:
    """Every scheme that there is."""
    return [*SCHEMES, *sorted(set(_elsewhere()) - set(SCHEMES))]


@cache
def _elsewhere() -> dict[str, Scheme]:
    found = {}
    for entry in entry_points(group=GROUP):
        scheme = entry.load()
        if not isinstance(scheme, Scheme):
            raise TypeError(f"entry point {entry.name!r} of {GROUP} is not a Scheme")
        found[entry.name] = scheme
    return found


def one_of(*words: str) -> OptionCheck:
    return lambda value: None if value in words else " or ".join(words)


def http_url(value: str) -> str | None:
    expected = "a URL such as https://127.0.0.1:8443, without user, options or '#'"
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return expected
    odd = "@" in parts.netloc or parts.query or parts.fragment or not host or not is_host(host)
    return expected if odd or parts.scheme not in ("http", "https") else None


def is_host(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def word(value: str) -> str | None:
    """A name without blanks or odd characters."""
    return None if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) else "a name of A-Z, 0-9, '-', '_'"


def existing_file(value: str) -> str | None:
    return None if os.path.isfile(value) else "the path of a PEM file that exists"


def own_name(value: str) -> str | None:
    expected = "a host name such as web1.example.com, or an address such as [192.0.2.7]"
    return None if EHLO_NAME.fullmatch(value) else expected


def rate(value: str) -> str | None:
    """Limits such as ``14/s`` or ``600/m,50000/d``."""
    return None if limits_from(value) else EXPECTED


def batch_up_to(most: int) -> OptionCheck:
    """Different mails in one request, of which a provider takes so many."""

    def check(value: str) -> str | None:
        fits = re.fullmatch(r"[1-9][0-9]{0,3}", value) and 2 <= int(value) <= most
        return None if fits else f"a whole number from 2 to {most}"

    return check


def connections(value: str) -> str | None:
    return None if re.fullmatch(r"[1-9][0-9]{0,2}", value) else "a whole number from 1 to 999"


#: Options of every scheme: how much may leave, and over how many connections at the same time.
COMMON: dict[str, OptionCheck] = {"rate": rate, "connections": connections}

_USER = ("user", "password")
_SMTP: dict[str, OptionCheck] = {"cafile": existing_file, "local_hostname": own_name}
_AUTH: dict[str, OptionCheck] = {"auth": one_of("xoauth2")}
_TOKEN = frozenset({"token"})
_DKIM = frozenset({"dkim"})
_HTTP: dict[str, OptionCheck] = {"endpoint": http_url, "cafile": existing_file}
_NATIVE: dict[str, OptionCheck] = {"schedule": one_of("native", "queue")}
_CLASSIFY = frozenset({"classify"})

#: Every scheme of ours.
SCHEMES: dict[str, Scheme] = {
    "smtp": Scheme(
        "smtp",
        "host",
        login=_USER,
        options={"tls": one_of("required", "optional", "none"), **_AUTH, **_SMTP},
        takes=_TOKEN | _DKIM,
    ),
    "smtps": Scheme("smtp", "host", login=_USER, options={**_AUTH, **_SMTP}, takes=_TOKEN | _DKIM),
    "gmail": Scheme(
        "smtp_presets",
        "default",
        login=_USER,
        login_required=True,
        options=_SMTP,
        takes=_TOKEN,
    ),
    "m365": Scheme(
        "smtp_presets",
        "default",
        login=("user",),
        login_required=True,
        options=_SMTP,
        takes=_TOKEN,
    ),
    "aliyun+smtp": Scheme(
        "smtp_presets",
        "default",
        login=_USER,
        login_required=True,
        options={"region": word, **_SMTP},
    ),
    "sendcloud": Scheme(
        "sendcloud",
        "default",
        login=("API user", "API key"),
        login_required=True,
        options=_HTTP,
        takes=_CLASSIFY,
    ),
    "mailgun": Scheme(
        "mailgun",
        "host",
        login=("key",),
        login_required=True,
        options={"region": one_of("us", "eu"), **_NATIVE, **_HTTP},
        takes=_CLASSIFY,
    ),
    "ses": Scheme(
        "ses",
        "host",
        login=("access key id", "secret access key"),
        options={"configuration_set": word, **_HTTP},
        takes=_CLASSIFY,
    ),
    "postmark": Scheme(
        "postmark",
        "default",
        login=("server token",),
        login_required=True,
        options={"stream": word, "batch": batch_up_to(500), **_HTTP},
        takes=_CLASSIFY,
    ),
    "sendgrid": Scheme(
        "sendgrid",
        "default",
        login=("key",),
        login_required=True,
        options={"region": one_of("us", "eu"), **_NATIVE, **_HTTP},
        takes=_CLASSIFY,
    ),
    "resend": Scheme(
        "resend",
        "default",
        login=("key",),
        login_required=True,
        options={"batch": batch_up_to(100), **_NATIVE, **_HTTP},
        takes=_CLASSIFY,
    ),
    "brevo": Scheme(
        "brevo",
        "default",
        login=("key",),
        login_required=True,
        options={**_NATIVE, **_HTTP},
        takes=_CLASSIFY,
    ),
    "aliyun": Scheme(
        "aliyun",
        "host",
        login=("access key id", "access key secret"),
        login_required=True,
        options=_HTTP,
        takes=_CLASSIFY,
    ),
    "tencentses": Scheme(
        "tencent_ses",
        "host",
        login=("secret id", "secret key"),
        login_required=True,
        options=_HTTP,
        takes=_CLASSIFY,
    ),
    "console": Scheme("console", "nothing", takes=_DKIM),
    "file": Scheme("file", "folder", takes=_DKIM),
    "memory": Scheme("in_memory", "nothing", takes=_DKIM),
    "null": Scheme("null", "nothing"),
}
