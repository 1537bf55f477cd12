"""Amazon SES, API v2: ``ses://ACCESS:SECRET@REGION``, or ``ses://REGION`` with AWS's own chain.

SES has no idempotency key and writes a Message-ID of its own. Private copies are a call each; only
those of a template that SES keeps travel together. What this provider cannot carry, and why the
signature is our own, is in ``docs/transports/ses.md``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import requests

from ..errors import ConfigurationError
from ..letter import Letter, Recipient
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote
from . import per_item, ses_request
from .aws_keys import ChainKeys, GivenKeys, Keys, KeysMissing
from .aws_signing import sign
from .base import Call, Feature, ProbeStep
from .classification import (
    ACCOUNT_CONFIG,
    MESSAGE_CONFIG,
    PERMANENT,
    PERMANENT_FOR_SOMEBODY,
    QUOTA,
    RATE_LIMITED,
    TRANSIENT,
    UNAVAILABLE,
    UNKNOWN,
    Rule,
    Verdict,
    look_up,
)
from .http_api import Answer
from .provider import ProviderTransport, Stamp
from .schemes import Plan
from .tag_characters import with_fitting_tags

_THROTTLED = frozenset(
    (
        *("ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException"),
        *("RequestThrottled", "SlowDown"),
    )
)
_DENIED = frozenset({"AccessDeniedException", "AccessDenied"})
_EXPIRED = frozenset({"ExpiredTokenException", "ExpiredToken"})


@dataclass(frozen=True, slots=True)
class WordRule:
    """Answers with one of these error types, and with these words in their text."""

    verdict: Verdict
    codes: frozenset[str]
    #: In lower case.
    words: str


#: Types that mean two things, of which only the text tells. Asked before :data:`RULES`.
WORD_RULES: tuple[WordRule, ...] = (
    WordRule(QUOTA, _THROTTLED, "daily message quota"),
    # The sender's address or domain; in the sandbox also the recipient's.
    WordRule(MESSAGE_CONFIG, frozenset({"MessageRejected"}), "not verified"),
    # A policy that leaves out this sender's identity; others may be allowed.
    WordRule(MESSAGE_CONFIG, _DENIED, ":identity/"),
)

#: What the error types mean. First match wins.
RULES: tuple[Rule, ...] = (
    Rule(RATE_LIMITED, codes=_THROTTLED),
    Rule(QUOTA, codes=frozenset({"LimitExceededException"})),
    # Suspended or paused, keys, clock, signature: nothing of this account will pass.
    Rule(ACCOUNT_CONFIG, codes=frozenset({"AccountSuspendedException", "SendingPausedException"})),
    Rule(ACCOUNT_CONFIG, codes=_DENIED | _EXPIRED | frozenset({"NotAuthorized", "OptInRequired"})),
    Rule(
        ACCOUNT_CONFIG,
        codes=frozenset(
            (
                *("UnrecognizedClientException", "InvalidClientTokenId", "SignatureDoesNotMatch"),
                *("IncompleteSignature", "InvalidSignatureException", "RequestExpired"),
                *("MissingAuthenticationToken", "MissingAuthenticationTokenException"),
            )
        ),
    ),
    # This sender's MAIL FROM domain; this mail's template or configuration set.
    Rule(
        MESSAGE_CONFIG, codes=frozenset({"MailFromDomainNotVerifiedException", "NotFoundException"})
    ),
    Rule(
        PERMANENT_FOR_SOMEBODY,
        codes=frozenset(
            ("MessageRejected", "BadRequestException", "ValidationError", "ValidationException")
        ),
    ),
    Rule(PERMANENT, codes=frozenset({"RequestEntityTooLargeException"})),
    # The request did not come in as a whole.
    Rule(TRANSIENT, codes=frozenset({"RequestTimeout", "RequestTimeoutException"})),
    Rule(UNAVAILABLE, codes=frozenset({"ServiceUnavailable", "ServiceUnavailableException"})),
    Rule(UNKNOWN, codes=frozenset({"RequestAbortedException", "InternalFailure"})),
    Rule(UNKNOWN, codes=frozenset({"InternalServerError", "InternalServiceErrorException"})),
)

#: What the ``Status`` of an entry of a bulk answer means.
ENTRY_RULES: tuple[Rule, ...] = (
    Rule(PERMANENT, codes=frozenset({"MESSAGE_REJECTED", "INVALID_PARAMETER"})),
    Rule(
        MESSAGE_CONFIG,
        codes=frozenset(
            (
                *("MAIL_FROM_DOMAIN_NOT_VERIFIED", "TEMPLATE_NOT_FOUND"),
                *("CONFIGURATION_SET_NOT_FOUND", "CONFIGURATION_SET_SENDING_PAUSED"),
                "INVALID_SENDING_POOL_NAME",
            )
        ),
    ),
    Rule(ACCOUNT_CONFIG, codes=frozenset({"ACCOUNT_SUSPENDED", "ACCOUNT_SENDING_PAUSED"})),
    Rule(RATE_LIMITED, codes=frozenset({"ACCOUNT_THROTTLED"})),
    Rule(QUOTA, codes=frozenset({"ACCOUNT_DAILY_QUOTA_EXCEEDED"})),
    Rule(TRANSIENT, codes=frozenset({"TRANSIENT_FAILURE", "FAILED"})),
)


class SesTransport(ProviderTransport):
    """Hands mails to ``SendEmail`` and ``SendBulkEmail``."""

    features: ClassVar[frozenset[Feature]] = frozenset(Feature) - {
        Feature.TRACK_OPENS,
        Feature.TRACK_CLICKS,
    }
    max_recipients: ClassVar[int | None] = 50
    max_size: ClassVar[int | None] = ses_request.MAX_MESSAGE
    keeps_message_id: ClassVar[bool] = False
    label: ClassVar[str] = "Amazon SES"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan, keys: Keys) -> None:
        self.region = plan.url.host
        super().__init__(plan, _endpoint(self.region))
        self._keys = keys
        self._configuration_set = plan.option("configuration_set")

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what SES would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: tags or metadata beyond ASCII letters, digits, ``_`` and
            ``-``; values to fill in without a template; a template beside a body, or with files
            or headers that only a raw mail can hold; a local part beyond ASCII; ``esp_extra`` for
            fields that we set.
        :raises MessageTooLarge: over 50 recipients who see each other, 40 MB after base64, or
            256 KiB of a template's values.
        """
        super().check(letter)
        ses_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what SES cannot carry; of tags and metadata those with characters it refuses."""
        return with_fitting_tags(super().fit(letter))

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """Copies of a template fifty at a time, other private copies one at a time."""
        if not ses_request.is_bulk(letter):
            return super().calls(letter, recipients)
        size = self.max_recipients or len(recipients)
        return [tuple(recipients[i : i + size]) for i in range(0, len(recipients), size)]

    # Sending

    def send(self, call: Call) -> Outcome:
        """Post the mail; once more, with new keys, if AWS says that the old ones have ended."""
        try:
            used = self._keys.current()
            outcome = super().send(call)
            # That answer says for certain that nothing was sent.
            if _has_expired(outcome) and self._keys.renew(used):
                outcome = super().send(call)
        except KeysMissing as error:
            return Outcome.not_sent(call.recipients, FaultKind.ACCOUNT, str(error))
        return outcome

    def request_for(self, call: Call) -> requests.Request:
        return self._signed(super().request_for(call))

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        """The request, without its signature."""
        path, body = ses_request.request_of(letter, recipients, stamp, self._configuration_set)
        # Bytes, because exactly these are signed and sent.
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        return requests.Request("POST", self.endpoint + path, headers=headers, data=data)

    def _signed(self, request: requests.Request) -> requests.Request:
        return sign(request, self._keys.current(), self.region, "ses", time.time())

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """One id for a call; of a bulk call each entry is read for itself."""
        body = answer.json()
        entries = body.get("BulkEmailEntryResults") if isinstance(body, dict) else None
        if answer.ok and isinstance(entries, list) and ses_request.is_bulk(call.letter):
            items = [
                self._entry(call, recipient, entries[i] if i < len(entries) else None)
                for i, recipient in enumerate(call.recipients)
            ]
            return per_item.joined(items, server)
        return super().read(call, answer, server)

    def _entry(self, call: Call, recipient: Recipient, entry: object) -> Outcome:
        """What became of one entry; one that is missing or unreadable may have been sent."""
        status = entry.get("Status") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(status, str):
            words = "SES says nothing about this entry"
            return per_item.refused(call, recipient, UNKNOWN, words)
        if status == "SUCCESS":
            return per_item.accepted(recipient, entry.get("MessageId"))
        found = look_up(self._overrides, code=status) or look_up(ENTRY_RULES, code=status)
        words = f"SES {status}: {entry.get('Error') or ''}"
        # "Not sent", for a reason that we have never heard of: later, rather than never.
        return per_item.refused(call, recipient, found or TRANSIENT, words)

    def accepted(
        self,
        call: Call,
        answer: Answer,
        body: Any,
    ) -> Sequence[RecipientResult] | None:
        number = body.get("MessageId") if answer.ok and isinstance(body, dict) else None
        if not isinstance(number, str) or not number or ses_request.is_bulk(call.letter):
            return None
        return [r for each in call.recipients for r in per_item.accepted(each, number).results]

    def code_of(self, answer: Answer, body: Any) -> str | None:
        """The error type: from the header, else from the body, without namespace and URL."""
        fields = body if isinstance(body, dict) else {}
        for value in (answer.headers.get("x-amzn-ErrorType"), *map(fields.get, _TYPE_FIELDS)):
            if isinstance(value, str) and value.strip():
                return value.partition(":")[0].rpartition("#")[2].strip()[:100]
        return None

    def words_of(self, answer: Answer, body: Any) -> str:
        code, text = self.code_of(answer, body), _message(body)
        return f"SES {code or ''}: {text}" if code or text else ""

    def verdict(self, answer: Answer, body: Any) -> Verdict:
        """By the deployment's table, then by type and words, then by type, then by status."""
        code, text = self.code_of(answer, body), _message(body).lower()
        overridden = look_up(self._overrides, code=code, status=answer.status)
        if overridden is None and not answer.ok:
            for rule in WORD_RULES:
                if code in rule.codes and rule.words in text:
                    return rule.verdict
        return super().verdict(answer, body)

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return self._keys.secrets()

    def probe(self) -> Iterator[ProbeStep]:
        """Find keys, connect, and ask SES about the account."""
        try:
            self._keys.current()
        except KeysMissing as error:
            yield ProbeStep("key", False, str(error))
            return
        yield from super().probe()

    def probe_request(self) -> requests.Request:
        """``GetAccount``: needs the key (and ``ses:GetAccount``), and mails nothing."""
        return self._signed(requests.Request("GET", f"{self.endpoint}/v2/email/account"))

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        if answer.ok and isinstance(body, dict):
            return _account(body)
        if self.code_of(answer, body) in _DENIED:
            detail = "AWS knows this key, which may not read the account (ses:GetAccount)"
            return ProbeStep("key", True, detail)
        return ProbeStep("key", False, self.words_of(answer, body) or answer.words())


