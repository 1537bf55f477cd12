"""What a transport is: the contract that every way of sending a mail fulfils.

A transport gets one :class:`Call` at a time from a given thread (several threads may call it at
once) and answers with an :class:`~flask_deferred_mail.outcome.Outcome`. It does not raise to tell
how a mail went, it does not retry, it does not sleep, and it does not remember mails: all of that
is delivery's. What only a transport can know, it must tell exactly: how far the mail got.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, ClassVar

from ..deadline import Deadline
from ..errors import MessageTooLarge, UnsupportedFeature
from ..letter import Letter, Part, Recipient
from ..outcome import Outcome
from ..rates import Limit
from ..reference import reference


class Feature(StrEnum):
    """What a message can ask for and not every transport can carry. The value is the field."""

    TAGS = "tags"
    METADATA = "metadata"
    TEMPLATE_ID = "template_id"
    MERGE_DATA = "merge_data"
    MERGE_GLOBAL_DATA = "merge_global_data"
    MERGE_METADATA = "merge_metadata"
    MERGE_HEADERS = "merge_headers"
    TRACK_OPENS = "track_opens"
    TRACK_CLICKS = "track_clicks"
    ESP_EXTRA = "esp_extra"
    ALTERNATIVES = "alternatives"
    INLINE = "inline"
    PART_HEADERS = "attachment headers"


#: Letter and recipients of the call that comes next, if that is known.
Upcoming = Callable[[], tuple[Letter, tuple[Recipient, ...]] | None]


def nothing_upcoming() -> None:
    """It is not known what comes next."""


@dataclass(frozen=True, slots=True)
class Call:
    """One envelope to hand over: a letter and those of its recipients that are still open."""

    letter: Letter
    #: The envelope recipients of this call, never empty.
    recipients: tuple[Recipient, ...]
    #: Derived from the job, exactly these recipients and a generation that advances after every
    #: answer that says *not sent*. At most 64 characters of ``[0-9a-f]``.
    idempotency_key: str
    #: The row records an unknown outcome for this very key. Only then may a provider's answer
    #: "I have seen this key" count as accepted.
    in_doubt: bool
    #: Wall clock of the attempt: the last byte must be handed over before it.
    deadline: Deadline
    #: Seconds to wait for the answer to the last byte. Giving up early makes duplicates.
    final_reply_timeout: float
    #: To be called once, immediately before the final dot or the request's last byte (for a
    #: request that a library sends in one go: before its first). From then on the mail is *in
    #: doubt* until an answer comes.
    #: Again only if what was to follow was broken off, provably incomplete, and is begun anew.
    #: :raises HandoverRefused: drop the connection without the dot, let the exception pass.
    hand_over: Callable[[], None]
    #: Number of the job, for messages and logs; 0 outside a store.
    job_id: int = 0
    #: For a provider that schedules itself (:attr:`Transport.schedules_ahead`): when it is to
    #: deliver, in seconds since the epoch; ``None``: now.
    send_at: float | None = None
    #: The mail that this thread sends next, if that is known and it is one plain call: letter and
    #: recipients. A transport may prepare it while it finishes this one, but hands over none of its
    #: body before it is called with it.
    upcoming: Upcoming = nothing_upcoming

    @property
    def reference(self) -> str:
        """What the provider gives back in its reports; empty outside a store."""
        return reference(self.job_id, self.letter.message_id) if self.job_id else ""


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One line of what ``doctor`` finds out about a transport, without sending a mail."""

    name: str
    ok: bool
    detail: str
    #: What should be looked at although mail leaves; ``doctor`` warns of it.
    advice: str = ""


