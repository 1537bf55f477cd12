"""Bodies and attachments encrypted at rest: what lies in the table is of no use without a key.

AES-256-GCM. From each key of ``DEFERRED_MAIL_ENCRYPTION_KEYS`` are derived one that encrypts, one
that names attachments, one for fingerprints, and a public id, by which a row says which key it
needs. The first key encrypts; all of them decrypt. A row's ciphertext is bound to its Message-ID
and an attachment's to its name, so that whoever can write to the table can exchange neither.

An attachment's name is an HMAC of its SHA-256. So equal attachments are stored once (for each
key), and the table shows that they are equal, and how large they are, but nobody without the key
can check a guess at what they are.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from ..errors import KeyMissing, StoreError

#: How a sealed payload begins. JSON begins with a brace.
_MARK = "sealed:"
_ID_LENGTH = 16
#: Bytes of the random nonce, as GCM wants it.
_NONCE = 12


class Seals:
    """Seals and opens content; with no keys, passes everything through as it is.

    :raises StoreError: the library that encrypts is missing.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        ring = [_Key(key) for key in keys]
        self._first = ring[0] if ring else None
        self._ring = {key.id: key for key in ring}

    @property
    def active(self) -> bool:
        """Whether what is recorded from now on is sealed."""
        return self._first is not None

    def seal(
        self, text: str, message_id: str, pieces: dict[str, bytes]
    ) -> tuple[str, dict[str, bytes]]:
        """A payload as it is to be stored, and its attachments by the names of their rows."""
        key = self._first
        if key is None:
            return text, pieces
        sealed = base64.b64encode(key.seal(text.encode("utf-8", "surrogatepass"), message_id))
        named = {key.name(digest): data for digest, data in pieces.items()}
        return (
            f"{_MARK}{key.id}:{sealed.decode('ascii')}",
            {name: key.seal(data, name) for name, data in named.items()},
        )

    def opener(self, stored: str) -> Opener:
        """What opens this payload, and the attachments that were recorded with it.

        :raises KeyMissing: the key that it was sealed with is not configured.
        """
        if not is_sealed(stored):
            return Opener()
        wanted = stored[len(_MARK) : len(_MARK) + _ID_LENGTH]
        if wanted not in self._ring:
            raise KeyMissing(
                f"it is encrypted with a key (id {_printable(wanted)}) that "
                "DEFERRED_MAIL_ENCRYPTION_KEYS does not have here; add it, behind the first one"
            )
        return SealOpener(self._ring[wanted])

    def fingerprint(self, plain: str | None) -> str | None:
        """A fingerprint of content as it is to be stored: one that needs the key to be checked."""
        return plain if plain is None or self._first is None else self._first.fingerprint(plain)

    def matches(self, stored: str | None, plain: str | None) -> bool:
        """Whether a stored fingerprint, made under any of the keys or none, is this one."""
        if stored == plain or stored is None or plain is None:
            return stored == plain
        return any(key.fingerprint(plain) == stored for key in self._ring.values())

    def knows(self, key_id: str) -> bool:
        """Whether the key of that id is configured."""
        return key_id in self._ring


class Opener:
    """Opens what was never sealed."""

    def text(self, stored: str, _message_id: str) -> str:
        """The payload's JSON."""
        return stored

    def name(self, digest: str) -> str:
        """Under which name an attachment's row is to be found."""
        return digest

    def piece(self, data: bytes, _name: str) -> bytes:
        """An attachment's content."""
        return data


class SealOpener(Opener):
    """Opens what one key has sealed.

    :raises StoreError: what is stored is not what was sealed under this name.
    """

    def __init__(self, key: _Key) -> None:
        self._key = key

    def text(self, stored: str, message_id: str) -> str:
        try:
            sealed = base64.b64decode(stored[len(_MARK) + _ID_LENGTH + 1 :], validate=True)
        except binascii.Error:
            raise _damaged("payload") from None
        return self._key.open(sealed, message_id, "payload").decode("utf-8", "surrogatepass")

    def name(self, digest: str) -> str:
        return self._key.name(digest)

    def piece(self, data: bytes, name: str) -> bytes:
        return self._key.open(data, name, "attachment")


class _Key:
    """One key, and what is derived from it."""

    def __init__(self, secret: bytes) -> None:
        self._gcm = _aes_gcm(_derived(secret, "encryption"))
        self._naming = _derived(secret, "names of attachments")
        self._printing = _derived(secret, "fingerprints")
        self.id = _derived(secret, "key id").hex()[:_ID_LENGTH]

    def seal(self, plain: bytes, about: str) -> bytes:
        nonce = os.urandom(_NONCE)
        sealed: bytes = self._gcm.encrypt(nonce, plain, about.encode())
        return nonce + sealed

    def open(self, sealed: bytes, about: str, what: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            plain: bytes = self._gcm.decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
        except (InvalidTag, ValueError):
            raise _damaged(what) from None
        return plain

    def name(self, digest: str) -> str:
        return _mac(self._naming, digest)

    def fingerprint(self, plain: str) -> str:
        return _mac(self._printing, plain)


def is_sealed(stored: str) -> bool:
    """Whether a stored payload is sealed."""
    return stored.startswith(_MARK)


def key_id_of(beginning: str) -> str | None:
    """The id of the key that a payload needs, from its first :data:`BEGINNING` characters."""
    if not is_sealed(beginning):
        return None
    return beginning[len(_MARK) : len(_MARK) + _ID_LENGTH]


#: Characters at the beginning of a payload that tell which key it needs.
BEGINNING = len(_MARK) + _ID_LENGTH


def _derived(secret: bytes, purpose: str) -> bytes:
    # One block of HKDF's expansion (RFC 5869 2.3); the keys are random, so none of extraction.
    return hmac.digest(secret, b"flask-deferred-mail " + purpose.encode() + b"\x01", "sha256")


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), sha256).hexdigest()


def _aes_gcm(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise StoreError(
            "DEFERRED_MAIL_ENCRYPTION_KEYS is set, and the library that encrypts is missing: "
            "pip install flask-deferred-mail[encryption]"
        ) from error
    return AESGCM(key)


def _damaged(what: str) -> StoreError:
    return StoreError(f"the stored {what} is damaged: it is not what was encrypted for this mail")


def _printable(key_id: str) -> str:
    return key_id if key_id.isalnum() and key_id.isascii() else "unreadable"
