"""Commands that send: ``sweep`` and ``test``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import click

from . import cli_output as output
from .app_mail import AppMail
from .cleaning import clean
from .cli_command import (
    EXIT_MAIL_FAILED,
    Amount,
    clean_stdout,
    command,
    json_option,
    leave,
    print_json,
    say,
    warn,
)
from .delivery.attempt import Delivered
from .delivery.sweep import Counts, Sweep
from .errors import IllegalTransition
from .job import Job, JobStatus
from .message import Message
from .settings import DEFAULT
from .stop_signals import stop_on_signal
from .store.inspection import Inspection

#: Most sender threads of a sweep; each needs a database connection of its own.
MOST_THREADS = 32


@command("sweep")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take at most so many mails."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, MOST_THREADS),
    default=4,
    metavar="N",
    show_default=True,
    help="Mails that are sent at the same time.",
)
@click.option(
    "--wait",
    type=Amount(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Go on for so long, as mails become due.",
)
@click.option(
    "--fail-on-error",
    is_flag=True,
    help="Exit with 1 if a mail ended without reaching everybody, or is held.",
)
@json_option
def sweep(
    mail: AppMail,
    limit: int | None,
    concurrency: int,
    wait: float,
    fail_on_error: bool,
    as_json: bool,
) -> None:
    """Send what is due now: one pass, for cron.

    Any number of sweeps may run at once; each mail is sent by one of them. The first TERM or INT
    finishes the mails in hand and gives the rest back, the second one leaves at once.

    \b
    Examples:
      * * * * *  cd /srv/myapp && .venv/bin/flask --app myapp mail sweep
      flask --app myapp mail sweep --wait 55 --json
      flask --app myapp mail sweep --limit 100 --concurrency 8 --fail-on-error
    """
    counts = Counts()
    if mail.suppressed:
        warn("sending is suppressed (MAIL_SUPPRESS_SEND, or TESTING): nothing was sent")
    else:
        with clean_stdout(as_json):
            counts = _swept(mail, limit, concurrency, wait, show=not as_json)
    if as_json:
        print_json(counts.as_dict())
    else:
        say(output.sweep_line(counts))
    if fail_on_error and any(counts.as_dict()[result] for result in output.ENDED_BADLY):
        leave(EXIT_MAIL_FAILED)


def _swept(
    mail: AppMail, limit: int | None, concurrency: int, wait: float, *, show: bool
) -> Counts:
    if not mail.settings.transports:
        mail.settings.require_transport()  # says what to set
    runtime, reasons = mail.runtime, dict[str, None]()
    progress = None
    if show and sys.stderr.isatty():
        due = runtime.reports.due()[0]
        progress = output.Progress(sys.stderr, min(due, limit or due))

    def on_result(delivered: Delivered) -> None:
        if delivered.result == "returned":
            reasons[clean(delivered.detail)] = None
        if progress is not None:
            progress.add(delivered.result)

    pass_ = runtime.sweep(concurrency, limit, on_result)
    try:
        with stop_on_signal(functools.partial(_stop, pass_)):
            counts = pass_.run(wait)
    finally:
        if progress is not None:
            progress.end()
        runtime.close_transports()
    warn(*(f"given back: {reason}" for reason in reasons if reason), *_resting(mail))
    return counts


def _stop(pass_: Sweep) -> None:
    warn("stopping: the mails in hand are finished, the rest is given back")
    pass_.stop()


def _resting(mail: AppMail) -> Iterator[str]:
    """Why mail is left although it is due."""
    states = {
        name: state
        for name, state in mail.runtime.states.all().items()
        if state.paused_at is not None or (state.failures and state.rests_for > 0)
    }
    waiting = Inspection(mail.runtime.database).waiting_by_transport() if states else {}
    for name, state in sorted(states.items()):
        if name not in waiting:
            continue
        if state.paused_at is not None:
            yield f"transport {clean(name)} is paused by {clean(state.paused_by or '?')}"
        else:
            yield (
                f"transport {clean(name)} rests for {output.duration(state.rests_for)}, its mail "
                f"waits: {clean(state.reason or '')}"
            )


@command("test")
@click.argument("address")
@click.option("--transport", default=DEFAULT, show_default=True, help="Name of the transport.")
@click.option("--sender", help="Who it is from, instead of MAIL_DEFAULT_SENDER.")
def test(mail: AppMail, address: str, transport: str, sender: str | None) -> None:
    """Send one real mail to ADDRESS now, and tell how it went.

    Also while the transport rests: if the mail is accepted, the rest is over. There is no second
    attempt. Exits with 0 if a server accepted the mail, else with 1.

    \b
    Examples:
      flask --app myapp mail test ann@example.com
      flask --app myapp mail test ann@example.com --transport bulk --sender news@example.com
    """
    mail.settings.require_transport(transport)
    if mail.suppressed:
        warn("sending is suppressed (MAIL_SUPPRESS_SEND, or TESTING): nothing was sent")
        leave(EXIT_MAIL_FAILED)
    job = mail.defer(_test_message(address, transport, sender), None)
    try:
        mail.runtime.deliver_now(job.id, cleared=True)
    finally:
        mail.runtime.close_transports()
    job = _ended(mail, job.id)
    attempts = mail.runtime.reports.attempts(job.id)
    accepted = job.status is JobStatus.SENT
    say(f"mail {job.id} to {clean(address)}: {'accepted' if accepted else 'not accepted'}")
    for entry in attempts:
        say(*(f"  {line}" for line in output.attempt_lines(entry)))
    if not accepted:
        warn(f"mail {job.id} is {job.status}: {clean(job.last_error or 'no reason is known')}")
        leave(EXIT_MAIL_FAILED)


def _test_message(address: str, transport: str, sender: str | None) -> Message:
    return Message(
        subject="Test of deferred mail",
        recipients=[address],
        body=f"This mail was asked for on the command line; it left by the transport {transport}.",
        sender=sender,
        transport=transport,
        priority="now",
        max_attempts=1,
        on_unknown="hold",
    )


def _ended(mail: AppMail, job_id: int) -> Job:
    """The mail after its one attempt; one that still waits would come as a surprise later."""
    job = mail.runtime.jobs.get(job_id)
    if job.status is not JobStatus.PENDING:
        return job
    try:
        return mail.runtime.changes.cancel(job_id)
    except IllegalTransition:  # another process has taken it in the meantime
        return mail.runtime.jobs.get(job_id)
