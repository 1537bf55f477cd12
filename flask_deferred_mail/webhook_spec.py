"""What the application says of one webhook: whose reports come in there, and how they are proven.

Everything but the provider and the topics can be a secret, so ``repr`` shows names only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .cleaning import clean
from .conversion import Unfit, table, text
from .transport_spec import TransportSpec

_NAME = re.compile(r"[a-z0-9_-]{1,64}")

#: Fields that may hold several values: while a key is exchanged, the old and the new one.
_LISTS = ("key", "password", "token", "topics")
_TEXTS = ("provider", "user", "header")


@dataclass(frozen=True, slots=True, repr=False)
class WebhookSpec:
    """One entry of ``DEFERRED_MAIL_WEBHOOKS``."""

    #: Scheme of the provider; ``None``: that of the transport of the same name.
    provider: str | None = None
    key: tuple[str, ...] = ()
    user: str | None = None
    password: tuple[str, ...] = ()
    token: tuple[str, ...] = ()
    #: Name of the header that carries the token; ``None``: ``Authorization``, as a bearer's.
    header: str | None = None
    #: Amazon's names (ARN) of the SNS topics that are listened to.
    topics: tuple[str, ...] = ()

    @property
    def given(self) -> frozenset[str]:
        """The names of the fields that are set, but for ``provider``."""
        names = ("key", "user", "password", "token", "header", "topics")
        return frozenset(name for name in names if getattr(self, name))

    def __repr__(self) -> str:
        return f"<WebhookSpec {' '.join([self.provider or '-', *sorted(self.given)])}>"


def webhook_spec(value: Any) -> WebhookSpec:
    """What a setting says of one webhook: a dict, also as JSON text.

    :raises Unfit: it is something else, or a field is.
    """
    fields = table(value)
    if unknown := sorted(set(fields) - {*_LISTS, *_TEXTS}):
        known = ", ".join(map(repr, sorted({*_LISTS, *_TEXTS})))
        raise Unfit(f"a dict with some of {known}, not {clean(', '.join(unknown), 80)}")
    lists = {name: _texts(name, fields[name]) for name in _LISTS if fields.get(name)}
    texts = {name: _text(name, fields[name]) for name in _TEXTS if fields.get(name)}
    return WebhookSpec(**lists, **texts)  # type: ignore[arg-type]  # names and kinds go together


def webhook_table(value: Any) -> Mapping[str, WebhookSpec]:
    """The whole setting: webhooks by name.

    :raises Unfit: names the entry, and shows none of its values.
    """
    found = {}
    for name, given in table(value).items():
        try:
            found[name] = webhook_spec(given)
        except Unfit as unfit:
            raise Unfit(f"for {clean(repr(name), 80)} {unfit}") from None
    return found


def _texts(name: str, value: Any) -> tuple[str, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return tuple(_text(name, item) for item in (value if several else [value]))


def _text(name: str, value: Any) -> str:
    try:
        found = text(value).strip()
    except Unfit:
        found = ""
    if not found or not found.isprintable():
        raise Unfit(f"a dict whose {name!r} is text")
    return found


def scheme_of(transport: TransportSpec) -> str:
    """The scheme of a transport's URL; of a combination, its word."""
    return re.split("[:(]", transport.url.strip(), maxsplit=1)[0].lower()


def resolved(
    webhooks: Mapping[str, WebhookSpec],
    transports: Mapping[str, TransportSpec],
    faults_of: Callable[[WebhookSpec, str | None], Iterable[str]],
) -> tuple[Mapping[str, WebhookSpec], list[str]]:
    """The webhooks, each with its provider, and what is wrong with them, in sentences.

    One that names no provider is for that of the transport of the same name.
    """
    found, faults = {}, []
    for name, spec in webhooks.items():
        where = f"DEFERRED_MAIL_WEBHOOKS[{clean(repr(name), 80)}]"
        scheme = scheme_of(transports[name]) if name in transports else None
        if not _NAME.fullmatch(name):
            faults.append(f"{where}: a name has 1 to 64 of a-z, 0-9, '-' and '_'")
        faults += [f"{where}: {fault}" for fault in faults_of(spec, scheme)]
        found[name] = replace(spec, provider=spec.provider or scheme)
    return MappingProxyType(found), faults
