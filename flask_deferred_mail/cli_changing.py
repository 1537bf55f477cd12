"""Commands by which a person changes mail: ``retry``, ``cancel``, ``hold``, ``release``, ``purge``.

A change of several mails is one transaction per mail: what cannot be changed is told, and the rest
is done all the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import click

from . import cli_output as output
from .app_mail import AppMail
from .cleaning import clean
from .cli_command import (
    EXIT_USAGE,
    Amount,
    command,
    ids_argument,
    json_option,
    leave,
    print_json,
    required_ids_argument,
    say,
    warn,
    yes_option,
)
from .errors import IllegalTransition, JobNotFound
from .job import Job
from .store.purge import Purge
from .store.refusals import Refusals

_DAY = 86_400.0


@dataclass
class _Changes:
    """Several mails changed one after the other, and told of."""

    mail: AppMail
    #: For the question: "retry", "hold", ...
    verb: str
    change: Callable[[int], Job]
    as_json: bool
    done: list[Job] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def run(self, ids: Iterable[int], *, yes: bool, skip_illegal: bool = False) -> None:
        """Ask if that is wanted, change each mail, and end the command.

        ``skip_illegal``: nobody named these ids, so one that needs no change is no fault.
        """
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            warn(f"no mail to {self.verb}")
        elif not self._agreed(len(wanted), yes):
            warn("nothing was changed")
            wanted = []
        try:
            for job_id in wanted:
                self._one(job_id, skip_illegal)
        finally:
            # Also when the database fails halfway: what is done is told.
            if self.as_json:
                print_json([output.job_object(job) for job in self.done])
        if self.faults:
            leave(EXIT_USAGE)

    def _agreed(self, number: int, yes: bool) -> bool:
        """Whether to go on; only a person at a terminal is asked."""
        if yes or number < 2 or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        return click.confirm(f"{self.verb} {number} mails?", err=True)

    def _one(self, job_id: int, skip_illegal: bool) -> None:
        try:
            before = self.mail.runtime.jobs.get(job_id)
            after = self.change(job_id)
        except (JobNotFound, IllegalTransition) as error:
            if not (skip_illegal and isinstance(error, IllegalTransition)):
                self.faults.append(str(error))
                warn(f"Error: {clean(str(error))}")
            return
        self.done.append(after)
        if not self.as_json:
            say(output.changed_line(before, after))


@command("retry")
@ids_argument
@click.option("--failed", is_flag=True, help="Every mail that is failed or partial.")
@yes_option
@json_option
def retry(mail: AppMail, ids: tuple[int, ...], failed: bool, yes: bool, as_json: bool) -> None:
    """Try rejected, failed and suppressed recipients once more.

    They get a fresh budget of attempts, and the mail leaves with the next sweep. Those who have it
    never get it a second time, and those still on the suppression list are left out again.

    \b
    Examples:
      flask --app myapp mail retry 17 18
      flask --app myapp mail retry --failed --yes
    """
    if failed == bool(ids):
        raise click.UsageError("give either the ids of mails, or --failed")
    changes = mail.runtime.changes
    wanted = changes.failed_ids() if failed else ids
    _Changes(mail, "retry", changes.retry, as_json).run(wanted, yes=yes, skip_illegal=failed)


@command("cancel")
@ids_argument
@click.option("--key", help="The mail recorded under this key.")
@yes_option
@json_option
def cancel(mail: AppMail, ids: tuple[int, ...], key: str | None, yes: bool, as_json: bool) -> None:
    """End mail that has not been sent. What is being sent at this moment is refused.

    \b
    Examples:
      flask --app myapp mail cancel 20
      flask --app myapp mail cancel --key invoice-4711
    """
    if (key is not None) == bool(ids):
        raise click.UsageError("give either the ids of mails, or --key")
    if key is not None:
        job = mail.runtime.jobs.find(key)
        if job is None:
            raise JobNotFound(f"there is no mail with the key {clean(key)!r}")
        ids = (job.id,)
    _Changes(mail, "cancel", mail.runtime.changes.cancel, as_json).run(ids, yes=yes)


@command("hold")
@required_ids_argument
@yes_option
@json_option
def hold(mail: AppMail, ids: tuple[int, ...], yes: bool, as_json: bool) -> None:
    """Keep pending mail back until it is released.

    \b
    Example:
      flask --app myapp mail hold 19
    """
    _Changes(mail, "hold", mail.runtime.changes.hold, as_json).run(ids, yes=yes)


@command("release")
@required_ids_argument
@click.option("--as-sent", is_flag=True, help="It has arrived: end it as sent, without sending.")
@yes_option
@json_option
def release(mail: AppMail, ids: tuple[int, ...], as_sent: bool, yes: bool, as_json: bool) -> None:
    """Let held mail go.

    A mail is held by hand, or because nobody can know whether it arrived: then look into the
    server's log for its Message-ID (`flask mail show ID`) before you choose.

    \b
    Examples:
      flask --app myapp mail release 17             # it did not arrive: send it
      flask --app myapp mail release 17 --as-sent   # it did
    """
    change = functools.partial(mail.runtime.changes.release, as_sent=as_sent)
    verb = "end as sent" if as_sent else "release"
    _Changes(mail, verb, change, as_json).run(ids, yes=yes)


@command("purge")
@click.option(
    "--days",
    type=Amount(min=0),
    metavar="N",
    help="Delete mails that ended longer ago than this.",
)
@click.option(
    "--bodies-days",
    type=Amount(min=0),
    metavar="N",
    help="Delete body and attachments of mails that ended longer ago than this.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 5_000),
    default=500,
    show_default=True,
    metavar="N",
    help="Mails per transaction.",
)
def purge(mail: AppMail, days: float | None, bodies_days: float | None, batch: int) -> None:
    """Delete ended mail, or only its content. Held mail is never deleted.

    With --days, mails go with their attempts and attachments; a key of a deleted mail is free
    again. With --bodies-days, only body and attachments go: who got what and when stays, and such a
    mail cannot be retried. Small transactions, so that nobody who records mail has to wait long.

    \b
    Examples:
      30 4 * * *  cd /srv/myapp && .venv/bin/flask --app myapp mail purge --days 90
      flask --app myapp mail purge --days 365 --bodies-days 7
    """
    if days is None and bodies_days is None:
        raise click.UsageError("give --days, --bodies-days or both")
    purge = Purge(mail.runtime.database)
    if days is not None:
        number = purge.older_than(days * _DAY, batch)
        say(f"{output.counted(number, 'mail')} deleted")
        suppressions = mail.runtime.suppressions
        Refusals(suppressions).forget_old()
        if expired := suppressions.drop_expired():
            say(f"{expired} expired on the suppression list deleted")
    if bodies_days is not None:
        number = purge.empty_older_than(bodies_days * _DAY, batch)
        say(f"content of {output.counted(number, 'mail')} deleted")
