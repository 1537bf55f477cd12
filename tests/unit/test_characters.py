"""Which characters may stand where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from flask_deferred_mail.characters import as_text, body, describe, label, line, shown
from flask_deferred_mail.errors import BadHeaderError, MessageError, MessageTooLarge

BREAKS = ["\r", "\n", "\r\n ", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("char", [*BREAKS, "\0", "\x1b", "\x7f", "\ud800"])
def test_a_line_refuses_what_could_end_it(char):
    """Every line break that anything knows, control characters and surrogates."""
    for text in (f"a{char}b", f"{char}b", f"a{char}", f"é{char}"):
        with pytest.raises(BadHeaderError, match=r"^subject: .*U\+") as caught:
            line(text, "subject")
        assert caught.value.field == "subject"


@given(st.text())
def test_a_line_that_passes_is_one_line_everywhere(text):
    """Python, UTF-8 and PostgreSQL agree that what passed is one line of text."""
    try:
        passed = line(text, "subject")
    except BadHeaderError:
        return
    assert len(passed.splitlines()) <= 1
    assert b"\n" not in passed.encode()
    assert "\0" not in passed


def test_a_line_may_hold_tabs_and_any_script():
    """A tab is white space in a header; nothing beyond control characters is refused."""
    assert line("订单\t1001 👩‍💻", "subject") == "订单\t1001 👩‍💻"


def test_a_line_has_a_cap():
    """The error names both figures."""
    with pytest.raises(MessageTooLarge, match="has 5 characters, 4 are allowed"):
        line("12345", "subject", 4)


@pytest.mark.parametrize("text", ["", " a", "a ", "a\tb"])
def test_a_label_is_not_empty_and_has_no_blanks_around_it(text):
    """What programs compare must not differ by what nobody sees."""
    with pytest.raises(MessageError):
        label(text, "key", 10)


@pytest.mark.parametrize("text", ["a\0", "é\0", "a\ud800", "\udfff"])
def test_a_body_refuses_what_cannot_be_stored(text):
    """NUL and lone surrogates, with their position."""
    with pytest.raises(MessageError, match=r"body: holds .* at position"):
        body(text, "body")


def test_a_body_may_hold_all_else():
    """Line breaks and control characters can be encoded, so they are let through."""
    text = "a\r\n.\r\n\x1b[31m \x85 \u2028 👩‍💻"
    assert body(text, "body") == text


def test_markup_becomes_plain_text():
    """A Markup object would escape what is joined to it later."""
    assert type(as_text(Markup("<b>"), "html")) is str


@pytest.mark.parametrize("value", [b"x", 1, 1.5, True, None, ["x"], ("x",), {"x": 1}, {"x"}])
def test_what_is_no_text_is_refused_by_type(value):
    """The error says what was given, not what it holds."""
    with pytest.raises(MessageError, match=type(value).__name__):
        as_text(value, "body")


def test_errors_never_show_the_character_itself():
    """A terminal must not be driven by the text of an error."""
    assert describe("\n") == "a line feed (U+000A)"
    assert describe("\x1b") == "a control character (U+001B)"
    assert "\x1b" not in shown("\x1b[31m")
    assert len(shown("x" * 1000)) < 100
