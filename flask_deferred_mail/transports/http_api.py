"""What transports over a provider's HTTP API share: one request, its deadlines, its certainty.

An adapter says what to post (:meth:`HttpApiTransport.request_for`) and what an answer means
(:meth:`HttpApiTransport.read`). Everything between is here, and rests on four decisions:

- requests describes a request and encodes it, and ``http.client`` sends it; no ``Session`` does. A
  session follows redirects, keeps cookies, reads ``.netrc`` and sends the request through a proxy
  if an environment variable says so; a request that carries a key and a mail must do none of that.
  (``?endpoint=`` names another host.) And it takes more CPU than all else that a mail needs.
- The end of the request is held back until everything before it was sent, then leave to hand over
  is asked for. What breaks before that is provably incomplete, since the length was announced
  (RFC 9112 section 6.3); what breaks after it is an unknown outcome.
- Nothing is retried, but for one case: a kept connection on which not a single byte could be sent.
- The certificate is always verified.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPResponse
from typing import Any, cast
from urllib.parse import urlsplit

import requests

from ..cleaning import clean
from ..deadline import Deadline
from ..errors import HandoverRefused
from ..outcome import Fate, FaultKind, Outcome, ServerNote
from . import stand_in
from .authorities import Authorities
from .base import Call, ProbeStep, Transport
from .http_request import Outgoing, Requests
from .timed_http import NETWORK, Connection, KeptConnections, Progress

logger = logging.getLogger(__name__)

#: Seconds to wait for one address to accept the connection, TLS included.
CONNECT_TIMEOUT = 10.0
#: Most bytes of an answer that are read.
MAX_ANSWER = 1_000_000
#: Most seconds that a ``Retry-After`` is believed.
MAX_RETRY_AFTER = 3600.0

# Bytes at the end of a request that wait for leave to hand over. An ordinary mail without
# attachments waits as a whole.
_HELD_BACK = 16384
_PIECE = 65536
_PROBE_SECONDS = 20.0
_READ_SIZE = 16384


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer whose status line and headers arrived. The body may be cut short."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: Why the body is not whole; empty if it is.
    cut: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after(self) -> float | None:
        """Seconds that the provider asks us to stay away; ``None`` if it does not, or absurdly."""
        return retry_after(self.headers, time.time())

    def json(self) -> Any:
        """The body as JSON; ``None`` if it is something else or was cut short."""
        if self.cut:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def status_line(self) -> str:
        """``HTTP 502 Bad Gateway``; the phrase is the standard's, not the server's."""
        try:
            return f"HTTP {self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"HTTP {self.status}"

    def words(self) -> str:
        """Status and the beginning of the body, without markup, cleaned and capped."""
        status = self.status_line()
        if 300 <= self.status < 400:
            return f"{status}, to {_host_of(self.headers.get('Location', ''))}: not followed"
        if self.ok and self.cut:
            return f"{status}, but {self.cut}"
        text = clean(re.sub(rb"<[^<>]{0,1000}>", b" ", self.body[:4000]), 200)
        return f"{status}: {text}" if text else f"{status}, empty body"


class HttpApiTransport(Transport):
    """Base of the transports that hand a mail over by one HTTP request.

    ``endpoint`` is the API's base URL; ``cafile`` a PEM file of authorities to trust in place of
    the usual ones; ``timeout`` the seconds to wait for a connection.
    """

    runs_foreign_code = False

    def __init__(
        self,
        name: str,
        endpoint: str,
        *,
        cafile: str | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(name)
        self.endpoint = endpoint.rstrip("/")
        self._connect_timeout = timeout or CONNECT_TIMEOUT
        self._authorities = Authorities(cafile)
        self._requests = Requests()
        self._kept = KeptConnections(self._authorities)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {_host_of(self.endpoint)}>"

    @abstractmethod
    def request_for(self, call: Call) -> requests.Request:
        """The request that hands over this call."""

    @abstractmethod
    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """What a whole 2xx answer, or one with another status, means."""

    @abstractmethod
    def probe_request(self) -> requests.Request:
        """A request that shows whether the provider knows our key, and sends no mail."""

    @abstractmethod
    def read_probe(self, answer: Answer) -> ProbeStep:
        """What the answer to :meth:`probe_request` says."""

    def secrets(self) -> tuple[str, ...]:
        """Texts that are blotted out of answers, should the provider repeat them to us."""
        return ()

    def send(self, call: Call) -> Outcome:
        """Post the mail once, and say how far it got."""
        request = self.request_for(call)
        progress = Progress(call.deadline, self._connect_timeout)
        try:
            answer = self._ask(request, progress, call.hand_over, call.final_reply_timeout)
        except HandoverRefused as refusal:
            if not progress.granted:
                raise
            # The row's keeper was told that it may be out, and now that it is not.
            detail = clean(f"not handed over: {refusal}")
            return Outcome.for_all(call.recipients, Fate.DEFERRED, detail)
        except Exception as error:
            if not progress.in_doubt and not isinstance(error, NETWORK):
                raise  # A mistake of ours, and nothing was sent: it must be seen.
            return self._broken(call, progress, error)
        return self._read(call, answer, self._note(progress, answer))

    def probe(self) -> Iterator[ProbeStep]:
        """Connect, verify the certificate, and let the provider check the key if it can."""
        request = self.probe_request()
        progress = Progress(Deadline.after(_PROBE_SECONDS), self._connect_timeout)
        host = _host_of(self.endpoint)
        try:
            answer = self._ask(request, progress, lambda: None, _PROBE_SECONDS)
        except NETWORK as error:
            yield ProbeStep("connect", False, f"{host}: {_reason(error)}")
            return
        link = progress.tls or "no TLS"
        yield ProbeStep("connect", True, f"{host} ({progress.peer}), {link}")
        step = self.read_probe(answer)
        yield replace(step, detail=clean(step.detail, 400))

    def close(self) -> None:
        """Close the connections that are not in use at the moment."""
        self._kept.close()

    # How a request goes out and an answer comes in

    def _ask(
        self,
        request: requests.Request,
        progress: Progress,
        hand_over: Callable[[], None],
        patience: float,
    ) -> Answer:
        """Post, and wait ``patience`` seconds for the answer once everything is out."""
        if stand_in.stands_in():
            found = stand_in.ask(request, progress, hand_over, patience)
            return self._answer(found.status_code, found.headers, found.content, "", progress)
        outgoing = self._requests.outgoing(request)
        kept = self._connections()
        connection = kept.take(outgoing.site)
        try:
            try:
                return self._exchange(connection, outgoing, progress, hand_over, patience)
            except NETWORK:
                if progress.fresh or progress.bytes_out:
                    raise
                # The provider closed a kept connection just when we wanted to use it, and took
                # not a byte. No other failure can be tried again without a risk.
                progress.ending = False
                return self._exchange(connection, outgoing, progress, hand_over, patience)
        finally:
            kept.give(connection)

    def _exchange(
        self,
        connection: Connection,
        outgoing: Outgoing,
        progress: Progress,
        hand_over: Callable[[], None],
        patience: float,
    ) -> Answer:
        try:
            pieces = _pieces(outgoing.body, progress, hand_over, patience)
            response = connection.post(outgoing, pieces, progress)
            body, cut = _read_body(response)
        except BaseException:
            connection.close()
            raise
        if cut:
            # What is left of this answer must not be taken for the next one.
            response.close()
            connection.close()
        headers = cast(Mapping[str, str], response.headers)
        return self._answer(response.status, headers, body, cut, progress)

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, cut: str, progress: Progress
    ) -> Answer:
        progress.finish("answer")
        for secret in filter(None, self.secrets()):
            body = body.replace(secret.encode(), b"***")
        return Answer(status, headers, body, cut)

    def _connections(self) -> KeptConnections:
        # After a fork the kept connections are the parent's; using one would mix two
        # conversations. Dropping it closes our copy of the descriptor and nothing else.
        if self._kept.pid != os.getpid():
            self._kept = KeptConnections(self._authorities)
        return self._kept

    # What came of it

    def _broken(self, call: Call, progress: Progress, error: BaseException) -> Outcome:
        """The exchange ended without a status line: what is certain all the same?"""
        host, reason, server = _host_of(self.endpoint), _reason(error), self._note(progress)
        if progress.in_doubt:
            detail = f"{host} took the request but did not answer: {reason}"
            return Outcome.for_all(call.recipients, Fate.UNKNOWN, detail, server=server)
        if progress.bytes_out:
            detail = f"the request to {host} broke off before its end: {reason}"
            return Outcome.for_all(
                call.recipients, Fate.DEFERRED, detail, unanswered=True, server=server
            )
        detail = f"cannot reach {host}: {reason}"
        return Outcome.not_sent(call.recipients, FaultKind.UNREACHABLE, detail, server=server)

    def _read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        try:
            return self.read(call, answer, server)
        except Exception:
            # An answer that nobody foresaw. The request is out, so this must not end as an
            # exception that could be taken for "not sent".
            logger.exception("%s: an answer could not be read", self)
            detail = f"the answer could not be understood: {answer.words()}"
            return Outcome.for_all(call.recipients, Fate.UNKNOWN, detail, server=server)

    def _note(self, progress: Progress, answer: Answer | None = None) -> ServerNote:
        return ServerNote(
            host=_host_of(self.endpoint),
            address=progress.peer,
            tls=progress.tls,
            reply=answer.status_line() if answer else None,
            phases=dict(progress.phases),
        )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to stay away as told by ``Retry-After`` (RFC 9110 section 10.2.3), capped.

    ``None`` if the header is absent, in the past, or neither a number of seconds nor a date.
    ``now`` is the time in seconds since the epoch.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def _pieces(
    data: bytes, progress: Progress, hand_over: Callable[[], None], patience: float
) -> Iterator[bytes]:
    """The body in pieces; the next one is asked for when the last is with the system."""
    held_from = max(0, len(data) - _HELD_BACK)
    for start in range(0, held_from, _PIECE):
        yield data[start : min(start + _PIECE, held_from)]
    hand_over()
    progress.granted = progress.ending = True
    yield data[held_from:]
    progress.finish("request")
    progress.deadline = Deadline.after(patience)


def _read_body(response: HTTPResponse) -> tuple[bytes, str]:
    """As much of the body as there is, up to the cap, and why that is not all of it."""
    pieces, size = [], 0
    try:
        while not response.isclosed():
            piece = response.read(_READ_SIZE)
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                return b"".join(pieces)[:MAX_ANSWER], f"the answer is over {MAX_ANSWER} bytes long"
    except NETWORK as error:
        return b"".join(pieces), f"the answer broke off: {_reason(error)}"
    if response.length:
        return b"".join(pieces), f"the answer broke off {response.length} bytes before its end"
    return b"".join(pieces), ""


def _reason(error: BaseException) -> str:
    """The innermost cause, where one error wraps another."""
    for _ in range(8):
        inner = (getattr(error, "reason", None), error.__cause__, *error.args)
        deeper = next((e for e in inner if isinstance(e, BaseException)), None)
        if deeper is None:
            break
        error = deeper
    return clean(f"{type(error).__name__}: {error}", 200)


@lru_cache(64)
def _host_of(url: str) -> str:
    """The host of a URL (with the port, if one is named), fit to be shown."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "?", parts.port
    except ValueError:
        return "?"
    return clean(f"{host}:{port}" if port else host, 100)
