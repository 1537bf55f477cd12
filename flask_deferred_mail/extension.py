"""``DeferredMail``: the one place where Flask meets the rest.

It holds no delivery logic. It reads the configuration, wraps ``app.wsgi_app`` once, turns what a
view gives into a message, and finds the app and the request that it belongs to. The rest is
:class:`~flask_deferred_mail.app_mail.AppMail`'s.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Unpack

from flask import Flask, current_app, has_app_context, has_request_context, request

from .app_mail import AppMail
from .dispatched import mailbox
from .errors import JobNotFound, NotYetAvailable
from .flask_mail_api import Connection, FlaskMailStandIn
from .foreign import adopt
from .job import Job
from .message import Message
from .message_fields import MessageFields
from .settings import Settings
from .transports import registry
from .wsgi import AfterResponse

log = logging.getLogger("flask_deferred_mail")

EXTENSION = "deferred_mail"
# Beside it: what we keep of an app lives and dies with the app.
_STATE = "deferred_mail_state"


class DeferredMail:
    """Records mail in a table, and sends it once the response is out.

    ::

        mail = DeferredMail()

        def create_app():
            app = Flask(__name__)
            mail.init_app(app)
            return app

        @app.post("/register")
        def register():
            mail.send_after_response(
                subject="Welcome", recipients=["ann@example.com"], body="...")

    The object keeps nothing of an app; inside an application context every method means the
    current app, and outside one the only app that there is. Configuration:
    ``docs/reference/configuration.md``.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        db: Any = None,
        join_session: bool = False,
        bind_key: str | None = None,
    ) -> None:
        if db is not None or join_session or bind_key is not None:
            raise NotYetAvailable(
                "db=, join_session= and bind_key= (mail in the application's own transaction) "
                "come with the next release; set DEFERRED_MAIL_DATABASE_URI, or nothing"
            )
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        self._made = 0
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the configuration of an app and wrap its ``wsgi_app``. Opens nothing, starts
        nothing.

        :raises ConfigurationError: lists every fault of the configuration.
        :raises RuntimeError: the app has a ``DeferredMail`` already.
        """
        if EXTENSION in app.extensions:
            raise RuntimeError(
                "this app has a DeferredMail already; create one object and call init_app once "
                "per app"
            )
        settings = _read_settings(app)
        self._apps.add(app)
        self._made += 1
        app.extensions[EXTENSION] = self
        app.extensions[_STATE] = AppMail(app, settings)
        app.wsgi_app = AfterResponse(app.wsgi_app)  # type: ignore[method-assign] # as Flask advises
        self._stand_in(app, settings)

    def _stand_in(self, app: Flask, settings: Settings) -> None:
        taken = app.extensions.get("mail")
        if taken is not None:
            log.warning(
                "app.extensions['mail'] is taken by %s.%s; mail sent through it does not go "
                "through the queue",
                type(taken).__module__,
                type(taken).__qualname__,
            )
            return
        sender = settings.default_sender
        shown = None if sender is None else mailbox(sender)
        app.extensions["mail"] = FlaskMailStandIn(self, shown, settings.ascii_attachments)

    def for_app(self, app: Flask | None = None) -> AppMail:
        """What one app has: the given one, the current one, or the only one.

        :raises RuntimeError: outside an application context, with several apps or none.
        """
        if app is None and has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined] # the proxy's own
        if app is None:
            app = self._only_app()
        if app not in self._apps:
            raise RuntimeError(
                f"this DeferredMail has not seen the app {app.name!r}: call init_app(app) first"
            )
        state: AppMail = app.extensions[_STATE]
        return state

    def _only_app(self) -> Flask:
        # Counted, not looked up: when a dropped app is collected is nothing to depend on.
        if self._made == 1:
            for app in self._apps:
                return app
        raise RuntimeError(
            f"no application is active, and this DeferredMail has served {self._made}: use "
            "`with app.app_context():`"
            if self._made
            else "no application is active: call init_app(app) first"
        )

    # -- recording --------------------------------------------------------------------------

    def send_after_response(
        self, message: Any = None, /, *, session: Any = None, **fields: Unpack[MessageFields]
    ) -> Job:
        """Record one mail durably; it is sent once the server has taken the response.

        Takes a :class:`Message` (or one of Flask-Mail, Flask-Mailman, ``email.message``), or the
        fields of one. Outside a request the mail is only recorded, for the sweep.

        :raises MessageError: something in it cannot be mailed; names the field.
        :raises ConfigurationError: no transport is configured.
        :raises StoreError: it could not be recorded.
        """
        _refuse_session(session)
        return self.for_app().defer(_as_message(message, fields), _environ())

    def send_many(self, messages: Iterable[Any], *, session: Any = None) -> list[Job]:
        """The same for many messages (or dicts of fields), in one transaction: all or none."""
        _refuse_session(session)
        return self.for_app().defer_many([_as_message(m, {}) for m in messages], _environ())

    def send_now(self, message: Any = None, /, **fields: Unpack[MessageFields]) -> Job:
        """Record one mail and attempt it at once, in the caller. Returns how it stands then."""
        return self.for_app().send_now(_as_message(message, fields))

    # -- one recorded mail ------------------------------------------------------------------

    def get(self, id: int) -> Job:  # noqa: A002 - the contract's name
        """The recorded mail with this number.

        :raises JobNotFound: there is none.
        """
        return self.for_app().runtime.jobs.get(id)

    def find(self, key: str, *, tenant: str = "") -> Job | None:
        """The mail recorded under this key, if there is one."""
        return self.for_app().runtime.jobs.find(key, tenant)

    def cancel(
        self,
        id: int | None = None,  # noqa: A002 - the contract's name
        *,
        key: str | None = None,
        tenant: str = "",
    ) -> Job:
        """End a mail that has not been sent.

        :raises IllegalTransition: it is being sent, or has ended.
        """
        if (id is None) == (key is None):
            raise TypeError("cancel() takes either a number or key=")
        if key is not None:
            job = self.find(key, tenant=tenant)
            if job is None:
                raise JobNotFound(f"there is no mail with the key {key!r}")
            id = job.id  # noqa: A001 - as above
        assert id is not None
        return self.for_app().cancel(id)

    def retry(self, id: int) -> Job:  # noqa: A002 - the contract's name
        """Open rejected and failed recipients again, with a fresh budget; never sent ones."""
        return self.for_app().runtime.changes.retry(id)

    def hold(self, id: int) -> Job:  # noqa: A002 - the contract's name
        """Keep a waiting mail until it is released."""
        return self.for_app().hold(id)

    def release(self, id: int, *, as_sent: bool = False) -> Job:  # noqa: A002 - the contract's name
        """Let a held mail go; with ``as_sent``, end it without sending."""
        return self.for_app().runtime.changes.release(id, as_sent=as_sent)

    # -- Flask-Mail's calls -----------------------------------------------------------------

    def send(self, message: Any) -> Job:
        """Flask-Mail's ``send``: the same as :meth:`send_after_response`, always on its own."""
        return self.for_app().defer(_as_message(message, {}), _environ())

    def send_message(self, *args: Any, **kwargs: Any) -> Job:
        """Flask-Mail's ``send_message``: a message made of these arguments, sent."""
        return self.send(Message(*args, **kwargs))

    def connect(self) -> Connection:
        """Flask-Mail's ``connect``: a context manager with ``send``."""
        return Connection(self.send)

    @contextmanager
    def record_messages(self) -> Iterator[list[Message]]:
        """What the current app records inside the block, as a list; for tests."""
        with self.for_app().recording() as messages:
            yield messages

    @property
    def outbox(self) -> list[Message]:
        """Messages recorded while sending was suppressed (``MAIL_SUPPRESS_SEND``, testing)."""
        return self.for_app().outbox

    @property
    def webhooks(self) -> Any:
        """The blueprint that takes in what providers report; with a later release."""
        raise NotYetAvailable("mail.webhooks comes with a later release")


