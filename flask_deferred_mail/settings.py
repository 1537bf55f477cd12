"""All configuration, read once, every fault reported together.

:data:`KEYS` is the one table: name, converter, default, and a comment for whoever reads it. Names
outside it that begin with ``DEFERRED_MAIL_`` are faults too, since a mistyped key that is quietly
ignored is found out in production. Values of keys that can hold a secret never enter an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from . import conversion
from .cleaning import clean
from .conversion import Converter, Unfit, shown, unset
from .errors import ConfigurationError, MessageError
from .letter import Address, OnUnknown
from .transport_spec import TransportSpec, transport_spec
from .webhook_spec import WebhookSpec, resolved, webhook_table

PREFIX = "DEFERRED_MAIL_"
#: Name of the transport that a message goes by when it names none.
DEFAULT = "default"
_DEFAULT_DATABASE = "sqlite:///deferred_mail.sqlite3"

_DAY = 86_400.0
_TRANSPORT_NAME = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table."""

    name: str
    convert: Converter
    default: Any
    comment: str
    #: The value may hold a secret: errors show only its type.
    secret: bool = False
    #: ``None`` is not taken for "not set" but refused.
    refuses_none: bool = False

    @property
    def field(self) -> str:
        """The name under which :class:`Settings` has it."""
        return self.name.removeprefix(PREFIX).lower()


_ATTEMPTS = conversion.whole_number(1, 10_000)
_PATIENCE = conversion.seconds(0.1, _DAY)

#: Every key of our own that this release knows.
KEYS: tuple[Key, ...] = (
    Key(
        "DEFERRED_MAIL_DATABASE_URI",
        conversion.database_uri,
        None,
        "Where the mail is recorded. A relative SQLite path starts at the instance path.",
        secret=True,
    ),
    Key("DEFERRED_MAIL_TRANSPORT", transport_spec, None, "How mail leaves.", secret=True),
    Key("DEFERRED_MAIL_TRANSPORTS", conversion.table, {}, "Further ways, by name.", secret=True),
    Key("DEFERRED_MAIL_WEBHOOKS", webhook_table, {}, "Whose reports come in.", secret=True),
    Key(
        "DEFERRED_MAIL_DISPATCH",
        conversion.dispatch,
        "thread",
        "Who sends once the response is out: a thread, the closing request, nobody, an engine.",
        refuses_none=True,
    ),
    Key("DEFERRED_MAIL_RQ", conversion.redis_url, None, "RQ's Redis and queue.", secret=True),
    Key(
        "DEFERRED_MAIL_SENDER_THREADS",
        conversion.whole_number(1, 64),
        2,
        "Sender threads per web process and app.",
    ),
    Key(
        "DEFERRED_MAIL_LEASE",
        conversion.seconds(0.5, _DAY),
        60.0,
        "What another process waits before it takes over from a dead one. Renewed while in hand.",
    ),
    Key(
        "DEFERRED_MAIL_ATTEMPT_DEADLINE",
        _PATIENCE,
        60.0,
        "Wall clock of one attempt up to the last byte, plus one second per 50 kB of mail.",
    ),
    Key(
        "DEFERRED_MAIL_FINAL_REPLY_DEADLINE",
        _PATIENCE,
        # RFC 5321 4.5.3.2.6 asks for ten minutes. Whoever gives up early mails twice.
        300.0,
        "Patience for the answer after the last byte.",
    ),
    Key(
        "DEFERRED_MAIL_BACKOFF",
        conversion.schedule(0, 30 * _DAY),
        (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0),
        "Delays after the first, second, ... failed attempt; the last one repeats.",
    ),
    Key("DEFERRED_MAIL_MAX_ATTEMPTS", _ATTEMPTS, 20, "Attempts before a mail ends `failed`."),
    Key(
        "DEFERRED_MAIL_GIVE_UP_AFTER",
        conversion.seconds(0.1, 3650 * _DAY),
        5 * _DAY,
        "Age since it was recorded (or its `send_at`) at which a mail ends `failed`.",
    ),
    Key(
        "DEFERRED_MAIL_MAX_SENDER_DEATHS",
        _ATTEMPTS,
        5,
        "Attempts that ended with no outcome at all, before the mail counts as poison.",
    ),
    Key(
        "DEFERRED_MAIL_ON_UNKNOWN",
        conversion.one_of("retry", "hold"),
        "retry",
        "What to do when a mail was handed over and no answer came.",
    ),
    Key("DEFERRED_MAIL_ENVELOPE_SENDER", conversion.addr_spec, None, "Where bounces go."),
    Key(
        "DEFERRED_MAIL_DEFAULT_HEADERS",
        conversion.headers,
        MappingProxyType({}),
        "Header fields for every mail that does not set them itself.",
        secret=True,
    ),
    Key("DEFERRED_MAIL_OVERRIDE_RECIPIENTS", conversion.mailboxes, (), "Who gets mail for others."),
    Key("DEFERRED_MAIL_ALLOWED_RECIPIENTS", conversion.patterns, (), "Who may be mailed at all."),
    Key(
        "DEFERRED_MAIL_MESSAGE_ID_DOMAIN",
        conversion.domain,
        None,
        "What stands after the @ of Message-ID.",
    ),
    Key(
        "DEFERRED_MAIL_ON_UNSUPPORTED",
        conversion.one_of("raise", "drop"),
        "raise",
        "What to do with a field that the chosen transport cannot carry.",
    ),
    Key(
        "DEFERRED_MAIL_ENCRYPTION_KEYS",
        conversion.encryption_keys,
        (),
        "Encrypt bodies and attachments in the table: the first key encrypts, all decrypt.",
        secret=True,
    ),
)

