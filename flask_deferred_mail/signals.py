"""Every signal that we send, and how a failing receiver is contained.

The sender of each signal is the Flask application *object* (not ``current_app``, which is a
proxy), so ``mail_failed.connect(receiver, sender=app)`` hears of one app only. Receivers run in a
fresh app context without a request, after what they are told of has been committed; what they
raise changes nothing: the mail's outcome is in its row already.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from blinker import Namespace, Signal

logger = logging.getLogger(__name__)

_namespace = Namespace()

mail_queued = _namespace.signal(
    "mail-queued",
    doc="A mail was recorded and its row committed. ``job=``.",
)
mail_attempted = _namespace.signal(
    "mail-attempted",
    doc="One attempt has ended, however it went, and is committed. ``job=``, ``attempt=``.",
)
email_dispatched = _namespace.signal(
    "email-dispatched",
    doc="Flask-Mail's signal: a server accepted the mail for at least one recipient. "
    "``job=``, ``message=``.",
)
mail_retry_scheduled = _namespace.signal(
    "mail-retry-scheduled",
    doc="An attempt left recipients open; ``job.next_attempt_at`` says when the next is due. "
    "``job=``.",
)
mail_failed = _namespace.signal(
    "mail-failed",
    doc="The job ended without reaching everybody (``failed``, ``partial`` or ``expired``). "
    "``job=``.",
)
mail_held = _namespace.signal(
    "mail-held",
    doc="The job waits for a person, usually because its outcome is unknown. ``job=``.",
)
mail_tracking = _namespace.signal(
    "mail-tracking",
    doc="A provider reported what became of a recipient later on. ``job=``, ``event=``.",
)
mail_backlog = _namespace.signal(
    "mail-backlog",
    doc="Due rows are old and no sweeper has been seen. ``job=``: the oldest of them.",
)


def send(signal: Signal, sender: Any, /, **kwargs: Any) -> None:
    """Call every receiver of ``signal`` on its own; one that raises is logged and passed over.

    Only :class:`Exception` is contained: ``SystemExit``, ``KeyboardInterrupt`` and what gevent
    throws into a greenlet mean the process, not the receiver, and pass. The order of receivers is
    undefined, as everywhere in blinker.
    """
    if not signal.receivers or signal.is_muted:
        return
    # A tuple, because a receiver may connect or disconnect others while it runs.
    for receiver in tuple(signal.receivers_for(sender)):
        try:
            _callable(receiver, sender)(sender, **kwargs)
        except Exception:
            # A stranger's code: whatever it raises, the mail's story goes on.
            logger.exception(
                "receiver %s of the signal %s raised; the mail is not affected",
                _name(receiver),
                getattr(signal, "name", "?"),
            )


def _callable(receiver: Callable[..., Any], sender: Any) -> Callable[..., Any]:
    """The receiver as a plain function; an ``async def`` one through the app, as Flask does."""
    if not inspect.iscoroutinefunction(receiver):
        return receiver
    ensure_sync: Callable[..., Callable[..., Any]] | None = getattr(sender, "ensure_sync", None)
    if ensure_sync is None:
        raise TypeError("an async receiver needs a Flask app as the sender of the signal")
    return ensure_sync(receiver)


def _name(receiver: Callable[..., Any]) -> str:
    module = getattr(receiver, "__module__", None) or "?"
    name = getattr(receiver, "__qualname__", None) or type(receiver).__qualname__
    return f"{module}.{name}"
