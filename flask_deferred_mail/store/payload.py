"""A letter as stored JSON, with a format number.

JSON and never pickle: who can write to the database must not thereby run code in the process
that reads it. The recipients travel in a column of their own, since their statuses change; the
content of attachments is stored once per distinct content, and the JSON names it by its SHA-256.

The rule of the format number: it rises with every change of what is written, be it one more
field. A reader takes every format up to its own, and refuses newer ones with
:class:`~flask_deferred_mail.errors.UnknownFormat`: the row stays as it is until the process that
reads it has been upgraded too. So, in an upgrade, sweepers and workers come before web processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from ..errors import ContentLost, MessageError, UnknownFormat
from ..letter import Address, Letter, Part, Recipient

#: The newest format of a row that this version reads: 2 is format 1, sealed (see :mod:`.sealing`).
FORMAT = 2
#: The format that :func:`dump` writes, and that of a sealed row.
PLAIN = 1
SEALED = 2

# Fields that stand in the JSON as they are. None of them is written while it is empty.
_PLAIN = ("subject", "private_copies", "template_id")
_MAPPINGS = (
    "metadata",
    "merge_data",
    "merge_global_data",
    "merge_metadata",
    "merge_headers",
    "esp_extra",
)
_PAIRS = ("alternatives", "headers")
# Fields of which "not given" and "empty" (or false) differ.
_OPTIONAL = ("text", "html", "track_opens", "track_clicks")
# How a payload that needs blobs looks from outside. Inside a JSON string the quotes would be
# escaped, so text never looks so; a key of an application's own data may, which costs a parse.
_PARTS_MARK = '"parts":['


def dump(letter: Letter) -> tuple[str, dict[str, bytes]]:
    """The letter as JSON text, and the content of its parts by digest.

    :raises MessageError: a field holds what JSON cannot (a date, NaN, an object); it is named.
    """
    fields, blobs = _fields(letter)
    return _encode({"format": PLAIN, **fields}), blobs


def load(text: str, recipients: tuple[Recipient, ...], blobs: Mapping[str, bytes]) -> Letter:
    """The letter that :func:`dump` wrote.

    :raises UnknownFormat: a newer version of this package wrote it.
    :raises ContentLost: the text is damaged, or a blob that it names is missing.
    """
    payload = _parsed(text)
    try:
        return _READERS[payload["format"]](payload, recipients, blobs)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise ContentLost(
            f"the stored payload is damaged ({type(fault).__name__} while reading it); the mail "
            "cannot be sent as it is"
        ) from fault


def digests(text: str) -> list[str]:
    """Which blobs a payload needs, each named once. Cheap where it needs none.

    :raises UnknownFormat: a newer version of this package wrote it.
    :raises ContentLost: the text is damaged.
    """
    if _PARTS_MARK not in text:
        return []
    try:
        return list(dict.fromkeys(part["blob"] for part in _parsed(text).get("parts", ())))
    except (KeyError, TypeError) as fault:
        raise ContentLost("the stored payload is damaged: its parts cannot be read") from fault


def fingerprint(letter: Letter, recipients: Iterable[Recipient]) -> str:
    """SHA-256, in hex, of what is mailed to whom.

    Message-ID and date are left out, since they differ each time that the same mail is asked for;
    so is the format number. Equal fingerprints mean equal content; the order of recipients
    counts, that of keys in a mapping does not.
    """
    content, _ = _fields(letter)
    del content["message_id"], content["date"]
    content["recipients"] = [[r.kind, r.address.email, r.address.name] for r in recipients]
    return sha256(_encode(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _fields(letter: Letter) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What is to be stored of a letter: only what differs from an empty one."""
    fields: dict[str, Any] = {
        "sender": _address(letter.sender),
        "message_id": letter.message_id,
        "date": letter.date,
    }
    if letter.envelope_sender != letter.sender.email:
        fields["envelope_sender"] = letter.envelope_sender
    for name in (*_PLAIN, *_MAPPINGS, *_PAIRS, "tags"):
        if value := getattr(letter, name):
            fields[name] = value
    for name in _OPTIONAL:
        if (value := getattr(letter, name)) is not None:
            fields[name] = value
    if letter.charset != "utf-8":
        fields["charset"] = letter.charset
    if letter.reply_to:
        fields["reply_to"] = [_address(address) for address in letter.reply_to]
    blobs: dict[str, bytes] = {}
    if letter.parts:
        fields["parts"] = [_part(part, blobs) for part in letter.parts]
    return fields, blobs