_TYPE_FIELDS = ("__type", "code", "Code")


def _message(body: Any) -> str:
    fields = body if isinstance(body, dict) else {}
    text = fields.get("message") or fields.get("Message")
    return text if isinstance(text, str) else ""


def _has_expired(outcome: Outcome) -> bool:
    fault = outcome.fault
    if fault is None or fault.kind is not FaultKind.ACCOUNT:
        return False
    nobody = all(result.fate is Fate.DEFERRED for result in outcome.results)
    return nobody and any(fault.detail.startswith(f"SES {code}:") for code in _EXPIRED)


def _account(body: Mapping[str, Any]) -> ProbeStep:
    if body.get("SendingEnabled") is False:
        return ProbeStep("key", False, "AWS knows this key, but sending is disabled")
    if body.get("ProductionAccessEnabled") is False:
        detail = "AWS knows this key; the account is in the sandbox: verified recipients only"
        return ProbeStep("key", True, detail)
    return ProbeStep("key", True, "AWS knows this key, and sending is enabled")


def _endpoint(region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://email.{region}.{suffix}"


def from_plan(plan: Plan) -> SesTransport:
    """``ses://ACCESS:SECRET@REGION``, or ``ses://REGION``.

    :raises ConfigurationError: what stands there is no region; or there are no keys and no
        botocore either.
    """
    url = plan.url
    if not re.fullmatch(r"[a-z0-9-]+", url.host) or url.port:
        raise ConfigurationError("ses: needs a region, as in ses://ACCESS:SECRET@eu-west-1")
    keys: Keys = GivenKeys(url.user, url.password or "") if url.user else ChainKeys()
    return SesTransport(plan, keys)
