"""What every answer of every provider means, as a page of the documentation, written from the code.

``python -m flask_deferred_mail.transports.classification_page > docs/transports/classification.md``
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace

from . import smtp_replies
from .base import Transport
from .capabilities import transports
from .classification import ACCEPTED, DUPLICATE, HTTP_RULES, WORDS, Rule, Verdict

_HEAD = """\
# What an answer means

Written from the code by `python -m flask_deferred_mail.transports.classification_page`.

An answer that does not accept a mail is looked up in three tables: first what the deployment
overrides, then the provider's own, then that of the HTTP statuses. In each the provider's code goes
before the status, and the first line that fits wins. Some providers have further rules about the
words of an answer, or about a code together with a status: the page of each transport tells them.

## Overriding

```python
app.config["DEFERRED_MAIL_TRANSPORT"] = {
    "url": "postmark://TOKEN@default",
    "classify": {"412": "account", "HTTP 409": "transient"},
}
```

A key is a code of the provider, or `HTTP` and a status of 300 or more; the value is one of these
words. There is none for "accepted": if that were wrong, the mail would be lost. SMTP takes none.

"""
_MEANINGS: Mapping[str, str] = {
    "permanent": "refused for good: these recipients end `rejected`",
    "suppressed": "on the provider's list of dead or unwilling addresses: they end `suppressed`",
    "transient": "not sent; tried again, and the mail pays an attempt",
    "unknown": "it may have been sent: tried once more, then held for a person",
    "unavailable": "not sent; the transport rests, no mail pays",
    "rate_limited": "not sent; the transport rests as long as it was told, no mail pays",
    "quota": "the day's or month's allowance is used up: the transport rests longer",
    "account": "key, login, URL: the transport rests until somebody has looked, no mail pays",
    "config": "this mail's sender, template, stream: it ends `failed`; five different mails in a "
    "row are taken for the account",
}
_MORE: Mapping[str, str] = {
    "duplicate": "the provider has seen this key: accepted if the row is in doubt about it, else "
    "tried again",
    "permanent, in halves": "as `permanent`; of private copies only those whom the words name, "
    "else the request is tried in halves until only the guilty are left",
}
_Codes = Container[int | str] | Container[int]


def page() -> str:
    """The whole page, in Markdown."""
    return _HEAD + "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from _table(("word", "meaning"), ((f"`{w}`", _MEANINGS[w]) for w in WORDS))
    yield "\nTwo more stand in the tables:\n"
    yield from _table(("word", "meaning"), ((w, text) for w, text in _MORE.items()))
    yield "\n## HTTP statuses\n"
    yield "A 503 that names a time (`Retry-After`) is `unavailable`. What no line names, and a 2xx"
    yield "that nobody can read, is `unknown`.\n"
    yield from _table(("status", "means"), _rows(HTTP_RULES))
    for kind in transports():
        yield from _provider(kind)
    yield from _smtp()


def _provider(kind: type[Transport]) -> Iterator[str]:
    module = inspect.getmodule(kind)
    tables = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, tuple) and value and all(isinstance(one, Rule) for one in value)
    }
    # RULES first: the others are for special places.
    for name in sorted(tables, key=lambda name: (name != "RULES", name)):
        place = "" if name == "RULES" else f": {name.lower().replace('_', ' ')}"
        yield f"\n## {kind.label}{place}\n"
        yield from _table(("code", "means"), _rows(tables[name]))


def _rows(rules: Iterable[Rule]) -> Iterator[tuple[str, str]]:
    for rule in rules:
        statuses = _members(rule.statuses)
        shown = [_members(rule.codes), f"HTTP {statuses}" if statuses else ""]
        yield "; ".join(filter(None, shown)), _word(rule.verdict)


def _members(codes: _Codes) -> str:
    if isinstance(codes, range):
        return f"{codes[0]} to {codes[-1]}" if len(codes) else ""
    assert isinstance(codes, frozenset), "a table names its codes"
    return ", ".join(str(code) for code in sorted(codes, key=lambda code: (str(type(code)), code)))


def _word(verdict: Verdict) -> str:
    if verdict == DUPLICATE:
        return "duplicate"
    if verdict == ACCEPTED:
        return "accepted"
    plain = replace(verdict, divisible=False)
    word = next(word for word, one in WORDS.items() if one == plain)
    return f"{word}, in halves" if verdict.divisible else f"`{word}`"


def _smtp() -> Iterator[str]:
    yield "\n## SMTP\n"
    yield "The first line that fits wins; an empty field fits anything. A code that no line names"
    yield "is `permanent` from 500 on, else `transient`. Who answers so before MAIL speaks of the"
    yield "transport, and so does a 421 or 4.3.x: no mail pays.\n"
    rows = (
        (
            ", ".join(map(str, rule.codes)),
            rule.stage.replace("|", ", "),
            rule.enhanced.replace("|", ", "),
            f"`{rule.text}`".replace("|", "\\|") if rule.text else "",
            f"{rule.cls} ({rule.scope})" if rule.scope else rule.cls,
        )
        for rule in smtp_replies.RULES
    )
    yield from _table(("code", "answers", "enhanced code", "words", "means"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    print(page(), end="")
