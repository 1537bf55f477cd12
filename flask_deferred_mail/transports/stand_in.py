"""Requests that go by requests, where an application's tests have somebody stand in for it.

``responses`` and ``requests-mock`` put themselves in the place of a function of requests. What we
post is written to a connection of our own, which they would not see: a test that trusts them would
send real mail. So while one of them is there, it is asked as it expects to be.
"""

from __future__ import annotations

from collections.abc import Callable

import requests
from requests.adapters import HTTPAdapter

from ..deadline import Deadline
from .http_request import nothing_shown
from .timed_http import Progress


def stands_in() -> bool:
    """Whether somebody stands in for requests at this moment."""
    send, get_adapter = HTTPAdapter.send, requests.Session.get_adapter
    return (
        getattr(send, "__module__", "") != HTTPAdapter.__module__
        or getattr(get_adapter, "__module__", "") != requests.Session.__module__
    )


def ask(
    request: requests.Request,
    progress: Progress,
    hand_over: Callable[[], None],
    patience: float,
) -> requests.Response:
    """The answer of who stands in; redirects are not followed.

    :raises OSError: there is none. It is in doubt, but for a connection that was not had.
    """
    with nothing_shown():
        prepared = request.prepare()
    hand_over()
    progress.granted = progress.ending = progress.fresh = True
    progress.finish("request")
    progress.deadline = Deadline.after(patience)
    size = 1 + len(prepared.body or b"")
    with requests.Session() as session:
        try:
            adapter = session.get_adapter(prepared.url or "")
            response = adapter.send(prepared, timeout=patience)
        except OSError as error:
            if not isinstance(error, requests.ConnectionError) or _broke_off(error):
                progress.bytes_out = size
            raise
    progress.bytes_out = size
    return response


def _broke_off(error: requests.ConnectionError) -> bool:
    """Whether there was a connection: some requests may be let through to a server.

    requests wraps what came over it, and what has a ``reason`` when none was had. Those who stand
    in raise the bare error.
    """
    inner = error.args[0] if error.args else None
    return isinstance(inner, Exception) and not hasattr(inner, "reason")
