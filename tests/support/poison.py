"""A transport that a mail's subject can break: crashes, endless loops, exceptions of any class.

``poison://host:port`` is an ordinary SMTP transport for every subject but these:

``kill``, ``exit``
    the process ends, as by the out-of-memory killer, or as by a fault in an extension module;
``loop``
    the call stands still, computing, until :func:`end_loops` (then it tries to hand over);
``raise NAME``, ``late NAME``
    the exception of that name is raised, before the hand-over or after it.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import NoReturn

from flask_deferred_mail.outcome import Outcome
from flask_deferred_mail.transports.base import Call, Transport
from flask_deferred_mail.transports.schemes import SCHEMES, Plan, Scheme
from flask_deferred_mail.transports.smtp import SmtpTransport


class Undreamt(BaseException):
    """An exception class that nobody expects."""


EXCEPTIONS: dict[str, type[BaseException]] = {
    error.__name__: error
    for error in (
        ValueError,
        MemoryError,
        RecursionError,
        StopIteration,
        TimeoutError,
        UnicodeError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        Undreamt,
    )
}

_loops_end = threading.Event()
#: One entry per loop that was ended: what its hand-over came to.
after_loops: list[BaseException | None] = []


def end_loops() -> None:
    """Let every call that stands still go on, and later ones too."""
    _loops_end.set()


def allow_loops() -> None:
    """Let calls stand still from now on."""
    _loops_end.clear()
    after_loops.clear()


class PoisonTransport(SmtpTransport):
    """SMTP, unless the subject says otherwise."""

    def send(self, call: Call) -> Outcome:
        word, _, name = call.letter.subject.partition(" ")
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "exit":
            os._exit(139)
        elif word == "loop":
            _stand_still(call)
        elif word in ("raise", "late"):
            _raise(EXCEPTIONS[name], call if word == "late" else None)
        return super().send(call)


def _raise(error: type[BaseException], handed_over: Call | None) -> NoReturn:
    if handed_over is not None:
        handed_over.hand_over()
    raise error("the mail is poisoned")


def _stand_still(call: Call) -> None:
    while not _loops_end.is_set():
        sum(range(1000))
    try:
        call.hand_over()
    except BaseException as error:
        after_loops.append(error)
        raise
    after_loops.append(None)


def _build(plan: Plan) -> Transport:
    port = plan.url.port or 25
    return PoisonTransport(plan.name, plan.url.host, port, tls="none", timeout=plan.timeout)


def register() -> None:
    """Make ``poison:`` a scheme of this process."""
    SCHEMES["poison"] = Scheme(_build, "host")
