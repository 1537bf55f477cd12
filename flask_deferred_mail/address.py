"""Strict e-mail addresses: what a view may write, and what comes out of it.

Nothing here guesses. A parser that finds *some* address in a damaged one sends mail to somebody
who was never checked (CVE-2023-27043), so the whole text must match, or it is refused.
"""

from __future__ import annotations

import re
from typing import NoReturn, TypeAlias

from .characters import as_text, describe, line, shown
from .errors import AddressError, BadHeaderError
from .letter import Address

#: What is taken for an address: ``"a@b"``, ``"Name <a@b>"``, ``("Name", "a@b")``, or ready-made.
AddressLike: TypeAlias = str | tuple[str | None, str] | Address

#: Longest address in octets (RFC 5321 section 4.5.3.1.3 less the brackets; erratum 1690).
MAX_EMAIL = 254
#: Longest display name, in characters.
MAX_NAME = 255
# Checked before anything else, so that no later step sees more than this.
_MAX_INPUT = 2 * (MAX_EMAIL + MAX_NAME) + 8
_MAX_DOMAIN = 253

_ENCODED_WORD = re.compile(r"=\?[^?]*\?[bBqQ]\?")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#: Plain ASCII addresses, which nearly all are: decided here, within a microsecond.
_PLAIN = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"[ ]*<([^<>]*)>')
_ESCAPED = re.compile(r"\\(.)")
# Beside an @ these make a display name look like a list, a comment or a route.
_DOUBTFUL_BESIDE_AT = re.compile(r"[(),:;\[\]\\]")
# Names which email-validator knows to be unreachable from the Internet. Intranets and every test
# suite use them; we do not judge where a mail can go, only whether an address is one.
_SPECIAL_USE = frozenset({"arpa", "invalid", "local", "localhost", "onion", "test"})


def parse_address(value: object, field: str) -> Address:
    """The address that ``value`` is, its domain in lower-case A-labels.

    Takes linear time in the length of ``value``, and no look-ups. Domains for special use and
    hosts without a dot are addresses too; domain literals and quoted local parts are not.

    :param field: what the address is for; errors name it.
    :raises BadHeaderError: line breaks, NUL, control characters or surrogates.
    :raises AddressError: anything else that is not one address.
    """
    if isinstance(value, Address):
        return _address(value.name, value.email, field)
    if isinstance(value, tuple):
        return _pair(value, field)
    text = as_text(value, field)
    if (email := _plain(text)) is not None:
        return Address(email)
    if len(text) > _MAX_INPUT:
        _too_long(field, len(text), _MAX_INPUT)
    text = _one_line(text, field).strip(" ")
    if not text.endswith(">"):
        return Address(_email(text, field))
    return _address(*_split_mailbox(text, field), field)


def same_mailbox(email: str) -> tuple[str, str]:
    """What two spellings of one mailbox have in common: only the domain ignores case."""
    local, _, domain = email.rpartition("@")
    return local, domain.lower()


def _pair(value: tuple[object, ...], field: str) -> Address:
    """Flask-Mail's way: the name, then the address."""
    if len(value) != 2:
        raise AddressError(field, f"a tuple must be (name, address), this one has {len(value)}")
    name, email = value
    return _address("" if name is None else as_text(name, field), as_text(email, field), field)


def _address(name: str, email: str, field: str) -> Address:
    if len(name) > MAX_NAME:
        raise AddressError(field, f"the name has {len(name)} characters, {MAX_NAME} are allowed")
    if len(email) > _MAX_INPUT:
        _too_long(field, len(email), MAX_EMAIL)
    name = _one_line(name, field).strip(" ")
    return Address(_plain(email) or _email(_one_line(email, field).strip(" "), field), name)


def _email(text: str, field: str) -> str:
    return _plain(text) or _addr_spec(text, field)


def _one_line(text: str, field: str) -> str:
    """``text``, which holds no tab either: nobody has one in a name on purpose."""
    if "\t" in text:
        raise BadHeaderError(field, f"holds {describe(chr(9))}; an address has none")
    return line(text, field)


def _plain(text: str) -> str | None:
    """The address if it is ASCII and beyond doubt; ``None`` leaves it to :func:`_addr_spec`."""
    if len(text) > MAX_EMAIL or (match := _PLAIN.fullmatch(text)) is None:
        return None
    local, domain = match.groups()
    # Two hyphens can be an A-label, which must be decoded to be checked.
    if "--" in domain or len(domain) > _MAX_DOMAIN or _is_number(domain):
        return None
    if "=?" in local:
        return None
    return f"{local}@{domain.lower()}"


