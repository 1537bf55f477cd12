"""form.py: the same bytes as the standard library's, only sooner."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.transports.form import encoded

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_a_form_is_written_as_the_standard_library_writes_it(fields):
    """For any text."""
    assert encoded(fields) == urlencode(fields).encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b+c%d&e=f",
        "%20 + %2B",
        "".join(map(chr, range(256))),
        "Grüße\r\n.\r\n" * 50,
        "".join(map(chr, range(0x4E00, 0x4F00))),
    ],
)
def test_what_a_form_holds_is_read_back(text):
    """Percent signs, plus signs and spaces do not get mixed up."""
    body = encoded([("text", text), ("other", "1")])
    assert body == urlencode([("text", text), ("other", "1")]).encode()
    assert parse_qsl(body.decode(), keep_blank_values=True) == [("text", text), ("other", "1")]
