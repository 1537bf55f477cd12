"""A letter as stored JSON: what comes back, what is refused, and what it costs in characters."""

from __future__ import annotations

import json
from datetime import date
from hashlib import sha256
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_deferred_mail.errors import MessageError, StoreError, UnknownFormat
from flask_deferred_mail.letter import Address, Letter, Part, Recipient
from flask_deferred_mail.store.payload import PLAIN, digests, dump, fingerprint, load

TO = (Recipient(Address("ann@example.com", "Ann")), Recipient(Address("b@example.com"), "bcc"))


def letter(**fields: object) -> Letter:
    known: dict[str, object] = {
        "sender": Address("shop@example.com", "Shop"),
        "recipients": TO,
        "envelope_sender": "shop@example.com",
        "message_id": "<1@example.com>",
        "date": "Mon, 01 Jan 2024 10:00:00 +0000",
        **fields,
    }
    return Letter(**known)  # type: ignore[arg-type]  # tests give only known fields


FULL = letter(
    envelope_sender="bounce@example.com",
    subject="utf-8",
    text="Größe\r\n\u2028\t\"'\\",
    html="",
    alternatives=(("text/calendar", "BEGIN"), ("text/x-amp-html", "<html>")),
    reply_to=(Address("help@example.com"), Address("desk@example.com", "Desk, the")),
    headers=(("X-A", "1"), ("X-A", "2")),
    parts=(
        Part(b"\0\xff", "image/png", "logo.png", "inline", "logo@shop"),
        Part(b"\0\xff", "text/csv", None, headers=(("X-P", "q"),)),
        Part(b"", "a/b", ""),
    ),
    charset="iso-8859-1",
    private_copies=True,
    tags=("welcome", "new"),
    metadata={"user": "17"},
    template_id="t-1",
    merge_data={"ann@example.com": {"name": "Ann", "items": [1, 2.5, None, True, {"a": "b"}]}},
    merge_global_data={"shop": "Shop"},
    merge_metadata={"ann@example.com": {"k": "v"}},
    merge_headers={"ann@example.com": {"X-U": "u"}},
    track_opens=False,
    track_clicks=True,
    esp_extra={"parts": ["not ours"], "n": 1},
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
pairs = st.lists(st.tuples(text, text), max_size=3).map(tuple)
addresses = st.builds(Address, text, text)
letters = st.builds(
    Letter,
    sender=addresses,
    recipients=st.just(TO),
    envelope_sender=text,
    message_id=text,
    date=text,
    subject=text,
    text=st.none() | text,
    html=st.none() | text,
    alternatives=pairs,
    reply_to=st.lists(addresses, max_size=2).map(tuple),
    headers=pairs,
    parts=st.lists(
        st.builds(
            Part,
            st.binary(max_size=5),
            text,
            st.none() | text,
            st.sampled_from(["attachment", "inline"]),
            st.none() | text,
            pairs,
        ),
        max_size=3,
    ).map(tuple),
    charset=text,
    private_copies=st.booleans(),
    tags=st.lists(text, max_size=2).map(tuple),
    metadata=st.dictionaries(text, text, max_size=2),
    template_id=st.none() | text.filter(bool),
    merge_data=st.dictionaries(text, st.dictionaries(text, json_values, max_size=2), max_size=2),
    track_opens=st.none() | st.booleans(),
    esp_extra=st.dictionaries(text | st.just("parts"), json_values, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(letters)
def test_any_letter_comes_back(original):
    """What was dumped is loaded equal, whatever it holds, and names the blobs that it needs."""
    stored, blobs = dump(original)
    assert load(stored, TO, blobs) == original
    assert sorted(digests(stored)) == sorted(blobs)


def test_full_letter_comes_back():
    """Every field of a letter survives; a field added later must be added here."""
    stored, blobs = dump(FULL)
    assert load(stored, TO, blobs) == FULL
    empty = letter()
    same = {name for name in Letter.__slots__ if getattr(FULL, name) == getattr(empty, name)}
    assert same == {"sender", "recipients", "message_id", "date"}


def test_usual_payload_is_small():
    """Empty fields, recipients and attachments' content are not in the JSON."""
    stored, blobs = dump(letter(subject="Grüße", text="hello"))
    assert json.loads(stored) == {
        "format": PLAIN,
        "sender": ["shop@example.com", "Shop"],
        "message_id": "<1@example.com>",
        "date": "Mon, 01 Jan 2024 10:00:00 +0000",
        "subject": "Grüße",
        "text": "hello",
    }
    assert "Grüße" in stored
    assert ', "' not in stored
    assert blobs == {}


def test_format_1_is_read_for_ever():
    """A payload as this format's first version wrote it is still understood."""
    stored = (
        '{"format":1,"sender":["a@b.example"],"message_id":"<1@b>","date":"now",'
        '"envelope_sender":"c@d.example","subject":"s","html":"<p>","track_opens":false,'
        '"charset":"big5","headers":[["X-A","1"]],"tags":["t"],"reply_to":[["r@b.example","R"]],'
        '"parts":[{"blob":"ab","content_type":"a/b","disposition":"inline","filename":"f",'
        '"content_id":"c","headers":[["X-P","q"]]}]}'
    )
    assert load(stored, TO, {"ab": b"data"}) == Letter(
        sender=Address("a@b.example"),
        recipients=TO,
        envelope_sender="c@d.example",
        message_id="<1@b>",
        date="now",
        subject="s",
        html="<p>",
        track_opens=False,
        charset="big5",
        headers=(("X-A", "1"),),
        tags=("t",),
        reply_to=(Address("r@b.example", "R"),),
        parts=(Part(b"data", "a/b", "f", "inline", "c", (("X-P", "q"),)),),
    )


def test_blobs_are_named_by_their_content():
    """Equal content is one blob, whatever it is called."""
    _, blobs = dump(FULL)
    assert blobs == {sha256(data).hexdigest(): data for data in (b"\0\xff", b"")}


@pytest.mark.parametrize("number", [2, 99])
def test_newer_format_is_left_alone(number):
    """A newer format is named as such, with what to do."""
    stored = json.dumps({"format": number, "parts": [{"blob": "x"}]}, separators=(",", ":"))
    for read in (lambda: load(stored, TO, {}), lambda: digests(stored)):
        with pytest.raises(UnknownFormat, match=rf"format {number} .*newer.*upgrade this process"):
            read()


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"format":"1"}',
        '{"format":null}',
        '{"format":0}',
        '{"format":1}',
        '{"format":1,"sender":[],"message_id":"","date":""}',
        '{"format":1,"sender":["a"],"message_id":"","date":"","headers":[["a"]]}',
        '{"format":1,"sender":["a"],"message_id":"","date":"","parts":[{}]}',
        '{"format":1,"sender":["a"],"message_id":"","date":"","parts":[7]}',
        "[" * 100_000,
    ],
)
def test_damage_is_a_store_error(stored):
    """A payload that is not what was written is an error of ours, never a stray KeyError."""
    with pytest.raises(StoreError, match="damaged"):
        load(stored, TO, {})


