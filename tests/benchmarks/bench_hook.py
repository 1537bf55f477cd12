"""What the hook adds to a request that sends no mail: in this process, without a server."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

from flask import Flask

from flask_deferred_mail.wsgi import AfterResponse
from tests.benchmarks.measuring import Scope, Series, in_turns, own_cpu, spread

_BARE, _HOOKED = "a bare WSGI app", "the same with the hook"
_FLASK, _FLASK_HOOKED = "an empty Flask view", "the same, with the hook"


def run(scope: Scope) -> None:
    """Measure and print."""
    cpu = Series()
    site = _flask_site()
    apps: dict[str, Any] = {
        _BARE: _bare,
        _HOOKED: AfterResponse(_bare),
        _FLASK: site.wsgi_app,
        _FLASK_HOOKED: AfterResponse(site.wsgi_app),
    }
    requests = {name: _request(app) for name, app in apps.items()}
    for request in requests.values():
        request()
    in_turns(
        scope.of(41, 11),
        list(apps),
        lambda name: cpu.add(name, own_cpu(requests[name], scope.of(500, 200))),
    )
    rows = []
    for plain, hooked in ((_BARE, _HOOKED), (_FLASK, _FLASK_HOOKED)):
        added = [b - a for a, b in zip(cpu.of(plain), cpu.of(hooked), strict=True)]
        rows.append((plain, spread(cpu.of(plain), 1), "", ""))
        rows.append(
            (
                hooked,
                spread(cpu.of(hooked), 1),
                spread(added, 1),
                spread(cpu.ratios(hooked, plain), 2),
            )
        )
    scope.report.table(
        "The hook, nothing scheduled", ("request", "CPU, µs", "added, µs", "ratio"), rows
    )


def _flask_site() -> Flask:
    site = Flask("bench_hook")
    site.add_url_rule("/", view_func=lambda: "nothing")
    return site


def _bare(_environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"nothing"]


def _request(app: Any) -> Callable[[], None]:
    """One request as a server runs it: call, iterate, close."""
    defaults: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    setup_testing_defaults(defaults)

    def run_one() -> None:
        environ = {**defaults, "wsgi.input": io.BytesIO()}
        result = app(environ, _start_response)
        for _ in result:
            pass
        close = getattr(result, "close", None)
        if close is not None:
            close()

    return run_one


def _start_response(_status: str, _headers: object, _info: object = None) -> Callable[..., None]:
    return lambda _data: None
