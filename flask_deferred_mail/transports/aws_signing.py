"""A request to AWS, signed: Signature Version 4 over the exact bytes that are sent.

Of the procedure only what one POST or GET without a query needs is here; a test holds it against
botocore's signer. Why it is our own stands in ``docs/transports/ses.md``.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import requests

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request is signed with. ``token`` comes with temporary ones."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def sign(
    request: requests.Request, credentials: Credentials, region: str, service: str, now: float
) -> requests.Request:
    """The request with its date, its token if there is one, and its signature.

    Its body must be bytes, as they will be sent; ``now`` is in seconds since the epoch.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {**request.headers, "X-Amz-Date": moment}
    if credentials.token is not None:
        headers["X-Amz-Security-Token"] = credentials.token
    signed = {name.lower(): str(value).strip() for name, value in headers.items()}
    signed["host"] = _host(request.url)
    names = ";".join(sorted(signed))
    payload = hashlib.sha256(request.data or b"").hexdigest()
    canonical = "\n".join(
        (
            request.method,
            # Encoded once more than in the URL, as every service but S3 wants it.
            quote(urlsplit(request.url).path or "/", safe="/-_.~"),
            "",
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            payload,
        )
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.new(
        _key(credentials.secret_key, scope),
        f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}".encode(),
        hashlib.sha256,
    ).hexdigest()
    headers["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return requests.Request(request.method, request.url, headers=headers, data=request.data)


def _key(secret: str, scope: str) -> bytes:
    """The day's key for one service in one region, derived from the secret."""
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key


def _host(url: str) -> str:
    """The Host header as http.client writes it: without the port that the scheme means anyway."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    plain = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return host if plain else f"{host}:{parts.port}"
