"""What a provider's answer means, as data: tables of rules, and one way to read them.

The classes are the same for every provider; each adapter brings a table from its own codes to
them. An answer is first looked up by the code in its body, then by its HTTP status, because
several providers put every refusal into a 200.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..outcome import Fate, FaultKind, Outcome, ServerNote
from .base import Call


class OutcomeClass(StrEnum):
    """What an answer means for the mail and for the transport."""

    ACCEPTED = "accepted"
    #: Some recipients were taken, some not: the adapter reads the body.
    PARTIAL = "partial"
    #: The provider has seen this idempotency key before.
    DUPLICATE = "duplicate"
    #: This mail will never pass.
    PERMANENT = "permanent"
    #: The recipient is on the provider's own list of dead or unwilling addresses.
    SUPPRESSED = "suppressed"
    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    #: The day's or month's allowance, or the credit, is used up.
    QUOTA = "quota"
    #: Something has to be put right by a person; :class:`Scope` says where.
    CONFIG = "config"


class Scope(StrEnum):
    """Whether a failure is one of the whole account (then the transport rests) or of one mail."""

    ACCOUNT = "account"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one answer means.

    ``ambiguous`` says that the mail may have been sent all the same. ``divisible`` says that a
    call with several private copies may have been refused over one of its recipients.
    """

    outcome_class: OutcomeClass
    scope: Scope = Scope.MESSAGE
    ambiguous: bool = False
    divisible: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Answers with one of these body codes or HTTP statuses mean ``verdict``."""

    verdict: Verdict
    codes: Container[int | str] = frozenset()
    statuses: Container[int] = frozenset()


ACCEPTED = Verdict(OutcomeClass.ACCEPTED)
DUPLICATE = Verdict(OutcomeClass.DUPLICATE)
PERMANENT = Verdict(OutcomeClass.PERMANENT)
PERMANENT_FOR_SOMEBODY = Verdict(OutcomeClass.PERMANENT, divisible=True)
SUPPRESSED = Verdict(OutcomeClass.SUPPRESSED)
TRANSIENT = Verdict(OutcomeClass.TRANSIENT)
#: Not sent, and it is the service that is away, not this mail that is in trouble.
UNAVAILABLE = Verdict(OutcomeClass.TRANSIENT, Scope.ACCOUNT)
UNKNOWN = Verdict(OutcomeClass.TRANSIENT, ambiguous=True)
RATE_LIMITED = Verdict(OutcomeClass.RATE_LIMITED, Scope.ACCOUNT)
QUOTA = Verdict(OutcomeClass.QUOTA, Scope.ACCOUNT)
ACCOUNT_CONFIG = Verdict(OutcomeClass.CONFIG, Scope.ACCOUNT)
MESSAGE_CONFIG = Verdict(OutcomeClass.CONFIG, Scope.MESSAGE)

#: What a status means when the body gives no better answer. First match wins.
HTTP_RULES: tuple[Rule, ...] = (
    # Never followed: a redirected POST becomes a GET whose 200 would look like acceptance.
    Rule(ACCOUNT_CONFIG, statuses=range(300, 400)),
    # 404, 405, 410, 415: the URL or the method is not the API's. A provider that answers so
    # about one mail says it with a code in the body, and its own table is asked first.
    Rule(ACCOUNT_CONFIG, statuses=frozenset({401, 403, 404, 405, 407, 410, 415})),
    Rule(QUOTA, statuses=frozenset({402})),
    Rule(PERMANENT, statuses=frozenset({400, 413, 422})),
    Rule(TRANSIENT, statuses=frozenset({408, 421, 425})),
    Rule(RATE_LIMITED, statuses=frozenset({429})),
    # Nobody said what it is about, so it is about this mail; five such mails in a row rest the
    # transport all the same.
    Rule(MESSAGE_CONFIG, statuses=range(400, 500)),
    Rule(TRANSIENT, statuses=frozenset({503})),
    # A gateway's 502 or 504 says nothing about what happened behind it.
    Rule(UNKNOWN, statuses=range(500, 600)),
)

#: What a deployment may say of an answer (``"classify"``), in place of the provider's table.
#: Nothing here calls a mail accepted: that would lose it if it is wrong.
WORDS: Mapping[str, Verdict] = {
    "permanent": PERMANENT,
    "suppressed": SUPPRESSED,
    "transient": TRANSIENT,
    "unknown": UNKNOWN,
    "unavailable": UNAVAILABLE,
    "rate_limited": RATE_LIMITED,
    "quota": QUOTA,
    "account": ACCOUNT_CONFIG,
    "config": MESSAGE_CONFIG,
}
_STATUS = re.compile(r"HTTP ([3-5][0-9]{2})", re.IGNORECASE)

_FAULTS = {
    OutcomeClass.RATE_LIMITED: FaultKind.RATE_LIMITED,
    OutcomeClass.QUOTA: FaultKind.QUOTA,
    OutcomeClass.CONFIG: FaultKind.ACCOUNT,
    OutcomeClass.TRANSIENT: FaultKind.UNREACHABLE,
}


def look_up(
    rules: Iterable[Rule], *, code: int | str | None = None, status: int | None = None
) -> Verdict | None:
    """The first rule for this body code; else the first for this HTTP status; else ``None``."""
    table = tuple(rules)
    if code is not None:
        for rule in table:
            if code in rule.codes:
                return rule.verdict
    if status is not None:
        for rule in table:
            if status in rule.statuses:
                return rule.verdict
    return None


def overriding(table: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules that a deployment puts before the provider's own: code or ``HTTP 409`` -> word.

    Codes are compared as texts.
    """
    rules = []
    for key, word in table.items():
        status = _STATUS.fullmatch(key)
        if status:
            rules.append(Rule(WORDS[word], statuses=frozenset({int(status[1])})))
        else:
            rules.append(Rule(WORDS[word], codes=frozenset({key})))
    return tuple(rules)


