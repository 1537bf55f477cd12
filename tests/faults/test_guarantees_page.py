"""The page that says which test shows what: everything that it names must exist."""

from __future__ import annotations

import re

import pytest

from tests.support.web_server import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
REFERENCES = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "name"), REFERENCES)
def test_what_the_page_names_exists(file: str, name: str) -> None:
    """A test that was renamed or removed leaves no promise without proof."""
    path = ROOT / file if "/" in file else ROOT / "tests" / "faults" / file
    assert path.is_file()
    if name:
        assert re.search(rf"^(async )?def {name}\(", path.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("section", "rows"), [("A", 20), ("B", 5), ("C", 8)])
def test_every_row_of_these_sections_is_there(section: str, rows: int) -> None:
    """Each fault of a process, a lease, a clock or a database has its line."""
    found = set(re.findall(rf"^\| ({section}\d+) \|", PAGE, re.MULTILINE))
    assert found == {f"{section}{number}" for number in range(1, rows + 1)}
