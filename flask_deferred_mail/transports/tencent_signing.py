"""A request to Tencent Cloud's API, signed: TC3-HMAC-SHA256 over the exact bytes that are sent."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import urlsplit

_ALGORITHM = "TC3-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def authorization(
    url: str, content_type: str, body: bytes, key: tuple[str, str], service: str, now: float
) -> str:
    """The header that proves who asks.

    ``key`` is id and secret, ``now`` in seconds since the epoch. Signed are the type of the content
    and the host, which must be sent as :func:`host_of` writes it.
    """
    key_id, secret = key
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    scope = f"{day}/{service}/tc3_request"
    canonical = "\n".join(
        (
            *("POST", urlsplit(url).path or "/", ""),
            *(f"content-type:{content_type}", f"host:{host_of(url)}", ""),
            *("content-type;host", hashlib.sha256(body).hexdigest()),
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signing_key = f"TC3{secret}".encode()
    for word in scope.split("/"):
        signing_key = _hmac(signing_key, word).digest()
    signature = _hmac(signing_key, f"{_ALGORITHM}\n{int(now)}\n{scope}\n{digest}").hexdigest()
    return (
        f"{_ALGORITHM} Credential={key_id}/{scope}, "
        f"SignedHeaders=content-type;host, Signature={signature}"
    )


def host_of(url: str) -> str:
    """The Host header, without the port that the scheme means anyway."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    plain = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return host if plain else f"{host}:{parts.port}"


def _hmac(key: bytes, text: str) -> hmac.HMAC:
    return hmac.new(key, text.encode(), hashlib.sha256)
