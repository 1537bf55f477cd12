"""What a mail server's reply means: the classification table, and who pays for a refusal.

The table is data, in the order in which it is searched; a test holds it equal to
``tests/fixtures/smtp/errors.json``. Nothing else in this package interprets a reply code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..outcome import Fate, FaultKind


class Stage(StrEnum):
    """What a reply answers. ``connect`` is the banner."""

    CONNECT = "connect"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


#: Stages whose failures belong to the transport whatever the reply says.
_OPENING = frozenset({Stage.CONNECT, Stage.EHLO, Stage.STARTTLS, Stage.AUTH})

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?=\s|$)")


class Reply(NamedTuple):
    """A complete reply of a server; ``text`` is one cleaned and capped line without the code."""

    code: int
    text: str

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463) that opens the text, if there is one."""
        match = _ENHANCED.match(self.text)
        return match.group(1) if match else None

    @property
    def ok(self) -> bool:
        """Whether the command was carried out (2xx)."""
        return 200 <= self.code < 300

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


class Rule(NamedTuple):
    """One line of the table; an empty field matches anything. First match wins.

    ``enhanced`` holds patterns parted by ``|``, ``stage`` stages likewise, ``text`` a regular
    expression that is searched without regard to case.
    """

    codes: tuple[int, ...]
    cls: str
    scope: str | None = None
    stage: str = ""
    enhanced: str = ""
    text: str = ""

    def matches(self, stage: Stage, reply: Reply) -> bool:
        """Whether this rule speaks about that reply."""
        return (
            reply.code in self.codes
            and (not self.stage or stage in self.stage.split("|"))
            and (not self.enhanced or _any_pattern(self.enhanced, reply.enhanced))
            and (not self.text or re.search(self.text, reply.text, re.IGNORECASE) is not None)
        )


def _any_pattern(patterns: str, enhanced: str | None) -> bool:
    return enhanced is not None and any(
        fnmatchcase(enhanced, pattern) for pattern in patterns.split("|")
    )


#: No such mailbox, no such host, a null MX, a disabled mailbox (RFC 3463 3.2 and 3.3, RFC 7505).
NO_MAILBOX = frozenset({"5.1.1", "5.1.2", "5.1.10", "5.2.1"})

#: A 5xx that by its words will pass.
_SOON = r"\b(rate.?limit\w*|try again later|too many|temporar\w*|greylist\w*|throttl\w*)\b"

RULES: tuple[Rule, ...] = (
    # Amazon SES answers so when the sending rate is passed.
    Rule((454,), "rate_limited", text="throttling"),
    Rule((535, 534, 538, 526, 524), "config", "account", stage="auth"),
    Rule((454,), "transient", stage="auth"),
    # AUTH or STARTTLS is demanded (RFC 4954).
    Rule((530,), "config", "account"),
    # Microsoft: the client did not log in.
    Rule((550, 554, 530), "config", "account", enhanced="5.7.57"),
    Rule((521, 554), "config", "account", stage="connect"),
    # Gmail's daily limit, Microsoft's throttling after errors, then senders over their limit.
    Rule((550,), "quota", enhanced="5.4.5"),
    Rule((550,), "rate_limited", enhanced="5.2.25*"),
    Rule((550, 554), "quota", enhanced="5.1.8|5.1.90"),
    # SPF, DKIM or DMARC of this sender do not hold.
    Rule((550, 554), "config", "message", enhanced="5.7.26"),
    Rule((550, 554), "transient", text=_SOON),
    # Mailbox full.
    Rule((552,), "transient", enhanced="5.2.2"),
    Rule((523, 552), "permanent", enhanced="5.3.4"),
    # RFC 5321 4.5.3.1.10: read 552 at RCPT as 452.
    Rule((552,), "transient", stage="rcpt"),
    # This sender may not be used with this account.
    Rule((550, 553), "config", "message", stage="mail"),
    Rule((550,), "permanent", stage="rcpt", enhanced="5.1.*"),
    # The host takes no mail at all (RFC 7504, RFC 7505).
    Rule((521, 556), "permanent", stage="rcpt"),
    # Microsoft's limit of connections.
    Rule((432,), "rate_limited"),
    Rule((421,), "transient"),
    Rule((450,), "transient"),
    Rule((451,), "transient"),
    Rule((452,), "transient"),
    Rule((455,), "transient"),
    Rule((552,), "permanent", stage="mail|data|dot"),
    Rule((551, 553), "permanent"),
    Rule((550, 554), "permanent", enhanced="5.7.*"),
    Rule((500, 501, 502, 503, 504, 555), "permanent"),
)


