"""Header fields as they go over the wire: encoded, folded, and checked once more as bytes.

Everything but an addr-spec leaves here in ASCII. A value that holds a line break is refused, and
the finished block is read again by :func:`checked_header_names`, which shares no code with what
wrote it: the fields on the wire are those that were meant, or nothing is sent.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Sequence

from .errors import AddressError, BadHeaderError
from .letter import Address

#: A header field: its name, and its lines without the last CRLF.
Field = tuple[str, str]

#: Lines are folded here: RFC 2047 section 2 wants 76 where encoded words stand (RFC 5322: 78).
LINE = 76
#: Longest line, in octets, that a server must take (RFC 5322 section 2.1.1).
MAX_LINE = 998

# A blank-free run longer than this cannot be folded safely below MAX_LINE, so it is encoded.
_MAX_TOKEN = 900
# RFC 2047 section 2: an encoded word has 75 characters at most, of which these are no content.
_MAX_WORD = 75
_WORD_FRAME = len("=?utf-8?q??=")
# Room for one four-byte character in Q: an encoded word is never narrower than this.
_MIN_WORD = _WORD_FRAME + 12
# A display name beyond this is cheaper to fold as encoded words than as a quoted string.
_MAX_QUOTED = 60

# What Python or a mail program takes for a line break, NUL, and what UTF-8 cannot hold.
_FORBIDDEN = re.compile("[\0\n\v\f\r\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]")
# Text which a reader would decode although its writer meant it literally.
_LOOKS_ENCODED = re.compile(r"=\?[^?]*\?[bBqQ]\?")
_ATOMS = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?: [\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
# Not the full grammar (message checking has that), but nothing passes that ends the address.
_ADDR_SPEC = re.compile(
    r'(?:[^\s"(),:;<>@\[\]\\]+|"(?:[^"\\]|\\.)*")@(?:[^\s"(),:;<>@\[\]\\]+|\[[^\s\[\]\\<>]+\])'
)
# A field's name is any printable ASCII but the colon (RFC 5322 section 2.2); a line that goes on
# with a field begins with a blank and does not consist of blanks (section 3.2.2).
_WELL_FORMED = re.compile(
    rb"[!-9;-~]+:[^\r\n\0]*(?:\r\n(?:[!-9;-~]+:|[ \t]+[^ \t\r\n\0])[^\r\n\0]*)*"
)
# Beginning with a letter of its own, the search is several times as fast as with ``^``.
_FIELD_NAMES = re.compile(r"\n([!-9;-~]+):")

_LETTERS_AND_DIGITS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def _escapes(safe: bytes, mark: str) -> list[str]:
    """For each byte value: itself if it may stand plainly, else ``mark`` and two hex digits."""
    plain = _LETTERS_AND_DIGITS | frozenset(safe)
    return [chr(byte) if byte in plain else f"{mark}{byte:02X}" for byte in range(256)]


# RFC 2047 section 5 (3): what Q may leave alone inside a display name, the strictest place.
_Q = _escapes(b"!*+-/", "=")
_Q[ord(" ")] = "_"
# RFC 2231 section 7: attribute-char, less ``*``, ``'`` and ``%`` which have a meaning there.
_PERCENT = _escapes(b"!#$&+-.^_`|~", "%")


def unstructured(name: str, value: str) -> Field:
    """A field of free text, such as ``Subject`` or what an application adds.

    Words stay as they are unless they must be encoded, so that structured values (lists of
    identifiers, URLs, JSON) pass through untouched.

    :raises BadHeaderError: the value holds a line break, NUL or a surrogate.
    """
    if not value:
        return name, f"{name}:"
    if _is_plain(value) and len(name) + 2 + len(value) <= LINE:
        return name, f"{name}: {value}"
    _refuse_breaks(name, value)
    return name, _fold(name, _tokens(value, _word_limit(name)))


def structured(name: str, value: str) -> Field:
    """A field whose syntax leaves no place for encoding; folded at blanks if it is long.

    :raises BadHeaderError: the value is not printable ASCII.
    """
    if not (value.isascii() and value.isprintable()):
        raise BadHeaderError(name, "must be printable ASCII without line breaks")
    if len(name) + 2 + len(value) <= LINE:
        return name, f"{name}: {value}"
    return name, _fold(name, _merge_blanks(value.split(" ")))


def identifier(name: str, value: str) -> Field:
    """A field such as ``Message-ID``: never folded, since some servers lose a folded one.

    Non-ASCII stays as it is (RFC 6532); such a letter needs SMTPUTF8.

    :raises BadHeaderError: the value holds a blank at an end, or a character not to be shown.
    """
    if not value.isprintable() or value != value.strip():
        raise BadHeaderError(name, "must be printable, without line breaks or blanks at its ends")
    return name, f"{name}: {value}"


def addresses(name: str, members: Sequence[Address]) -> Field:
    """A field with a list of mailboxes, folded between its members.

    :raises AddressError: an addr-spec that would not stay one member of the list.
    :raises BadHeaderError: a display name holds a line break, NUL or a surrogate.
    """
    tokens: list[str] = []
    for member in members:
        tokens += _member(name, member)
        tokens[-1] += ","
    tokens[-1] = tokens[-1][:-1]
    return name, _fold(name, tokens)


def with_parameters(name: str, value: str, parameters: Iterable[tuple[str, str]]) -> Field:
    """A field such as ``Content-Disposition``: a value and its parameters (RFC 2231).

    :raises BadHeaderError: a value holds a line break, NUL or a surrogate.
    """
    tokens = [value]
    for attribute, text in parameters:
        tokens += _parameter(attribute, text)
    return name, _fold(name, [f"{token};" for token in tokens[:-1]] + tokens[-1:])


def block(fields: Sequence[Field]) -> bytes:
    """The fields, the empty line after them, and the proof that nothing else got in.

    :raises BadHeaderError: the bytes do not hold exactly the fields that were given.
    """
    try:
        raw = "\r\n".join([line for _, line in fields]).encode() + b"\r\n\r\n"
    except UnicodeEncodeError:
        raise BadHeaderError("headers", "hold half of a surrogate pair") from None
    found = checked_header_names(raw)
    meant = [name for name, _ in fields]
    if found != meant or raw.find(b"\r\n\r\n") != len(raw) - 4:
        raise BadHeaderError("headers", "the fields on the wire are not those that were meant")
    return raw


def checked_header_names(raw: bytes) -> list[str]:
    """Read a serialized header block, up to its empty line, and name its fields in order.

    :raises BadHeaderError: the block is not well formed: a CR or LF of its own, NUL, a line of
        blanks, a line without a field name, or a line over 998 octets.
    """
    head, end, _ = raw.partition(b"\r\n\r\n")
    if not end or not _WELL_FORMED.fullmatch(head):
        raise BadHeaderError("headers", "the block holds something other than header fields")
    if len(head) > MAX_LINE and (longest := max(map(len, head.split(b"\r\n")))) > MAX_LINE:
        raise BadHeaderError("headers", f"a line has {longest} octets, {MAX_LINE} are allowed")
    return _FIELD_NAMES.findall("\n" + head.decode("latin-1"))


def _is_plain(value: str) -> bool:
    """Whether a value may stand as it is: printable ASCII that every reader reads literally."""
    return (
        value.isascii()
        and value.isprintable()
        and not ("=?" in value and _LOOKS_ENCODED.search(value))
        and value == value.strip(" ")
    )


def _refuse_breaks(field: str, value: str) -> None:
    if _FORBIDDEN.search(value):
        raise BadHeaderError(field, "must not hold line breaks, NUL or surrogates")


def _word_limit(name: str) -> int:
    """How wide an encoded word may be so that the first one fits beside the field's name."""
    return max(_MIN_WORD, min(_MAX_WORD, LINE - len(name) - 2))