def _is_number(domain: str) -> bool:
    """Whether it is an IP address, or looks like one: no top-level domain is all digits."""
    return domain[-1].isdigit() and domain.rpartition(".")[2].isdigit()


def _split_mailbox(text: str, field: str) -> tuple[str, str]:
    """``Name <addr-spec>`` as its two parts; the name may be quoted (RFC 5322 section 3.4)."""
    if text.startswith('"'):
        if (quoted := _QUOTED_NAME.fullmatch(text)) is None:
            raise AddressError(
                field,
                f'{shown(text)} does not read as "name" <address>; use a (name, address) tuple',
            )
        return _ESCAPED.sub(r"\1", quoted[1]), quoted[2]
    name, _, rest = text.partition("<")
    email = rest[:-1]
    if "<" in email or ">" in email or ">" in name:
        raise AddressError(field, f"{shown(text)} holds more than one address; give a list of them")
    if '"' in name or ("@" in name and _DOUBTFUL_BESIDE_AT.search(name)):
        raise AddressError(
            field, f"the name in {shown(text)} is ambiguous; use a (name, address) tuple"
        )
    return name, email


def _addr_spec(text: str, field: str) -> str:
    """The addr-spec with its domain in A-labels, by email-validator; the rare and slow way."""
    local, at, domain = text.rpartition("@")
    _refuse_odd_shapes(text, local, at, domain, field)
    stem, dot, last = domain.rpartition(".")
    # The library refuses special-use names whatever it is told, so it sees another label of the
    # same length in their place; changing its global list would change it for the application.
    special = last.lower() in _SPECIAL_USE
    seen = f"{stem}{dot}{'x' * len(last)}" if special else domain
    local, ascii_domain = _validated(local, seen, text, field)
    if special:
        ascii_domain = ascii_domain[: -len(last)] + last.lower()
    if not _DOMAIN.fullmatch(ascii_domain) or _is_number(ascii_domain):
        _refuse(text, field, "the part after the @ is not the name of a host")
    return f"{local}@{ascii_domain}"


def _refuse_odd_shapes(text: str, local: str, at: str, domain: str, field: str) -> None:
    """What needs a clearer word than the library has, or must not reach it."""
    if len(text) > MAX_EMAIL:
        _too_long(field, len(text), MAX_EMAIL)
    if not text:
        raise AddressError(field, "is empty")
    if not at:
        _refuse(text, field, "it has no @")
    if local.startswith('"'):
        _refuse(text, field, "quoted local parts are not supported: servers disagree about them")
    if _ENCODED_WORD.search(local):
        # Servers that decode RFC 2047 there would mail somebody else.
        _refuse(text, field, "the part before the @ looks like an encoded word")
    if domain.startswith("["):
        _refuse(text, field, "an IP address cannot stand in for the domain")
    if "," in text or ";" in text:
        _refuse(text, field, "one address is expected here; give several as a list")
    if " " in text or "<" in text or ">" in text or '"' in text:
        _refuse(text, field, "it holds a blank, a quote or an angle bracket")


def _validated(local: str, domain: str, text: str, field: str) -> tuple[str, str]:
    """Local part (in NFC, as RFC 6532 section 3.1 wants it) and ASCII domain."""
    # Imported when first needed: it brings the IDNA tables along.
    from email_validator import EmailNotValidError, validate_email

    try:
        found = validate_email(
            f"{local}@{domain}",
            allow_smtputf8=True,
            allow_empty_local=False,
            allow_quoted_local=False,
            allow_domain_literal=False,
            allow_display_name=False,
            check_deliverability=False,
            test_environment=False,
            globally_deliverable=False,
        )
    except EmailNotValidError as error:
        _refuse(text, field, shown(error).strip("'").rstrip("."))
    # The library lower-cases some ASCII local parts ("Info@"); whose mailbox that is is the
    # server's business.
    return local if local.isascii() else found.local_part, found.ascii_domain


def _refuse(text: str, field: str, why: str) -> NoReturn:
    raise AddressError(field, f"{shown(text)} is not an address: {why}")


def _too_long(field: str, length: int, limit: int) -> NoReturn:
    raise AddressError(field, f"an address of {length} characters; {limit} are allowed")
