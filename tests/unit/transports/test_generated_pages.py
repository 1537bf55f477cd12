"""Pages of the documentation that are written from the code: they are those in the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flask_deferred_mail.transports import capabilities, classification_page
from flask_deferred_mail.transports.classification import WORDS

DOCS = Path(__file__).parents[3] / "docs" / "transports"
PAGES = {"capabilities": capabilities, "classification": classification_page}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_is_what_the_code_says(name):
    """If not: ``python -m flask_deferred_mail.transports.<module> > docs/transports/<page>.md``."""
    module = PAGES[name]
    command = f"python -m {module.__name__} > docs/transports/{name}.md"
    assert (DOCS / f"{name}.md").read_text() == module.page(), command


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_command_prints_the_page(name):
    """As the page itself says that it is written."""
    module = PAGES[name]
    done = subprocess.run(
        [sys.executable, "-m", module.__name__], capture_output=True, check=True, timeout=60
    )
    assert done.stdout.decode() == module.page()
    assert f"`python -m {module.__name__}`" in module.page()


def test_every_transport_that_mails_is_in_both_pages():
    """Nobody has to remember to add it."""
    labels = {kind.label for kind in capabilities.transports()}
    assert {"SMTP", "SendCloud", "Mailgun", "Amazon SES", "Postmark", "SendGrid"} <= labels
    for label in labels:
        assert f" {label} |" in capabilities.page()
        assert label.startswith(("SMTP", "Aliyun")) or f"## {label}\n" in classification_page.page()


def test_every_word_of_an_override_is_explained():
    """Whoever overrides a line knows what the word does."""
    assert all(f"| `{word}` | " in classification_page.page() for word in WORDS)
