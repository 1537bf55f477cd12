"""reference.py: the name of a mail that travels through a provider."""

from __future__ import annotations

import pytest

from flask_deferred_mail.reference import NAME, job_of, reference


def test_a_reference_names_the_mail_and_its_database():
    """The number comes back; the same number with another Message-ID is another reference."""
    here, elsewhere = reference(17, "<a@example.com>"), reference(17, "<b@example.com>")
    assert job_of(here) == job_of(elsewhere) == 17
    assert here != elsewhere


def test_a_reference_fits_where_providers_put_it():
    """Letters, digits and hyphens only, and short enough, with the longest number too."""
    longest = reference(2**63 - 1, "<a@example.com>")
    assert len(longest) <= 36
    assert set(longest) <= set("0123456789abcdef-")
    assert len(NAME) <= 20


@pytest.mark.parametrize(
    "text", [None, 17, "", "17", "17-", "0-0123456789abcdef", "17-0123456789abcdeF", "17-x\n"]
)
def test_anything_else_is_no_reference(text):
    """What somebody sends us under our name is looked at closely."""
    assert job_of(text) is None
