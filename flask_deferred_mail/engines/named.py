"""Any other queue: ``DEFERRED_MAIL_DISPATCH = "package.module:function"``.

The function gets a list of numbers, puts them into its queue as one message, and whoever takes the
message calls :func:`flask_deferred_mail.tasks.deliver` with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from typing import Any

from ..cleaning import clean
from ..errors import ConfigurationError
from ..finding import Finding, Level


class NamedEngine:
    """A function of the application's. Imported at the first mail: it may import the app."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._function: Callable[[list[int]], Any] | None = None

    def ready(self) -> None:
        """:raises ConfigurationError: there is no such function."""
        self._load()

    def dispatch(self, job_ids: list[int]) -> None:
        """Call it."""
        self._load()(job_ids)

    def release(self) -> None:
        """Nothing is kept open here."""

    def examine(self) -> Iterator[Finding]:
        """Whether it is there. Its broker is its own business."""
        try:
            self._load()
        except ConfigurationError as error:
            yield Finding(Level.FAIL, "engine", clean(str(error), 500), "correct the setting")
        else:
            yield Finding(Level.OK, "engine", f"{self.name} can be called")

    def _load(self) -> Callable[[list[int]], Any]:
        if self._function is None:
            module, _, path = self.name.partition(":")
            try:
                found = attrgetter(path)(import_module(module))
            except (ImportError, AttributeError) as error:
                raise ConfigurationError(
                    f"DEFERRED_MAIL_DISPATCH names {self.name!r}, which cannot be had: {error}"
                ) from error
            found = getattr(found, "dispatch", found)
            if not callable(found):
                raise ConfigurationError(
                    f"DEFERRED_MAIL_DISPATCH names {self.name!r}, which is neither a function nor "
                    "an object with a method dispatch(job_ids)"
                )
            self._function = found
        return self._function
