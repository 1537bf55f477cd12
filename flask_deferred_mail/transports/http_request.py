"""What goes out for a ``requests.Request``: where to, under which header fields, which bytes.

requests takes a URL apart, encodes and checks it, and makes the field of a login; for each mail
anew, which took longer than all that our code has to do for it. Here it does so once for each URL,
and for each mail where it must: for files, and for whatever else an adapter may think of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from requests.exceptions import InvalidHeader
from requests.utils import check_header_validity

from . import form

Field = tuple[str, str]

#: Different URLs of a transport that are remembered; ordinary ones have three.
_REMEMBERED = 64
_LENGTH = "Content-Length"
_USUAL = (("Accept", "application/json"),)
_OURS = (
    ("User-Agent", "flask-deferred-mail"),
    # What is not compressed cannot grow a thousandfold when it is unpacked.
    ("Accept-Encoding", "identity"),
)


class Site(NamedTuple):
    """The server that a URL means."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request, ready to be sent. Its length stands in its header fields."""

    site: Site
    method: str
    #: Path and query.
    target: str
    fields: tuple[Field, ...]
    body: bytes


class _Place(NamedTuple):
    """What is the same in all requests to a URL."""

    site: Site
    method: str
    target: str
    #: Such as ``Authorization``, for a name and a password beside or in the URL.
    fields: tuple[Field, ...]


@contextmanager
def nothing_shown() -> Iterator[None]:
    """Takes a header field that cannot be sent out of the words about it."""
    try:
        yield
    except InvalidHeader:
        raise InvalidHeader(
            "a header of the request cannot be sent; is there a line break in a key?"
        ) from None


class Requests:
    """Makes them; one for each transport, since a login is remembered here. Safe for threads."""

    def __init__(self) -> None:
        self._places: dict[tuple[object, ...], _Place] = {}

    def outgoing(self, request: requests.Request) -> Outgoing:
        """What goes out for it.

        :raises InvalidHeader: a header field cannot be sent; it is not shown, as it may be a key.
        """
        with nothing_shown():
            return self._outgoing(request)

    def _outgoing(self, request: requests.Request) -> Outgoing:
        data = request.data
        kind: tuple[Field, ...] = ()
        if isinstance(data, list) and data and not request.files:
            kind, data = (("Content-Type", form.CONTENT_TYPE),), form.encoded(data)
        if not _is_plain(request, data):
            return _prepared(request)
        place = self._place(request)
        given = tuple(request.headers.items())
        for field in given:
            check_header_validity(field)
        _check_encoding(given)
        body = data.encode() if isinstance(data, str) else data or b""
        fields = _fields((kind, given, place.fields), body)
        return Outgoing(place.site, place.method, place.target, fields, body)

    def _place(self, request: requests.Request) -> _Place:
        key = (request.method, request.url, request.auth)
        place = self._places.get(key)
        if place is None:
            bare = requests.Request(request.method, request.url, auth=request.auth)
            try:
                place = _place_of(bare.prepare())
            except UnicodeEncodeError:
                raise InvalidHeader("the login") from None
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            self._places[key] = place
        return place


def _is_plain(request: requests.Request, data: object) -> bool:
    """Whether only URL, login, header fields and a body are given."""
    if request.files or request.params or request.json is not None or request.cookies:
        return False
    if request.auth is not None and not isinstance(request.auth, tuple):
        return False  # it may look at the body
    return not data or isinstance(data, (bytes, str))


def _place_of(prepared: requests.PreparedRequest) -> _Place:
    parts = urlsplit(prepared.url or "")
    tls = parts.scheme.lower() == "https"
    site = Site(parts.hostname or "", parts.port or (443 if tls else 80), tls)
    fields = tuple((name, value) for name, value in prepared.headers.items() if name != _LENGTH)
    return _Place(site, prepared.method or "GET", prepared.path_url, fields)


def _prepared(request: requests.Request) -> Outgoing:
    """By requests as a whole."""
    prepared = request.prepare()
    content = prepared.body
    body = content.encode() if isinstance(content, str) else content or b""
    if not isinstance(body, bytes):
        raise TypeError(f"the body of a request must be bytes, not {type(body).__name__}")
    place = _place_of(prepared)
    _check_encoding(place.fields)
    fields = _fields((place.fields,), body)
    return Outgoing(place.site, place.method, place.target, fields, body)


def _check_encoding(fields: Iterable[Field]) -> None:
    """As ``http.client`` does it: too late, with half of the request in its hands."""
    try:
        for name, value in fields:
            if isinstance(value, str):
                value.encode("latin-1")
            name.encode("ascii")
    except UnicodeEncodeError:
        raise InvalidHeader("the encoding") from None


def _fields(groups: Iterable[Iterable[Field]], body: bytes) -> tuple[Field, ...]:
    """All of them; of those with the same name the last, however it is written."""
    all_groups = (_USUAL, *groups, _OURS, ((_LENGTH, str(len(body))),))
    return tuple({field[0].lower(): field for group in all_groups for field in group}.values())
