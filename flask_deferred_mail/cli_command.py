"""What all commands have in common: how they find the app, how they print, how they end.

Errors go to stderr, what was asked for to stdout; with ``--json`` nothing else is there.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any, NoReturn

import click
from flask import current_app
from flask.cli import ScriptInfo

from . import cli_output as output
from .app_mail import AppMail
from .errors import (
    ConfigurationError,
    IllegalTransition,
    JobNotFound,
    MessageError,
    NotYetAvailable,
    StoreError,
)

EXTENSION = "deferred_mail"

#: Done; of a sweep also when single mails failed.
EXIT_OK = 0
#: A mail failed, where that was to be told (``sweep --fail-on-error``, ``test``).
EXIT_MAIL_FAILED = 1
#: Wrong usage, a mail that is not there or cannot be changed so, or a limit passed.
EXIT_USAGE = 2
#: The configuration or the database is at fault.
EXIT_FAULT = 3


class Fault(click.ClickException):
    """The configuration or the database is at fault."""

    exit_code = EXIT_FAULT


class Refused(click.ClickException):
    """What was asked for cannot be done."""

    exit_code = EXIT_USAGE


class Amount(click.FloatRange):
    """A number within bounds. ``nan`` is within none, though it compares as beyond none: asked to
    delete what is older than that many days, PostgreSQL would find everything older."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number.

        :raises click.BadParameter: it is none, or beyond the bounds.
        """
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command whose function gets the app's :class:`AppMail` first; errors become exit codes."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            with explained(), app_mail(quiet=bool(given.get("as_json"))) as mail:
                function(mail, **given)

        return click.command(name)(run)

    return decorate


@contextmanager
def explained() -> Iterator[None]:
    """Our exceptions as a text and an exit code, without a traceback."""
    try:
        yield
    except (ConfigurationError, NotYetAvailable, StoreError) as error:
        raise Fault(output.clean_lines(str(error))) from error
    except (JobNotFound, IllegalTransition, MessageError) as error:
        raise Refused(output.clean_lines(str(error))) from error


@contextmanager
def app_mail(*, quiet: bool = False) -> Iterator[AppMail]:
    """What the command's application has. ``quiet``: what the application prints goes to stderr.

    :raises ConfigurationError: it has no ``DeferredMail``, or cannot be made with its settings.
    """
    app: Any = current_app
    if not current_app:
        with clean_stdout(quiet):
            app = click.get_current_context().ensure_object(ScriptInfo).load_app()
    extension = app.extensions.get(EXTENSION)
    if extension is None:
        raise ConfigurationError(
            f"the application {app.name!r} has no DeferredMail: create one and call init_app(app)"
        )
    with app.app_context():
        yield extension.for_app()


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask, also on a terminal.")
ids_argument = click.argument("ids", metavar="[ID...]", type=click.IntRange(min=1), nargs=-1)
required_ids_argument = click.argument(
    "ids", metavar="ID...", type=click.IntRange(min=1), nargs=-1, required=True
)
id_argument = click.argument("id_", metavar="ID", type=click.IntRange(min=1))


def say(*lines: str) -> None:
    """Print lines of an answer."""
    for line in lines:
        click.echo(output.printable(line, sys.stdout.encoding))


def warn(*lines: str) -> None:
    """Print lines that are not the answer, to stderr."""
    for line in lines:
        click.echo(output.printable(line, sys.stderr.encoding), err=True)


def print_json(value: object) -> None:
    """Print the answer as one line of JSON."""
    click.echo(output.as_json(value, sys.stdout.encoding))


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)


def clean_stdout(wanted: bool) -> AbstractContextManager[Any]:
    """Send to stderr what others print: applications, ``console:``, receivers of signals."""
    return redirect_stdout(sys.stderr) if wanted else nullcontext()
