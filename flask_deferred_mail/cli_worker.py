"""The command ``worker``: sends until it is told to stop."""

from __future__ import annotations

import logging
import os
import random
import sys

import click

from .app_mail import AppMail
from .cli_command import Amount, Refused, command, leave
from .delivery.supervisor import Post, Supervisor
from .delivery.worker import Duty, Limits, Worker
from .sd_notify import ServiceManager

log = logging.getLogger("flask_deferred_mail.worker")

#: Most sender threads of one process.
MOST_THREADS = 512
#: Most processes.
MOST_PROCESSES = 64
#: By how much of it a limit is lowered at most, so that not all processes end at the same time.
JITTER = 0.1


@command("worker")
@click.option(
    "--processes",
    type=click.IntRange(1, MOST_PROCESSES),
    default=1,
    metavar="P",
    show_default=True,
    help="Processes that send.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, MOST_THREADS),
    default=16,
    metavar="C",
    show_default=True,
    help="Mails that each process sends at the same time.",
)
@click.option(
    "--max-jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replace a process after so many mails.",
)
@click.option(
    "--max-seconds",
    type=Amount(min=0, min_open=True),
    metavar="S",
    help="Replace a process after so many seconds.",
)
@click.option(
    "--max-memory",
    type=click.IntRange(min=1),
    metavar="MB",
    help="Replace a process that holds more memory (MiB, resident).",
)
@click.option(
    "--grace",
    type=Amount(min=0),
    default=25,
    metavar="SECONDS",
    show_default=True,
    help="For the mail in hand, once told to stop.",
)
def worker(
    mail: AppMail,
    processes: int,
    concurrency: int,
    max_jobs: int | None,
    max_seconds: float | None,
    max_memory: int | None,
    grace: float,
) -> None:
    """Send what is due, as it becomes due, until told to stop.

    Any number of workers and sweeps may share the mail, on any number of hosts. With more than one
    process, or with a limit, a parent keeps that number: what crashes or has reached a limit is
    replaced. It logs to stderr unless the application has set up logging.

    TERM, INT: take nothing more, finish the mail in hand, give the rest back, exit with 0; a
    second one leaves at once. QUIT: give back what was not begun, and do not wait. HUP: replace
    all processes, one by one (a single process connects anew). New code needs a restart.

    \b
    Examples:
      flask --app myapp mail worker
      flask --app myapp mail worker --processes 4 --concurrency 32
      flask --app myapp mail worker --max-jobs 16000 --max-seconds 86400 --max-memory 300
    """
    if not mail.settings.transports and not mail.suppressed:
        mail.settings.require_transport()  # says what to set
    _log_to_stderr()
    limits = Limits(max_jobs, max_seconds, None if max_memory is None else max_memory * 2**20)
    manager = ServiceManager()
    log.info(
        "worker starts: processes=%d concurrency=%d, pid %d", processes, concurrency, os.getpid()
    )
    post = _supervised(processes, grace, manager) if processes > 1 or limits else None
    if processes > 1:
        limits = _spread(limits)
    duty = Duty(concurrency, grace, lambda: mail.suppressed, limits)
    Worker(mail.runtime, duty, None if post else manager, post).run()


def _supervised(processes: int, grace: float, manager: ServiceManager) -> Post | None:
    """Returns in a child, with its post; the parent ends here.

    ``None``: nothing can be forked here, and this one process does it all.
    """
    if not hasattr(os, "fork"):
        if processes > 1:
            raise Refused("this system cannot fork: start one worker for each process")
        return None
    outcome = Supervisor(processes, grace, manager).run()
    if isinstance(outcome, int):
        log.info("worker ends with %d", outcome)
        leave(outcome)
    return outcome


def _spread(limits: Limits) -> Limits:
    """Lower by chance, and never higher, in each process."""
    share = 1 - random.random() * JITTER
    return Limits(
        None if limits.jobs is None else max(1, round(limits.jobs * share)),
        None if limits.seconds is None else limits.seconds * share,
        limits.memory,
    )


def _log_to_stderr() -> None:
    """Where nobody has set up logging: warnings, and what the processes of the worker do."""
    ours = logging.getLogger("flask_deferred_mail")
    if ours.hasHandlers():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))
    ours.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
