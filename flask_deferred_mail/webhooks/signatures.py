"""Signatures by key pairs. Needs the library cryptography, which is an extra (``webhooks``)."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING

from .receiver import from_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_MISSING = (
    "the library that checks its signatures is missing (pip install flask-deferred-mail[webhooks])"
)


@cache
def require_library() -> None:
    """:raises ValueError: cryptography is not installed; says how to."""
    if importlib.util.find_spec("cryptography") is None:
        raise ValueError(_MISSING)


def public_key(key: str) -> EllipticCurvePublicKey:
    """A public key for ECDSA, in base64 or PEM.

    :raises ValueError: it is none, or cryptography is missing.
    """
    require_library()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    lines = [line for line in key.replace("\\n", "\n").split() if "-" not in line]
    # The words of PEM's first and last line are no base64 of a key's length.
    der = from_base64("".join(line for line in lines if line not in ("PUBLIC", "KEY")))
    try:
        found = load_der_public_key(der or b"")
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, EllipticCurvePublicKey):
        raise ValueError("'key' is not a public verification key (base64)")
    return found


def is_signed_by(key: EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    """Whether this is an ECDSA signature (SHA-256, DER) with that key's other half."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, signed, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def key_of_certificate(pem: bytes) -> RSAPublicKey:
    """The RSA key in a certificate.

    :raises ValueError: it is no certificate, or not of such a key.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_x509_certificate(pem).public_key()
    if not isinstance(key, RSAPublicKey):
        raise ValueError("the certificate has no RSA key")
    return key


def is_signed_by_rsa(key: RSAPublicKey, signature: bytes, signed: bytes, version: str) -> bool:
    """Whether this is an RSA signature (PKCS #1 v1.5) of SNS: version 1 with SHA-1, 2 with 256."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

    hashes: dict[str, type[HashAlgorithm]] = {"1": SHA1, "2": SHA256}
    if version not in hashes:
        return False
    try:
        key.verify(signature, signed, PKCS1v15(), hashes[version]())
    except InvalidSignature:
        return False
    return True
