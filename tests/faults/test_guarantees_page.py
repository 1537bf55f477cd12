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


def test_every_row_of_section_a_is_there() -> None:
    """Each fault of a killed process has its line."""
    assert [f"A{n}" for n in range(1, 21)] == re.findall(r"^\| (A\d+) \|", PAGE, re.MULTILINE)
