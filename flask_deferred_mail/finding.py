"""One thing that ``doctor`` looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: Worth a look; mail leaves all the same, or is meant not to.
    WARN = "warn"
    #: Mail does not leave, or is not safe.
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. All text is fit for a terminal and holds no secret."""

    level: Level
    #: ``settings``, ``database``, ``transport default``, ``sweep``, ...
    topic: str
    text: str
    #: What to do; empty when nothing is to be done.
    advice: str = ""
