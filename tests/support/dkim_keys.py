"""Keys for DKIM signatures, and the DNS record that belongs to each. Made once per process."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

_RAW = serialization.PublicFormat.Raw


@dataclass(frozen=True)
class DkimKey:
    """A private key as PEM text, and the text of its selector's record."""

    pem: str
    record: str


@cache
def rsa_key(bits: int = 2048) -> DkimKey:
    """An RSA key, in the form that OpenSSL writes."""
    made = rsa.generate_private_key(65537, bits)
    public = made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return DkimKey(_pem(made), f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}")


@cache
def old_form_of(key: DkimKey) -> str:
    """The same RSA key as older programs write it (PKCS #1)."""
    loaded = serialization.load_pem_private_key(key.pem.encode(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


@cache
def locked_form_of(key: DkimKey) -> str:
    """The same key behind a password."""
    loaded = serialization.load_pem_private_key(key.pem.encode(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    ).decode()


@cache
def ed25519_key() -> DkimKey:
    """An Ed25519 key; its record holds the bare 32 bytes (RFC 8463 section 4)."""
    made = ed25519.Ed25519PrivateKey.generate()
    public = made.public_key().public_bytes(serialization.Encoding.Raw, _RAW)
    return DkimKey(_pem(made), f"v=DKIM1; k=ed25519; p={base64.b64encode(public).decode()}")


def _pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
