"""docs/reference/api.md: every public name is there, and none that is not."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import flask_deferred_mail
from flask_deferred_mail import DeferredMail, Job, errors
from flask_deferred_mail.job import JobStatus, RecipientStatus

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
CODE = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
WORDS = {word for code in CODE for word in re.findall(r"\w+", code)}

METHODS = [name for name in vars(DeferredMail) if not name.startswith("_") and name != "for_app"]
ERRORS = [
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception)
]


@pytest.mark.parametrize(
    "name",
    [
        *flask_deferred_mail.__all__,
        *METHODS,
        *ERRORS,
        *(field.name for field in dataclasses.fields(Job)),
        *(status.value for status in (*JobStatus, *RecipientStatus)),
    ],
)
def test_a_public_name_is_on_the_page(name):
    """A reader finds it by searching for it."""
    assert name in WORDS


def test_signatures_on_the_page_are_those_of_the_methods():
    """Parameters and their order."""
    rows = dict(re.findall(r"^\| `(\w+)\(([^`]*)\)`", PAGE, re.MULTILINE))
    assert len(rows) > 8
    for name, shown in rows.items():
        names = re.findall(r"(?:^|, )\**(\w+)", shown)
        parameters = list(inspect.signature(getattr(DeferredMail, name)).parameters)[1:]
        assert names == parameters, name
