"""Which engine a value of ``DEFERRED_MAIL_DISPATCH`` means."""

from __future__ import annotations

from ..settings import Settings
from .base import App, Engine


def engine_for(app: App, settings: Settings) -> Engine | None:
    """The engine of this app; ``None``: this process, or nobody, sends.

    Imports the library of the engine, which an application without engines does not have.
    """
    word = settings.dispatch
    if word == "celery":
        from .celery import CeleryEngine

        return CeleryEngine(app)
    if word == "rq":
        from .rq import RQEngine

        return RQEngine(app, settings.rq)
    if ":" in word:
        from .named import NamedEngine

        return NamedEngine(word)
    return None
