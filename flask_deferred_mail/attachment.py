"""Files that travel with a message, as a view writes them and as they are stored."""

from __future__ import annotations

import mimetypes
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping
from typing import IO, TypeAlias

from .characters import line, shown
from .errors import BadHeaderError, MessageError, MessageTooLarge
from .header_fields import header_name, header_value, pairs
from .letter import Disposition, Part

#: The content of a file: bytes, text (stored as UTF-8), or an open file.
Data: TypeAlias = bytes | bytearray | memoryview | str | IO[bytes] | IO[str]
#: Header fields as a mapping or, where one may repeat, as pairs.
Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

#: Longest file name, in characters; file systems end there.
MAX_FILENAME = 255
#: Longest content type with its parameters, and longest content id.
MAX_CONTENT_TYPE = 255
#: Bytes of a file-like object that are read at most; the cap on a message is not above it.
MAX_DATA = 40 * 1024 * 1024

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"
# RFC 6838 section 4.2.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_CONTENT_TYPE = re.compile(
    rf'({_NAME}/{_NAME})((?:[ ]*;[ ]*{_WORD}=(?:{_WORD}|"[^"\\\x00-\x1f\x7f]*"))*)', re.ASCII
)
# RFC 2045 section 7 wants a msg-id; "logo" without an @ is what everybody writes, and works.
_CONTENT_ID = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~@-]{1,255}")
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_DISPOSITIONS: dict[object, Disposition] = {
    None: "attachment",
    "": "attachment",
    "attachment": "attachment",
    "inline": "inline",
}
_WRITTEN_BY_US = frozenset(
    {"content-type", "content-disposition", "content-transfer-encoding", "mime-version"}
)


