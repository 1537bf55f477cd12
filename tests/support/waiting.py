"""Wait for a condition, with a deadline: the only place where tests sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, message: str = "") -> T:
    """Return the first truthy answer of ``predicate``; fail when ``timeout`` seconds are over."""
    end = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(message or f"not so within {timeout} s (last answer: {answer!r})")
        time.sleep(0.01)
