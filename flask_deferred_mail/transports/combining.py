"""``failover(URL URL ...)`` and ``roundrobin(URL URL ...)``: taken apart, and named.

The members stand between blanks, and may be combinations themselves. Parentheses in a user or a
password are percent-encoded (``%28``, ``%29``), as blanks are.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .url import URLFault, combination, parse

#: Levels of combinations in combinations, and members of all of them together.
DEEPEST = 4
MOST_MEMBERS = 32

#: Length of a transport's name in the tables.
_LONGEST_NAME = 64
_WEIGHT = re.compile(r"[1-9][0-9]{0,2}")
_WEIGHT_OPTION = re.compile(r"\?weight=([1-9][0-9]{0,2})")


@dataclass(frozen=True, slots=True)
class Group:
    """Members that stand in for each other."""

    #: ``failover``: the first that works. ``roundrobin``: by turns.
    kind: str
    members: tuple[Member, ...]

    def leaves(self) -> Iterator[Member]:
        """The members that are no combinations, in the order in which they are written."""
        for member in self.members:
            if isinstance(member.what, Group):
                yield from member.what.leaves()
            else:
                yield member


@dataclass(frozen=True, slots=True)
class Member:
    """One member, and its share among those beside it."""

    #: Its URL (which may hold a secret), or what it combines.
    what: str | Group
    #: Where it stands, for people: ``2``, or ``2.1`` in a combination inside.
    place: str
    weight: int = 1

    @property
    def url(self) -> str:
        assert isinstance(self.what, str)
        return self.what

    def __repr__(self) -> str:
        return f"<Member {self.place}>"


def take_apart(url: str) -> Group:
    """The members of a combination.

    :raises URLFault: parentheses or weights are not as they should be; nothing of it is shown.
    """
    group = _group(url.strip(), "", 1)
    if sum(1 for _ in group.leaves()) > MOST_MEMBERS:
        raise URLFault(f"combines more than {MOST_MEMBERS} transports")
    return group


def _group(text: str, place: str, depth: int) -> Group:
    kind = combination(text)
    assert kind is not None
    if depth > DEEPEST:
        raise URLFault(f"has combinations in combinations, more than {DEEPEST} deep")
    inner, rest = _inside(text)
    if rest:
        raise URLFault(f"has something after {kind}(...); options belong to the members")
    words = _words(inner)
    if not words:
        raise URLFault(f"has no URLs in {kind}(...); write them with blanks between")
    members = (
        _member(word, f"{place}{number}", kind, depth) for number, word in enumerate(words, 1)
    )
    return Group(kind, tuple(members))


def _inside(text: str) -> tuple[str, str]:
    """What stands between the first parenthesis and its partner, and what follows."""
    start = text.index("(")
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position], text[position + 1 :].strip()
    raise URLFault("has a parenthesis that is not closed; " + _ENCODE)


_ENCODE = "percent-encode parentheses in user and password"


def _words(inner: str) -> list[str]:
    """The URLs between blanks; blanks within parentheses are a member's own."""
    words, begin, depth = [], 0, 0
    for position, char in enumerate(f"{inner} "):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char.isspace() and depth == 0:
            words.append(inner[begin:position])
            begin = position + 1
    return [word for word in words if word.strip()]


def _member(word: str, place: str, kind: str, depth: int) -> Member:
    if combination(word):
        _, rest = _inside(word)
        weight = _WEIGHT_OPTION.fullmatch(rest)
        if rest and weight is None:
            raise URLFault(
                f"has something after the parenthesis of member {place} that is no ?weight=N"
            )
        _check_weight(kind, place, rest)
        group = _group(word.removesuffix(rest) if rest else word, f"{place}.", depth + 1)
        return Member(group, place, int(weight[1]) if weight else 1)
    if "(" in word or ")" in word:
        raise URLFault(f"has a parenthesis in member {place}; {_ENCODE}")
    return Member(word, place, _weight(word, place, kind))


def _weight(url: str, place: str, kind: str) -> int:
    try:
        given = parse(url).options.get("weight")
    except URLFault:
        return 1  # said when the member itself is looked at
    if given is None:
        return 1
    _check_weight(kind, place, given)
    if not _WEIGHT.fullmatch(given):
        raise URLFault(f"has a weight of member {place} that is no number from 1 to 999")
    return int(given)


def _check_weight(kind: str, place: str, given: str) -> None:
    if given and kind != "roundrobin":
        raise URLFault(f"has a weight of member {place}, which only roundrobin(...) has a use for")


# -- names --------------------------------------------------------------------------------------


def member_names(name: str, urls: list[str]) -> list[str]:
    """A name for each member: that of the whole, and where the member leads.

    They do not depend on the order of the members: what all processes know of one (whether it
    rests, what is left of its limit, which mail may have gone by it) stays its own when another
    one is put before it.
    """
    seen: Counter[str] = Counter()
    names = []
    for url in urls:
        label = _label(url)
        seen[label] += 1
        number = f"+{seen[label]}" if seen[label] > 1 else ""
        names.append(_fitted(f"{name}/{label}{number}"))
    return names


def _label(url: str) -> str:
    parsed = parse(url)
    place = parsed.host + (f":{parsed.port}" if parsed.port else "")
    if parsed.scheme in ("smtp", "smtps"):
        return place
    return parsed.scheme if place in ("", "default") else f"{parsed.scheme}-{place}"


def _fitted(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}~{digest}"
