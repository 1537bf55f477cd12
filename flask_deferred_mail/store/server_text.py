"""Statements of the hot path for the drivers of servers: compiled once, as :mod:`.prepared` has it.

On a server SQLAlchemy's share of a statement's CPU is as large as the driver's and the network's
together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ServerText:
    """SQL as a server's driver takes it, and its parameters."""

    def __init__(self, compiled: Any) -> None:
        self.sql = str(compiled)
        #: The order of the values, for a driver that does not take them by name as psycopg does.
        self._order: list[str] | None = compiled.positiontup
        self._names = tuple(compiled.params)
        #: What a parameter is if nobody gives a value.
        self._constants = {
            name: compiled.binds[name].effective_value
            for name in self._names
            if not compiled.binds[name].required
        }

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
        """The values as the driver takes them.

        :raises TypeError: one is missing.
        """
        given = {**self._constants, **values}
        try:
            if self._order is None:
                return {name: given[name] for name in self._names}
            return [given[name] for name in self._order]
        except KeyError as error:
            raise TypeError(f"no value for {error.args[0]}") from None
