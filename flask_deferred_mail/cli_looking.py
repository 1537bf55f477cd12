"""Commands that look, and change nothing."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import click
from flask.cli import ScriptInfo

from . import cli_output as output
from . import explanation
from .address import parse_address
from .app_mail import AppMail
from .cleaning import clean
from .cli_command import (
    EXIT_FAULT,
    EXIT_USAGE,
    Amount,
    command,
    id_argument,
    json_option,
    leave,
    print_json,
    say,
    warn,
)
from .doctor import Patient, examine
from .doctor_dns import Lookup, NoAnswer, examine_dns, keys_of
from .errors import StoreError
from .event_output import event_lines, event_objects
from .explanation import Evidence
from .finding import Finding, Level
from .job import JobStatus
from .store.inspection import Inspection
from .store.sightings import Sightings
from .transport_report import transport_reports

#: Most mails that `list` shows.
MOST_LISTED = 1_000_000


@command("status")
@json_option
@click.option(
    "--max-age",
    type=Amount(min=0),
    metavar="SECONDS",
    help="Exit with 2 if due mail is older than this.",
)
@click.option(
    "--max-pending",
    type=click.IntRange(min=0),
    metavar="N",
    help="Exit with 2 if more mails than this are pending.",
)
def status(mail: AppMail, as_json: bool, max_age: float | None, max_pending: int | None) -> None:
    """How many mails stand where, and how old the backlog is.

    The age counts from a mail's first due time: retries and resting transports do not hide an
    outage.

    \b
    Examples:
      flask --app myapp mail status
      flask --app myapp mail status --max-age 900 --max-pending 1000   # for a monitor
    """
    reports = mail.runtime.reports
    backlog = reports.backlog()
    if as_json:
        print_json(output.status_object(backlog))
    else:
        say(*output.status_lines(backlog, reports.last_seen("sweep"), time.time()))
        if workers := Sightings(mail.runtime.database).workers():
            say(f"workers     {output.workers_words(workers)}")
    if passed := output.limits_passed(backlog, max_age, max_pending):
        warn(*passed)
        leave(EXIT_USAGE)


@command("list")
@click.option("--status", type=click.Choice([s.value for s in JobStatus]), help="Only these.")
@click.option("--to", metavar="ADDRESS", help="Only mail with this recipient (to, cc or bcc).")
@click.option("--key", help="Only mail recorded under this key.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_LISTED),
    default=50,
    metavar="N",
    show_default=True,
    help="The newest so many.",
)
@json_option
def list_(
    mail: AppMail, status: str | None, to: str | None, key: str | None, limit: int, as_json: bool
) -> None:
    """The newest mails.

    \b
    Examples:
      flask --app myapp mail list --status held
      flask --app myapp mail list --to ann@example.com --limit 10 --json
    """
    jobs = mail.runtime.reports.listing(
        status=JobStatus(status) if status else None,
        to=parse_address(to, "--to").email if to else None,
        key=key,
        limit=limit,
    )
    if as_json:
        print_json([output.job_object(job) for job in jobs])
    elif jobs:
        say(*output.job_table(jobs))
    else:
        warn("no such mail")


@command("show")
@id_argument
@json_option
def show(mail: AppMail, id_: int, as_json: bool) -> None:
    """One mail with recipients, attempts and reported events.

    \b
    Examples:
      flask --app myapp mail show 17
      flask --app myapp mail show 17 --json
    """
    with suppress(StoreError):  # who may only read, sees what is there
        mail.runtime.tracking.look_again()
    job = mail.runtime.jobs.get(id_)
    attempts = mail.runtime.reports.attempts(id_)
    emptied = mail.runtime.reports.emptied(id_)
    events = mail.runtime.tracking.of(id_)
    if as_json:
        shown = output.show_object(job, attempts, emptied)
        print_json({**shown, "events": event_objects(events)})
    else:
        say(*output.show_lines(job, attempts, emptied), *event_lines(events))


@command("explain")
@id_argument
def explain(mail: AppMail, id_: int) -> None:
    """Why a mail is, or is not, out: every reason that holds now.

    \b
    Example:
      flask --app myapp mail explain 17
    """
    runtime = mail.runtime
    standing = Inspection(runtime.database).standing(id_)
    evidence = Evidence(
        standing=standing,
        attempts=runtime.reports.attempts(id_),
        settings=mail.settings,
        transport=runtime.states.all().get(standing.job.transport),
        sweep=runtime.reports.last_seen("sweep"),
        suppressed=mail.suppressed,
        now=datetime.now(UTC),
        ways=tuple(
            report
            for report in transport_reports(runtime)
            if standing.job.transport in (report.name, report.member_of)
        ),
    )
    say(
        f"mail {id_} to {output.recipients_words(standing.job)} is {standing.job.status.value}",
        *(f"  {sentence}" for sentence in explanation.explain(evidence)),
    )


@command("doctor")
@json_option
@click.option("--dns", is_flag=True, help="Ask DNS for SPF, DKIM, DMARC and MX too.")
@click.option("--nameserver", metavar="ADDRESS[:PORT]", help="With --dns: whom to ask.")
def doctor(mail: AppMail, as_json: bool, dns: bool, nameserver: str | None) -> None:
    """Look whether everything is set up.

    Goes through settings, database, transports and sweep. Connects to each transport's server, with
    TLS and login, and sends nothing. Each line is ok, warn or FAIL, with what to do. Exits with 0
    if nothing is FAIL, else with 3.

    \b
    Examples:
      flask --app myapp mail doctor
      flask --app myapp mail doctor --json
      flask --app myapp mail doctor --dns          # what receivers find of the sender's domain
    """
    if nameserver is not None and not dns:
        raise click.UsageError("--nameserver is for --dns")
    patient = Patient(
        settings=mail.settings,
        runtime=mail.runtime,
        suppressed=mail.suppressed,
        wsgi_app=vars(mail.app).get("wsgi_app"),
        cron_line=_cron_line(),
        engine=mail.engine,
    )
    findings = []
    for finding in chain(examine(patient), _dns(mail, nameserver) if dns else ()):
        findings.append(finding)
        if not as_json:
            say(*output.finding_lines(finding))
    if as_json:
        print_json([output.finding_object(finding) for finding in findings])
    if any(finding.level is Level.FAIL for finding in findings):
        leave(EXIT_FAULT)


def _dns(mail: AppMail, nameserver: str | None) -> Iterator[Finding]:
    try:
        lookup = Lookup(nameserver)
    except ValueError:
        raise click.UsageError(
            f"--nameserver: {clean(nameserver or '')} is no IP address"
        ) from None
    except NoAnswer as trouble:
        yield Finding(Level.WARN, "dns", f"not looked at: {trouble}")
        return
    yield from examine_dns(mail.settings, keys_of(mail.runtime), lookup)


def _cron_line() -> str:
    """What to put into a crontab for the application that this command was called for."""
    info = click.get_current_context().find_object(ScriptInfo)
    app = info.app_import_path if info is not None and info.app_import_path else "myapp"
    here, flask = shlex.quote(os.getcwd()), shlex.quote(_flask_command())
    return clean(f"* * * * *  cd {here} && {flask} --app {shlex.quote(app)} mail sweep", 1_000)


def _flask_command() -> str:
    beside = Path(sys.executable).with_name("flask")
    return str(beside) if beside.exists() else "flask"
