"""DKIM signatures (RFC 6376), for a transport configured with ``{"url": ..., "dkim": {...}}``.

For the transports that render the mail here; providers sign what they send themselves. The
signature is the one thing that is added at the attempt, since it holds the time of signing: what it
covers is the same at every attempt. Signing is dkimpy's (extra ``dkim``); here are the rules.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..mime_headers import checked_header_names

#: Fields that are signed wherever they stand in the mail, in lower case.
SIGNED = (
    *("from", "to", "cc", "subject", "date", "message-id", "reply-to", "sender", "in-reply-to"),
    *("references", "mime-version", "content-type", "content-transfer-encoding"),
    *("list-id", "list-unsubscribe", "list-unsubscribe-post"),
)
#: Fields that change on the way or do not leave at all (RFC 6376 section 5.4.1).
UNSIGNABLE = frozenset({"return-path", "received", "bcc", "resent-bcc", "dkim-signature"})
#: Least length of an RSA key in bits that receivers accept (RFC 8301 section 3.2).
LEAST_BITS = 1024

_KEYS = ("domain", "selector", "key", "key_file", "headers")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_SELECTOR = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_FIELD = re.compile(r"[!-9;-~]+")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.+?)-----END \1-----", re.DOTALL)
# RFC 8410 section 7: what stands before the 32 bytes of an Ed25519 key in its DER form.
_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
_INSTALL = "pip install flask-deferred-mail[dkim]"


class _Unusable(ValueError):
    """What is wrong with a key, in words that hold nothing of it."""


class Signer:
    """Signs mail for one domain with one key. ``repr`` shows no secret.

    :param dkim: the dict that stands beside the transport's URL; see ``docs/transports/smtp.md``.
    :raises ConfigurationError: lists everything that is wrong with it.
    """

    def __init__(self, dkim: Mapping[str, Any]) -> None:
        if found := faults_of(dkim):
            raise ConfigurationError([f"dkim: {fault}" for fault in found])
        self.domain = str(dkim["domain"]).lower()
        self.selector = str(dkim["selector"])
        #: What is signed of a mail, in lower case; ``from`` is always among it.
        self.headers = _names(dkim.get("headers"))
        self._algorithm, self._key = _key(_text_of(dkim))

    def __repr__(self) -> str:
        return f"<Signer {self.selector} of {self.domain}, {self.algorithm}>"

    @property
    def algorithm(self) -> str:
        """``rsa-sha256`` or ``ed25519-sha256``."""
        return self._algorithm

    @property
    def public_key(self) -> bytes:
        """What belongs to it in the ``p=`` of the selector's DNS record."""
        return _public(self._algorithm, self._key)

    def covers(self, *names: str) -> bool:
        """Whether all of these fields are signed where they stand in a mail."""
        return {name.lower() for name in names} <= set(self.headers)

    def signed(self, mail: bytes) -> bytes:
        """The mail with a ``DKIM-Signature`` in front; not one byte of it is changed."""
        import dkim

        head, _, body = mail.partition(b"\r\n\r\n")
        # Given apart: dkimpy would cut a whole mail into lines, attachments too.
        task = dkim.DKIM(head + b"\r\n\r\n", signature_algorithm=self._algorithm.encode())
        task.body = body
        field: bytes = task.sign(
            self.selector.encode(),
            self.domain.encode(),
            self._key,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=self._chosen(checked_header_names(head + b"\r\n\r\n")),
        )
        checked_header_names(field + b"\r\n")
        return field + mail

    def _chosen(self, present: Iterable[str]) -> list[bytes]:
        """The names to sign: as often as they stand there, and ``From`` once more, so that nobody
        on the way can put another one beside it."""
        chosen = [name.lower() for name in present if name.lower() in self.headers]
        return [name.encode() for name in [*chosen, "from"]]


def signer_of(dkim: Mapping[str, Any] | None) -> Signer | None:
    """The signer that a transport's configuration asks for, if it does."""
    return None if dkim is None else Signer(dkim)


def faults_of(dkim: Mapping[str, Any]) -> list[str]:
    """What is wrong with the dict, one sentence each, without a secret; empty if nothing."""
    return [*_faults_of_form(dkim), *_faults_of_key(dkim), *_faults_of_install()]


def _faults_of_form(dkim: Mapping[str, Any]) -> Iterator[str]:
    # A stray name is not shown: whoever mixes up name and value would see his key in a log.
    if odd := len(set(dkim) - set(_KEYS)):
        yield f"has {odd} unknown entr{'y' if odd == 1 else 'ies'}; there is {', '.join(_KEYS)}"
    domain, selector = dkim.get("domain"), dkim.get("selector")
    if not (isinstance(domain, str) and len(domain) < 254 and _DOMAIN.fullmatch(domain)):
        yield "'domain' should be the domain in its DNS form, such as example.com"
    if not (isinstance(selector, str) and len(selector) < 254 and _SELECTOR.fullmatch(selector)):
        yield "'selector' should be the name before ._domainkey, such as s1"
    try:
        names = _names(dkim.get("headers"))
    except _Unusable as problem:
        yield f"'headers' {problem}"
    else:
        if odd_names := sorted(UNSIGNABLE & set(names)):
            yield f"'headers' cannot hold {', '.join(odd_names)}"