Mail = DeferredMail


def send_after_response(
    message: Any = None, /, *, session: Any = None, **fields: Unpack[MessageFields]
) -> Job:
    """:meth:`DeferredMail.send_after_response` of the current app."""
    mail = current_app.extensions.get(EXTENSION)
    if mail is None:
        raise RuntimeError("the current app has no DeferredMail; call init_app first")
    job: Job = mail.send_after_response(message, session=session, **fields)
    return job


def _read_settings(app: Flask) -> Settings:
    return Settings.from_mapping(
        app.config,
        instance_path=app.instance_path,
        debug=app.debug,
        testing=app.testing,
        url_faults=registry.faults,
    )


def _as_message(message: Any, fields: MessageFields) -> Message:
    if message is None:
        return Message(**fields)
    if fields:
        raise TypeError(
            f"give either a message or its fields, not both (got {', '.join(sorted(fields))})"
        )
    return adopt(message)


def _refuse_session(session: Any) -> None:
    if session is not None and session is not False:
        raise NotYetAvailable(
            "session= (mail in the caller's transaction) comes with the next release; leave it "
            "out, and the mail is recorded in its own transaction"
        )


def _environ() -> dict[str, Any] | None:
    """The request that is being served; ``None`` outside a request."""
    return request.environ if has_request_context() else None
