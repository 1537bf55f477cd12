"""docs/quickstart.md: what a newcomer copies from it works, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


def python_blocks() -> list[str]:
    """The page's Python, top to bottom."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that ``shop.py`` defines, in an empty folder with the page's templates."""
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "welcome.subject.txt").write_text("Welcome, {{ name }}\n")
    (templates / "welcome.html").write_text("<p>Hello {{ name }}</p>")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(python_blocks()[0], names)
    names["app"].testing = True
    return names


def test_the_first_example_records_one_mail(shop):
    """The view answers, and its mail is in the instance folder."""
    answer = shop["app"].test_client().post("/register")
    assert answer.json == {"code": 0}
    with shop["app"].app_context():
        assert shop["mail"].get(1).status == "pending"
        assert [message.subject for message in shop["mail"].outbox] == ["Welcome"]
    assert Path("instance/deferred_mail.sqlite3").exists()


def test_the_further_examples_do_what_the_page_says(shop, capsys):
    """Templates, attachment, delay and key record; a mistyped address names its field."""
    blocks = python_blocks()[1:]
    assert len(blocks) == 4, "a block came or went: look at what this test expects"
    with shop["app"].app_context():
        for block in blocks:
            exec(block, shop)
        mail = shop["mail"]
        template, invoice = mail.get(1), mail.get(2)
        assert template.recipients[0].address == "ann@example.com"
        assert invoice.next_attempt_at > template.next_attempt_at
        assert mail.find("invoice-17").id == invoice.id
    assert capsys.readouterr().out.startswith("recipients")
