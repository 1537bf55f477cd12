"""What an engine is: somebody who takes numbers of jobs and has them delivered somewhere.

The row stays the only truth. A message that is lost, late, doubled or nonsense changes nothing:
who gets it asks the database for the mail, and the lease decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ..finding import Finding


class App(Protocol):
    """The part of a Flask application in which engines look for their own."""

    @property
    def extensions(self) -> dict[str, Any]: ...


class Engine(Protocol):
    """One way to hand mail over."""

    def ready(self) -> None:
        """Look, without asking anybody, whether the application has what is needed.

        :raises ConfigurationError: it has not; says what to set.
        """

    def dispatch(self, job_ids: list[int]) -> None:
        """Put one message with these numbers into the queue. May block; whatever is raised is
        logged, and the mail left to the sweep."""

    def release(self) -> None:
        """Let go of what :meth:`dispatch` keeps open for the calling thread."""

    def examine(self) -> Iterator[Finding]:
        """What ``doctor`` is to know; asks the broker, which may be down."""
