"""What may be written for a setting, and the value that it becomes.

Settings come from Python files, from JSON and TOML, and from the environment, where everything is
text and ``app.config.from_prefixed_env()`` may or may not have read it as JSON already. So every
converter takes a value or its text, and answers with the value or raises :class:`Unfit`.
"""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from .address import parse_address
from .cleaning import clean
from .header_fields import extra_fields
from .letter import Address
from .rerouting import pattern_of

Converter = Callable[[Any], Any]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_SHOWN = 60
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:[^\s#]*|(?:failover|roundrobin)\s*\((?s:.+)\))", re.IGNORECASE
)
_HOST = re.compile(r"[^\s/@?#%\[\]:]+")


class Unfit(ValueError):
    """A value that a setting cannot have. The text says what was expected instead."""


def unset(value: object) -> bool:
    """Whether a key counts as not set: ``None``, or blank text (``KEY=`` in the environment)."""
    return value is None or (isinstance(value, str) and not value.strip())


def shown(value: object, *, secret: bool) -> str:
    """The value for an error's text; of one that can hold a secret, only its type."""
    if secret:
        return f"a value of type {type(value).__name__}"
    return clean(repr(value), _SHOWN)


def text(value: Any) -> str:
    """Text; a whole number becomes its digits, since JSON made one of a password ``12345``."""
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise Unfit("text in UTF-8")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Unfit(
        "text (from_prefixed_env() reads JSON: there, write it in double quotes, '\"...\"')"
    )


def boolean(value: Any) -> bool:
    """True or false, also as 1/true/yes/on and 0/false/no/off in any case."""
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Unfit("true or false (or 1/yes/on, 0/no/off)")


def whole_number(least: int, most: int) -> Callable[[Any], int]:
    """A converter to whole numbers within these bounds."""

    def convert(value: Any) -> int:
        number = _number(value)
        if number is None or not number.is_integer() or not least <= number <= most:
            raise Unfit(f"a whole number from {least} to {most}")
        return int(number)

    return convert


def seconds(least: float, most: float) -> Callable[[Any], float]:
    """A converter to seconds within these bounds; takes a :class:`~datetime.timedelta` too."""

    def convert(value: Any) -> float:
        number = value.total_seconds() if isinstance(value, timedelta) else _number(value)
        if number is None or not least <= number <= most:
            raise Unfit(f"seconds from {least:g} to {most:.15g}, as a number or a timedelta")
        return number

    return convert


def schedule(least: float, most: float) -> Callable[[Any], tuple[float, ...]]:
    """A converter to a row of delays: a list, a JSON list, ``"60,300"`` or a single number."""
    delay = seconds(least, most)

    def convert(value: Any) -> tuple[float, ...]:
        try:
            delays = tuple(delay(item) for item in _items(value))
        except Unfit as unfit:
            raise Unfit(f"a list of {unfit}") from None
        if not delays:
            raise Unfit("at least one delay in seconds")
        return delays

    return convert


def one_of(*words: str) -> Callable[[Any], str]:
    """A converter to one of these words."""

    def convert(value: Any) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in words:
            return word
        raise Unfit(" or ".join(repr(w) for w in words))

    return convert


#: Engine -> the modules that it needs.
_ENGINES = {"celery": ("celery",), "rq": ("rq", "redis")}
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def dispatch(value: Any) -> str:
    """Who sends: one of our words, an engine whose library is here, or ``module:function``."""
    given = value.strip() if isinstance(value, str) else ""
    if _OBJECT.fullmatch(given):
        return given
    try:
        word = one_of("thread", "inline", "none", *_ENGINES)(given)
    except Unfit as unfit:
        raise Unfit(f"{unfit} or 'package.module:function'") from None
    if any(importlib.util.find_spec(module) is None for module in _ENGINES.get(word, ())):
        raise Unfit(
            f"something else while the library of {word!r} is missing (pip install "
            f"'flask-deferred-mail[{word}]')"
        )
    return word


def redis_url(value: Any) -> str:
    """The URL of a Redis server."""
    given = text(value).strip()
    if not re.match(r"(rediss?://[^/\s]|unix://\S)", given):
        raise Unfit("a URL like redis://host:6379/0?queue=default")
    return given


def table(value: Any) -> Mapping[str, Any]:
    """A mapping whose keys are text, also as a JSON object."""
    if isinstance(value, str):
        value = _json(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise Unfit("a dict, or a JSON object as text")


#: Backend -> the driver that we are tested with, for URLs that name none.
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}


def database_uri(value: Any) -> str:
    """The URL of a database; one that names no driver gets the one that we are tested with."""
    uri = text(value).strip()
    scheme, separator, rest = uri.partition("://")
    backend, _, driver = scheme.lower().partition("+")
    # Heroku and others still hand out the name that SQLAlchemy has dropped.
    backend = "postgresql" if backend == "postgres" else backend
    if separator and backend in _DRIVERS:
        return f"{backend}+{driver or _DRIVERS[backend]}://{rest}"
    if (
        not separator
        or backend != "sqlite"
        or driver not in ("", "pysqlite")
        or not (rest == "" or rest.startswith("/"))
    ):
        raise Unfit(
            "a database URL such as 'sqlite:////var/lib/myapp/mail.sqlite3' or "
            "'postgresql://user:password@host/name'"
        )
    return uri


