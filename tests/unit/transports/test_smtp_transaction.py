"""The body as it goes over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail.transports.smtp_transaction import dot_stuffed


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (b"", b""),
        (b"a\r\n", b"a\r\n"),
        (b"a", b"a\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"a\r\n.\r\n..b\r\n", b"a\r\n..\r\n...b\r\n"),
        (b"a\r\n.", b"a\r\n..\r\n"),
    ],
)
def test_dots_are_doubled(body: bytes, wire: bytes) -> None:
    """A dot that opens a line is doubled, and the last line is ended."""
    assert dot_stuffed(body) == wire


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b".a", b"a."]), max_size=8))
def test_the_end_of_the_mail_cannot_come_early(lines: list[bytes]) -> None:
    """No body holds a lone dot on the wire, and taking one dot off each line gives it back."""
    body = b"".join(line + b"\r\n" for line in lines)
    wire = dot_stuffed(body)
    assert b"\r\n.\r\n" not in b"\r\n" + wire
    assert (b"\r\n" + wire).replace(b"\r\n.", b"\r\n")[2:] == body
