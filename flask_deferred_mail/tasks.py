"""What a worker of somebody else's queue calls: ``deliver(job_ids)``.

For Celery and RQ the package does it; for any other queue, your task does.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from flask import Flask, current_app, has_app_context
from flask.cli import ScriptInfo

log = logging.getLogger("flask_deferred_mail")

#: The largest number that a row can have.
_LARGEST = 2**63 - 1

_lock = threading.Lock()
_loaded: list[Flask] = []


def deliver(job_ids: Any) -> None:
    """Deliver these mails now, as far as they are due and nobody else has them.

    Everything else changes nothing and raises nothing: numbers of mails that were sent, that are
    not due yet, or that do not exist, and what is no number at all.

    In an application context, that application's; else the one that ``flask`` would find, by the
    variable ``FLASK_APP`` or in ``app.py`` or ``wsgi.py``; it is made once per process.

    :raises flask.cli.NoAppException: there is no application.
    :raises RuntimeError: it has no ``DeferredMail``.
    """
    app: Flask = (
        current_app._get_current_object()  # type: ignore[attr-defined] # the proxy's own
        if has_app_context()
        else _application()
    )
    mail = app.extensions.get("deferred_mail")
    if mail is None:
        raise RuntimeError(f"the app {app.name!r} has no DeferredMail; call init_app first")
    numbers = _numbers(job_ids)
    if numbers:
        mail.for_app(app).deliver_handed(numbers)


def in_context() -> bool:
    """Whether an application context is there already."""
    return has_app_context()


def _numbers(given: Any) -> list[int]:
    items = given if isinstance(given, (list, tuple)) else [given]
    numbers = [n for n in items if type(n) is int and 0 < n <= _LARGEST]
    if len(numbers) < len(items):
        # Not shown: it came over the network, and nobody knows from whom.
        log.warning("a message held %d things that are no mail", len(items) - len(numbers))
    return list(dict.fromkeys(numbers))


def _application() -> Flask:
    """The application that ``flask`` would find; made once in each process."""
    with _lock:
        if not _loaded:
            _loaded.append(ScriptInfo(app_import_path=os.environ.get("FLASK_APP")).load_app())
        return _loaded[0]
