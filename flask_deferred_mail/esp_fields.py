"""The fields with django-anymail's meaning: tags, metadata, merge data and the like.

Most messages have none of them, so they cost nothing unless they are given. What may hold any
value must survive a trip through JSON, since that is how it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .address import parse_address, same_mailbox
from .characters import body, label, line
from .errors import MessageError, MessageTooLarge
from .header_fields import extra_fields
from .letter import Recipient

if TYPE_CHECKING:
    from .message import Message

#: Most tags of a message, and the longest of them in characters.
MAX_TAGS, MAX_TAG = 20, 255
#: Most metadata of a message; the longest name and the longest value, in characters.
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE = 50, 100, 1000
#: Longest name of a provider's template.
MAX_TEMPLATE_ID = 255
#: Merge data and extra fields of a message, each as JSON, in bytes.
MAX_JSON = 2 * 1024 * 1024


def given(message: Message, recipients: Sequence[Recipient]) -> dict[str, Any]:
    """Those fields of the letter that this message sets, checked.

    :raises MessageError: something in them cannot be stored or sent.
    """
    found: dict[str, Any] = {}
    if message.tags is not None:
        found["tags"] = _tags(message.tags)
    if message.metadata is not None:
        found["metadata"] = _metadata(message.metadata, "metadata")
    if message.template_id is not None:
        found["template_id"] = _template_id(message.template_id)
    for field in ("merge_data", "merge_metadata", "merge_headers"):
        if (value := getattr(message, field)) is not None:
            found[field] = _per_recipient(value, field, recipients)
    for field in ("merge_global_data", "esp_extra"):
        if (value := getattr(message, field)) is not None:
            found[field] = _json_object(value, field)
    for field in ("track_opens", "track_clicks"):
        if (value := getattr(message, field)) is not None:
            found[field] = _yes_or_no(value, field)
    return found


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise MessageError("tags", f"must be a list of texts, not {type(value).__name__}")
    members = [value] if isinstance(value, str) else list(value)
    if len(members) > MAX_TAGS:
        raise MessageTooLarge("tags", f"{len(members)} of them, {MAX_TAGS} are allowed")
    return tuple(dict.fromkeys(label(tag, "tags", MAX_TAG) for tag in members))


def _metadata(value: object, field: str) -> dict[str, str]:
    """Names and texts that may stand in a header: some providers carry them there."""
    members = _mapping(value, field)
    if len(members) > MAX_METADATA:
        raise MessageTooLarge(field, f"{len(members)} entries, {MAX_METADATA} are allowed")
    return {
        label(name, field, MAX_METADATA_NAME): line(_number_as_text(one), field, MAX_METADATA_VALUE)
        for name, one in members.items()
    }


def _number_as_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def _template_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return label(value, "template_id", MAX_TEMPLATE_ID)


def _per_recipient(
    value: object, field: str, recipients: Sequence[Recipient]
) -> dict[str, dict[str, Any]]:
    """One entry per recipient, under the address as the letter has it.

    Entries of people who do not get this mail are left out: they are nobody's business here.
    """
    spelled = {same_mailbox(recipient.email): recipient.email for recipient in recipients}
    found: dict[str, dict[str, Any]] = {}
    for key, entry in _mapping(value, field).items():
        email = spelled.get(same_mailbox(parse_address(key, field).email))
        if email is not None:
            found[email] = _entry(entry, field)
    return _json_object(found, field) if field == "merge_data" else found


def _entry(entry: object, field: str) -> dict[str, Any]:
    if field == "merge_metadata":
        return _metadata(entry, field)
    if field == "merge_headers":
        return dict(extra_fields(_mapping(entry, field), field))
    return dict(_mapping(entry, field))


def _mapping(value: object, field: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise MessageError(field, f"must be a mapping, not {type(value).__name__}")
    return value


def _json_object(value: object, field: str) -> dict[str, Any]:
    """A deep copy by way of JSON: what the application changes later changes nothing here."""
    try:
        text = json.dumps(dict(_mapping(value, field)), allow_nan=False, default=_lazy_text)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise MessageError(field, f"cannot be stored as JSON: {reason}") from None
    if len(text) > MAX_JSON:
        raise MessageTooLarge(field, f"{len(text)} bytes of JSON, {MAX_JSON} are allowed")
    copied: dict[str, Any] = json.loads(text)
    _check_texts(copied, field)
    return copied


def _lazy_text(value: object) -> str:
    """Texts of a lazy translation, the one thing beyond JSON that templates are often given."""
    if "lazy" in type(value).__name__.lower():
        return str(value)
    raise TypeError(f"{type(value).__name__} is neither text, number, list nor mapping")


def _check_texts(value: object, field: str) -> None:
    """No NUL and no surrogates in any text, names included, however deep."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            body(one, field)
        elif isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one


def _yes_or_no(value: object, field: str) -> bool:
    if isinstance(value, bool):
        return value
    raise MessageError(field, f"must be True, False or None, not {type(value).__name__}")
