"""conversion.py: what no value of a setting may do, whatever it is."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_deferred_mail import conversion
from flask_deferred_mail.errors import MessageError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CONVERTERS = {
    "text": conversion.text,
    "boolean": conversion.boolean,
    "whole_number": conversion.whole_number(1, 9),
    "seconds": conversion.seconds(0.5, 9),
    "schedule": conversion.schedule(0, 9),
    "one_of": conversion.one_of("a", "b"),
    "table": conversion.table,
    "database_uri": conversion.database_uri,
    "mailbox": conversion.mailbox,
    "addr_spec": conversion.addr_spec,
    "domain": conversion.domain,
    "headers": conversion.headers,
    "transport_url": conversion.transport_url,
    "host": conversion.host,
    "encryption_keys": conversion.encryption_keys,
    "mailboxes": conversion.mailboxes,
    "patterns": conversion.patterns,
}


@pytest.mark.parametrize("name", list(CONVERTERS))
@given(value=ANYTHING)
def test_a_converter_converts_or_says_what_it_expected(name, value):
    """No value makes a converter fail in any other way, so no fault hides the others."""
    with contextlib.suppress(conversion.Unfit, MessageError):
        CONVERTERS[name](value)


@given(value=st.text() | st.binary() | st.integers())
def test_a_secret_value_is_shown_as_its_type_only(value):
    """Nothing of the value itself."""
    assert conversion.shown(value, secret=True) == f"a value of type {type(value).__name__}"


@given(value=ANYTHING)
def test_a_shown_value_is_one_short_printable_line(value):
    """Whatever was given, it can stand in a terminal."""
    shown = conversion.shown(value, secret=False)
    assert len(shown) <= 60
    assert shown.isprintable()


@pytest.mark.parametrize("uri", ["sqlite:////a/b.db", "sqlite:///file:/a/b.db?uri=true"])
def test_an_absolute_path_stays_where_it_is(uri):
    """Only relative paths are moved."""
    assert conversion.located(uri, "/srv") == uri