def _fold(name: str, tokens: Sequence[str]) -> str:
    """Join tokens by blanks, with a line break before the token that would pass the limit.

    The first token stays beside the name: parsers disagree about a first line without content.
    """
    line = f"{name}: {' '.join(tokens)}"
    if tokens and len(line) <= LINE:
        return line
    lines = []
    line = f"{name}:"
    room = MAX_LINE
    for token in tokens:
        if len(line) + 1 + len(token) > room:
            lines.append(line)
            line = ""
        line = f"{line} {token}"
        room = LINE
    lines.append(line)
    return "\r\n".join(lines)


def _tokens(value: str, limit: int) -> list[str]:
    """Free text as foldable tokens; one run of words is encoded, from the first to the last
    that needs it, because blanks between two encoded words are dropped by readers.
    """
    words = value.split(" ")
    odd = _odd_words(value, words)
    if not odd:
        tokens = _merge_blanks(words)
    else:
        # The run takes in the blanks beside it and the word beyond them: a blank at a value's end
        # would be lost, and an encoded word must not be empty.
        first, last = odd[0], odd[-1] + 1
        while first and not (words[first] and words[first - 1]):
            first -= 1
        while last < len(words) and not (words[last - 1] and words[last]):
            last += 1
        tokens = _merge_blanks(words[:first])
        tokens += encoded_words(" ".join(words[first:last]), limit)
        tokens += _merge_blanks(words[last:])
    if max(map(len, tokens)) > _MAX_TOKEN:
        return encoded_words(value, limit)
    return tokens


