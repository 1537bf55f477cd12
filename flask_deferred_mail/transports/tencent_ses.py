"""Tencent Cloud SES: ``tencentses://SECRET_ID:SECRET_KEY@REGION``.

It sends templates that Tencent has reviewed, and every error comes as HTTP 200 with a code in the
body. What is certain of all this is in ``docs/transports/tencentses.md``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from . import tencent_ses_request
from .base import Call, Feature, ProbeStep
from .classification import (
    ACCOUNT_CONFIG,
    MESSAGE_CONFIG,
    PERMANENT,
    QUOTA,
    RATE_LIMITED,
    SUPPRESSED,
    TRANSIENT,
    UNAVAILABLE,
    Rule,
    Scope,
    Verdict,
    look_up,
)
from .code_families import Families, refused_whole
from .headings import headings
from .http_api import Answer
from .provider import ProviderTransport, Stamp
from .schemes import Plan
from .tencent_signing import authorization, host_of

ENDPOINT = "https://ses.tencentcloudapi.com"
VERSION = "2020-10-02"
#: Too many mails to one address: no other mail has to wait for that.
ONE_ADDRESS = "FailedOperation.FrequencyLimit"
#: This one passes after ten minutes (documented).
BLOCKED, BLOCKED_FOR = "FailedOperation.TemporaryBlocked", 600.0

#: What the ``Error.Code`` of an answer means. First match wins.
RULES: tuple[Rule, ...] = (
    Rule(
        RATE_LIMITED,
        codes=Families(
            {ONE_ADDRESS, BLOCKED, "FailedOperation.HighRejectionRate", "RequestLimitExceeded*"}
        ),
    ),
    Rule(
        QUOTA,
        codes=Families(
            {
                "FailedOperation.ExceedSendLimit",
                "FailedOperation.InsufficientBalance",
                "FailedOperation.InsufficientQuota",
                "LimitExceeded*",
            }
        ),
    ),
    Rule(UNAVAILABLE, codes=Families({"FailedOperation.ServiceNotAvailable"})),
    Rule(TRANSIENT, codes=Families({"InternalError*"})),
    Rule(
        SUPPRESSED,
        codes=Families(
            {
                "FailedOperation.EmailAddrInBlacklist",
                "FailedOperation.ReceiverHasUnsubscribed",
                "FailedOperation.RejectedByRecipients",
            }
        ),
    ),
    Rule(
        ACCOUNT_CONFIG,
        codes=Families(
            {
                *("AuthFailure*", "UnauthorizedOperation*", "FailedOperation.ProtocolCheckErr"),
                *("InvalidAction*", "NoSuchVersion*", "UnsupportedRegion*", "UnsupportedProtocol*"),
            }
        ),
    ),
    # The template, the sender, or what this account may not do with this mail.
    Rule(
        MESSAGE_CONFIG,
        codes=Families(
            {
                "FailedOperation.InvalidTemplateID",
                "FailedOperation.NotAuthenticatedSender",
                "FailedOperation.WithOutPermission",
                "FailedOperation.NoAttachPermission",
                "OperationDenied*",
            }
        ),
    ),
    Rule(PERMANENT, codes=Families({"FailedOperation*", "InvalidParameter*", "MissingParameter*"})),
    # An error by whatever name says that the mail was not taken.
    Rule(TRANSIENT, codes=Families({"*"})),
)


class TencentSesTransport(ProviderTransport):
    """Hands mails to ``SendEmail``."""

    features: ClassVar[frozenset[Feature]] = frozenset(
        {Feature.TEMPLATE_ID, Feature.MERGE_DATA, Feature.MERGE_GLOBAL_DATA, Feature.ESP_EXTRA}
    )
    #: 50 in To, 20 in Cc and 20 in Bcc.
    max_recipients: ClassVar[int | None] = 90
    max_size: ClassVar[int | None] = tencent_ses_request.MAX_FILE_BYTES
    label: ClassVar[str] = "Tencent SES"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, ENDPOINT)
        self._region = plan.url.host
        self._key, self._secret = plan.url.user or "", plan.url.password or ""

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what Tencent would refuse, or would silently leave out.

        :raises UnsupportedFeature: a mail without a template, or with a body beside it; no subject;
            header fields; a second reply-to address; a sender's name with punctuation; a file
            without a name; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 50 recipients in To or 20 in Cc or Bcc, ten files, 4 MB.
        """
        super().check(letter)
        tencent_ses_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what Tencent cannot carry; a name that it would not take is left out."""
        sender = letter.sender
        return replace(
            super().fit(letter),
            sender=sender if tencent_ses_request.is_name(sender.name) else replace(sender, name=""),
            reply_to=letter.reply_to[:1],
            headers=tuple(pair for pair in letter.headers if pair[0].lower() == "message-id"),
        )

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """Private copies, and Bcc recipients whom nobody else is left with, one at a time."""
        return [heading.recipients for heading in headings(letter, recipients)]

    # Sending

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        named = next((v for name, v in letter.headers if name.lower() == "message-id"), "")
        stamp = replace(stamp, message_id=named or stamp.message_id)
        content = tencent_ses_request.content_of(letter, recipients, stamp)
        return self._signed("SendEmail", content)

    def _signed(self, action: str, content: Mapping[str, Any]) -> requests.Request:
        url, now, kind = f"{self.endpoint}/", _now(), "application/json"
        data = json.dumps(content).encode()
        headers = {
            "Content-Type": kind,
            "Host": host_of(url),
            "X-TC-Action": action,
            "X-TC-Version": VERSION,
            "X-TC-Region": self._region,
            "X-TC-Timestamp": str(int(now)),
            "Authorization": authorization(url, kind, data, (self._key, self._secret), "ses", now),
        }
        return requests.Request("POST", url, headers=headers, data=data)

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """As every provider's; one suppressed address does not make all of a list suppressed."""
        return refused_whole(super().read(call, answer, server))

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """A response without an error, and with the number of the mail or of the request."""
        response = _response(body)
        if not answer.ok or "Error" in response:
            return None
        number = _text(response, "MessageId")
        if not number and not _text(response, "RequestId"):
            return None
        shown = clean(number, 200) or None
        return [RecipientResult(r.email, Fate.ACCEPTED, "", shown) for r in call.recipients]

    def code_of(self, answer: Answer, body: Any) -> str | None:  # noqa: ARG002
        return _text(_error(body), "Code")[:100] or None

    def words_of(self, answer: Answer, body: Any) -> str:
        code, text = self.code_of(answer, body), _text(_error(body), "Message")
        return f"Tencent {code or ''}: {text}" if code or text else ""

    def verdict(self, answer: Answer, body: Any) -> Verdict:
        """Too many mails to one address are that mail's trouble, and not the transport's."""
        code = self.code_of(answer, body)
        if code == ONE_ADDRESS and look_up(self._overrides, code=code) is None:
            return replace(RATE_LIMITED, scope=Scope.MESSAGE)
        return super().verdict(answer, body)

    def pause_of(self, answer: Answer) -> float | None:
        """``Retry-After``; else the ten minutes that a block lasts."""
        blocked = self.code_of(answer, answer.json()) == BLOCKED
        return answer.retry_after or (BLOCKED_FOR if blocked else None)

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._secret,)

    def probe_request(self) -> requests.Request:
        """The account's domains; nothing is mailed."""
        return self._signed("ListEmailIdentities", {})

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        if answer.ok and _text(_response(body), "RequestId") and not _error(body):
            return ProbeStep("key", True, "Tencent knows this key")
        words = clean(self.words_of(answer, body), 300)
        return ProbeStep("key", False, words or answer.words())


def _now() -> float:
    return time.time()


def _response(body: Any) -> Mapping[str, Any]:
    response = body.get("Response") if isinstance(body, dict) else None
    return response if isinstance(response, dict) else {}


def _error(body: Any) -> Mapping[str, Any]:
    error = _response(body).get("Error")
    return error if isinstance(error, dict) else {}


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    return value if isinstance(value, str) else ""


def from_plan(plan: Plan) -> TencentSesTransport:
    """``tencentses://SECRET_ID:SECRET_KEY@REGION``."""
    return TencentSesTransport(plan)
