"""What one try came to: who pays for a failure, and what became of each recipient.

A transport never says "it failed" and leaves the caller to guess. It says of every recipient of
the call whether the server accepted it, refused it for good, put it off, or left us without an
answer after the last byte (*unknown*: the mail may be there). And it says whether the failure is
the mail's, or the whole transport's (requirement 9 of the fault table in ``docs/``): before
``MAIL FROM`` is answered it is the transport's, and the mail's attempt is given back to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .letter import Recipient


class Fate(StrEnum):
    """What became of one recipient in one call."""

    #: The server took responsibility for it. Never mailed again.
    ACCEPTED = "accepted"
    #: Refused for good. Never retried on our own.
    REFUSED = "refused"
    #: Cannot be sent as this mail is configured (its sender, template, ...): ends ``failed``.
    FAILED = "failed"
    #: The provider has it on its own list of dead or unwilling addresses.
    SUPPRESSED = "suppressed"
    #: Not now; safe to try again.
    DEFERRED = "deferred"
    #: Everything was handed over and no answer came: it may or may not be there.
    UNKNOWN = "unknown"
    #: Not reached by this call, though nothing is wrong: try it at once in another one (452).
    UNTRIED = "untried"


_UNDECIDED = frozenset({Fate.DEFERRED, Fate.UNTRIED})
_NO_ANSWER = frozenset({Fate.UNKNOWN})


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """One recipient's fate, with the words of the server (cleaned and capped)."""

    address: str
    fate: Fate
    detail: str = ""
    provider_message_id: str | None = None
    #: Asked for this recipient alone (RCPT), the server said that there is no such mailbox.
    no_mailbox: bool = False


class FaultKind(StrEnum):
    """Why a whole transport should be left alone for a while."""

    #: Refused connect, DNS failure, TLS failure, silence before MAIL, 421, 4.3.x, HTTP 503.
    UNREACHABLE = "unreachable"
    #: Key, login, suspended account, wrong URL: somebody has to look.
    ACCOUNT = "account"
    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True)
class TransportFault:
    """The failure belongs to the transport: it rests, and no mail pays for it."""

    kind: FaultKind
    detail: str
    #: Seconds that the server asked us to stay away, if it did (already capped).
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class ServerNote:
    """What is kept with the attempt about the other side. All text is cleaned and capped."""

    host: str | None = None
    address: str | None = None
    #: For example ``TLSv1.3``; ``None`` over a clear link.
    tls: str | None = None
    #: The server's own name for the mail, from its final reply.
    queue_id: str | None = None
    #: Final reply, e.g. ``250 2.0.0 Ok: queued as 4F2D``.
    reply: str | None = None
    #: Seconds spent in each phase, in order: connect, starttls, auth, mail, rcpt, data, dot.
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call to a transport came to. Every recipient of the call has one result."""

    results: tuple[RecipientResult, ...]
    #: Set when the transport is to rest. If nobody was reached, the mail's attempt is refunded.
    fault: TransportFault | None = None
    #: A 421 or 4.3.x that came after MAIL was answered: it may speak for the whole server. Only
    #: the same words to *different* mails rest the transport; one mail alone never does.
    server_wide: str | None = None
    #: The failure is one of this mail's configuration. Five different mails in a row: it was the
    #: account after all.
    message_config: bool = False
    #: The conversation broke off without an answer to this call, so nothing is known of the other
    #: side but that.
    unanswered: bool = False
    #: A private-copies call was refused as a whole over (at least) one of its recipients: try it
    #: in halves.
    divisible: bool = False
    server: ServerNote = ServerNote()

    @classmethod
    def for_all(
        cls,
        recipients: Iterable[Recipient],
        fate: Fate,
        detail: str,
        *,
        fault: TransportFault | None = None,
        server_wide: str | None = None,
        message_config: bool = False,
        divisible: bool = False,
        unanswered: bool = False,
        server: ServerNote | None = None,
    ) -> Outcome:
        """The same fate for every recipient of the call."""
        return cls(
            tuple(RecipientResult(r.email, fate, detail) for r in recipients),
            fault=fault,
            server_wide=server_wide,
            message_config=message_config,
            divisible=divisible,
            unanswered=unanswered,
            server=server or ServerNote(),
        )

    @classmethod
    def not_sent(
        cls,
        recipients: Iterable[Recipient],
        kind: FaultKind,
        detail: str,
        *,
        retry_after: float | None = None,
        server: ServerNote | None = None,
    ) -> Outcome:
        """Nobody was reached, and the transport is to blame."""
        return cls.for_all(
            recipients,
            Fate.DEFERRED,
            detail,
            fault=TransportFault(kind, detail, retry_after),
            server=server,
        )

    @property
    def decided(self) -> bool:
        """Whether it came to something for somebody."""
        return not {result.fate for result in self.results} <= _UNDECIDED

    @property
    def costs_attempt(self) -> bool:
        """Whether the mail pays for it, if it is tried again: not for a fault of the transport."""
        return self.fault is None and any(r.fate is Fate.DEFERRED for r in self.results)

    @property
    def answered(self) -> bool:
        """Whether the other side answered: it is there, and has said what it made of the call."""
        if self.unanswered:
            return False
        if self.fault is not None:
            return self.fault.kind is not FaultKind.UNREACHABLE
        return not {result.fate for result in self.results} <= _NO_ANSWER

    @property
    def detail(self) -> str:
        """The first words that explain why not everybody was reached; else the final reply."""
        for result in self.results:
            if result.fate is not Fate.ACCEPTED and result.detail:
                return result.detail
        return self.server.reply or ""