def _odd_words(value: str, words: Sequence[str]) -> list[int]:
    """Which words cannot stand plainly; blanks at either end of the value count as such."""
    deceptive = _LOOKS_ENCODED.search(value) is not None
    odd = [
        index
        for index, word in enumerate(words)
        if not (word.isascii() and word.isprintable()) or (deceptive and "=?" in word)
    ]
    if not words[0]:
        odd.insert(0, 0)
    if not words[-1]:
        odd.append(len(words) - 1)
    return odd


def _merge_blanks(words: Iterable[str]) -> list[str]:
    """Words that ``split(" ")`` gave, with the empty ones put in front of the next: a line that
    is folded between them must never be one of blanks alone.
    """
    tokens = []
    blanks = ""
    for word in words:
        if word:
            tokens.append(blanks + word)
            blanks = ""
        else:
            blanks += " "
    return tokens


def encoded_words(text: str, limit: int = _MAX_WORD) -> list[str]:
    """Text as RFC 2047 encoded words of at most ``limit`` characters, in UTF-8.

    Q or B, whichever is shorter; no word holds a part of a character.
    """
    data = text.encode()
    quoted = "".join([_Q[byte] for byte in data])
    room = max(limit, _MIN_WORD) - _WORD_FRAME
    if len(quoted) <= (len(data) + 2) // 3 * 4:
        pieces = [quoted] if len(quoted) <= room else _pieces(text, _Q, room)
        return [f"=?utf-8?q?{piece}?=" for piece in pieces]
    return [
        f"=?utf-8?b?{b2a_base64(piece, newline=False).decode('ascii')}?="
        for piece in _whole_characters(data, room // 4 * 3)
    ]


def _pieces(text: str, table: Sequence[str], room: int) -> Iterator[str]:
    """Escaped text, cut between characters into pieces of at most ``room``."""
    piece: list[str] = []
    length = 0
    for char in text:
        coded = "".join([table[byte] for byte in char.encode()])
        if length + len(coded) > room:
            yield "".join(piece)
            piece.clear()
            length = 0
        piece.append(coded)
        length += len(coded)
    yield "".join(piece)


def _whole_characters(data: bytes, step: int) -> Iterator[bytes]:
    """UTF-8 cut into runs of at most ``step`` octets, each made of whole characters."""
    start = 0
    while start < len(data):
        end = start + step
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end]
        start = end


def _member(field: str, address: Address) -> list[str]:
    """One mailbox as tokens: in one piece, if that fits on a line of its own."""
    email = address.email
    if not (_ADDR_SPEC.fullmatch(email) and email.isprintable()):
        raise AddressError(field, "an address in it is not an addr-spec")
    # Lawful as a local part, but servers exist that decode it and mail somebody else.
    if "=?" in email and _LOOKS_ENCODED.search(email):
        raise AddressError(field, "an address in it looks like an encoded word")
    if not address.name:
        return [email]
    tokens = [*_phrase(field, address.name), f"<{email}>"]
    joined = " ".join(tokens)
    return [joined] if len(joined) < LINE - 2 else tokens


def _phrase(field: str, name: str) -> list[str]:
    """A display name (RFC 5322 section 3.2.5): as it is, quoted, or as encoded words."""
    # Readers decode what looks like an encoded word even inside quotes, where the standard
    # forbids it, so the quoted form is no shelter for ``=?``.
    if len(name) <= _MAX_QUOTED and _is_plain(name) and "=?" not in name and "  " not in name:
        if _ATOMS.fullmatch(name):
            return [name]
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return [f'"{escaped}"']
    _refuse_breaks(field, name)
    return encoded_words(name, _word_limit(field))


def _parameter(attribute: str, value: str) -> list[str]:
    """A parameter, quoted where that is safe, else percent-encoded and in numbered sections."""
    if not _is_plain(value):
        _refuse_breaks(attribute, value)
    # Escapes inside a quoted file name are misread by several mail programs: encode instead.
    elif '"' not in value and "\\" not in value and len(value) <= _MAX_QUOTED:
        return [f'{attribute}="{value}"']
    room = LINE - len(f" {attribute}*999*=utf-8'';")
    pieces = list(_pieces(value, _PERCENT, room))
    if len(pieces) == 1:
        return [f"{attribute}*=utf-8''{pieces[0]}"]
    pieces[0] = f"utf-8''{pieces[0]}"
    return [f"{attribute}*{number}*={piece}" for number, piece in enumerate(pieces)]
