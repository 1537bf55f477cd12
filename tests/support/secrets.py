"""Look for a secret, in every form that it takes on its way, and in every object of ours."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

_PACKAGE = "flask_deferred_mail"


class Secret:
    """A user and a password (or key) with a value that cannot be there by chance."""

    def __init__(self, user: str, value: str) -> None:
        self.user, self.value = user, value

    @property
    def login(self) -> str:
        """As it stands in a transport URL."""
        return f"{quote(self.user, safe='')}:{quote(self.value, safe='')}"

    @property
    def forms(self) -> list[str]:
        """Plain, percent-encoded, and as AUTH PLAIN and AUTH LOGIN say it."""
        plain = base64.b64encode(f"\0{self.user}\0{self.value}".encode()).decode()
        alone = base64.b64encode(self.value.encode()).decode()
        return [self.value, quote(self.value, safe=""), quote(self.value), plain, alone]

    def found_in(self, text: str | bytes) -> list[str]:
        """The forms of it that stand there; also cut short to its first ten characters."""
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        return [form for form in [*self.forms, self.value[:10]] if form in text]


def ours(root: object) -> Iterator[object]:
    """Every object of this package's classes that can be reached from one of them."""
    seen: set[int] = set()
    waiting: list[object] = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if type(item).__module__.startswith(_PACKAGE):
            yield item
            waiting.extend(_attributes(item))
        elif isinstance(item, dict):
            waiting.extend([*item.keys(), *item.values()])
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(item)


def _attributes(item: object) -> Iterator[Any]:
    names = {name for cls in type(item).__mro__ for name in getattr(cls, "__slots__", ())}
    names |= set(getattr(item, "__dict__", ()))
    for name in names:
        if hasattr(item, name):
            yield getattr(item, name)
