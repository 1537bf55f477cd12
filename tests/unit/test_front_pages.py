"""README.md, docs/index.md, the quickstart and the example's page: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/index.md", "docs/quickstart.md", "example_app/README.md"]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
COMMAND = re.compile(r"`flask mail ([a-z-]+)")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    """Pages and tests that were renamed are renamed here too."""
    links = LINK.findall((ROOT / page).read_text())
    assert links
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_index_leaves_no_page_out():
    """A page that nothing leads to is read by nobody."""
    docs = ROOT / "docs"
    linked = {(docs / link).resolve() for link in LINK.findall((docs / "index.md").read_text())}
    pages = {page.resolve() for page in docs.rglob("*.md")} - {(docs / "index.md").resolve()}
    assert sorted(str(page.relative_to(docs)) for page in pages - linked) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_exists(page):
    """``flask mail`` has what the page says, and has it in this release."""
    from flask_deferred_mail.cli import mail_group

    for name in COMMAND.findall((ROOT / page).read_text()):
        command = mail_group.commands[name]
        assert "later release" not in (command.short_help or command.help or "")


def test_each_guarantee_names_a_test():
    """The README promises nothing that no test shows."""
    rows = re.findall(r"^\| \d \| .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 5
    assert all("](tests/" in row for row in rows)
