"""Access tokens: what the application's callable may do to us, and the form of the login."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from flask_deferred_mail.deadline import Deadline
from flask_deferred_mail.transports.smtp_token import (
    MAX_OVERDUE,
    NoToken,
    TokenSource,
    initial_response,
)

FIXTURE = json.loads((Path(__file__).parents[2] / "fixtures" / "smtp" / "xoauth2.json").read_text())
WHERE: ContextVar[str] = ContextVar("where")


@pytest.fixture
def never() -> Iterator[Callable[[], str]]:
    """A callable that does not come back before the end of the test."""
    over = threading.Event()

    def call() -> str:
        over.wait(60)
        return "late"

    yield call
    over.set()


def raising(error: BaseException) -> Callable[[], str]:
    def call() -> str:
        raise error

    return call


def trouble(call: Callable[[], Any], seconds: float = 30) -> str:
    with pytest.raises(NoToken) as caught:
        TokenSource(call).fetch(Deadline.after(seconds))
    return str(caught.value)


def test_the_login_has_the_form_of_google_and_microsoft():
    """Byte for byte the fixture's."""
    assert initial_response(FIXTURE["user"], FIXTURE["token"]) == FIXTURE["base64"]


def test_each_fetch_asks_again():
    """Nothing is kept between two."""
    tokens = iter(["one", "two"])
    source = TokenSource(lambda: next(tokens))
    assert [source.fetch(Deadline.after(30)) for _ in range(2)] == ["one", "two"]
    assert "one" not in repr(vars(source))


def test_the_callable_sees_the_context_of_the_sender():
    """So that it may use current_app; what it changes there stays with it."""
    WHERE.set("here")

    def call() -> str:
        seen = WHERE.get()
        WHERE.set("there")
        return seen

    assert TokenSource(call).fetch(Deadline.after(30)) == "here"
    assert WHERE.get() == "here"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no\x1b[31m such\r\nclient"), "ValueError: no�[31m such client"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError(f"bad secret {'x' * 40}!"), "RuntimeError: bad secret ***!"),
    ],
)
def test_an_exception_becomes_words(error, words):
    """Cleaned, and without what could be a secret."""
    assert trouble(raising(error)) == f"'token' raised {words}"


@pytest.mark.parametrize(
    "value", [None, "", b"token", 7, "two words", "a\x01b", "a\r\nMAIL", "größe", "x" * 20_000]
)
def test_what_is_no_token_is_not_sent(value):
    """It could end the line, or start another field of the login."""
    assert trouble(lambda: value) == "'token' gave something that is no access token"


def test_a_callable_that_does_not_come_back_costs_the_attempt_and_no_more(never):
    """A few may be overdue; while they are, nobody waits for another."""
    source = TokenSource(never)
    for _ in range(MAX_OVERDUE):
        with pytest.raises(NoToken, match="within the time allowed"):
            source.fetch(Deadline.after(0.02))
    with pytest.raises(NoToken, match="have not come back"):
        source.fetch(Deadline.after(30))


def test_calls_that_came_back_late_are_forgotten():
    """Once they have ended the callable is asked again."""
    over = threading.Event()
    asked: list[threading.Thread] = []

    def call() -> str:
        asked.append(threading.current_thread())
        over.wait(60)
        return "token"

    source = TokenSource(call)
    for _ in range(MAX_OVERDUE):
        with pytest.raises(NoToken):
            source.fetch(Deadline.after(0.02))
    over.set()
    for thread in asked:
        thread.join(30)
    assert source.fetch(Deadline.after(30)) == "token"
