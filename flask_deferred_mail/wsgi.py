"""Run callables once the server has taken the response over (standard library only).

A WSGI server calls ``close()`` on what the application returned when it is done with it: after the
last byte of a page, a stream or a file, after a client that left, after a generator that raised
(PEP 3333). That is the one moment which every server and every kind of response has in common;
Flask's ``teardown_request`` comes before the first byte, and Werkzeug's ``Response.call_on_close``
never comes for a file.

What this moment means, and what it does not: the server has the whole response, or has given it up.
It does *not* mean that the client has read it. On many servers the client, or its next request on
the same connection, waits until ``close()`` returns: what is scheduled here should hand its work
to a thread and come back at once. It runs outside any Flask context, and on waitress sometimes in
the thread that serves all connections.

A server, or a middleware around this one, that never calls ``close()`` leaves the callables unrun.
Ours is never a ``list``, because granian does not close lists; there is no ``__del__`` that would
make up for a missing call, because a finalizer can run inside any line of any thread, also while
it holds the very lock that the callable needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: Where a request finds the list to which it appends callables without arguments.
KEY = "flask_deferred_mail.after_response"

_FILE_WRAPPER = "wsgi.file_wrapper"

logger = logging.getLogger(__name__)


class AfterResponse:
    """WSGI middleware: ``environ[KEY]`` is a list; what is appended to it runs after the response.

    Each callable runs once, in the order of the list, after the ``close()`` of the response that
    the application made, also if that raises. Callables may be appended while the body is
    streamed, and by other callables. If the application raises and there is no response, they run
    before the exception goes on. A callable's ``Exception`` is logged and stays here; what must
    end a process or a greenlet (``SystemExit``, ``KeyboardInterrupt``, ``GeneratorExit`` and their
    like) passes, and leaves the rest of the list unrun.

    Wrapping twice does nothing more, nor does calling the application again with the same environ
    while a response is open: the outermost one acts. The key is gone once the response is closed,
    so that nobody appends to a list which nobody will look at again.
    """

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        while isinstance(wsgi_app, AfterResponse):
            wsgi_app = wsgi_app.wsgi_app
        #: The application inside, never an ``AfterResponse`` itself.
        self.wsgi_app: WSGIApplication = wsgi_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        if KEY in environ:
            return self.wsgi_app(environ, start_response)
        schedule = _Schedule(environ)
        files = _FileWrapper(environ)
        try:
            result = self.wsgi_app(environ, start_response)
        except BaseException:
            schedule.run()
            raise
        finally:
            files.restore()
        if files.tell_when_closed(result, schedule):
            return result
        return (_SizedBody if hasattr(result, "__len__") else _Body)(result, schedule)


class _Schedule:
    """What one request asked for."""

    __slots__ = ("_calls", "_environ")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._calls: list[Callable[[], object]] = []
        environ[KEY] = self._calls

    def run(self) -> None:
        """Run what is on the list and has not run yet; a second call finds it empty."""
        try:
            self._run_all()
        finally:
            if self._environ.get(KEY) is self._calls:
                self._environ.pop(KEY, None)
        # What another thread appended just before the key was gone.
        self._run_all()

    def _run_all(self) -> None:
        while self._calls:
            try:
                call = self._calls.pop(0)
            except IndexError:  # another thread closes the same response at this moment
                return
            _run(call)


def _run(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        # A log filter of the application may raise too, and nothing may reach the server:
        # waitress would turn a good answer into a 500, others would drop the connection.
        with suppress(Exception):
            name = getattr(call, "__qualname__", type(call).__qualname__)
            logger.exception("%s, scheduled to run after the response, failed", name)


class _Body:
    """A response's iterable, with an ear for its ``close()``."""

    __slots__ = ("_result", "_schedule")

    def __init__(self, result: Iterable[bytes], schedule: _Schedule) -> None:
        self._result = result
        self._schedule = schedule

    def __iter__(self) -> Iterator[bytes]:
        # The inner iterator itself: a stream costs nothing more per chunk.
        return iter(self._result)

    def close(self) -> None:
        """The server is done: first what the response has to tidy up, then what was scheduled."""
        try:
            _close(self._result)
        finally:
            self._schedule.run()


class _SizedBody(_Body):
    """The same with a length: from a list of one, a server can tell the Content-Length."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]  # made only of what has a length


class _FileWrapper:
    """Stands in for the server's ``wsgi.file_wrapper`` while the application runs.

    A server sends a file by the fast path (``sendfile``) only if it gets the very object that its
    own wrapper made, so that object cannot be wrapped; and the servers' wrappers differ too much
    to be told to call us. All of them close the *file*, though: that is what we watch.
    """

    __slots__ = ("_environ", "_file", "_made", "_original")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._made: object = None
        self._file: _WatchedFile | None = None
        self._original: Callable[..., Any] | None = environ.get(_FILE_WRAPPER)
        if self._original is not None:
            environ[_FILE_WRAPPER] = self

    def __call__(self, file: Any, *args: Any, **kwargs: Any) -> Any:
        assert self._original is not None  # else nobody got hold of us
        watched = _WatchedFile(file)
        made = self._original(watched, *args, **kwargs)
        self._file, self._made = watched, made
        return made

    def restore(self) -> None:
        """Put the server's own wrapper back: gunicorn asks isinstance() of it."""
        if self._original is not None and self._environ.get(_FILE_WRAPPER) is self:
            self._environ[_FILE_WRAPPER] = self._original

    def tell_when_closed(self, result: object, schedule: _Schedule) -> bool:
        """Whether ``result`` is the wrapped file, so that closing the file ends the request.

        A wrapped file that is not returned, or is part of something else (a range of it, a
        response to HEAD), is closed at any time and ends nothing.
        """
        if self._file is None or result is not self._made:
            return False
        self._file.schedule = schedule
        return True


class _WatchedFile:
    """A file whose ``close()`` is also the end of the response; otherwise the file itself."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.schedule: _Schedule | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)

    def __next__(self) -> bytes:
        chunk: bytes = next(self._file)
        return chunk

    def close(self) -> None:
        """Close the file, then run what was scheduled if the file was the response."""
        try:
            _close(self._file)
        finally:
            if self.schedule is not None:
                self.schedule.run()


def _close(thing: object) -> None:
    close = getattr(thing, "close", None)
    if close is not None:
        close()