_SENDER = Key("MAIL_DEFAULT_SENDER", conversion.mailbox, None, "From, where a message names none.")
_SUPPRESS = Key("MAIL_SUPPRESS_SEND", conversion.boolean, None, "Record, but do not send.")
_ASCII = Key("MAIL_ASCII_ATTACHMENTS", conversion.boolean, False, "ASCII-only file names.")

#: Flask-Mail's (and the last one Flask-Mailman's) description of a server.
SERVER_KEYS: tuple[Key, ...] = (
    # People put a login before the host, as in a URL.
    Key("MAIL_SERVER", conversion.host, None, "Host name or address.", secret=True),
    Key("MAIL_PORT", conversion.whole_number(1, 65_535), None, "25; 465 with MAIL_USE_SSL."),
    Key("MAIL_USERNAME", conversion.text, None, "Login, if there is a password.", secret=True),
    Key("MAIL_PASSWORD", conversion.text, None, "Password, if there is a login.", secret=True),
    Key("MAIL_USE_TLS", conversion.boolean, False, "STARTTLS is demanded."),
    Key("MAIL_USE_SSL", conversion.boolean, False, "TLS from the first byte."),
    Key("MAIL_TIMEOUT", _PATIENCE, None, "Seconds for one step of the conversation."),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an app configured, checked. Times are in seconds."""

    #: An SQLAlchemy URL. The file and its folder are made at first use, by the store.
    database_uri: str = field(repr=False)
    #: Whether ``DEFERRED_MAIL_DATABASE_URI`` was given, rather than derived.
    database_uri_given: bool
    #: Name -> how to send; ``"default"`` is missing when nothing is configured for it.
    transports: Mapping[str, TransportSpec]
    #: Name -> what proves a provider's reports; each has its provider.
    webhooks: Mapping[str, WebhookSpec]
    dispatch: str
    rq: str | None = field(repr=False)
    sender_threads: int
    lease: float
    #: See :meth:`attempt_deadline` for what a mail of some size gets.
    attempt_seconds: float
    final_reply_deadline: float
    backoff: tuple[float, ...]
    max_attempts: int
    give_up_after: float
    max_sender_deaths: int
    on_unknown: OnUnknown
    envelope_sender: str | None
    default_headers: Mapping[str, str] = field(repr=False)
    #: For staging: everybody but ``allowed_recipients`` is replaced by these.
    override_recipients: tuple[Address, ...]
    allowed_recipients: tuple[str, ...]
    message_id_domain: str | None
    on_unsupported: str
    #: 32 bytes each; the first one encrypts.
    encryption_keys: tuple[bytes, ...] = field(repr=False)
    default_sender: Address | None
    ascii_attachments: bool

    @classmethod
    def from_mapping(
        cls,
        config: Mapping[str, Any],
        *,
        instance_path: str,
        debug: bool,
        testing: bool,
        transport_faults: Callable[[TransportSpec], Sequence[str]] = lambda _spec: (),
        webhook_faults: Callable[[WebhookSpec, str | None], Iterable[str]] = lambda *_: (),
        database_elsewhere: bool = False,
    ) -> Settings:
        """Read ``app.config``, or any mapping like it.

        ``transport_faults`` says what is wrong with a transport, in sentences without a secret:
        only the transports know, and they are above this module. ``database_elsewhere``: the
        application has named its own database (``db=``), so that another is a contradiction.

        :raises ConfigurationError: with one sentence for each key that is unknown or wrong.
        """
        reader = _Reader(config)
        values = {key.field: reader.value(key) for key in KEYS}
        reader.value(_SUPPRESS)
        reader.refuse_unknown_keys()
        given = values.pop("database_uri")
        if given is not None and database_elsewhere:
            reader.faults.append(
                "DEFERRED_MAIL_DATABASE_URI: the mail is in the application's database already "
                "(db= was given); leave one of the two out"
            )
        transports = reader.transports(values.pop("transport"), values["transports"], debug)
        reader.examine(transports, transport_faults)
        webhooks, faults = resolved(values["webhooks"], transports, webhook_faults)
        reader.faults += faults
        values |= {
            "database_uri": reader.located(given, instance_path, memory=debug or testing),
            "database_uri_given": given is not None,
            "transports": transports,
            "webhooks": webhooks,
            "attempt_seconds": values.pop("attempt_deadline"),
            "default_sender": reader.value(_SENDER),
            "ascii_attachments": reader.value(_ASCII),
        }
        if reader.faults:
            raise ConfigurationError(reader.faults)
        return cls(**values)

    def attempt_deadline(self, size_bytes: int) -> float:
        """Seconds that one attempt of a mail of this size may take, up to the last byte."""
        return self.attempt_seconds + size_bytes / 50_000

    def require_transport(self, name: str = DEFAULT) -> TransportSpec:
        """The transport of that name.

        :raises ConfigurationError: when there is none; the text says what to set.
        """
        if name in self.transports:
            return self.transports[name]
        if name == DEFAULT:
            raise ConfigurationError(
                "no transport is configured: set DEFERRED_MAIL_TRANSPORT, for example to "
                "'smtp://user:password@mail.example.com' (or 'console:' to see mail on the "
                "terminal), or Flask-Mail's MAIL_SERVER"
            )
        raise ConfigurationError(
            f"no transport is named {clean(repr(name), 80)}: add it to DEFERRED_MAIL_TRANSPORTS, "
            f"which has {', '.join(sorted(self.transports)) or 'none'}"
        )


def suppresses(config: Mapping[str, Any], testing: bool) -> bool:
    """Whether mail is recorded but not sent: ``MAIL_SUPPRESS_SEND``, else ``testing``.

    Looked up per mail, since tests switch it on and off after ``init_app``.

    :raises ConfigurationError: when the value is neither true nor false.
    """
    reader = _Reader(config)
    answer = reader.value(_SUPPRESS)
    if reader.faults:
        raise ConfigurationError(reader.faults)
    return testing if answer is None else bool(answer)


class _Reader:
    """Takes values out of a mapping, and keeps every fault instead of stopping at the first."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.faults: list[str] = []

    def value(self, key: Key) -> Any:
        """The key's converted value, or its default when it is not set or faulty."""
        given = self.config.get(key.name, "")
        if unset(given) and not (given is None and key.refuses_none):
            return key.default
        converted = self._converted(key.name, given, key.convert, secret=key.secret)
        return key.default if converted is None else converted

    def _converted(self, where: str, given: Any, convert: Converter, *, secret: bool) -> Any:
        try:
            return convert(given)
        except Unfit as unfit:
            self.faults.append(f"{where}: expected {unfit}; got {shown(given, secret=secret)}")
        except MessageError as error:
            self.faults.append(f"{where}: {error.problem}")
        return None

    def refuse_unknown_keys(self) -> None:
        """Note every ``DEFERRED_MAIL_*`` key that no release knows, with the likeliest one."""
        known = [key.name for key in KEYS]
        for name in self.config:
            if isinstance(name, str) and name.startswith(PREFIX) and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self.faults.append(f"{clean(name, 100)}: no such setting{hint}")

    def located(self, uri: str | None, instance_path: str, *, memory: bool) -> str:
        """Where the database is: at the instance path unless its URL says otherwise."""
        if uri is None and "?" in instance_path:
            self.faults.append(
                "DEFERRED_MAIL_DATABASE_URI: the instance path holds a question mark, which a "
                "database URL cannot; set this key to a file elsewhere"
            )
        if uri is not None and conversion.in_memory(uri) and not memory:
            self.faults.append(
                "DEFERRED_MAIL_DATABASE_URI: an in-memory database forgets the mail with the "
                "process, so it is only for TESTING and debug mode; name a file"
            )
        return conversion.located(uri or _DEFAULT_DATABASE, instance_path)

    def transports(
        self, default: TransportSpec | None, named: Mapping[str, Any], debug: bool
    ) -> Mapping[str, TransportSpec]:
        """Every configured transport; the default one from the first source that has it."""
        specs = {name: self._named(name, given) for name, given in named.items()}
        if not unset(self.config.get("DEFERRED_MAIL_TRANSPORT")):
            if DEFAULT in specs:
                self.faults.append(
                    "DEFERRED_MAIL_TRANSPORTS: it names a transport 'default', and "
                    "DEFERRED_MAIL_TRANSPORT is set too; leave one of them out"
                )
            specs[DEFAULT] = default
        elif specs.get(DEFAULT) is None:
            specs[DEFAULT] = self._flask_mails() or (TransportSpec("console:") if debug else None)
        return MappingProxyType({name: spec for name, spec in specs.items() if spec is not None})

    def examine(
        self,
        transports: Mapping[str, TransportSpec],
        transport_faults: Callable[[TransportSpec], Sequence[str]],
    ) -> None:
        """Note what the transports themselves find wrong with how they are configured."""
        for name, spec in transports.items():
            self.faults += [f"transport {name!r}: {fault}" for fault in transport_faults(spec)]

    def _named(self, name: str, given: Any) -> TransportSpec | None:
        where = f"DEFERRED_MAIL_TRANSPORTS[{clean(repr(name), 80)}]"
        if not _TRANSPORT_NAME.fullmatch(name):
            self.faults.append(f"{where}: a name has 1 to 64 of a-z, 0-9, '-' and '_'")
        if unset(given):
            return None
        spec: TransportSpec | None = self._converted(where, given, transport_spec, secret=True)
        return spec

    def _flask_mails(self) -> TransportSpec | None:
        """What Flask-Mail's keys mean; ``None`` when they name no server."""
        if unset(self.config.get("MAIL_SERVER")):
            return None
        mail = {key.name: self.value(key) for key in SERVER_KEYS}
        ssl, tls = mail["MAIL_USE_SSL"], mail["MAIL_USE_TLS"]
        if ssl and tls:
            self.faults.append(
                "MAIL_USE_TLS, MAIL_USE_SSL: both are set; use MAIL_USE_SSL for TLS from the "
                "first byte (port 465), MAIL_USE_TLS for STARTTLS (port 587)"
            )
        # Flask-Mail logs in only if it has both; half a login is often left over from another key.
        login = ""
        if mail["MAIL_USERNAME"] and mail["MAIL_PASSWORD"]:
            login = ":".join(quote(mail[k], "") for k in ("MAIL_USERNAME", "MAIL_PASSWORD")) + "@"
        port = mail["MAIL_PORT"] or (465 if ssl else 25)
        place = f"{login}{mail['MAIL_SERVER']}:{port}"
        tls_option = "required" if tls else "optional"
        url = f"smtps://{place}" if ssl else f"smtp://{place}?tls={tls_option}"
        return TransportSpec(url, timeout=mail["MAIL_TIMEOUT"])
