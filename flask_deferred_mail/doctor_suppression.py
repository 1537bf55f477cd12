"""What ``doctor`` says of the suppression list: whether a server calls too many people unknown."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .cleaning import clean
from .cli_output import counted, duration
from .finding import Finding, Level
from .store.refusals import HOUR, Refusals
from .store.suppressions import Suppressions
from .suppression import DAY

#: Seconds for which an alarm that is over is still told.
TOLD_FOR = 7 * DAY


def examine_refusals(suppressions: Suppressions) -> Iterator[Finding]:
    """Servers that called more of their recipients unknown than can be true."""
    now = time.time()
    for alarm in Refusals(suppressions).alarms():
        ago = max(0.0, now - alarm.until)
        if ago > TOLD_FOR:
            continue
        yield Finding(
            Level.FAIL if ago < HOUR else Level.WARN,
            f"transport {clean(alarm.transport)}",
            f"its server called {alarm.refused} of {counted(alarm.recipients, 'recipient')} "
            f"unknown within an hour, last {duration(ago)} ago: more than can be true, so none of "
            "them is on the suppression list",
            "look at the server's directory; `flask mail retry --failed` tries its victims again",
        )
