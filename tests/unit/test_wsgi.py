"""AfterResponse against the rules of PEP 3333, without a server: every way a response can end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from flask_deferred_mail.wsgi import KEY, AfterResponse
from tests.support.wsgi_calls import (
    FILE_WRAPPER,
    Closing,
    Log,
    ServerFileWrapper,
    scheduling,
    serve,
    start_response,
)


@pytest.fixture
def log() -> Log:
    return Log()


def test_runs_after_the_inner_close(log: Log) -> None:
    """The body goes first, then the response's own close(), then what was scheduled, in order."""
    serve(scheduling(Closing(log), log.note("one"), log.note("two")))
    assert log == ["body", "inner close", "one", "two"]


def test_does_not_run_before_close(log: Log) -> None:
    """Reading the whole body is not the end of the response."""
    result = scheduling([b"x"], log.note("mail"))({}, start_response)
    assert b"".join(result) == b"x"
    assert log == []
    result.close()
    assert log == ["mail"]


def test_closing_twice_runs_once(log: Log) -> None:
    """A second close() finds nothing to run."""
    result = scheduling([b"x"], log.note("mail"))({}, start_response)
    result.close()
    result.close()
    assert log == ["mail"]


def test_closing_from_two_threads_runs_each_callable_once(log: Log) -> None:
    """Two threads that close the same response share the list and run nothing twice."""
    both_run = threading.Barrier(2, timeout=10)
    calls = [both_run.wait, both_run.wait, *(log.note(str(n)) for n in range(200))]
    result = scheduling([b"x"], *calls)({}, start_response)
    threads = [threading.Thread(target=result.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(log, key=int) == [str(n) for n in range(200)]


def test_closing_from_another_thread(log: Log) -> None:
    """The thread that closes need not be the one that served (waitress does so for files)."""
    result = scheduling([b"x"], log.note("mail"))({}, start_response)
    thread = threading.Thread(target=result.close)
    thread.start()
    thread.join(10)
    assert log == ["mail"]


def test_scheduled_during_the_stream(log: Log) -> None:
    """What the body itself appends while it is streamed runs too."""

    def app(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        yield b"x"
        environ[KEY].append(log.note("late"))
        yield b"y"

    assert serve(AfterResponse(app)) == b"xy"
    assert log == ["late"]


def test_scheduled_by_a_callable(log: Log) -> None:
    """A callable may append another one, which runs after it."""
    environ: dict[str, Any] = {}
    serve(scheduling([b"x"], lambda: environ[KEY].append(log.note("second"))), environ)
    assert log == ["second"]


def test_runs_when_the_inner_close_raises(log: Log) -> None:
    """An exception of the response's own close() goes on, after ours ran."""
    result = scheduling(Closing(log, OSError("inner")), log.note("mail"))({}, start_response)
    with pytest.raises(OSError, match="inner"):
        result.close()
    assert log == ["inner close", "mail"]


def test_runs_when_the_server_ends_the_worker_inside_close(log: Log) -> None:
    """gunicorn raises SystemExit in close() at its timeout: ours still runs, the exit goes on."""
    result = scheduling(Closing(log, SystemExit(1)), log.note("mail"))({}, start_response)
    with pytest.raises(SystemExit):
        result.close()
    assert log == ["inner close", "mail"]


def test_runs_when_the_generator_raises(log: Log) -> None:
    """A body that fails midway is closed by the server, and that is the end of the response."""

    def body() -> Iterator[bytes]:
        yield b"x"
        raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        serve(scheduling(body(), log.note("mail")))
    assert log == ["mail"]


def test_runs_when_the_client_leaves_midway(log: Log) -> None:
    """A server that stops iterating closes: the generator is ended and ours runs."""

    def body() -> Iterator[bytes]:
        try:
            yield b"x"
            yield b"y"
        finally:
            log.append("generator ended")

    result = scheduling(body(), log.note("mail"))({}, start_response)
    assert next(iter(result)) == b"x"
    result.close()
    assert log == ["generator ended", "mail"]


def test_runs_when_the_application_raises(log: Log) -> None:
    """Without a response there is no close(): ours runs at once, then the exception goes on."""

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        environ[KEY].append(log.note("mail"))
        raise ValueError("view")

    environ: dict[str, Any] = {FILE_WRAPPER: ServerFileWrapper}
    with pytest.raises(ValueError, match="view"):
        AfterResponse(app)(environ, start_response)
    assert log == ["mail"]
    assert environ == {FILE_WRAPPER: ServerFileWrapper}


def test_a_failing_callable_is_logged_and_stops_nobody(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a callable stays here, with its traceback in the log; the next one runs."""

    def broken() -> None:
        raise ValueError("no bell")

    with caplog.at_level(logging.ERROR, logger="flask_deferred_mail.wsgi"):
        assert serve(scheduling([b"x"], broken, "not callable", log.note("mail"))) == b"x"
    assert log == ["mail"]
    first, second = caplog.records
    assert "broken, scheduled to run after the response, failed" in first.getMessage()
    assert "no bell" in caplog.text
    assert second.exc_info is not None
    assert second.exc_info[0] is TypeError


def test_a_failing_log_does_not_reach_the_server(log: Log) -> None:
    """Even an application's log filter that raises does not spoil the response."""

    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("filter")

    logger = logging.getLogger("flask_deferred_mail.wsgi")
    logger.addFilter(refuse)
    try:
        assert serve(scheduling([b"x"], lambda: 1 / 0, log.note("mail"))) == b"x"
    finally:
        logger.removeFilter(refuse)
    assert log == ["mail"]


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_ends_the_process_passes(log: Log, ending: type[BaseException]) -> None:
    """SystemExit and its like are not swallowed, and nothing more is begun."""

    def leave() -> None:
        raise ending

    environ: dict[str, Any] = {}
    result = scheduling([b"x"], leave, log.note("never"))(environ, start_response)
    with pytest.raises(ending):
        result.close()
    assert log == []
    assert KEY not in environ


def test_the_key_is_gone_afterwards() -> None:
    """Who comes after close() finds no list, rather than one that nobody looks at again."""
    environ: dict[str, Any] = {}
    serve(scheduling([b"x"]), environ)
    assert environ == {}


def test_a_second_request_with_the_same_environ(log: Log) -> None:
    """A middleware that closes the first answer and asks again gets the hook again."""
    app = scheduling([b"x"], log.note("mail"))
    environ: dict[str, Any] = {}
    serve(app, environ)
    serve(app, environ)
    assert log == ["mail", "mail"]


def test_wrapping_twice_is_wrapping_once() -> None:
    """AfterResponse of an AfterResponse holds the application itself."""
    inner = scheduling([b"x"])
    assert AfterResponse(AfterResponse(inner)).wsgi_app is inner.wsgi_app


def test_of_two_layers_the_outermost_acts(log: Log) -> None:
    """With a middleware between two layers, ours runs after everybody's close()."""
    inner = scheduling(Closing(log), log.note("mail"))

    def between(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        result = inner(environ, start)

        class Outer(Closing):
            def close(self) -> None:
                result.close()
                self.log.append("outer close")

        return Outer(log)

    serve(AfterResponse(between))
    assert log == ["body", "inner close", "outer close", "mail"]


def test_a_nested_call_through_the_same_environ(log: Log) -> None:
    """An internal redirect is part of the request that made it: its mail waits for the end."""

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        environ[KEY].append(log.note(environ["PATH_INFO"]))
        if environ["PATH_INFO"] == "/new":
            return [b"new"]
        environ["PATH_INFO"] = "/new"
        body = serve(hooked, environ)
        log.append("inner answer read")
        return [body]

    hooked = AfterResponse(app)
    assert serve(hooked, {"PATH_INFO": "/old"}) == b"new"
    assert log == ["inner answer read", "/old", "/new"]


def test_a_list_keeps_its_length() -> None:
    """From a list of one part a server tells the Content-Length; a generator has no length."""
    assert len(scheduling([b"abc"])({}, start_response)) == 1
    assert not hasattr(scheduling(iter([b"abc"]))({}, start_response), "__len__")


def test_the_answer_is_never_a_list() -> None:
    """granian never closes a list (nor a subclass), so ours must not be one."""
    assert not isinstance(scheduling([b"abc"])({}, start_response), list)


def test_a_stream_is_iterated_directly() -> None:
    """The server gets the inner iterator, so that a chunk costs nothing more."""
    body = iter([b"a", b"b"])
    assert iter(scheduling(body)({}, start_response)) is body


def test_the_write_callable_is_the_servers() -> None:
    """What start_response returns reaches the application untouched."""
    written: list[bytes] = []

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        start("200 OK", [])(b"old style")
        return []

    AfterResponse(app)({}, lambda status, headers, exc_info=None: written.append)
    assert written == [b"old style"]


def test_a_request_that_schedules_nothing(log: Log) -> None:
    """The response is handed through whole, and closed."""
    assert serve(scheduling(Closing(log))) == b"x"
    assert log == ["body", "inner close"]
