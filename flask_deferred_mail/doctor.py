"""``doctor``: what is wrong here, and what to do about it: one value per thing that was looked at.

Sends no mail. Each check is a generator of :class:`Finding`; they are made one after the other, so
that whoever prints them can show the quick ones while a server is still being asked.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .cleaning import clean
from .cli_output import counted, duration, seen_words, workers_words
from .delivery.runtime import OLD_BACKLOG, SWEEPER_MISSING, Runtime
from .doctor_database import examine_database, examine_savepoints
from .doctor_suppression import examine_refusals
from .doctor_webhooks import examine_webhooks
from .engines.base import Engine
from .errors import ConfigurationError, StoreError
from .finding import Finding, Level
from .settings import DEFAULT, Settings
from .store.inspection import Inspection
from .store.reports import Backlog, Sighting
from .store.sightings import Sightings
from .store.transport_state import TransportState
from .transport_report import transport_reports, words
from .transport_spec import TransportSpec
from .unsubscribing import faults_of_defaults
from .wsgi import AfterResponse

#: A provider's Retry-After is followed for an hour at most; what is beyond that is no rest.
_LONGEST_REST = 2 * 3_600.0
#: Bounds the search for our hook; chains of middlewares have a handful.
_OBJECTS_LOOKED_AT = 2_000
_WHAT_SERVES_NOBODY = {"memory": "kept in this process only", "null": "taken and forgotten"}


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    settings: Settings
    runtime: Runtime
    #: Mail is recorded and not sent, as of now.
    suppressed: bool
    #: The outermost WSGI application that a server calls.
    wsgi_app: object
    #: The line that this application's crontab needs.
    cron_line: str
    #: Who is told of due mail, where the web process does not send.
    engine: Engine | None = None


def examine(patient: Patient) -> Iterator[Finding]:
    """Everything, the quick things first."""
    yield _versions()
    yield from _settings(patient)
    yield _hook(patient)
    if patient.engine is not None:
        yield from patient.engine.examine()
    works = yield from examine_database(patient.runtime.database)
    yield from _transports(patient, works)
    yield from examine_webhooks(patient.settings)
    if works:
        yield from examine_savepoints(patient.runtime.outbox)
        yield from _keys(patient)
        yield from _clock(patient)
        yield from _queue(patient)
        yield from examine_refusals(patient.runtime.suppressions)


def _versions() -> Finding:
    ours = metadata.version("flask-deferred-mail")
    python = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        Level.OK,
        "versions",
        f"flask-deferred-mail {ours}, Flask {metadata.version('flask')}, "
        f"SQLAlchemy {metadata.version('sqlalchemy')}, Python {python}",
    )


# -- settings -----------------------------------------------------------------------------------


def _settings(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    threads = f", {counted(settings.sender_threads, 'sender thread')} per web process"
    yield Finding(
        Level.OK,
        "settings",
        f"dispatch is {settings.dispatch!r}" + (threads if settings.dispatch == "thread" else ""),
    )
    if settings.default_sender is None:
        yield Finding(
            Level.WARN,
            "settings",
            "no default sender: a message that names none is refused",
            "set MAIL_DEFAULT_SENDER, or give each message a sender",
        )
    else:
        yield Finding(Level.OK, "settings", f"mail is from {clean(settings.default_sender.email)}")
    yield from _rerouted(settings)
    yield from _one_click(patient)
    if patient.suppressed:
        yield Finding(
            Level.WARN,
            "settings",
            "sending is suppressed: mail is recorded, and stays",
            "unset MAIL_SUPPRESS_SEND (its default is TESTING) where mail is to leave",
        )


def _rerouted(settings: Settings) -> Iterator[Finding]:
    allowed = ", ".join(settings.allowed_recipients)
    override = ", ".join(address.email for address in settings.override_recipients)
    if not (allowed or override):
        return
    others = f"goes to {clean(override, 200)}" if override else "is refused"
    what = f"mail to anybody but {clean(allowed, 200)}" if allowed else "all mail"
    yield Finding(
        Level.WARN,
        "settings",
        f"{what} {others}",
        "for staging; unset DEFERRED_MAIL_OVERRIDE_RECIPIENTS and DEFERRED_MAIL_ALLOWED_RECIPIENTS "
        "where mail is to reach everybody",
    )


def _one_click(patient: Patient) -> Iterator[Finding]:
    for name in patient.settings.transports:
        with suppress(ConfigurationError):  # told with the transport
            signs = patient.runtime.transport(name).signs
            for fault in faults_of_defaults(patient.settings.default_headers, signs):
                yield Finding(
                    Level.WARN,
                    f"transport {name}",
                    f"List-Unsubscribe-Post in DEFERRED_MAIL_DEFAULT_HEADERS: {fault}",
                    "docs/guides/deliverability.md",
                )


def _hook(patient: Patient) -> Finding:
    if is_hooked(patient.wsgi_app):
        return Finding(Level.OK, "hook", "app.wsgi_app tells us when a response is out")
    if patient.settings.dispatch == "none":
        return Finding(Level.OK, "hook", "not in app.wsgi_app, and not needed for this dispatch")
    return Finding(
        Level.WARN,
        "hook",
        "nothing around app.wsgi_app tells us when a response is out: mail waits for a sweep",
        "wrap app.wsgi_app, as in `app.wsgi_app = Middleware(app.wsgi_app)`, and do not replace "
        "it after init_app",
    )


def is_hooked(wsgi_app: object) -> bool:
    """Whether :class:`AfterResponse` is somewhere in a chain of middlewares.

    Middlewares keep what they wrap under names of their own choice, so all of their attributes,
    and what a function closes over, are followed.
    """
    ahead, seen = deque([wsgi_app]), {id(wsgi_app)}
    while ahead and len(seen) < _OBJECTS_LOOKED_AT:
        found = ahead.popleft()
        if isinstance(found, AfterResponse):
            return True
        for inner in _wrapped(found):
            if callable(inner) and not isinstance(inner, type) and id(inner) not in seen:
                seen.add(id(inner))
                ahead.append(inner)
    return False


def _wrapped(wsgi_app: Any) -> Iterator[object]:
    yield from tuple(getattr(wsgi_app, "__dict__", {}).values())
    for cell in getattr(wsgi_app, "__closure__", None) or ():
        # An empty cell is a name that its function has not set yet.
        with suppress(ValueError):
            yield cell.cell_contents


# -- transports ---------------------------------------------------------------------------------


def _transports(patient: Patient, database_works: bool) -> Iterator[Finding]:
    runtime, configured = patient.runtime, patient.settings.transports
    if DEFAULT not in configured:
        yield _no_default(patient)
    states = runtime.states.all() if database_works else {}
    for name, spec in configured.items():
        yield from _transport(runtime, name, spec, states.get(name))
    if database_works:
        yield from _orphans(Inspection(runtime.database), configured)


def _no_default(patient: Patient) -> Finding:
    # A named one will do, for an application whose every message names it.
    level = Level.WARN if patient.settings.transports or patient.suppressed else Level.FAIL
    try:
        patient.settings.require_transport()
    except ConfigurationError as error:
        text, _, advice = clean(str(error), 1_000).partition(": ")
        return Finding(level, f"transport {DEFAULT}", text, advice)
    raise AssertionError("there is a default transport after all")


def _transport(
    runtime: Runtime, name: str, spec: TransportSpec, state: TransportState | None
) -> Iterator[Finding]:
    topic = f"transport {name}"
    scheme = spec.url.partition(":")[0].lower()
    if scheme in _WHAT_SERVES_NOBODY:
        yield Finding(
            Level.WARN,
            topic,
            f"{scheme}: mail is {_WHAT_SERVES_NOBODY[scheme]}",
            "for tests; give it the URL of a real server where mail is to arrive",
        )
    else:
        yield Finding(Level.OK, topic, spec.shown)
    if state is not None and state.failures:
        yield _resting(topic, state)
    yield from _ways(runtime, name)
    yield from _probed(runtime, name, topic)


def _ways(runtime: Runtime, name: str) -> Iterator[Finding]:
    """What keeps it, or one of its members, from sending, beyond its own faults."""
    try:
        reports = list(transport_reports(runtime))
    except StoreError:
        return  # told with the database
    for report in reports:
        if name not in (report.name, report.member_of):
            continue
        topic = f"transport {clean(report.name)}"
        if report.standing == "paused":
            advice = f"`flask mail transports resume {clean(report.name)}` lets its mail go"
            yield Finding(Level.WARN, topic, words(report), advice)
        elif report.member_of and report.standing != "well":
            advice = "its mail goes by the other members as long as they work"
            yield Finding(Level.WARN, topic, words(report), advice)


def _resting(topic: str, state: TransportState) -> Finding:
    since = duration(max(0.0, time.time() - (state.since or time.time())))
    words = f"{state.kind}: {clean(state.reason or '')}"
    if state.rests_for > _LONGEST_REST:
        return Finding(
            Level.FAIL,
            topic,
            f"rests for {duration(state.rests_for)} more, longer than any rest: was the clock set "
            f"back? ({words})",
            "`flask mail test ADDRESS` tries it now, and ends the rest if the mail is accepted",
        )
    if state.rests_for > 0:
        standing = f"rests for {duration(state.rests_for)} more"
    else:
        standing = "has rested; the next mail tries it"
    return Finding(
        Level.WARN,
        topic,
        f"{standing} ({counted(state.failures, 'fault')} in a row, for {since}; {words})",
        "mail waits and loses no attempt; `flask mail test ADDRESS` tries it now",
    )


def _probed(runtime: Runtime, name: str, topic: str) -> Iterator[Finding]:
    try:
        for step in runtime.transport(name).probe():
            level = Level.FAIL if not step.ok else Level.WARN if step.advice else Level.OK
            advice = step.advice if step.ok else _ADVICE.get(step.name, "")
            yield Finding(level, topic, clean(f"{step.name}: {step.detail}"), advice)
    except ConfigurationError as error:
        yield Finding(Level.FAIL, topic, clean(str(error), 1_000), "correct its configuration")
    except Exception as error:  # noqa: BLE001 - a third party's transport may raise anything
        yield Finding(
            Level.FAIL, topic, clean(f"its probe broke with {type(error).__name__}: {error}")
        )


_ADVICE: Mapping[str, str] = {
    "connect": "check host and port, and whether a firewall lets this machine out",
    "tls": "check the host's name against its certificate, the port, and `?tls=` in the URL",
    "key": "check the account's user and key in the transport's URL",
}


def _orphans(inspection: Inspection, configured: Mapping[str, TransportSpec]) -> Iterator[Finding]:
    for name, number in inspection.waiting_by_transport().items():
        if name not in configured:
            yield Finding(
                Level.FAIL,
                f"transport {clean(name)}",
                f"{counted(number, 'mail')} to leave by it, and it is not configured",
                "keep a transport in DEFERRED_MAIL_TRANSPORTS as long as mail for it is waiting",
            )


def _keys(patient: Patient) -> Iterator[Finding]:
    seals = patient.runtime.jobs.seals
    needed = Inspection(patient.runtime.database).keys_needed()
    for key_id, number in sorted(needed.items()):
        if not seals.knows(key_id):
            yield Finding(
                Level.FAIL,
                "encryption",
                f"{counted(number, 'mail')} to leave encrypted with a key (id {clean(key_id)}) "
                "that is not configured here",
                "add it to DEFERRED_MAIL_ENCRYPTION_KEYS, behind the first one",
            )


# -- queue --------------------------------------------------------------------------------------


def _clock(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    longest_retry = max(*settings.backoff, _LONGEST_REST) * 1.25
    ahead = Inspection(patient.runtime.database).ahead(longest_retry, settings.lease * 2)
    number = ahead.retries + ahead.leases
    if number:
        yield Finding(
            Level.WARN,
            "clock",
            f"{counted(number, 'mail')} waiting for up to {duration(ahead.furthest)}, longer than "
            "any retry or lease takes: was the clock set back?",
            "set the clock; `flask mail hold ID` and `flask mail release ID` make a mail due now",
        )


def _queue(patient: Patient) -> Iterator[Finding]:
    backlog = patient.runtime.reports.backlog()
    seen = patient.runtime.reports.last_seen("sweep")
    age = backlog.oldest_due_seconds
    old = age is not None and age > OLD_BACKLOG
    yield _last_sweep(seen, old, patient.cron_line)
    if workers := Sightings(patient.runtime.database).workers():
        yield Finding(Level.OK, "worker", workers_words(workers))
    yield _backlog(backlog, old)
    if backlog.counts["held"]:
        yield Finding(
            Level.WARN,
            "queue",
            f"{counted(backlog.counts['held'], 'mail')} held, waiting for a decision",
            "flask mail list --status held",
        )


def _last_sweep(seen: Sighting | None, old_backlog: bool, cron_line: str) -> Finding:
    now = time.time()
    if seen is not None and now - seen.seen_at < SWEEPER_MISSING:
        return Finding(Level.OK, "sweep", f"last seen {seen_words(seen, now)}")
    never = "no sweep has ever been seen"
    text = never if seen is None else f"last seen {seen_words(seen, now)}"
    return Finding(
        Level.FAIL if old_backlog else Level.WARN,
        "sweep",
        f"{text}: what the web process does not send, stays",
        f"crontab: {cron_line}; or run `flask mail worker` as a service",
    )


def _backlog(backlog: Backlog, old: bool) -> Finding:
    if not backlog.due or backlog.oldest_due_seconds is None:
        return Finding(Level.OK, "queue", "nothing is due")
    text = f"{counted(backlog.due, 'mail')} due, the oldest for "
    text += duration(backlog.oldest_due_seconds)
    if not old:
        return Finding(Level.OK, "queue", text)
    return Finding(Level.WARN, "queue", text, "`flask mail explain ID` says why a mail is not out")
