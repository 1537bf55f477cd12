"""A request to Aliyun's RPC interface, signed: version 1.0, HMAC-SHA1 over the sorted fields."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import quote


def string_to_sign(fields: Iterable[tuple[str, str]]) -> str:
    """What is signed of a POST to ``/``: its fields by name, each encoded as RFC 3986 has it."""
    pairs = (f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(fields))
    return f"POST&%2F&{_encoded('&'.join(pairs))}"


def signature(fields: Iterable[tuple[str, str]], secret: str) -> str:
    """The value of the field ``Signature``."""
    digest = hmac.new(f"{secret}&".encode(), string_to_sign(fields).encode(), hashlib.sha1)
    return base64.b64encode(digest.digest()).decode("ascii")


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
