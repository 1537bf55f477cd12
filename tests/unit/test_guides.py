"""docs/: what a reader copies from the pages is what the package has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_deferred_mail.settings import KEYS, SERVER_KEYS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    page for folder in ("guides", "reference") for page in sorted((DOCS / folder).glob("*.md"))
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"flask --app (?:'[^']*'|\S+) (?:--debug )?mail ([^#|>;\"']+)")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")

page_by_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}"
)


def commands(page: Path) -> Iterator[str]:
    """Every ``flask mail`` command of the page, in blocks and in running text."""
    text = page.read_text()
    lines = [line for _, block in FENCED.findall(text) for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    for code in [*lines, *(" ".join(span.split()) for span in spans)]:
        for match in COMMAND.finditer(code):
            yield match[1].strip()


def anchors(page: Path) -> set[str]:
    """The fragments that the page's headings make."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages_and_they_show_commands():
    """Guards the tests below against finding nothing."""
    assert len(PAGES) > 10
    assert sum(1 for page in PAGES for _ in commands(page)) > 20


@page_by_page
def test_every_command_shown_parses(page):
    """Command, options and arguments are those of ``flask mail``; nothing is run."""
    from flask_deferred_mail.cli import mail_group

    for line in commands(page):
        name, *arguments = shlex.split(line)
        assert name in mail_group.commands, line
        mail_group.commands[name].make_context(name, arguments)


@page_by_page
def test_every_key_named_exists(page):
    """A key that a page tells of is one that settings.py knows."""
    known = {key.name for key in (*KEYS, *SERVER_KEYS)}
    named = set(re.findall(r"DEFERRED_MAIL_[A-Z]+(?:_[A-Z]+)*", page.read_text()))
    assert named <= known


@page_by_page
def test_every_python_block_compiles(page):
    """Examples are at least Python."""
    for language, block in FENCED.findall(page.read_text()):
        if language == "python":
            compile(block, page.name, "exec")


@page_by_page
def test_links_lead_somewhere(page):
    """Each relative link has its file, and its heading."""
    for path, fragment in LINK.findall(FENCED.sub("", page.read_text())):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not fragment or fragment in anchors(target), f"{path}#{fragment}"
