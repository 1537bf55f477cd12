"""``flask mail ...`` (also ``flask deferred-mail ...``): all commands, in the order of the help.

Each command parses, calls one function and prints. They are in ``cli_sending``, ``cli_worker``,
``cli_looking``, ``cli_changing``, ``cli_transports``, ``cli_suppress`` and ``cli_tables``; what
they have in common is in ``cli_command``.
"""

from __future__ import annotations

import click

from .cli_changing import cancel, hold, purge, release, retry
from .cli_looking import doctor, explain, list_, show, status
from .cli_sending import sweep, test
from .cli_suppress import suppress
from .cli_tables import init_db, upgrade_db
from .cli_transports import transports
from .cli_worker import worker


class _InOrder(click.Group):
    """Commands in the order in which they were added: what is used most comes first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group("mail", cls=_InOrder)
def mail_group() -> None:
    """Send, look at and change recorded mail.

    Exit codes: 0 done; 1 a mail failed, where a command says so; 2 wrong usage, or a limit passed;
    3 the configuration or the database is at fault.

    \b
    Examples:
      flask --app myapp mail doctor               # is everything set up?
      flask --app myapp mail sweep                # send what is due (for cron)
      flask --app myapp mail list --status held   # what waits for a decision
    """


for _command in (
    sweep,
    worker,
    status,
    list_,
    show,
    explain,
    retry,
    cancel,
    hold,
    release,
    purge,
    doctor,
    test,
    transports,
    suppress,
    init_db,
    upgrade_db,
):
    mail_group.add_command(_command)
