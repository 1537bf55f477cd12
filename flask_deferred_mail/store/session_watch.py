"""Follows one session: when our rows in its transaction became real, when they were lost.

What SQLAlchemy tells, in which order (measured with 2.0 and 2.1):

* ``after_commit`` comes for the transaction and for each savepoint that is released;
  ``after_transaction_end`` follows it. Only the end of the root, committed, makes a row real.
* a rollback tells of the end first, and then ``after_soft_rollback`` of the same transaction.
* ``close()`` tells only of the end; a session that is garbage collected tells nothing.

The watch must not keep the session alive, so it knows transactions by weak references.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from sqlalchemy import event

from .fate import Batch, Fate

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    _Scope = weakref.ref[SessionTransaction]


class SessionWatch:
    """The batches that wait for the end of a session's transaction."""

    def __init__(self, session: Session) -> None:
        self._open: list[tuple[_Scope, Batch]] = []
        self._committed: _Scope | None = None
        self._just_ended: list[Batch] = []
        for name in ("after_commit", "after_transaction_end", "after_soft_rollback"):
            event.listen(session, name, getattr(self, f"_{name}"))
        weakref.finalize(session, self._dropped).atexit = False

    def add(self, session: Session, batch: Batch) -> None:
        """Follow a batch whose rows have just been written."""
        self._open.append((weakref.ref(_innermost(session)), batch))

    # -- what the session tells -------------------------------------------------------------

    def _after_commit(self, session: Session) -> None:
        self._committed = weakref.ref(_innermost(session)) if self._open else None

    def _after_transaction_end(self, _session: Session, ended: SessionTransaction) -> None:
        if not self._open:
            return
        committed = self._committed is not None and self._committed() is ended
        if committed:
            self._committed = None
        if ended.parent is None:
            batches = [batch for _, batch in self._open]
            self._open.clear()
            self._settle(batches, Fate.COMMITTED if committed else Fate.FORGOTTEN)
        elif committed:
            above = weakref.ref(ended.parent)
            self._open = [(above if s() is ended else s, batch) for s, batch in self._open]
        else:
            lost = [batch for scope, batch in self._open if scope() is ended]
            self._open = [(scope, batch) for scope, batch in self._open if scope() is not ended]
            # A savepoint alone is never forgotten: what is not released with it goes with it.
            self._settle(lost, Fate.FORGOTTEN)

    def _after_soft_rollback(self, _session: Session, _ended: SessionTransaction) -> None:
        for batch in self._just_ended:
            batch.amend_to_rolled_back()
        self._just_ended = []

    def _settle(self, batches: list[Batch], fate: Fate) -> None:
        if fate is Fate.FORGOTTEN:
            self._just_ended += batches
        else:
            self._just_ended = []
        for batch in batches:
            batch.settle(fate)

    def _dropped(self) -> None:
        # A finalizer can run inside any line of any thread: it only takes a note.
        for _, batch in self._open:
            batch.settle(Fate.FORGOTTEN)


def _innermost(session: Session) -> SessionTransaction:
    """The savepoint, or else the transaction, that a row written now belongs to."""
    found = session.get_nested_transaction() or session.get_transaction()
    assert found is not None  # called only where the session has used a connection
    return found
