"""Access tokens in place of a password: fetched for each login, and kept nowhere.

The application brings the callable that knows how to get one. It is foreign code that usually asks
a network, so it runs in a thread of its own: it may take as long as the attempt has, and no longer.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context

from ..cleaning import clean
from ..deadline import Deadline

#: Calls that may be overdue at the same time before no other is begun.
MAX_OVERDUE = 4
# A token (RFC 6750 section 2.1 has fewer characters); anything else would break the login's form.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
# What in an error's text may be a token or a client's secret.
_SECRET = re.compile(r"[A-Za-z0-9_~+=-]{32,}")


class NoToken(Exception):
    """There is no token to log in with. The text says why, for people, without a secret."""


class TokenSource:
    """The callable that gives access tokens. Used by several threads; ``repr`` shows nothing."""

    def __init__(self, call: Callable[[], str]) -> None:
        self._call = call
        # Appended to and removed from without a lock, which a fork could copy while it is held.
        self._overdue: list[threading.Thread] = []

    def __repr__(self) -> str:
        return "<TokenSource>"

    def fetch(self, deadline: Deadline) -> str:
        """A token, fresh from the callable.

        It runs in a copy of this thread's context, so that ``current_app`` is what it is here. If
        it does not come back in time it is left to itself, and at most :data:`MAX_OVERDUE` are.

        :raises NoToken: it raised, took too long, or gave something that is no token.
        """
        self._refuse_if_many_are_overdue()
        answer: list[object] = []
        failure: list[BaseException] = []
        context = copy_context()

        def ask() -> None:
            try:
                answer.append(context.run(self._call))
            except BaseException as error:  # noqa: BLE001 - SystemExit too ends this thread alone
                failure.append(error)

        thread = threading.Thread(target=ask, name="deferred-mail-token", daemon=True)
        thread.start()
        thread.join(max(deadline.left(), 0))
        if failure:
            raise NoToken(f"'token' raised {_in_words(failure[0])}") from None
        if not answer:
            self._overdue.append(thread)
            raise NoToken("'token' gave no access token within the time allowed")
        token = answer[0]
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise NoToken("'token' gave something that is no access token")
        return token

    def _refuse_if_many_are_overdue(self) -> None:
        for thread in tuple(self._overdue):
            if not thread.is_alive():
                with suppress(ValueError):
                    self._overdue.remove(thread)
        if len(self._overdue) >= MAX_OVERDUE:
            raise NoToken(f"{MAX_OVERDUE} earlier calls of 'token' have not come back")


def initial_response(user: str, token: str) -> str:
    """What follows ``AUTH XOAUTH2``: user and token in the form of Google and Microsoft."""
    return base64.b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode()).decode("ascii")


def _in_words(error: BaseException) -> str:
    text = clean(_SECRET.sub("***", str(error)[:2000]), 200)
    name = type(error).__name__
    return f"{name}: {text}" if text else name
