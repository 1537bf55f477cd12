"""``flask mail ...`` (also ``flask deferred-mail ...``): all commands, in the order of the help.

Each command parses, calls one function and prints. They are in ``cli_sending``, ``cli_worker``,
``cli_looking``, ``cli_changing``, ``cli_transports``, ``cli_suppress`` and ``cli_tables``; what
they have in common is in ``cli_command``.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

#: In the order of the help, what is used most first: where each command is, and its name there.
_PLACES = {
    "sweep": ("cli_sending", "sweep"),
    "worker": ("cli_worker", "worker"),
    "status": ("cli_looking", "status"),
    "list": ("cli_looking", "list_"),
    "show": ("cli_looking", "show"),
    "explain": ("cli_looking", "explain"),
    "retry": ("cli_changing", "retry"),
    "cancel": ("cli_changing", "cancel"),
    "hold": ("cli_changing", "hold"),
    "release": ("cli_changing", "release"),
    "purge": ("cli_changing", "purge"),
    "doctor": ("cli_looking", "doctor"),
    "test": ("cli_sending", "test"),
    "transports": ("cli_transports", "transports"),
    "suppress": ("cli_suppress", "suppress"),
    "init-db": ("cli_tables", "init_db"),
    "upgrade-db": ("cli_tables", "upgrade_db"),
}


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name, each imported when it is asked for.

    A worker runs for weeks, and holds a megabyte less without the others.
    """

    def __init__(self) -> None:
        self._found: dict[str, click.Command | None] = dict.fromkeys(_PLACES)

    def __getitem__(self, name: str) -> click.Command:
        command = self._found[name]
        if command is None:
            module, attribute = _PLACES[name]
            command = getattr(import_module(f".{module}", __package__), attribute)
            assert isinstance(command, click.Command)
            self._found[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class _InOrder(click.Group):
    """Commands in the order in which they were added: what is used most comes first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group("mail", cls=_InOrder, commands=_Commands())
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