def test_damaged_parts_are_a_store_error():
    """The same holds for the list of blobs."""
    for stored in ('{"format":1,"parts":[7]}', '{"format":1,"parts":[{}]}', '"parts":['):
        with pytest.raises(StoreError, match="damaged"):
            digests(stored)


def test_missing_blob():
    """A blob that is not there is named, and the mail is not sent without it."""
    stored, _ = dump(FULL)
    with pytest.raises(StoreError, match=r"attachment is missing \(SHA-256 [0-9a-f]{16}"):
        load(stored, TO, {})


def test_digests_name_each_blob_once():
    """Blobs are told in order, each once; text and other data that look like parts are not."""
    stored, _ = dump(FULL)
    assert digests(stored) == [sha256(b"\0\xff").hexdigest(), sha256(b"").hexdigest()]
    assert digests(dump(letter(text='"parts":[{"blob":"x"}]'))[0]) == []
    assert digests(dump(letter(esp_extra={"parts": [{"blob": "x"}]}))[0]) == []


@pytest.mark.parametrize("value", [date(2024, 1, 1), float("nan"), {1, 2}, object(), b"x"])
def test_what_json_cannot_hold_is_named(value):
    """A value that JSON has no form for is an error about that field."""
    with pytest.raises(MessageError) as caught:
        dump(letter(merge_data={"a": {"when": value}}))
    assert caught.value.field == "merge_data"


def test_mappings_of_other_kinds_are_stored():
    """Frozen mappings are mappings."""
    frozen = MappingProxyType({"a": MappingProxyType({"b": "c"})})
    stored, _ = dump(letter(merge_data=frozen))
    assert load(stored, TO, {}).merge_data == {"a": {"b": "c"}}


def test_fingerprint_ignores_what_differs_each_time():
    """The same mail asked for again has the same fingerprint, before and after it was stored."""
    again = letter(message_id="<2@example.com>", date="Tue, 02 Jan 2024 10:00:00 +0000")
    assert fingerprint(letter(), TO) == fingerprint(again, TO)
    stored, blobs = dump(FULL)
    assert fingerprint(load(stored, TO, blobs), TO) == fingerprint(FULL, TO)
    ab, ba = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert fingerprint(letter(metadata=ab), TO) == fingerprint(letter(metadata=ba), TO)


def test_fingerprint_tells_content_apart():
    """Another text, file, recipient, name or kind is another fingerprint."""
    others = [
        fingerprint(letter(), TO),
        fingerprint(letter(text=""), TO),
        fingerprint(letter(subject="x"), TO),
        fingerprint(letter(parts=(Part(b"a", "a/b"),)), TO),
        fingerprint(letter(parts=(Part(b"b", "a/b"),)), TO),
        fingerprint(letter(), TO[:1]),
        fingerprint(letter(), (Recipient(Address("ann@example.com"), "to"), TO[1])),
        fingerprint(letter(), (Recipient(Address("ann@example.com", "Ann"), "cc"), TO[1])),
    ]
    assert len(set(others)) == len(others)
    assert all(len(other) == 64 for other in others)
