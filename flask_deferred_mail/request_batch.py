"""The mails of one request, sent or handed over together when its response is closed."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from .delivery.runtime import Runtime


class RequestBatch:
    """One callable for all of them: they share a time budget, or the messages of an engine."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.job_ids: list[int] = []

    def __call__(self) -> None:
        if self.runtime.handover is not None:
            self.runtime.handover.ring(self.job_ids)
        else:
            apart(self.runtime.deliver_inline, self.job_ids)


def schedule_together(hook: list[Any], runtime: Runtime, job_id: int) -> None:
    """Have a mail sent, with others of its request and app, when the response is closed."""
    # Looked for in the list that will be run, so that a batch that has run takes no more mail.
    mine = (c for c in hook if isinstance(c, RequestBatch) and c.runtime is runtime)
    batch = next(mine, None)
    if batch is None:
        batch = RequestBatch(runtime)
        hook.append(batch)
    batch.job_ids.append(job_id)


def apart(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run something away from the request: receivers and transports must not see one by chance.

    In a sender thread there is none; in the view, an app context pushed on top would not hide it.
    """
    return contextvars.Context().run(work, *args, **kwargs)
