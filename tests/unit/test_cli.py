"""cli.py: every command has help with worked examples, and the reference says the same.

``python tests/unit/test_cli.py`` writes ``docs/reference/command-line.md`` anew.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from flask_deferred_mail.cli import mail_group

PAGE = Path(__file__).parents[2] / "docs/reference/command-line.md"
COMMANDS = {
    *("sweep", "worker", "status", "list", "show", "explain", "retry", "cancel", "hold"),
    *("init-db", "upgrade-db", "release", "purge", "doctor", "test"),
    *("transports", "transports pause", "transports resume"),
    *("suppress", "suppress add", "suppress list", "suppress remove"),
    *("suppress import", "suppress export"),
}
OPTIONS = {
    "sweep": {"--limit", "--concurrency", "--wait", "--fail-on-error", "--json"},
    "worker": {"--processes", "--concurrency", "--max-jobs", "--max-seconds", "--max-memory"},
    "status": {"--json", "--max-age", "--max-pending"},
    "list": {"--status", "--to", "--key", "--limit", "--json"},
    "show": {"--json"},
    "retry": {"--failed", "--yes", "--json"},
    "cancel": {"--key", "--yes", "--json"},
    "hold": {"--yes", "--json"},
    "release": {"--as-sent", "--yes", "--json"},
    "purge": {"--days", "--bodies-days", "--batch"},
    "transports": {"--json"},
    "transports pause": {"--json"},
    "transports resume": {"--json"},
    "suppress add": {"--reason", "--expires", "--domain", "--tenant", "--tag", "--json"},
    "suppress list": {"--address", "--after", "--limit", "--json"},
    "suppress remove": {"--reason", "--domain", "--tenant", "--tag", "--json"},
    "suppress import": {"--reason", "--domain", "--tenant", "--json"},
    "suppress export": {"--json"},
}
#: What stands above it in the page is written by hand.
MARK = "<!-- From here on: what --help says. Made by tests/unit/test_cli.py. -->\n"


def _walk(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    """Every command by its words, those of groups behind their group."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[prefix + name] = command
        if isinstance(command, click.Group):
            found |= _walk(command, f"{prefix}{name} ")
    return found


ALL = _walk(mail_group)


def help_of(command: click.Command, name: str) -> str:
    """What ``--help`` prints, for a terminal of a fixed width."""
    words = f"flask mail {name}".strip()
    context = click.Context(command, info_name=words, max_content_width=80, terminal_width=80)
    return command.get_help(context).rstrip()


def reference() -> str:
    """The page, as it follows from the commands."""
    by_hand = PAGE.read_text().partition(MARK)[0]
    parts = [by_hand, MARK, f"\n```text\n{help_of(mail_group, '')}\n```\n"]
    for name, command in ALL.items():
        parts.append(f"\n## {name}\n\n```text\n{help_of(command, name)}\n```\n")
    return "".join(parts)


def examples(command: click.Command) -> list[str]:
    """The command lines that its help shows."""
    return re.findall(r"flask --app \S+ mail (.*?)(?:\s+#.*)?$", command.help or "", re.MULTILINE)


def test_the_reference_is_what_help_says():
    """The page is made from the commands; `python tests/unit/test_cli.py` does it."""
    assert PAGE.read_text() == reference()


def test_every_command_of_the_contract_is_there():
    """Those of this release, and those that are refused until their own."""
    assert set(ALL) == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_examples_that_parse(name):
    """A worked example names the command itself and would be accepted."""
    command = ALL[name]
    shown = examples(command)
    assert shown
    for line in shown:
        words, given = name.split(), shlex.split(line)
        assert given[: len(words)] == words
        command.make_context(name, given[len(words) :])


def test_what_is_no_number_is_within_no_bounds():
    """`nan` is below no bound and above none, and nothing would ever be older than that."""
    numbers = {
        f"{name} {option.opts[0]}": option
        for name, command in ALL.items()
        for option in command.params
        if isinstance(option.type, click.types._NumberRangeBase)
    }
    assert {"sweep --wait", "worker --grace", "purge --days", "suppress add --expires"} <= set(
        numbers
    )
    for option in numbers.values():
        with pytest.raises(click.BadParameter):
            option.type.convert("nan", option, None)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_what_it_does(name):
    """No option without a help text, and the contract's options are all there."""
    options = [p for p in ALL[name].params if isinstance(p, click.Option)]
    assert all(option.help for option in options)
    assert OPTIONS.get(name, set()) <= {opt for option in options for opt in option.opts}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_list_of_commands_says_each_in_a_whole_sentence(name):
    """The first sentence of the help fits into one line of the list."""
    assert not ALL[name].get_short_help_str(60).endswith("...")


if __name__ == "__main__":
    PAGE.write_text(reference())
