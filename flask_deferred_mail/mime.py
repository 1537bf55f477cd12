"""A letter as bytes on the wire.

The same letter gives the same bytes at every attempt, in every process and on every Python: the
Message-ID and the date are part of the letter, and the boundaries derive from the Message-ID. The
renderer is our own because the standard library's costs more than twenty times as much, differs
between versions, and has let a subject write header fields of its own.

The shape, of which layers that hold one thing only are left out::

    multipart/mixed
    ├── multipart/alternative
    │   ├── text/plain
    │   ├── multipart/related
    │   │   ├── text/html
    │   │   └── images that the HTML shows
    │   └── further alternatives
    └── attachments

The images stand beside the HTML, inside the alternative, and not around it: a reader that takes
the plain text drops them together with the HTML instead of listing them as attachments, and
``related`` has the HTML itself as its root, which is what RFC 2387 describes. Current mail
programs show either form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO

from .errors import BadHeaderError
from .letter import Address, Letter, Part, Recipient
from .mime_bodies import Body, base64_lines, message_body, text_body
from .mime_headers import (
    Field,
    addresses,
    block,
    checked_header_names,
    identifier,
    structured,
    unstructured,
    with_parameters,
)

__all__ = [
    "RESERVED_HEADERS",
    "address_needs_utf8",
    "checked_header_names",
    "header_needs_utf8",
    "needs_smtputf8",
    "render",
]

#: Fields, in lower case, that a letter has of its own: an application's headers may not hold
#: them (nor any that begins with ``content-``). ``Bcc`` never goes over the wire.
RESERVED_HEADERS = frozenset(
    {
        "from",
        "to",
        "cc",
        "bcc",
        "resent-bcc",
        "subject",
        "date",
        "message-id",
        "mime-version",
    }
)

# An empty group (RFC 5322 section 3.4). The field may be left out by the letter of the standard,
# but relays have been known to add one, some of them with the hidden recipients in it, and spam
# filters count its absence.
_UNDISCLOSED = structured("To", "undisclosed-recipients:;")
_MIME_VERSION = structured("MIME-Version", "1.0")
_TYPE = re.compile(r"([\w!#$&^.+-]+/[\w!#$&^.+-]+)\s*(;.*)?", re.ASCII | re.DOTALL)
_CHARSET = re.compile(r""";\s*charset\s*=\s*("[^"]*"|[^\s;]+)\s*(?=;|$)""", re.IGNORECASE)
# Shown by few programs, and harmful as the last alternative, which the others take for the best.
_BEFORE_HTML = ("text/x-amp-html", "text/watch-html")


@dataclass(slots=True)
class _Leaf:
    """One part without parts: its fields, and its content in wire form or still to be encoded."""

    fields: tuple[Field, ...]
    body: Body | None
    file: bytes = b""

    def head(self) -> bytes:
        return _leaf_block(self.fields)

    def plain(self) -> Iterator[bytes]:
        """Content in which a boundary could occur by chance or by malice."""
        if self.body is not None and self.body.encoding == "7bit":
            yield self.body.data

    def write(self, out: BytesIO) -> None:
        if self.body is not None:
            out.write(self.body.data)
        else:
            for lines in base64_lines(self.file):
                out.write(lines)


@dataclass(slots=True)
class _Multipart:
    """A part made of parts. ``boundary`` is known only once all content is."""

    subtype: str
    children: list[_Leaf | _Multipart]
    boundary: str = ""

    @property
    def fields(self) -> tuple[Field, ...]:
        parameters = [("boundary", self.boundary)]
        if self.subtype == "related":
            # RFC 2387 section 3.1: the type of the root must be given.
            parameters.insert(0, ("type", "text/html"))
        return (with_parameters("Content-Type", f"multipart/{self.subtype}", parameters),)

    def head(self) -> bytes:
        return block(self.fields)

    def plain(self) -> Iterator[bytes]:
        for child in self.children:
            yield from child.plain()

    def write(self, out: BytesIO) -> None:
        delimiter = b"--" + self.boundary.encode("ascii")
        for child in self.children:
            out.write(delimiter + b"\r\n")
            out.write(child.head())
            child.write(out)
            # The line end before a delimiter belongs to the delimiter (RFC 2046 section 5.1.1).
            out.write(b"\r\n")
        out.write(delimiter + b"--\r\n")


_Node = _Leaf | _Multipart