def _address(address: Address) -> list[str]:
    return [address.email, address.name] if address.name else [address.email]


def _part(part: Part, blobs: dict[str, bytes]) -> dict[str, Any]:
    """A part without its content, which is put into ``blobs``."""
    digest = part.digest
    blobs[digest] = part.data
    fields: dict[str, Any] = {"blob": digest, "content_type": part.content_type}
    if part.disposition != "attachment":
        fields["disposition"] = part.disposition
    for name in ("filename", "content_id"):
        if (value := getattr(part, name)) is not None:
            fields[name] = value
    if part.headers:
        fields["headers"] = part.headers
    return fields


def _read_1(
    payload: dict[str, Any], recipients: tuple[Recipient, ...], blobs: Mapping[str, bytes]
) -> Letter:
    """Read format 1."""
    fields = {name: value for name, value in payload.items() if name in _AS_STORED}
    # Most mails have no more than that: what is not in the payload is not looked for one by one.
    for name in payload.keys() - _SIMPLE:
        if name == "parts":
            fields[name] = tuple([_read_part(part, blobs) for part in payload[name]])
        elif name in _TUPLES:
            fields[name] = _TUPLES[name](payload[name])
    sender = Address(*payload["sender"])
    return Letter(
        sender=sender,
        recipients=recipients,
        envelope_sender=payload.get("envelope_sender", sender.email),
        message_id=payload["message_id"],
        date=payload["date"],
        **fields,
    )


#: One reader per format, for ever: rows that are years old may still be asked for.
_READERS: dict[int, Callable[..., Letter]] = {1: _read_1}


def _read_part(stored: Mapping[str, Any], blobs: Mapping[str, bytes]) -> Part:
    digest = stored["blob"]
    if digest not in blobs:
        raise ContentLost(
            f"the content of an attachment is missing (SHA-256 {digest[:16]}...): its row was "
            "deleted, though a mail still needs it"
        )
    return Part(
        data=blobs[digest],
        content_type=stored["content_type"],
        filename=stored.get("filename"),
        disposition=stored.get("disposition", "attachment"),
        content_id=stored.get("content_id"),
        headers=_pairs(stored.get("headers", ())),
    )


def _pairs(stored: Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    return tuple([(name, value) for name, value in stored])


def _addresses(stored: Iterable[Iterable[str]]) -> tuple[Address, ...]:
    return tuple([Address(*address) for address in stored])


#: Fields that a letter has as they are stored.
_AS_STORED = frozenset((*_PLAIN, *_MAPPINGS, *_OPTIONAL, "charset"))
#: What the ordinary mail has, and nothing of it needs more than a look.
_SIMPLE = _AS_STORED | {"format", "sender", "envelope_sender", "message_id", "date"}
#: JSON has lists where a letter has tuples.
_TUPLES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    **dict.fromkeys(_PAIRS, _pairs),
    "reply_to": _addresses,
    "tags": tuple,
}


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object in a payload whose format this version can read."""
    try:
        payload = _decode(text)
        newer = payload["format"] > PLAIN
    except (ValueError, TypeError, KeyError, RecursionError) as fault:
        raise ContentLost("the stored payload is damaged: it is not what was written") from fault
    if newer:
        raise UnknownFormat(
            f"the mail was recorded in format {payload['format']} by a newer version of "
            f"flask-deferred-mail, this one reads up to {PLAIN}: upgrade this process"
        )
    return payload  # type: ignore[no-any-return]  # json.loads answers Any


def _plain_mapping(value: object) -> dict[Any, Any]:
    """What ``json`` does not take for an object by itself, though it is a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _encoder(*, sort_keys: bool) -> Callable[[Any], str]:
    return json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
        default=_plain_mapping,
    ).encode


_decode = json.JSONDecoder().decode
_encode_as_given = _encoder(sort_keys=False)
_encode_sorted = _encoder(sort_keys=True)


def _encode(fields: dict[str, Any], *, sort_keys: bool = False) -> str:
    encode = _encode_sorted if sort_keys else _encode_as_given
    try:
        return encode(fields)
    except (TypeError, ValueError, RecursionError) as fault:
        raise MessageError(_culprit(fields, encode), f"cannot be stored as JSON: {fault}") from None


def _culprit(fields: dict[str, Any], encode: Callable[[Any], str]) -> str:
    """The first field that cannot be encoded on its own."""
    for name, value in fields.items():
        try:
            encode(value)
        except (TypeError, ValueError, RecursionError):
            return name
    return "message"
