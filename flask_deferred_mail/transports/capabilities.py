"""What each transport can carry, as a page of the documentation, written from the code.

``python -m flask_deferred_mail.transports.capabilities > docs/transports/capabilities.md``
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

from .base import Feature, Transport
from .provider import ProviderTransport
from .schemes import SCHEMES

_HEAD = """\
# What each transport can carry

Written from the code by `python -m flask_deferred_mail.transports.capabilities`.

A message that asks for what its transport cannot carry is refused in the view, with the field's
name; with `DEFERRED_MAIL_ON_UNSUPPORTED = "drop"` the field is left out. "yes" may have limits: the
page of each transport tells them. What stands in no line here, every transport carries.
"""
_FOOT = """
*Private copies*: the most that travel in one request; the others follow in further ones. *Visible
recipients*: the most who see each other in one mail. *Own Message-ID*: recipients see the one that
`job.message_id` tells. *Keeps until `send_at`*: only with `?schedule=native`, else scheduled mail
waits in our own table. *Knows a repeat for*: how long a repeated request is recognised, so that an
unknown outcome can be tried again without a second copy. "-": no, or no limit that we know; with
SendCloud it is one tag, and 10 MiB of files. Templates of Amazon SES go to 50 in one request.
"""


def transports() -> list[type[Transport]]:
    """Every kind of transport of this package that hands mail to somebody else."""
    found: dict[str, type[Transport]] = {}
    for scheme in SCHEMES.values():
        if scheme.place in ("nothing", "folder") or not isinstance(scheme.make, str):
            continue
        module = import_module(f".{scheme.make}", __package__)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Transport) and kind.__module__ == module.__name__:
                # A preset under the name of its kind carries what that kind does.
                found.setdefault(kind.label, kind)
    return list(found.values())


def page() -> str:
    """The whole page, in Markdown."""
    kinds = transports()
    lines = [_row("", [kind.label for kind in kinds]), _row("---", ["---"] * len(kinds))]
    lines += [
        _row(name, [cells[name] for cells in map(_cells, kinds)]) for name in _cells(kinds[0])
    ]
    return f"{_HEAD}\n{''.join(lines)}{_FOOT}"


def _row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |\n"


def _cells(kind: type[Transport]) -> dict[str, str]:
    return {**dict(_features(kind)), **_limits(kind)}


def _features(kind: type[Transport]) -> Iterator[tuple[str, str]]:
    for feature in Feature:
        carried = "yes" if feature in kind.features else "-"
        if feature is Feature.TAGS and carried == "yes" and kind.max_tags is not None:
            carried = str(kind.max_tags)
        name = _NAMES.get(feature, f"`{feature.value}`")
        yield name, carried


_NAMES = {
    Feature.ALTERNATIVES: "`alts`",
    Feature.INLINE: "`inline(...)` images",
    Feature.PART_HEADERS: "headers of attachments",
}


def _limits(kind: type[Transport]) -> dict[str, str]:
    together = kind.max_copies or kind.max_recipients if kind.private_copies_in_one_call else 1
    horizon = kind.horizon if issubclass(kind, ProviderTransport) else None
    window, size = kind.idempotency_window, kind.max_size
    return {
        "private copies": _number(together),
        "visible recipients": _number(kind.max_recipients),
        "size of a mail": f"{size / 1_048_576:.3g} MiB" if size else "-",
        "own Message-ID": "yes" if kind.keeps_message_id else "-",
        "keeps until `send_at`": f"{horizon / 86400:.0f} days" if horizon else "-",
        "knows a repeat for": f"{window / 3600:g} h" if window else "-",
    }


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


if __name__ == "__main__":
    print(page(), end="")