def _faults_of_key(dkim: Mapping[str, Any]) -> Iterator[str]:
    if ("key" in dkim) == ("key_file" in dkim):
        yield "needs either 'key' (the private key as PEM text) or 'key_file' (its path)"
        return
    try:
        _key(_text_of(dkim))
    except _Unusable as problem:
        yield f"{'key' if 'key' in dkim else 'key_file'!r} {problem}"


def _faults_of_install() -> Iterator[str]:
    if importlib.util.find_spec("dkim") is None:
        yield f"signing needs dkimpy: {_INSTALL}"


def _names(headers: Any) -> tuple[str, ...]:
    if headers is None:
        return SIGNED
    given = headers.split(",") if isinstance(headers, str) else headers
    if not isinstance(given, (list, tuple)) or not all(isinstance(n, str) for n in given):
        raise _Unusable("should be a list of field names")
    names = [name.strip().lower() for name in given]
    if not all(_FIELD.fullmatch(name) and len(name) <= 76 for name in names):
        raise _Unusable("should hold names of header fields")
    return tuple(dict.fromkeys(["from", *names]))


# -- keys ---------------------------------------------------------------------------------------


def _text_of(dkim: Mapping[str, Any]) -> str:
    if "key" in dkim:
        given = dkim["key"]
        if isinstance(given, bytes):
            given = given.decode("latin-1")
        if not isinstance(given, str):
            raise _Unusable("should be the private key as PEM text")
        # Environment variables often hold their line ends as two characters.
        return given.replace("\\n", "\n")
    path = dkim["key_file"]
    try:
        with open(path, encoding="latin-1") as file:
            return file.read(100_000)
    except (OSError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise _Unusable(f"cannot be read: {why}") from None


def _key(text: str) -> tuple[str, bytes]:
    """Algorithm and key in the form that dkimpy wants.

    :raises _Unusable: it is no key that mail can be signed with.
    """
    pem = _PEM.search(text)
    if pem is None:
        raise _Unusable("holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    if "ENCRYPTED" in pem[1] or "ENCRYPTED" in pem[2]:
        raise _Unusable("is protected by a password, which nobody could type at every start")
    if "PUBLIC" in pem[1] or "PRIVATE KEY" not in pem[1]:
        raise _Unusable("is no private key")
    try:
        der = base64.b64decode("".join(pem[2].split()), validate=True)
    except binascii.Error:
        raise _Unusable("is damaged: its content is not base64") from None
    if der.startswith(_ED25519) and len(der) == len(_ED25519) + 32:
        if importlib.util.find_spec("nacl") is None:
            raise _Unusable(f"is an Ed25519 key, which needs PyNaCl: {_INSTALL}")
        return "ed25519-sha256", base64.b64encode(der[len(_ED25519) :])
    return "rsa-sha256", _rsa(der)


def _rsa(der: bytes) -> bytes:
    """An RSA key in the form in which dkimpy looks for it."""
    if importlib.util.find_spec("dkim") is None:
        return der
    from dkim.crypto import UnparsableKeyError, parse_private_key

    try:
        modulus = parse_private_key(der)["modulus"]
    except (UnparsableKeyError, ValueError, IndexError, TypeError, KeyError):
        raise _Unusable("is neither an RSA nor an Ed25519 key") from None
    if modulus.bit_length() < LEAST_BITS:
        raise _Unusable(
            f"is an RSA key of {modulus.bit_length()} bits; receivers want {LEAST_BITS} at least, "
            "and 2048 is usual"
        )
    # Between the only line ends that dkimpy finds a key by.
    return b"--\n" + base64.b64encode(der) + b"\n--"


def _public(algorithm: str, key: bytes) -> bytes:
    if algorithm == "ed25519-sha256":
        from nacl.encoding import Base64Encoder
        from nacl.signing import SigningKey

        return bytes(SigningKey(key, encoder=Base64Encoder).verify_key)
    from dkim.crypto import parse_pem_private_key

    numbers = parse_pem_private_key(key)
    return _rsa_public(numbers["modulus"], numbers["publicExponent"])


def _rsa_public(modulus: int, exponent: int) -> bytes:
    """The two numbers as an RSAPublicKey (RFC 8017 appendix A.1.1)."""
    inner = _integer(modulus) + _integer(exponent)
    return b"\x30" + _length(len(inner)) + inner


def _integer(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1)
    return b"\x02" + _length(len(data)) + data


def _length(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    data = number.to_bytes((number.bit_length() + 7) // 8)
    return bytes([0x80 | len(data)]) + data
