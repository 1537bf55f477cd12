"""``flask mail transports``: how they do; pause one, and let it go on."""

from __future__ import annotations

import getpass
import socket

import click

from .app_mail import AppMail
from .cleaning import clean
from .cli_command import Refused, app_mail, command, explained, json_option, print_json, say, warn
from .transport_report import transport_reports, words

#: As long as the tables have room for.
_LONGEST_NAME = 255


@click.group("transports", invoke_without_command=True)
@json_option
@click.pass_context
def transports(context: click.Context, as_json: bool) -> None:
    """How every transport does, and each member of a combined one.

    Whether it rests after a fault, is paused, and what is left of its limits. A paused transport
    sends nothing in any process until it is resumed: its mail waits, and loses no attempt.

    \b
    Examples:
      flask --app myapp mail transports
      flask --app myapp mail transports pause default
      flask --app myapp mail transports resume default
    """
    if context.invoked_subcommand is not None:
        return
    with explained(), app_mail(quiet=as_json) as mail:
        reports = list(transport_reports(mail.runtime))
    if as_json:
        print_json([report.as_dict() for report in reports])
        return
    if not reports:
        warn("no transport is configured")
    for report in reports:
        indent = "  " if report.member_of else ""
        say(f"{indent}{clean(report.name)} ({clean(report.kind)}): {words(report)}")


@command("pause")
@click.argument("name")
@json_option
def pause(mail: AppMail, name: str, as_json: bool) -> None:
    """Keep every process from sending by a transport.

    Also by a member of a combined one. It is obeyed within a second; what is being sent at this
    moment is finished.

    \b
    Example:
      flask --app myapp mail transports pause default
    """
    _must_exist(mail, name)
    changed = mail.runtime.states.pause(name, _who())
    _tell(name, "paused", changed, as_json)


@command("resume")
@click.argument("name")
@json_option
def resume(mail: AppMail, name: str, as_json: bool) -> None:
    """Let a paused transport send again.

    \b
    Example:
      flask --app myapp mail transports resume default
    """
    # Also one that is not configured any more: its pause would be met again when it is.
    if name not in mail.runtime.states.all():
        _must_exist(mail, name)
    changed = mail.runtime.states.resume(name)
    mail.runtime.bell.ring()
    _tell(name, "resumed", changed, as_json)


def _must_exist(mail: AppMail, name: str) -> None:
    names = [report.name for report in transport_reports(mail.runtime)]
    if name not in names:
        known = ", ".join(map(clean, names)) or "none"
        raise Refused(f"there is no transport {clean(name)!r}; there is {known}")


def _tell(name: str, done: str, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "changed": changed})
    elif changed:
        say(f"{clean(name)}: {done}")
    else:
        say(f"{clean(name)}: nothing to do, it is {'paused' if done == 'paused' else 'not paused'}")


def _who() -> str:
    """Who asks for it, for those who wonder later."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"  # a container whose user has no name
    return clean(f"{user}@{socket.gethostname()}")[:_LONGEST_NAME]


transports.add_command(pause)
transports.add_command(resume)
