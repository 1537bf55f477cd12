"""What one app has: its settings, its runtime in this process, its outbox.

Here a checked message becomes a row, and the end of the response is told what to do about it.
Nothing here imports Flask: the extension hands in the app and the request's environ.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from . import signals
from .delivery.dispatcher import Ticket
from .delivery.runtime import Runtime
from .dispatched import snapshot
from .engines.registry import engine_for
from .errors import ConfigurationError, NotCommitted, StoreError
from .job import Job
from .letter import Submission
from .message import Defaults, Message
from .request_batch import apart, schedule_together
from .rerouting import Rerouting, changes_in_words
from .settings import Settings, suppresses
from .signal_listener import SignalListener
from .store.application_database import ApplicationDatabase
from .store.fate import Batch, Fate
from .store.jobs import Added
from .unsubscribing import OneClickWatch
from .webhook_desk import WebhookDesk
from .wsgi import KEY

log = logging.getLogger("flask_deferred_mail")

#: Messages that ``outbox`` keeps at most, the newest: an application that suppresses sending for
#: good must not fill its memory with them.
OUTBOX_LIMIT = 1_000


class App(Protocol):
    """The part of a Flask application that is used here."""

    testing: bool
    debug: bool

    @property
    def extensions(self) -> dict[str, Any]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def jinja_env(self) -> Any: ...
    def app_context(self) -> AbstractContextManager[Any]: ...
    def update_template_context(self, context: dict[str, Any]) -> None: ...


class AppMail:
    """What one app has: its settings, its runtime in this process, its outbox."""

    def __init__(
        self, app: App, settings: Settings, database: ApplicationDatabase | None = None
    ) -> None:
        self.app = app
        self.settings = settings
        self._defaults = partial(
            Defaults,
            sender=settings.default_sender,
            envelope_sender=settings.envelope_sender,
            default_headers=tuple(settings.default_headers.items()),
            message_id_domain=settings.message_id_domain,
            ascii_attachments=settings.ascii_attachments,
        )
        self._rerouting = Rerouting(settings.override_recipients, settings.allowed_recipients)
        self._database = database
        #: Who is told of due mail, where this process does not send itself.
        self.engine = engine_for(app, settings)
        self.webhooks = WebhookDesk(settings.webhooks, lambda: self.runtime.tracking)
        self._one_click = OneClickWatch()
        self._outbox: list[Message] = []
        self._recordings: list[list[Message]] = []
        self._runtime: Runtime | None = None
        self._inherited: list[Runtime] = []
        self._locks: dict[int, threading.Lock] = {}

    @property
    def runtime(self) -> Runtime:
        """This process's runtime; made at first use, and anew after a fork."""
        runtime = self._runtime
        if runtime is not None and runtime.pid == os.getpid():
            return runtime
        return self._new_runtime()

    def _new_runtime(self) -> Runtime:
        # A lock per process: one that a parent's thread held at the fork stays locked for ever.
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            inherited = self._runtime
            if inherited is not None and inherited.pid == os.getpid():
                return inherited
            if inherited is not None:
                # Never closed here: its sockets and locks are the parent's.
                self._inherited.append(inherited)
            self._runtime = self._made_runtime()
            return self._runtime

    def _made_runtime(self) -> Runtime:
        listener = SignalListener(self.signal, lambda job_id: self.runtime.jobs.get(job_id))
        database = engine = None
        if self._database is not None:
            with self.app.app_context():
                database, engine = self._database.open(), self._database.engine()
        runtime = Runtime(self.settings, self.app.app_context, listener, database)
        if engine is not None:
            runtime.outbox.engine = engine
        if self.engine is not None:
            runtime.hand_over_by(self._dispatch, self.engine.release)
        return runtime

    @property
    def outbox(self) -> list[Message]:
        """Messages recorded while sending was suppressed; those in a session once it commits."""
        if self._runtime is not None:
            self._runtime.outbox.confirm()
        return self._outbox

    @property
    def suppressed(self) -> bool:
        """Whether mail is recorded and not sent, as of now."""
        return suppresses(self.app.config, self.app.testing)

    # -- recording --------------------------------------------------------------------------

    def defer(self, message: Message, environ: dict[str, Any] | None) -> Job:
        """Record one mail and arrange for its sending."""
        message = self._rendered(message)
        submission = self._submission(message)
        runtime, suppressed = self.runtime, self.suppressed
        hook = _hook(environ, suppressed)
        self._ready(hook)
        soon = hook is not None and _due_now(submission)
        lease = None
        if soon and self._may_lease(submission):
            lease = runtime.dispatcher.room_for(submission.transport)
        added = runtime.record(submission, lease)
        if not added.created:
            return added.job
        if hook is not None and soon:
            if added.claim is not None:
                ticket = runtime.dispatcher.reserve(added.claim, submission.letter)
                hook.append(partial(runtime.dispatcher.ring, ticket))
            else:
                self._schedule(hook, added.job)
        self._recorded(message, added.job, suppressed)
        return added.job

    def defer_many(self, messages: list[Message], environ: dict[str, Any] | None) -> list[Job]:
        """Record many mails at once and arrange for their sending."""
        messages = [self._rendered(message) for message in messages]
        submissions = [self._submission(message) for message in messages]
        suppressed = self.suppressed
        self._ready(_hook(environ, suppressed))
        added = self.runtime.jobs.add_many(submissions) if submissions else []
        self._arrange(messages, submissions, added, environ, suppressed)
        return [one.job for one in added]

    def join(
        self, session: Any, messages: list[Message], environ: dict[str, Any] | None
    ) -> tuple[list[Job], Batch | None]:
        """Record mails in the caller's transaction; all else follows when that has committed.

        Returns the jobs, and what the end of the request is to look at.
        """
        messages = [self._rendered(message) for message in messages]
        submissions = [self._submission(message) for message in messages]
        suppressed = self.suppressed
        if suppressed or self._recordings:
            messages = [snapshot(message) for message in messages]

        def committed(batch: Batch) -> None:
            self.runtime.jobs.ring()
            self._arrange(messages, submissions, batch.added, environ, suppressed)

        if not submissions:
            return [], None
        self._ready(_hook(environ, suppressed))
        batch = self.runtime.outbox.add(session, submissions, committed)
        return [one.job for one in batch.added], batch

    def _arrange(
        self,
        messages: Sequence[Message],
        submissions: Sequence[Submission],
        added: Sequence[Added],
        environ: dict[str, Any] | None,
        suppressed: bool,
    ) -> None:
        """Have rows sent that are committed and that nobody has leased; tell who listens."""
        hook = _hook(environ, suppressed)
        for message, submission, one in zip(messages, submissions, added, strict=True):
            if one.created:
                if hook is not None and _due_now(submission):
                    self._schedule(hook, one.job)
                self._recorded(message, one.job, suppressed)

    def look_back(self, batch: Batch) -> None:
        """The response is out: what nobody has committed by now, nobody will."""
        self.runtime.outbox.confirm()
        self._complain(batch)

    def end_of_context(self, batches: Sequence[Batch], error: BaseException | None) -> None:
        """An application context has ended, and the sessions that end with it.

        :raises NotCommitted: in debug mode and testing, unless another error is on its way.
        """
        self.runtime.outbox.confirm()
        left = [batch for batch in batches if self._complain(batch)]
        if left and error is None and (self.app.debug or self.app.testing):
            raise NotCommitted(_left_open(left[0]))

    def _complain(self, batch: Batch) -> bool:
        """Say, once, that a batch was left uncommitted. False: it was not, or it was said."""
        if batch.complained or batch.fate not in (Fate.OPEN, Fate.FORGOTTEN):
            return False
        if not any(one.created for one in batch.added):
            return False
        batch.complained = True
        log.error("%s", _left_open(batch))
        return True

    def send_now(self, message: Message) -> Job:
        """Record one mail in its own transaction and attempt it at once."""
        message, suppressed = self._rendered(message), self.suppressed
        added = self.runtime.jobs.add(self._submission(message))
        if not added.created:
            return added.job
        self._recorded(message, added.job, suppressed)
        if suppressed:
            return added.job
        apart(self.runtime.deliver_now, added.job.id)
        return self.runtime.jobs.get(added.job.id)

    # -- one recorded mail ------------------------------------------------------------------

    def cancel(self, job_id: int) -> Job:
        """End a mail that has not been sent, also one in hand here that has not begun.

        :raises IllegalTransition: it is being sent, or has ended.
        """
        self.runtime.take_back(job_id)
        return self.runtime.changes.cancel(job_id)

    def hold(self, job_id: int) -> Job:
        """Keep a waiting mail until it is released, also one that waits in this process.

        :raises IllegalTransition: it is being sent, or has ended.
        """
        self.runtime.take_back(job_id)
        return self.runtime.changes.hold(job_id)

    # -- scheduling -------------------------------------------------------------------------

    def _may_lease(self, submission: Submission) -> bool:
        """Whether its row may be inserted already leased to this process."""
        # A process that dies with such a row has spent an attempt that never began: not the only
        # one that there is.
        attempts = submission.max_attempts or self.settings.max_attempts
        return self.settings.dispatch == "thread" and attempts > 1

    def _schedule(self, hook: list[Any], job: Job) -> None:
        """Have a row sent that nobody has leased, once the response is closed."""
        if self.settings.dispatch == "thread":
            dispatcher = self.runtime.dispatcher
            ticket = Ticket(job.id, transport=job.transport)
            hook.append(partial(dispatcher.ring, ticket))
        elif self.engine is not None or self.settings.dispatch == "inline":
            schedule_together(hook, self.runtime, job.id)

    def _ready(self, hook: list[Any] | None) -> None:
        """Look, before a mail is recorded, whether there is an engine to tell of it.

        :raises ConfigurationError: there is none.
        """
        if hook is not None and self.engine is not None:
            self.engine.ready()

    def _dispatch(self, job_ids: list[int]) -> None:
        """Tell the engine, in the thread that talks to it."""
        assert self.engine is not None
        with self.app.app_context():
            self.engine.dispatch(job_ids)

    def deliver_handed(self, job_ids: list[int]) -> None:
        """Attempt mails in a worker of the engine; what cannot be done is left to the sweep."""
        if self.suppressed:
            log.warning("sending is suppressed: %d mails stay", len(job_ids))
            return
        try:
            apart(self.runtime.deliver_handed, job_ids)
        except StoreError as error:
            log.error("mail %s: %s; left to the sweep", job_ids, error)

    def _submission(self, message: Message) -> Submission:
        """The message, checked, and refused here if its transport cannot carry it."""
        settings = self.settings
        submission = self._rerouted(message.check(self._defaults(now=time.time())))
        try:
            transport = self.runtime.transport(submission.transport)
        except ConfigurationError:
            if self.suppressed:
                return submission
            raise
        if settings.on_unsupported == "drop":
            submission = replace(submission, letter=transport.fit(submission.letter))
        submission = self._rerouting.checked(submission, transport.check)
        self._one_click.look(submission.letter, transport.signs)
        return _left_to_provider(submission, transport.keeps_for(submission.letter))

    def _rerouted(self, submission: Submission) -> Submission:
        """To those who may be mailed from here (staging), if that is not everybody."""
        letter = self._rerouting.applied(submission.letter)
        if letter is submission.letter:
            return submission
        log.info("mail for %s goes to %s instead", *changes_in_words(submission.letter, letter))
        return replace(submission, letter=letter)

    def _rendered(self, message: Message) -> Message:
        if message.template is None:
            return message
        context: dict[str, Any] = {}
        self.app.update_template_context(context)
        return message.render(self.app.jinja_env, context)

    def _recorded(self, message: Message, job: Job, suppressed: bool) -> None:
        if suppressed or self._recordings:
            self._keep(snapshot(message), suppressed)
        if signals.mail_queued.receivers:
            apart(self.signal, signals.mail_queued, job=job)

    def _keep(self, message: Message, suppressed: bool) -> None:
        for recording in self._recordings:
            recording.append(message)
        if suppressed:
            self._outbox.append(message)
            del self._outbox[:-OUTBOX_LIMIT]

    def signal(self, signal: Any, **details: Any) -> None:
        """Tell receivers, in an app context of their own. Nothing that breaks there matters."""
        try:
            with self.app.app_context():
                signals.send(signal, self.app, **details)
        except Exception:
            # Setting the context up and tearing it down is the application's code as well.
            log.exception("the app context for receivers of %s broke", signal.name)

    @contextmanager
    def recording(self) -> Iterator[list[Message]]:
        """Collect what is recorded inside the block."""
        messages: list[Message] = []
        self._recordings.append(messages)
        try:
            yield messages
        finally:
            self._recordings = [r for r in self._recordings if r is not messages]


def _hook(environ: dict[str, Any] | None, suppressed: bool) -> list[Any] | None:
    """Where to schedule something for the end of the response; ``None``: there is no such end."""
    return None if environ is None or suppressed else environ.get(KEY)


def _left_open(batch: Batch) -> str:
    how = "the session was closed" if batch.fate is Fate.FORGOTTEN else "it is still open"
    return (
        f"{batch.named} will not be sent: recorded with session=, in a transaction that was "
        f"neither committed nor rolled back ({how}). Call session.commit() in the view, or leave "
        "session= out"
    )


def _due_now(submission: Submission) -> bool:
    return submission.send_at is None or submission.send_at <= time.time()


def _left_to_provider(submission: Submission, ahead: float | None) -> Submission:
    """Due at once if the provider keeps it until its time; what that is, its Date says."""
    if ahead is None or submission.send_at is None or submission.send_at > time.time() + ahead:
        return submission
    return replace(submission, send_at=None)