# Most parts begin with one of a few header blocks, of which each is checked once.
_leaf_block = lru_cache(maxsize=64)(block)


def render(letter: Letter, only: Recipient | None = None) -> bytes:
    """The whole message: header block, empty line, body; CRLF lines of ASCII (see below).

    With ``only``, the private copy of that recipient: its ``To`` shows nobody else. Non-ASCII
    stands in the result only if :func:`header_needs_utf8` says so.

    A file is held once more in its encoded form and not a third time, so 25 MB need about 37 MB
    beside themselves.

    :raises MessageError: something in the letter cannot stand where it would have to, or the
        finished header block does not hold exactly the fields that were meant.
    """
    fields = _envelope_fields(letter, only)
    root = _tree(letter)
    _seal(root, f"{letter.message_id}\0{only.email if only else ''}", list(root.plain()))
    out = BytesIO()
    out.write(block([*fields, *root.fields]))
    root.write(out)
    if isinstance(root, _Leaf) and root.body is not None and not _ends_line(root.body.data):
        # Every message ends with a line end on the wire; so it is part of what is signed.
        out.write(b"\r\n")
    return out.getvalue()


def needs_smtputf8(letter: Letter, envelope: Iterable[str], only: Recipient | None = None) -> bool:
    """Whether this letter to these addresses can go only to a server with SMTPUTF8 (RFC 6531)."""
    return (
        header_needs_utf8(letter, only)
        or address_needs_utf8(letter.envelope_sender)
        or any(address_needs_utf8(email) for email in envelope)
    )


def header_needs_utf8(letter: Letter, only: Recipient | None = None) -> bool:
    """Whether raw non-ASCII stands in the header block: in an address, or in the Message-ID.

    Everything else (subject, names, file names) is encoded and asks nothing of the server.
    """
    if only is not None:
        shown = [only.address]
    else:
        shown = [r.address for r in letter.recipients if r.kind != "bcc"]
    shown += (letter.sender, *letter.reply_to)
    return not letter.message_id.isascii() or any(address_needs_utf8(a.email) for a in shown)


def address_needs_utf8(email: str) -> bool:
    """Whether an address can stand in an envelope only under SMTPUTF8."""
    return not email.isascii()


def _envelope_fields(letter: Letter, only: Recipient | None) -> list[Field]:
    """The fields above ``Content-*``, in the order in which they are sent."""
    fields = [_from(letter.sender.email, letter.sender.name), *_destinations(letter, only)]
    if letter.reply_to:
        fields.append(addresses("Reply-To", letter.reply_to))
    if letter.subject:
        fields.append(unstructured("Subject", letter.subject))
    fields.append(structured("Date", letter.date))
    fields.append(identifier("Message-ID", letter.message_id))
    fields.append(_MIME_VERSION)
    fields.extend(_extra(name, value, letter) for name, value in letter.headers_of(only))
    return fields


@lru_cache(maxsize=64)
def _from(email: str, name: str) -> Field:
    """An application's mails have few senders, whose field is checked and written once."""
    return addresses("From", (Address(email, name),))


def _destinations(letter: Letter, only: Recipient | None) -> Iterator[Field]:
    if only is not None:
        yield addresses("To", (only.address,))
        return
    to, cc = letter.of_kind("to"), letter.of_kind("cc")
    if to:
        yield addresses("To", to)
    if cc:
        yield addresses("Cc", cc)
    if not to and not cc:
        yield _UNDISCLOSED


def _extra(name: str, value: str, letter: Letter) -> Field:
    folded = name.lower()
    if (
        folded in RESERVED_HEADERS
        or folded.startswith("content-")
        or (folded == "reply-to" and letter.reply_to)
    ):
        raise BadHeaderError("extra_headers", f"{name} is written by the message itself")
    return unstructured(name, value)


def _tree(letter: Letter) -> _Node:
    """The letter's parts in their places."""
    inline: list[Part] = []
    files: list[Part] = []
    for part in letter.parts:
        (inline if letter.html and _is_shown_by_html(part) else files).append(part)
    body = _body(letter, inline)
    if not files:
        return body or _text("text/plain", "", letter.charset)
    # A lone file still gets a multipart around it: as the body itself, some programs offer no
    # way to save it.
    return _Multipart("mixed", [*([body] if body else []), *map(_file, files)])


