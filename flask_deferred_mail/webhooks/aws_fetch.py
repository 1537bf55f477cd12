"""Two things that Amazon SNS wants fetched: a certificate, and the URL that ends a subscription.

Both stand in the report itself, so nothing is fetched but from a host of SNS in the topic's own
region, over verified TLS, without following redirects, in bounded time and size.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import requests

from ..deadline import Deadline
from ..transports.authorities import Authorities
from ..transports.http_request import Requests
from ..transports.timed_http import NETWORK, Connection, Progress
from .receiver import Refused
from .signatures import key_of_certificate

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

#: Seconds for one of them, connecting included. SNS itself waits for 15.
PATIENCE = 8.0
_LARGEST = 64_000
#: Certificates that are kept; a region has one at a time.
_KEPT = 8
#: Seconds for which one that could not be had is not asked for again.
_SHUNNED = 30.0

V = TypeVar("V")

_TOPIC = re.compile(r"arn:(aws|aws-cn|aws-us-gov):sns:([a-z0-9-]{1,32}):[0-9]{1,20}:[\w.-]{1,256}")


def region_of(topic: str) -> tuple[str, str] | None:
    """Partition and region in the name of a topic; ``None`` if it is not the name of one."""
    match = _TOPIC.fullmatch(topic)
    return None if match is None else (match[1], match[2])


def is_of_sns(url: str, topic: str) -> bool:
    """Whether a URL is one of SNS, in the region of that topic."""
    place = region_of(topic)
    if place is None:
        return False
    partition, region = place
    end = ".com.cn" if partition == "aws-cn" else ".com"
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and parts.netloc == f"sns.{region}.amazonaws{end}"


def fetch(url: str) -> bytes:
    """The body of a 200 from there.

    :raises OSError: it could not be had.
    """
    progress = Progress(Deadline.after(PATIENCE), PATIENCE)
    request = Requests().outgoing(requests.Request("GET", url, headers={"Accept": "*/*"}))
    try:
        with closing(Connection(request.site, Authorities())) as connection:
            response = connection.post(request, [b""], progress)
            body = response.read(_LARGEST + 1)
    except NETWORK as error:
        raise OSError(str(error)) from error
    if response.status != 200 or len(body) > _LARGEST:
        raise OSError(f"SNS answered {response.status} with {len(body)} bytes")
    return body


class Certificates:
    """The keys in certificates of SNS, fetched once. Safe for threads."""

    def __init__(self, fetching: Callable[[str], bytes] | None = None) -> None:
        self._fetch = fetching or fetch
        self._keys: dict[str, RSAPublicKey] = {}
        self._shunned: dict[str, float] = {}
        self._lock = threading.Lock()

    def key(self, url: str) -> RSAPublicKey:
        """The key of the certificate there; the URL has been checked.

        :raises Refused: it cannot be had now (503: SNS tries again), or is no certificate.
        """
        found = self._keys.get(url)
        if found is not None:
            return found
        # One at a time: who posts reports with made-up URLs gets one request to Amazon for it,
        # and the others an answer at once.
        if not self._lock.acquire(timeout=PATIENCE):
            raise Refused("other certificates are being fetched", 503)
        try:
            return self._keys.get(url) or self._fetched(url)
        finally:
            self._lock.release()

    def _fetched(self, url: str) -> RSAPublicKey:
        if self._shunned.get(url, 0.0) > time.monotonic():
            raise Refused("its certificate could not be fetched a moment ago", 503)
        try:
            key = key_of_certificate(self._fetch(url))
        except (OSError, ValueError) as error:
            _keep(self._shunned, url, time.monotonic() + _SHUNNED)
            raise Refused(
                f"its certificate could not be fetched ({type(error).__name__})", 503
            ) from error
        _keep(self._keys, url, key)
        return key


def _keep(kept: dict[str, V], key: str, value: V) -> None:
    while len(kept) >= _KEPT:
        del kept[next(iter(kept))]
    kept[key] = value
