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
from functools import partial
from typing import Any, Unpack

from flask import (
    Blueprint,
    Flask,
    appcontext_tearing_down,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
    request_tearing_down,
)
from flask.cli import AppGroup
from werkzeug.utils import import_string

from .app_mail import AppMail
from .dispatched import mailbox
from .errors import ConfigurationError, JobNotFound
from .flask_mail_api import Connection, FlaskMailStandIn
from .foreign import adopt
from .job import Job
from .message import Message
from .message_fields import MessageFields
from .settings import Settings
from .store.application_database import ApplicationDatabase
from .store.suppressions import Suppressions
from .transports import registry
from .webhook_views import BLUEPRINT
from .webhooks.registry import faults_of as webhook_faults
from .wsgi import KEY, AfterResponse

log = logging.getLogger("flask_deferred_mail")

EXTENSION = "deferred_mail"
# Beside it: what we keep of an app lives and dies with the app.
_STATE = "deferred_mail_state"
# In a request's environ, then in ``g``: mail in sessions, to be looked at when the context ends.
_JOINED = "flask_deferred_mail.joined"


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

    ``db`` (the object of Flask-SQLAlchemy 3) puts the tables into the application's database, or
    into its bind ``bind_key``, and into ``db.metadata``. With ``join_session`` each mail belongs to
    the transaction of ``db.session``: see ``docs/guides/transactions.md``.

    :raises TypeError: ``db`` is something else.
    :raises ConfigurationError: ``join_session`` or ``bind_key`` without ``db``.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        db: Any = None,
        join_session: bool = False,
        bind_key: str | None = None,
    ) -> None:
        if db is None and (join_session or bind_key is not None):
            raise ConfigurationError(
                "join_session= and bind_key= say something about db=: give the SQLAlchemy object "
                "of Flask-SQLAlchemy as db="
            )
        self._database = None if db is None else ApplicationDatabase(db, bind_key)
        self._join_session = join_session
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        #: Apps in which mail has joined a session, so that the ends of their contexts matter.
        self._joining: weakref.WeakSet[Flask] = weakref.WeakSet()
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
        settings = _read_settings(app, database_elsewhere=self._database is not None)
        self._apps.add(app)
        self._made += 1
        app.extensions[EXTENSION] = self
        app.extensions[_STATE] = AppMail(app, settings, self._database)
        app.wsgi_app = AfterResponse(app.wsgi_app)  # type: ignore[method-assign] # as Flask advises
        for name in _GROUPS:
            if name not in app.cli.commands:
                app.cli.add_command(_Commands(name, help="Look at and act on recorded mail."))
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

        With ``session`` (an SQLAlchemy ``Session``, ``scoped_session`` or ``Connection`` on the
        database that holds our tables) the mail is part of that transaction, and exists when it is
        committed. ``False``: in its own, whatever ``join_session`` says.

        :raises MessageError: something in it cannot be mailed; names the field.
        :raises ConfigurationError: no transport is configured.
        :raises TypeError: ``session`` is something else.
        :raises StoreError: it could not be recorded.
        """
        adopted = _as_message(message, fields)
        joined = self._session(session)
        if joined is None:
            return self.for_app().defer(adopted, _environ())
        return self._join(joined, [adopted])[0]

    def send_many(self, messages: Iterable[Any], *, session: Any = None) -> list[Job]:
        """The same for many messages (or dicts of fields), in one transaction: all or none."""
        adopted = [_as_message(m, {}) for m in messages]
        joined = self._session(session)
        if joined is None:
            return self.for_app().defer_many(adopted, _environ())
        return self._join(joined, adopted)

    def _session(self, given: Any) -> Any:
        """Whose transaction a mail joins; ``None``: it has its own."""
        if given is False:
            return None
        if given is None and self._join_session and self._database is not None:
            return self._database.session
        return given

    def _join(self, session: Any, messages: list[Message]) -> list[Job]:
        state, environ = self.for_app(), _environ()
        jobs, batch = state.join(session, messages, environ)
        if batch is not None and environ is not None:
            self._await_ends()
            environ.setdefault(_JOINED, []).append((state, batch))
            hook = environ.get(KEY)
            if hook is not None:
                hook.append(partial(state.look_back, batch))
        return jobs

    def _await_ends(self) -> None:
        """Be told from now on when contexts of the current app end.

        Not before the first mail in a session: being told costs every request, of every view.
        """
        app = current_app._get_current_object()  # type: ignore[attr-defined] # the proxy's own
        if app not in self._joining:
            request_tearing_down.connect(_request_ends, app)
            appcontext_tearing_down.connect(_context_ends, app)
            self._joining.add(app)

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
    def suppressions(self) -> Suppressions:
        """The current app's list of addresses that are not mailed any more."""
        return self.for_app().runtime.suppressions

    @property
    def webhooks(self) -> Blueprint:
        """The blueprint that takes in what providers report, for any number of apps:
        ``app.register_blueprint(mail.webhooks, url_prefix="/mail/events")``."""
        return BLUEPRINT


Mail = DeferredMail

#: The names of our commands, where an application has none of that name.
_GROUPS = ("mail", "deferred-mail")


class _Commands(AppGroup):
    """``flask mail`` for ``app.test_cli_runner()``, which knows no entry points.

    Found by name when it is asked for, as the entry point is: nothing here imports upwards.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        commands: list[str] = self._found().list_commands(ctx)
        return commands

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._found().get_command(ctx, cmd_name)

    @staticmethod
    def _found() -> Any:
        return import_string("flask_deferred_mail.cli:mail_group")


def send_after_response(
    message: Any = None, /, *, session: Any = None, **fields: Unpack[MessageFields]
) -> Job:
    """:meth:`DeferredMail.send_after_response` of the current app."""
    mail = current_app.extensions.get(EXTENSION)
    if mail is None:
        raise RuntimeError("the current app has no DeferredMail; call init_app first")
    job: Job = mail.send_after_response(message, session=session, **fields)
    return job


def _read_settings(app: Flask, *, database_elsewhere: bool) -> Settings:
    return Settings.from_mapping(
        app.config,
        instance_path=app.instance_path,
        debug=app.debug,
        testing=app.testing,
        transport_faults=registry.faults_of,
        webhook_faults=webhook_faults,
        database_elsewhere=database_elsewhere,
    )


def _as_message(message: Any, fields: MessageFields) -> Message:
    if message is None:
        return Message(**fields)
    if fields:
        raise TypeError(
            f"give either a message or its fields, not both (got {', '.join(sorted(fields))})"
        )
    return adopt(message)


def _request_ends(_app: Flask, **_: Any) -> None:
    """The sessions of a request end with its application context, which is the current one now."""
    joined = request.environ.pop(_JOINED, None)
    if joined:
        g.setdefault(_JOINED, []).extend(joined)


def _context_ends(_app: Flask, exc: BaseException | None = None, **_: Any) -> None:
    """All teardown functions have run, Flask-SQLAlchemy's among them."""
    joined = g.pop(_JOINED, None)
    for state in {state for state, _ in joined or ()}:
        state.end_of_context([batch for owner, batch in joined if owner is state], exc)


def _environ() -> dict[str, Any] | None:
    """The request that is being served; ``None`` outside a request."""
    return request.environ if has_request_context() else None