class Attachment:
    """A file that travels with a message; Flask-Mail's class of the same name.

    :param filename: the name shown to the reader.
    :param content_type: guessed from ``filename`` if missing.
    :param data: bytes, text or an open file (which is read here, so it may be closed afterwards).
    :param disposition: ``attachment`` (the default), or ``inline`` for an image in the HTML.
    :param headers: further header fields of this part; ``Content-ID`` names an inline image.
    :raises MessageError: ``data`` is missing or of a kind that cannot be read.
    :raises MessageTooLarge: an open file holds more than 40 MiB.
    """

    __slots__ = ("content_type", "data", "disposition", "filename", "headers")

    def __init__(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Data | None = None,
        disposition: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        self.filename = filename
        self.data: str | bytes = _read(data)
        self.content_type = content_type or guess_content_type(filename, self.data)
        self.disposition = disposition or "attachment"
        self.headers: dict[str, str] | list[tuple[str, str]] = (
            {} if headers is None else dict(headers) if isinstance(headers, Mapping) else [*headers]
        )

    def __repr__(self) -> str:
        name = "" if self.filename is None else f" {shown(self.filename)}"
        return f"<Attachment{name} {shown(self.content_type)}, {len(self.data)} long>"


def guess_content_type(filename: str | None, data: str | bytes) -> str:
    """What a file most likely is, by its name; else whether it was given as text or bytes."""
    guess, encoding = mimetypes.guess_type(filename) if isinstance(filename, str) else (None, None)
    if encoding is not None:
        return _COMPRESSED.get(encoding, "application/octet-stream")
    return guess or ("text/plain" if isinstance(data, str) else "application/octet-stream")


def new_content_id() -> str:
    """A random content id, without angle brackets."""
    return f"{secrets.token_hex(8)}@inline"


def check_content_type(value: object, field: str) -> str:
    """A media type with its parameters (RFC 2045 section 5.1), made of parts that can stand alone.

    :raises BadHeaderError: line breaks, control characters.
    :raises MessageError: it is not a media type, or one that contains other parts.
    """
    text = line(value, field, MAX_CONTENT_TYPE).strip(" ")
    if _CONTENT_TYPE.fullmatch(text) is None:
        raise MessageError(field, f"content type {shown(text)} does not read as type/subtype")
    if text.lower().startswith("multipart/"):
        raise MessageError(field, f"content type {shown(text)} is for containers; attach its files")
    return text


def check_attachment(
    given: object, field: str, referenced: Iterable[str], ascii_name: bool = False
) -> Part:
    """The part that an attachment becomes.

    :param referenced: the bodies in which ``cid:`` references may stand.
    :param ascii_name: reduce the file name to ASCII, for readers that know no other names.
    :raises MessageError: it is no attachment, or something in it is not what it should be.
    """
    try:
        filename, content_type = given.filename, given.content_type  # type: ignore[attr-defined]
        data, disposition = given.data, given.disposition  # type: ignore[attr-defined]
        headers = given.headers  # type: ignore[attr-defined]  # any class with these five will do
    except AttributeError:
        raise MessageError(
            field, f"must hold Attachment objects (see Message.attach), not {type(given).__name__}"
        ) from None
    content = _read(data)
    fields = _part_headers(headers, field)
    content_id = _content_id(fields, field)
    kind = _disposition(disposition, content_id, referenced, field)
    if kind == "attachment" and content_id is not None:
        fields.append(("Content-ID", f"<{content_id}>"))
    return Part(
        data=content.encode() if isinstance(content, str) else content,
        content_type=_with_charset(check_content_type(content_type, field), content),
        filename=None if filename is None else _filename(filename, field, ascii_name),
        disposition=kind,
        content_id=(content_id or new_content_id()) if kind == "inline" else None,
        headers=tuple(fields),
    )


def _read(data: object) -> str | bytes:
    """The content itself, whatever it was handed over as."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return _encodable(str(data))
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    read = getattr(data, "read", None)
    if not callable(read):
        raise MessageError(
            "attachments",
            f"data must be bytes, text or an open file, not {type(data).__name__}"
            + (" (is it missing?)" if data is None else ""),
        )
    content = read(MAX_DATA + 1)
    if not isinstance(content, (str, bytes)):
        raise MessageError("attachments", f"reading data gave {type(content).__name__}")
    if len(content) > MAX_DATA:
        raise MessageTooLarge("attachments", f"a file holds more than {MAX_DATA} bytes")
    return _encodable(content) if isinstance(content, str) else content


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(
            "attachments", f"data holds a lone surrogate at position {error.start}; give bytes"
        ) from None
    return text


def _with_charset(content_type: str, content: str | bytes) -> str:
    """Text that we encode says so; what is ASCII, or came as bytes, speaks for itself."""
    if isinstance(content, bytes) or content.isascii() or "charset=" in content_type.lower():
        return content_type
    return f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type


def _filename(value: object, field: str, ascii_only: bool) -> str | None:
    name = line(value, f"{field}, file name", MAX_FILENAME)
    if "\t" in name:
        raise BadHeaderError(f"{field}, file name", "holds a tab")
    return _reduced(name) if ascii_only else name


def _reduced(name: str) -> str | None:
    """Flask-Mail's reduction: accents go, other letters too; ``None`` if nothing is left."""
    decomposed = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    # Decomposing may give slashes ("\u2100" is "a/c") and quotes; mime.py writes those safely.
    return " ".join(decomposed.split()) or None


def _part_headers(headers: object, field: str) -> list[tuple[str, str]]:
    found = []
    for name, value in pairs(headers, field):
        name = header_name(name, field)
        if name.lower() in _WRITTEN_BY_US:
            raise MessageError(field, f"{name} is written for you; use the attachment's own fields")
        found.append((name, header_value(name, value, field)))
    return found


def _content_id(fields: list[tuple[str, str]], field: str) -> str | None:
    """Take the content id out of the part's header fields, Flask-Mail's place for it."""
    given = [pair for pair in fields if pair[0].lower() == "content-id"]
    if not given:
        return None
    fields[:] = [pair for pair in fields if pair not in given]
    bare = given[0][1].removeprefix("<").removesuffix(">")
    if len(given) > 1 or not _CONTENT_ID.fullmatch(bare):
        raise MessageError(field, f"content id {shown(given[-1][1])} is not one identifier")
    return bare


def _disposition(
    value: object, content_id: str | None, referenced: Iterable[str], field: str
) -> Disposition:
    """``inline`` also for a part that a body shows, whatever Flask-Mail's default made of it."""
    text = line(value, field).lower() if value else ""
    kind = _DISPOSITIONS.get(text)
    if kind is None:
        raise MessageError(field, f"disposition {shown(text)} is neither attachment nor inline")
    if content_id is not None and any(f"cid:{content_id}" in body for body in referenced):
        return "inline"
    return kind
