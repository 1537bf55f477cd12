"""Calls that several threads make to one transport at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from flask_deferred_mail.outcome import Outcome
from flask_deferred_mail.transports.base import Call, Transport


def send_together(transport: Transport, calls: Iterable[Call]) -> list[Outcome | BaseException]:
    """Each call in a thread of its own; what came of them, in their order."""
    waiting = list(calls)
    found: dict[int, Outcome | BaseException] = {}

    def one(number: int, call: Call) -> None:
        try:
            found[number] = transport.send(call)
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in enumerate(waiting)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == len(waiting), "a call did not come back"
    return [found[number] for number in range(len(waiting))]
