"""Flask-Mail's calls, with the queue behind them.

Code written for Flask-Mail finds ``app.extensions["mail"]`` and calls ``send``, ``send_message``,
``connect`` or ``record_messages`` on it: Flask-Security does, and many applications do. Where
nobody else has put something there, they find this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from .address import AddressLike, parse_address
from .foreign import adopt
from .message import Message


class Sender(Protocol):
    """The part of ``DeferredMail`` that stands behind Flask-Mail's calls."""

    def send(self, message: Any) -> Any: ...
    def record_messages(self) -> AbstractContextManager[list[Any]]: ...


class Connection:
    """What ``connect()`` gives: Flask-Mail keeps an SMTP connection here, we keep nothing."""

    def __init__(self, send: Callable[[Any], Any]) -> None:
        self._send = send

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def send(self, message: Any, envelope_from: AddressLike | None = None) -> None:
        """Record a message. ``envelope_from`` is Flask-Mail's name for our envelope sender.

        :raises AddressError: ``envelope_from`` is not an address.
        """
        message = adopt(message)
        if envelope_from:
            message = copy.copy(message)  # the caller's own may be sent again
            message.envelope_sender = parse_address(envelope_from, "envelope_from").email
        self._send(message)

    def send_message(self, *args: Any, **kwargs: Any) -> None:
        """Record a message made of these arguments."""
        self._send(Message(*args, **kwargs))


class FlaskMailStandIn:
    """What other extensions find under ``app.extensions["mail"]``."""

    def __init__(self, mail: Sender, default_sender: str | None, ascii_attachments: bool) -> None:
        self._mail = mail
        #: As a header has it, ``None`` if the application names no sender.
        self.default_sender = default_sender
        self.ascii_attachments = ascii_attachments

    def send(self, message: Any) -> None:
        """Record a message; it leaves after the response."""
        self._mail.send(message)

    def send_message(self, *args: Any, **kwargs: Any) -> None:
        """Record a message made of these arguments."""
        self.connect().send_message(*args, **kwargs)

    def connect(self) -> Connection:
        """A context manager with ``send``."""
        return Connection(self._mail.send)

    @contextmanager
    def record_messages(self) -> Iterator[list[Any]]:
        """What is recorded inside the block, as a list; for an application's tests."""
        with self._mail.record_messages() as outbox:
            yield outbox
