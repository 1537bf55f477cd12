"""RQ: the numbers go to the queue in ``app.extensions["rq"]``, or to that of ``DEFERRED_MAIL_RQ``.

The job is :func:`flask_deferred_mail.tasks.deliver` by its name, which finds the Flask application
by itself. It has no time limit of RQ's: attempts have deadlines of their own, and an alarm between
the last byte and the answer would make a second mail of the first.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
import rq

from ..cleaning import clean
from ..errors import ConfigurationError
from ..finding import Finding, Level
from .base import App

#: What the worker calls.
JOB = "flask_deferred_mail.tasks.deliver"

#: Seconds for one step with Redis.
_PATIENCE = 5.0
#: Seconds for which RQ keeps a job that failed (its application could not be made).
_FAILURES_KEPT = 86_400


class RQEngine:
    """Hands numbers to an RQ queue.

    :param url: of Redis, with ``?queue=NAME``; ``None``: the queue is the application's.
    """

    def __init__(self, app: App, url: str | None) -> None:
        self._app = weakref.ref(app)
        self._url = url
        self._own: rq.Queue | None = None

    def ready(self) -> None:
        """:raises ConfigurationError: there is no queue."""
        self._queue()

    def dispatch(self, job_ids: list[int]) -> None:
        """Enqueue one job."""
        self._queue().enqueue_call(
            JOB, args=(job_ids,), timeout=-1, result_ttl=0, failure_ttl=_FAILURES_KEPT
        )

    def release(self) -> None:
        """Close the connection to Redis, if it is ours."""
        own, self._own = self._own, None
        if own is not None:
            own.connection.close()

    def examine(self) -> Iterator[Finding]:
        """Whether Redis answers, and somebody works on the queue."""
        try:
            queue = self._queue()
            workers = rq.Worker.count(queue=queue)
        except ConfigurationError as error:
            yield Finding(Level.FAIL, "engine", clean(str(error), 500))
        except Exception as error:  # noqa: BLE001 - an application's queue may raise anything
            yield Finding(
                Level.FAIL,
                "engine",
                f"RQ's Redis does not answer ({type(error).__name__})",
                "start it, or correct its URL; until then the sweep sends",
            )
        else:
            name = clean(queue.name, 60)
            yield Finding(
                Level.OK if workers else Level.WARN,
                "engine",
                f"RQ's queue {name!r} has {workers} worker{'s' * (workers != 1)}",
                "" if workers else f"start one: rq worker {name}; until then the sweep sends",
            )

    def _queue(self) -> Any:
        if self._url is not None:
            if self._own is None:
                self._own = _queue_at(self._url)
            return self._own
        app = self._app()
        found = {} if app is None else app.extensions
        # Flask-RQ and a plain queue are found under the first name, Flask-RQ2 under the second.
        for name in ("rq", "rq2"):
            queue = _queue_of(found.get(name))
            if queue is not None:
                return queue
        raise ConfigurationError(
            "DEFERRED_MAIL_DISPATCH is 'rq', and there is no queue: set DEFERRED_MAIL_RQ to "
            "'redis://host:6379/0?queue=default', or put an rq.Queue into app.extensions['rq']"
        )


def _queue_of(found: Any) -> Any:
    """The queue that an extension keeps, or is."""
    if isinstance(found, rq.Queue):
        return found
    with suppress(AttributeError):
        return found.get_queue()
    return None


def _queue_at(url: str) -> rq.Queue:
    """The queue of a URL like ``redis://host:6379/0?queue=mail``."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    name = options.pop("queue", "default")
    connection = redis.Redis.from_url(
        parts._replace(query=urlencode(options)).geturl(),
        socket_timeout=_PATIENCE,
        socket_connect_timeout=_PATIENCE,
    )
    return rq.Queue(name, connection=connection)
