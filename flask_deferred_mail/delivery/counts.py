"""What a pass over the table came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Counts:
    """What a pass came to; ``claimed`` is the sum of the others."""

    claimed: int = 0
    sent: int = 0
    partial: int = 0
    retry: int = 0
    failed: int = 0
    held: int = 0
    expired: int = 0
    returned: int = 0

    def add(self, result: str) -> None:
        """Count one mail under how it went."""
        self.claimed += 1
        setattr(self, result, getattr(self, result) + 1)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