class Transport(ABC):
    """One configured way of sending mail.

    Objects are made once per process and shared by threads. ``send`` and ``probe`` are the only
    methods that touch the network. ``repr`` never shows a secret.
    """

    #: Which features a message may ask for. Empty means: plain MIME mail only.
    features: ClassVar[frozenset[Feature]] = frozenset()
    #: Most recipients in one call; ``None``: no limit of the transport's own.
    max_recipients: ClassVar[int | None] = None
    #: Private copies can travel in one call (each recipient still sees only itself).
    private_copies_in_one_call: ClassVar[bool] = False
    #: Most private copies in one call; ``None``: as many as :attr:`max_recipients`.
    max_copies: ClassVar[int | None] = None
    #: Most bytes of one mail, as the provider counts them; ``None``: no limit that we know.
    max_size: ClassVar[int | None] = None
    #: Most tags of one mail; ``None``: no limit of the transport's own.
    max_tags: ClassVar[int | None] = None
    #: The recipient sees our Message-ID, not one that the provider puts in its place.
    keeps_message_id: ClassVar[bool] = True
    #: Seconds ahead for which the provider itself keeps a mail until its ``send_at``; ``None``: it
    #: cannot, or was not asked to (``?schedule=native``).
    schedules_ahead: float | None = None
    #: Seconds for which the provider recognises a repeated idempotency key; ``None``: it does not.
    idempotency_window: ClassVar[float | None] = None
    #: Sending may run code that is not ours, such as a callable for access tokens, and that wants
    #: the application's context. Making one costs some 20 microseconds a mail.
    runs_foreign_code: bool = True
    #: It is made of other transports. Asked several times a mail: :func:`isinstance` of an abstract
    #: class is slow.
    combines: ClassVar[bool] = False
    #: For messages to people: "SMTP", "SendCloud".
    label: ClassVar[str] = "transport"
    #: What may leave by it, by all processes together (``?rate=``).
    limits: tuple[Limit, ...] = ()
    #: Mails that one process sends by it at the same time (``?connections=``); ``None``: no cap.
    connections: int | None = None
    #: Different mails that may share one request (``?batch=``); ``None``: each has its own.
    batch: int | None = None

    def __init__(self, name: str = "default") -> None:
        self.name = name

    def check(self, letter: Letter) -> None:
        """Refuse, in the caller, what this transport cannot carry. Touches no network.

        :raises UnsupportedFeature: a field of the message that this transport has no place for.
        :raises MessageTooLarge: more recipients or bytes than the provider takes.
        """
        for feature in features_of(letter):
            if feature not in self.features:
                raise UnsupportedFeature(
                    feature.value,
                    f"the {self.label} transport {self.name!r} cannot carry it; choose another "
                    "transport, leave it out, or set DEFERRED_MAIL_ON_UNSUPPORTED = 'drop'",
                )
        limit = self.max_recipients
        if limit is not None and not letter.private_copies and len(letter.recipients) > limit:
            raise MessageTooLarge(
                "recipients",
                f"{self.label} takes {limit} recipients who see each other in one mail, this one "
                f"has {len(letter.recipients)}; use private_copies=True or several mails",
            )

    def fit(self, letter: Letter) -> Letter:
        """The letter without what this transport cannot carry (``ON_UNSUPPORTED = "drop"``)."""
        dropped = [feature for feature in features_of(letter) if feature not in self.features]
        changes: dict[str, Any] = {}
        for feature in dropped:
            if feature in _PART_FEATURES:
                parts: tuple[Part, ...] = changes.get("parts", letter.parts)
                changes["parts"] = _without(parts, feature)
            else:
                changes[feature.value] = _NOTHING[feature.value]
        return replace(letter, **changes) if changes else letter

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """The envelopes in which these recipients are reached, each the business of one call."""
        if not letter.private_copies:
            return [tuple(recipients)]
        most = self.max_copies or self.max_recipients or len(recipients)
        size = most if self.private_copies_in_one_call else 1
        return [tuple(recipients[i : i + size]) for i in range(0, len(recipients), size)]

    def keeps_for(self, letter: Letter) -> float | None:  # noqa: ARG002
        """Seconds ahead for which the provider keeps this very letter; ``None``: not at all."""
        return self.schedules_ahead

    def signs(self, *headers: str) -> bool:  # noqa: ARG002
        """Whether what leaves by it has a DKIM signature over these fields.

        Providers sign what they send; what is sent as it was rendered here is signed here or not
        at all.
        """
        return True

    @abstractmethod
    def send(self, call: Call) -> Outcome:
        """Try once to hand the mail over, and say exactly how far it got."""

    def probe(self) -> Iterator[ProbeStep]:
        """What ``doctor`` shows: connect, TLS, AUTH, one step at a time. Sends no mail."""
        yield ProbeStep(self.name, True, f"{self.label}: nothing to probe")

    def forsake(self) -> None:
        """An outcome of this thread could not be written down: use its connections no more."""

    def close(self) -> None:
        """Let go of connections. The transport may be used again afterwards."""


_PART_FEATURES = frozenset({Feature.INLINE, Feature.PART_HEADERS})

#: What a letter's field holds when nothing was asked for.
_NOTHING: dict[str, Any] = {
    field.name: field.default_factory() if callable(field.default_factory) else field.default
    for field in fields(Letter)
    if field.default is not MISSING or field.default_factory is not MISSING
}


def _without(parts: tuple[Part, ...], feature: Feature) -> tuple[Part, ...]:
    if feature is Feature.INLINE:
        return tuple(part for part in parts if part.disposition != "inline")
    return tuple(replace(part, headers=()) for part in parts)


_BEYOND_PLAIN = attrgetter(
    *(feature.value for feature in Feature if feature not in _PART_FEATURES),
    "parts",
)


def features_of(letter: Letter) -> list[Feature]:
    """What a letter asks for beyond plain MIME mail."""
    if letter.track_opens is letter.track_clicks is None and not any(_BEYOND_PLAIN(letter)):
        return []  # most do not
    parts = letter.parts
    # Pairs and not a dict, which would hash thirteen members of an Enum for each mail.
    asked = (
        (Feature.TAGS, letter.tags),
        (Feature.METADATA, letter.metadata),
        (Feature.TEMPLATE_ID, letter.template_id),
        (Feature.MERGE_DATA, letter.merge_data),
        (Feature.MERGE_GLOBAL_DATA, letter.merge_global_data),
        (Feature.MERGE_METADATA, letter.merge_metadata),
        (Feature.MERGE_HEADERS, letter.merge_headers),
        (Feature.TRACK_OPENS, letter.track_opens is not None),
        (Feature.TRACK_CLICKS, letter.track_clicks is not None),
        (Feature.ESP_EXTRA, letter.esp_extra),
        (Feature.ALTERNATIVES, letter.alternatives),
        (Feature.INLINE, parts and letter.inline_parts),
        (Feature.PART_HEADERS, parts and any(part.headers for part in parts)),
    )
    return [feature for feature, value in asked if value]
