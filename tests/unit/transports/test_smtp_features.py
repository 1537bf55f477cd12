"""What a mail over SMTP may hold: all that MIME has a place for, and nothing of a provider's."""

from __future__ import annotations

import pytest

from flask_deferred_mail.errors import UnsupportedFeature
from flask_deferred_mail.letter import Part
from flask_deferred_mail.transports.smtp import SmtpTransport
from tests.support.transport_calls import a_letter

SMTP = SmtpTransport("default", "mail.example.com", 587)


@pytest.mark.parametrize(
    "letter",
    [
        a_letter(html="<img>", parts=(Part(b"1", "image/png", "a.png", "inline", "logo"),)),
        a_letter(alternatives=(("text/calendar", "BEGIN:VCALENDAR"),)),
        a_letter(parts=(Part(b"1", "application/pdf", "a.pdf", headers=(("X-A", "1"),)),)),
    ],
    ids=["inline", "alternative", "headers of a part"],
)
def test_what_mime_holds_passes_as_it_is(letter):
    """It is neither refused nor dropped."""
    SMTP.check(letter)
    assert SMTP.fit(letter) == letter


def test_what_needs_a_provider_is_refused():
    """A tag has no place in a mail."""
    with pytest.raises(UnsupportedFeature):
        SMTP.check(a_letter(tags=("receipt",)))
