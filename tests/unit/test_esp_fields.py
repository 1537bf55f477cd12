"""The fields with django-anymail's meaning."""

import pytest

from flask_deferred_mail.errors import MessageError, MessageTooLarge
from flask_deferred_mail.letter import Address
from flask_deferred_mail.message import Defaults, Message

DEFAULTS = Defaults(sender=Address("shop@example.com"), now=1_900_000_000.0)


def letter(**fields):
    recipients = ["Ann <ann@Example.com>", "bob@example.com"]
    return Message(recipients=recipients, **fields).check(DEFAULTS).letter


def test_tags():
    """One or several, each once, in their order."""
    assert letter(tags="receipt").tags == ("receipt",)
    assert letter(tags=["b", "a", "b"]).tags == ("b", "a")


def test_metadata_is_text():
    """Numbers become text; providers carry nothing else."""
    assert letter(metadata={"user": 7, "vip": True, "rate": 1.5}).metadata == {
        "user": "7",
        "vip": "true",
        "rate": "1.5",
    }


def test_template_ids_may_be_numbers():
    """Some providers count their templates."""
    assert letter(template_id=12).template_id == "12"


def test_merge_data_is_found_under_the_letters_own_addresses():
    """However it was spelled; what belongs to nobody here is left out."""
    found = letter(merge_data={"ANN <ann@EXAMPLE.COM>": {"n": "Ann"}, "cy@example.com": {"n": "C"}})
    assert found.merge_data == {"ann@example.com": {"n": "Ann"}}


def test_what_changes_later_changes_nothing():
    """The letter is frozen, all the way down."""
    data = {"items": [1, 2]}
    found = letter(merge_global_data=data, esp_extra={"a": data})
    data["items"].append(3)
    assert found.merge_global_data == {"items": [1, 2]}
    assert found.esp_extra == {"a": {"items": [1, 2]}}


def test_lazy_texts_in_merge_data():
    """Translations that are made late are stored as what they say now."""

    class LazyString:
        def __str__(self):
            return "Hallo"

    assert letter(merge_global_data={"hi": LazyString()}).merge_global_data == {"hi": "Hallo"}


def test_data_that_contains_itself():
    """Circles and bottomless nesting are refused, not followed."""
    circle = {}
    circle["x"] = circle
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (circle, {"x": deep}):
        with pytest.raises(MessageError, match="esp_extra: cannot be stored"):
            letter(esp_extra=value)


def test_merge_data_has_a_cap():
    """It is stored with every mail."""
    with pytest.raises(MessageTooLarge, match="JSON"):
        letter(merge_global_data={"x": "y" * 2_200_000})


def test_merge_headers_and_metadata_per_recipient():
    """Checked as those of the message are."""
    found = letter(
        merge_headers={"bob@example.com": {"X-A": "1"}},
        merge_metadata={"bob@example.com": {"n": 1}},
    )
    assert found.merge_headers == {"bob@example.com": {"X-A": "1"}}
    assert found.merge_metadata == {"bob@example.com": {"n": "1"}}


def test_tracking_is_said_or_left_open():
    """False is something else than unsaid."""
    assert letter().track_opens is None
    assert letter(track_opens=False, track_clicks=True).track_opens is False