def classify(stage: Stage, reply: Reply) -> tuple[str, str | None]:
    """The class of a refusal, and for ``config`` whose configuration: account or message.

    The class is one of ``permanent``, ``transient``, ``rate_limited``, ``quota`` and ``config``.
    What no rule names goes by its first digit: 5 is permanent, all else will pass.
    """
    for rule in RULES:
        if rule.matches(stage, reply):
            return rule.cls, rule.scope
    return ("permanent" if reply.code >= 500 else "transient"), None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from a refusal for those whom it concerns."""

    fate: Fate
    #: The transport is to rest.
    fault: FaultKind | None = None
    #: The reply speaks for the whole server: the connection is of no more use.
    whole_server: bool = False
    #: The failure is one of this mail's configuration (its sender).
    message_config: bool = False


def judge(stage: Stage, reply: Reply) -> Judgement:
    """Who pays for a refusal (requirement 9 of the fault table), and what becomes of the mail."""
    if is_account_fault(stage, reply):
        return Judgement(Fate.DEFERRED, FaultKind.ACCOUNT)
    cls, scope = classify(stage, reply)
    if cls in ("quota", "rate_limited"):
        return Judgement(Fate.DEFERRED, FaultKind(cls))
    if stage in _OPENING:
        return Judgement(Fate.DEFERRED, FaultKind.UNREACHABLE)
    if speaks_for_server(reply):
        fault = FaultKind.UNREACHABLE if stage is Stage.MAIL else None
        return Judgement(Fate.DEFERRED, fault, whole_server=True)
    if cls == "config":
        return _misconfigured(scope)
    return Judgement(Fate.REFUSED if cls == "permanent" else Fate.DEFERRED)


def _misconfigured(scope: str | None) -> Judgement:
    if scope == "account":
        return Judgement(Fate.DEFERRED, FaultKind.ACCOUNT)
    return Judgement(Fate.FAILED, message_config=True)


def is_account_fault(stage: Stage, reply: Reply) -> bool:
    """Whether the login, not the mail, was refused: nothing is burned for that.

    530, 534, 535, 538 and 5.7.57 say so wherever they come; any 5xx does before MAIL is possible.
    Only STARTTLS may be refused for reasons that pass.
    """
    return (
        reply.code in (530, 534, 535, 538)
        or (reply.code >= 500 and reply.enhanced == "5.7.57")
        or (reply.code >= 500 and stage in (Stage.CONNECT, Stage.EHLO, Stage.AUTH))
    )


def speaks_for_server(reply: Reply) -> bool:
    """Whether the server as a whole is in trouble: 421, or a 4xx with 4.3.x (RFC 3463 3.4)."""
    return reply.code == 421 or (
        400 <= reply.code < 500 and (reply.enhanced or "").startswith("4.3.")
    )


def too_many_recipients(reply: Reply) -> bool:
    """Whether a RCPT was refused only because the envelope is full (RFC 5321 4.5.3.1.10)."""
    return reply.code in (452, 552) and reply.enhanced in (None, "4.5.3", "5.5.3")


#: How servers name a mail that they took. Postfix; Exim, Exchange; Sendmail; the rest.
_QUEUE_IDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bqueued as ([^\s<>()]+)",
        r"id=([^\s<>()\]]+)",
        r"(\S+) message accepted for delivery",
        r"\b(?:ok|queued)\b:? +<?([\w.@+-]{10,})>?\s*$",
        r"<([^<>\s]+)>",
    )
)


def queue_id(reply: Reply) -> str | None:
    """The server's own name for a mail, read from its final reply; at most 120 characters."""
    for pattern in _QUEUE_IDS:
        if match := pattern.search(reply.text):
            return match.group(1).strip(".,;")[:120] or None
    return None
