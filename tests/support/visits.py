"""Run any function inside a request of a test's app, and close the response like a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask
from werkzeug.test import TestResponse

T = TypeVar("T")


class Visits:
    """``visits(function)`` serves a request whose view calls ``function``; returns its result.

    What it raises is raised here too. The view is added at once, before the app's first request.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        app.config["PROPAGATE_EXCEPTIONS"] = True
        app.add_url_rule("/visit", view_func=self._serve)
        self._function: Callable[[], Any] = lambda: None
        self._answer: Any = None

    def _serve(self) -> str:
        self._answer = self._function()
        return "served"

    def __call__(self, function: Callable[[], T]) -> T:
        """Serve a request; its response is closed afterwards."""
        answer, response = self.open(function)
        response.close()
        return answer

    def open(self, function: Callable[[], T]) -> tuple[T, TestResponse]:
        """Serve a request and leave the response open, as Flask's test client does."""
        self._function = function
        response = self.app.test_client().get("/visit")
        assert response.status_code == 200
        return self._answer, response