def located(uri: str, folder: str) -> str:
    """An SQLite URL whose relative path starts at ``folder``.

    The working directories of a web server, a cron job and a terminal differ: each would have its
    own file, and the mail that one recorded would never be sent by another.
    """
    scheme, _, rest = uri.partition("://")
    if not scheme.startswith("sqlite"):
        return uri
    path, mark, query = rest.removeprefix("/").partition("?")
    if in_memory(uri) or path.startswith("file:") or os.path.isabs(path):
        return uri
    return f"{scheme}:///{os.path.join(folder, path)}{mark}{query}"


def in_memory(uri: str) -> bool:
    """Whether an SQLite URL names no file, so that the mail ends with the process."""
    if not uri.startswith("sqlite"):
        return False
    path, _, query = uri.partition("://")[2].removeprefix("/").partition("?")
    return path in ("", ":memory:", "file::memory:") or "mode=memory" in query


def mailbox(value: Any) -> Address:
    """One address, with or without a name; also as a pair of name and address."""
    # Out of JSON a (name, address) pair comes as a list.
    return parse_address(tuple(value) if isinstance(value, list) else value, "address")


def mailboxes(value: Any) -> tuple[Address, ...]:
    """Several addresses, each once: a list, JSON, or with commas."""
    return tuple(dict.fromkeys(mailbox(item) for item in _items(value)))


def patterns(value: Any) -> tuple[str, ...]:
    """Addresses, domains, or either with ``*``: a list, JSON, or with commas."""
    found = [pattern_of(item) if isinstance(item, str) else None for item in _items(value)]
    if None in found:
        raise Unfit(
            "a list of addresses (ann@example.com), domains (example.com) or patterns "
            "(*@example.com, *.example.com), none of which fits everybody"
        )
    return tuple(dict.fromkeys(filter(None, found)))


def addr_spec(value: Any) -> str:
    """The bare address of a mailbox."""
    return mailbox(value).email


def domain(value: Any) -> str:
    """A domain, in A-labels."""
    name = text(value).strip()
    if not _HOST.fullmatch(name):
        raise Unfit("a domain such as 'example.com'")
    return parse_address(f"id@{name}", "domain").email.rpartition("@")[2]


def headers(value: Any) -> Mapping[str, str]:
    """Header fields that may stand in every mail, by the rules for those of a single message."""
    given = table(value)
    if any(name.lower() == "message-id" for name in given):
        raise Unfit("no Message-ID: one for all mails would make them one mail")
    texts = {name: text(line) for name, line in given.items()}
    return MappingProxyType(dict(extra_fields(texts, "header fields")))


def transport_url(value: Any) -> str:
    """Something that has the form of a transport URL; the schemes are the transports' business."""
    url = value.strip() if isinstance(value, str) else ""
    if not _URL.fullmatch(url):
        raise Unfit(
            "a transport URL such as 'smtp://user:password@mail.example.com', with blanks, '@', "
            "'/', '#' and '?' in user and password percent-encoded"
        )
    return url


def host(value: Any) -> str:
    """A host's name or address as it stands in a URL: IPv6 in brackets."""
    name = text(value).strip()
    if _HOST.fullmatch(name):
        return name
    try:
        return f"[{ipaddress.IPv6Address(name.strip('[]'))}]"
    except ValueError:
        raise Unfit("the name or IP address of a host (its port goes elsewhere)") from None


def encryption_keys(value: Any) -> tuple[bytes, ...]:
    """Keys of 32 bytes in base64, in either of its alphabets: a list, JSON, or with commas."""
    keys = tuple(_key(item) for item in _items(value))
    if len(set(keys)) != len(keys):
        raise Unfit("each key once")
    if keys and importlib.util.find_spec("cryptography") is None:
        raise Unfit(
            "nothing while the library that encrypts is missing (pip install "
            "flask-deferred-mail[encryption])"
        )
    return keys


def _key(item: Any) -> bytes:
    if isinstance(item, (str, bytes)):
        try:
            raw = item.encode("ascii") if isinstance(item, str) else item
            key = base64.b64decode(raw.strip().translate(_ONE_ALPHABET), validate=True)
        except ValueError:
            key = b""
        if len(key) == 32:
            return key
    raise Unfit(
        "a list of keys of 32 bytes in base64, the first of which encrypts; make one with "
        "python -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'"
    )


_ONE_ALPHABET = bytes.maketrans(b"-_", b"+/")


def _number(value: Any) -> float | None:
    """The finite number that a value is or spells; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        listed = _json(value)
        value = listed if isinstance(listed, list) else [i for i in value.split(",") if i.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None
