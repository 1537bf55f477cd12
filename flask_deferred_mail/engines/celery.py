"""Celery: the numbers go to the Celery application that Flask's own pattern keeps in
``app.extensions["celery"]``.

The task is a shared one: every Celery application of the process has it, made before or after
``init_app``. It acknowledges as the application likes: the row says what has been sent, so a
message that comes twice, or never, changes nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from celery import Celery, shared_task

from .. import tasks
from ..cleaning import clean
from ..errors import ConfigurationError
from ..finding import Finding, Level
from .base import App

#: The task's name in every worker, for ``task_routes`` and ``task_annotations``.
TASK = "flask_deferred_mail.deliver"

#: Seconds that ``doctor`` waits for the broker, and as many for the workers.
_LOOK = 3.0
#: Seconds for one step with the broker.
_PATIENCE = 5.0
#: A connection that the broker closed meanwhile is made again, once.
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
#: Seconds. Attempts have deadlines of their own; a worker's general limit, made for short tasks,
#: would end one between the last byte and the answer, and the mail would go out twice.
_NO_LIMIT = 86_400

_apps: weakref.WeakSet[Any] = weakref.WeakSet()


@shared_task(  # type: ignore[untyped-decorator] # Celery says nothing of types
    name=TASK,
    bind=True,
    ignore_result=True,
    soft_time_limit=_NO_LIMIT,
    time_limit=_NO_LIMIT + 60,
)
def _deliver(task: Any, job_ids: Any = None, *_: Any, **__: Any) -> None:
    """Deliver these mails, if they are due and nobody has them."""
    with _context_for(task.app):
        tasks.deliver(job_ids)


def _context_for(celery: Celery) -> Any:
    """The context of the Flask app that has this Celery app, where Celery's task has none."""
    if tasks.in_context():
        return nullcontext()
    for app in list(_apps):
        if app.extensions.get("celery") is celery:
            return app.app_context()
    return nullcontext()


class CeleryEngine:
    """Hands numbers to an app's Celery, over a connection of its own thread's."""

    def __init__(self, app: App) -> None:
        self._app = weakref.ref(app)
        # Per thread, and threads do not survive a fork: no connection is ever shared.
        self._mine = threading.local()
        _apps.add(app)

    def ready(self) -> None:
        """:raises ConfigurationError: the app has no Celery."""
        self._celery()

    def dispatch(self, job_ids: list[int]) -> None:
        """Publish one message."""
        celery = self._celery()
        try:
            celery.tasks[TASK].apply_async(
                args=[job_ids],
                producer=self._producer(celery),
                retry=True,
                retry_policy=_ONCE_MORE,
                ignore_result=True,
            )
        except BaseException:
            # Not in good order: nothing more is said to that broker.
            self._forget(lambda connection: connection.collect())
            raise

    def release(self) -> None:
        """Close this thread's connection."""
        self._forget(lambda connection: connection.release())

    def examine(self) -> Iterator[Finding]:
        """Whether the broker answers, and a worker that knows the task."""
        try:
            celery = self._celery()
        except ConfigurationError as error:
            yield Finding(Level.FAIL, "engine", clean(str(error), 500))
            return
        url = clean(_connection(celery).as_uri(), 200)
        try:
            with _connection(celery) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=_LOOK)
                registered = celery.control.inspect(
                    timeout=_LOOK, connection=connection
                ).registered()
        except Exception as error:  # noqa: BLE001 - whatever the broker's library raises
            yield Finding(
                Level.FAIL,
                "engine",
                clean(f"Celery's broker {url} does not answer ({type(error).__name__})", 500),
                "start it, or correct broker_url; until then the sweep sends",
            )
            return
        yield _workers(url, registered or {})

    def _celery(self) -> Celery:
        app = self._app()
        found = None if app is None else app.extensions.get("celery")
        if isinstance(found, Celery):
            return found
        raise ConfigurationError(
            "DEFERRED_MAIL_DISPATCH is 'celery', and app.extensions['celery'] holds no Celery "
            "application: put it there, as Flask's page about Celery shows"
        )

    def _forget(self, part: Callable[[Any], None]) -> None:
        connection = getattr(self._mine, "connection", None)
        self._mine.__dict__.clear()
        if connection is not None:
            part(connection)

    def _producer(self, celery: Celery) -> Any:
        if getattr(self._mine, "celery", None) is not celery:
            self._mine.connection = _connection(celery)
            self._mine.producer = celery.amqp.Producer(self._mine.connection)
            self._mine.celery = celery
        return self._mine.producer


def _connection(celery: Celery) -> Any:
    """A connection to the broker, not opened yet, that does not wait for ever."""
    connection = celery.connection_for_write(connect_timeout=_PATIENCE)
    kind = connection.transport_cls
    if kind in ("redis", "rediss"):
        ours: dict[str, Any] = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
    elif kind in ("amqp", "pyamqp", "amqps"):
        # Without confirmation a message into a dead connection would look like a sent one.
        ours = {"read_timeout": _PATIENCE, "write_timeout": _PATIENCE, "confirm_publish": True}
    else:
        ours = {}
    connection.transport_options = ours | connection.transport_options
    return connection


def _workers(url: str, registered: dict[str, list[str]]) -> Finding:
    # An entry may carry options behind the name: "name [rate_limit=...]".
    know = [n for n, names in registered.items() if any(x.split(" ")[0] == TASK for x in names)]
    if know:
        workers = "1 worker knows" if len(know) == 1 else f"{len(know)} workers know"
        return Finding(Level.OK, "engine", f"Celery's broker {url} answers, and {workers} the task")
    if registered:
        return Finding(
            Level.FAIL,
            "engine",
            f"Celery's workers do not know the task {TASK}",
            "make the Flask app, with this dispatch, where the worker's Celery app comes from",
        )
    return Finding(
        Level.WARN,
        "engine",
        f"Celery's broker {url} answers, and no worker does",
        "start one; until then the sweep sends",
    )
