"""What became of rows in a transaction that is not ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum, auto

from .jobs import Added

log = logging.getLogger("flask_deferred_mail.store")


class Fate(Enum):
    """Where a caller's transaction stands, as far as our rows in it go."""

    #: Neither committed nor rolled back yet.
    OPEN = auto()
    COMMITTED = auto()
    ROLLED_BACK = auto()
    #: The session was closed, or dropped, and nobody had said commit or rollback.
    FORGOTTEN = auto()


class Batch:
    """The mails of one call. They share a fate."""

    __slots__ = ("__weakref__", "_committed", "added", "complained", "fate")

    def __init__(self, added: Sequence[Added], committed: Callable[[Batch], None]) -> None:
        self.added = tuple(added)
        self.fate = Fate.OPEN
        #: It was said already that nobody has committed it.
        self.complained = False
        self._committed: Callable[[Batch], None] | None = committed

    def settle(self, fate: Fate) -> None:
        """Note what became of it, once; nothing that follows from that reaches the caller."""
        if self.fate is not Fate.OPEN:
            return
        self.fate = fate
        committed, self._committed = self._committed, None
        if fate is not Fate.COMMITTED or committed is None:
            return
        try:
            committed(self)
        except Exception:
            # We are inside somebody's commit(), and that has succeeded.
            log.exception(
                "%s: committed, but not announced; the sweep will send what is due", self.named
            )

    def amend_to_rolled_back(self) -> None:
        """SQLAlchemy tells of the end of a transaction first, and then that it was a rollback."""
        if self.fate is Fate.FORGOTTEN:
            self.fate = Fate.ROLLED_BACK

    @property
    def named(self) -> str:
        """Its mails, for a log line."""
        ids = [str(one.job.id) for one in self.added if one.created]
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        return f"mail {', '.join(ids[:5])}{more}"