def faults_of_overriding(table: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with such a table, in sentences."""
    for key, word in table.items():
        if not isinstance(key, str) or not key.strip() or len(key) > 100:
            yield "'classify' has a key that is neither a code of the provider nor like 'HTTP 409'"
        elif not isinstance(word, str) or word not in WORDS:
            yield f"'classify' should give each code one of {', '.join(WORDS)}"


def by_status(status: int, *, retry_after: float | None = None) -> Verdict:
    """What the status alone means. Anything unheard of is an unknown outcome.

    A 503 that names a time speaks for the service, one that does not may be about this mail:
    the first is paid by the transport, the second by the mail. Neither was sent.
    """
    if status == 503 and retry_after is not None:
        return UNAVAILABLE
    return look_up(HTTP_RULES, status=status) or UNKNOWN


def to_outcome(
    verdict: Verdict,
    call: Call,
    detail: str,
    *,
    retry_after: float | None = None,
    server: ServerNote | None = None,
) -> Outcome:
    """The outcome of a call that had this verdict as a whole.

    Acceptance is not read here, because only the adapter knows the ids; a duplicate is.
    """
    everybody = call.recipients
    if verdict.scope is Scope.ACCOUNT and verdict.outcome_class in _FAULTS:
        kind = _FAULTS[verdict.outcome_class]
        return Outcome.not_sent(everybody, kind, detail, retry_after=retry_after, server=server)
    return Outcome.for_all(
        everybody,
        _fate(verdict, call),
        detail,
        message_config=verdict.outcome_class is OutcomeClass.CONFIG,
        divisible=verdict.divisible and call.letter.private_copies and len(everybody) > 1,
        server=server,
    )


def _fate(verdict: Verdict, call: Call) -> Fate:
    if verdict.outcome_class is OutcomeClass.DUPLICATE:
        # The provider has seen this key. If our row is in doubt about a call with it (the death of
        # a sender is a doubt too), the mail is there. If not, every call with it was answered "not
        # sent": the provider remembers a refusal, and the next try has a new key.
        return Fate.ACCEPTED if call.in_doubt else Fate.DEFERRED
    if verdict.ambiguous:
        return Fate.UNKNOWN
    return _FATES[verdict.outcome_class]


_FATES = {
    OutcomeClass.ACCEPTED: Fate.ACCEPTED,
    OutcomeClass.PERMANENT: Fate.REFUSED,
    OutcomeClass.SUPPRESSED: Fate.SUPPRESSED,
    OutcomeClass.CONFIG: Fate.FAILED,
    # What came without a scope of its own is put off; nothing is lost by that.
    OutcomeClass.TRANSIENT: Fate.DEFERRED,
    OutcomeClass.RATE_LIMITED: Fate.DEFERRED,
    OutcomeClass.QUOTA: Fate.DEFERRED,
    OutcomeClass.PARTIAL: Fate.UNKNOWN,
}