def _body(letter: Letter, inline: list[Part]) -> _Node | None:
    """What is read: nothing, one part, or alternatives from the plainest to the richest."""
    choices: list[_Node] = []
    last: list[_Leaf] = []
    for kind, content in letter.alternatives:
        early = kind.lower().startswith(_BEFORE_HTML)
        (choices if early else last).append(_alternative(kind, content, letter.charset))
    # An empty text beside HTML would show readers of plain text an empty mail.
    if letter.text or (letter.text is not None and not (letter.html or letter.alternatives)):
        choices.insert(0, _text("text/plain", letter.text, letter.charset))
    if letter.html:
        html = _text("text/html", letter.html, letter.charset)
        choices.append(_Multipart("related", [html, *map(_file, inline)]) if inline else html)
    choices += last
    if len(choices) < 2:
        return choices[0] if choices else None
    return _Multipart("alternative", choices)


def _is_shown_by_html(part: Part) -> bool:
    """Whether HTML can point at this part: it is inline, and has a name to be pointed at by."""
    return part.disposition == "inline" and bool(
        part.content_id
        or any(name.lower() in ("content-id", "content-location") for name, _ in part.headers)
    )


def _text(content_type: str, text: str, charset: str) -> _Leaf:
    body = text_body(text, charset)
    return _Leaf(_text_fields(content_type, body.charset, body.encoding), body)


@lru_cache(maxsize=64)
def _text_fields(content_type: str, charset: str, encoding: str) -> tuple[Field, ...]:
    return (
        structured("Content-Type", f"{content_type}; charset={charset}"),
        structured("Content-Transfer-Encoding", encoding),
    )


def _alternative(content_type: str, content: str, charset: str) -> _Leaf:
    """Another form of the body. What is no text has no line ends that could be normalised."""
    kind = _content_type(content_type)
    if kind.lower().startswith("text/"):
        return _text(_CHARSET.sub("", kind), content, charset)
    encoding = structured("Content-Transfer-Encoding", "base64")
    try:
        return _Leaf((structured("Content-Type", kind), encoding), None, content.encode())
    except UnicodeEncodeError:
        raise BadHeaderError("alternatives", "half of a surrogate pair is no text") from None


def _file(part: Part) -> _Leaf:
    """An attachment or image, octet by octet as it was given."""
    kind, body = _content_type(part.content_type), None
    if kind.lower().startswith(("message/", "multipart/")):
        body = message_body(part.data) if kind.lower().startswith("message/") else None
        if body is None:
            kind = "application/octet-stream"
    parameters = [("filename", part.filename)] if part.filename else []
    fields = [
        structured("Content-Type", kind),
        structured("Content-Transfer-Encoding", body.encoding if body else "base64"),
        with_parameters("Content-Disposition", part.disposition, parameters),
    ]
    if part.content_id:
        fields.append(structured("Content-ID", f"<{part.content_id}>"))
    return _Leaf((*fields, *_part_headers(part, fields)), body, part.data)


def _part_headers(part: Part, own: list[Field]) -> list[Field]:
    """The fields that an application gave a part, none of which may double ours."""
    taken = {name.lower() for name, _ in own}
    for name, _ in part.headers:
        if name.lower() in taken:
            raise BadHeaderError("attachments", f"{name} is written by the message itself")
    return [unstructured(name, value) for name, value in part.headers]


def _content_type(value: str) -> str:
    if not _TYPE.fullmatch(value):
        raise BadHeaderError("content_type", "must look like type/subtype")
    return value.rstrip("; \t")


def _seal(node: _Node, seed: str, plain: list[bytes]) -> None:
    """Give every multipart in a tree a boundary that no content holds."""
    if isinstance(node, _Multipart):
        node.boundary = _boundary(f"{seed}\0{node.subtype}", plain)
        for child in node.children:
            _seal(child, seed, plain)


def _boundary(seed: str, plain: list[bytes]) -> str:
    """A boundary from a seed: the first of an endless row that no plain content holds.

    Only plain content is searched, because ``=_`` cannot occur in quoted-printable or base64
    (RFC 2045 section 6.7 names this very trick).
    """
    number = 0
    while True:
        digest = sha256(f"{seed}\0{number}".encode()).hexdigest()
        boundary = f"=_{digest[:40]}"
        mark = boundary.encode("ascii")
        if not any(mark in content for content in plain):
            return boundary
        number += 1


def _ends_line(data: bytes) -> bool:
    return not data or data.endswith(b"\r\n")
