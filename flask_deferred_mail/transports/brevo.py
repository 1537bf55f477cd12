"""Brevo, formerly Sendinblue, API v3: ``brevo://KEY@default``.

A 201 takes a mail, or all versions of one; a repeated idempotency key is refused by name. Brevo
writes a Message-ID of its own. What this provider cannot carry is in ``docs/transports/brevo.md``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Outcome, RecipientResult, ServerNote
from . import brevo_request, per_item
from .base import Call, Feature, ProbeStep
from .classification import (
    ACCOUNT_CONFIG,
    DUPLICATE,
    PERMANENT,
    PERMANENT_FOR_SOMEBODY,
    QUOTA,
    Rule,
    Verdict,
    look_up,
    to_outcome,
)
from .headings import headings
from .http_api import Answer
from .provider import ProviderTransport, Stamp
from .resets import seconds_until
from .schemes import Plan

ENDPOINT = "https://api.brevo.com"

#: What the ``code`` of an answer means. First match wins; without one the HTTP status decides.
RULES: tuple[Rule, ...] = (
    Rule(DUPLICATE, codes=frozenset({"duplicate_request"})),
    Rule(QUOTA, codes=frozenset({"not_enough_credits"})),
    # Key, rights, an account that Brevo has not released yet: nothing of it will pass.
    Rule(ACCOUNT_CONFIG, codes=frozenset({"unauthorized", "permission_denied"})),
    Rule(ACCOUNT_CONFIG, codes=frozenset({"account_under_validation", "method_not_allowed"})),
    Rule(PERMANENT_FOR_SOMEBODY, codes=frozenset({"invalid_parameter"})),
    Rule(
        PERMANENT,
        codes=frozenset(
            (
                *("missing_parameter", "out_of_range", "duplicate_parameter"),
                *("document_not_found", "bad_request", "unprocessable_entity", "not_acceptable"),
            )
        ),
    ),
)

#: Brevo's documentation names this one for a repeated key; it is also one of the general ones.
REPEATED = "duplicate_parameter"

# Words of a refusal over what all copies have in common: no recipient is to blame.
_COMMON = re.compile(
    r"\b(sender|subject|template|html|text|attachment|reply|header|tag|schedul|batch)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"[^\s@]*@\S*")


class BrevoTransport(ProviderTransport):
    """Hands mails to ``POST /v3/smtp/email``."""

    features: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.TAGS,
            Feature.METADATA,
            Feature.TEMPLATE_ID,
            Feature.MERGE_DATA,
            Feature.MERGE_GLOBAL_DATA,
            Feature.MERGE_METADATA,
            Feature.MERGE_HEADERS,
            Feature.ESP_EXTRA,
        }
    )
    max_recipients: ClassVar[int | None] = brevo_request.MAX_RECIPIENTS
    private_copies_in_one_call: ClassVar[bool] = True
    max_copies: ClassVar[int | None] = brevo_request.MAX_COPIES
    max_size: ClassVar[int | None] = brevo_request.MAX_MESSAGE
    keeps_message_id: ClassVar[bool] = False
    idempotency_window: ClassVar[float | None] = 1800.0
    #: Brevo takes 72 hours by its own clock, which is not ours.
    horizon: ClassVar[float | None] = 72 * 3600.0 - 900.0
    label: ClassVar[str] = "Brevo"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, ENDPOINT)
        self._key = plan.url.user or ""

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what Brevo would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: inline images; header fields or metadata beyond ASCII, and a
            Message-ID; a second reply-to address; a template's name that is no number, or a
            template beside a body; no subject or no body; a file with an extension that Brevo
            does not know; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 99 recipients who see each other, 20 MB after base64, or
            100 KB of values for one copy.
        """
        super().check(letter)
        brevo_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what Brevo cannot carry: of header fields and metadata those in ASCII stay, of
        several reply-to addresses the first.
        """
        return replace(
            super().fit(letter),
            reply_to=letter.reply_to[:1],
            headers=tuple(pair for pair in letter.headers if brevo_request.is_header(*pair)),
            metadata=_fitting(letter.metadata),
            merge_metadata={who: _fitting(own) for who, own in letter.merge_metadata.items()},
        )

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """Private copies as many at a time as Brevo takes, also by the bytes of their values."""
        if not letter.merge_data or not letter.private_copies:
            return super().calls(letter, recipients)
        groups: list[list[Recipient]] = []
        room = 0
        for recipient in recipients:
            size = brevo_request.size_of_params(letter, recipient)
            if not groups or size > room or len(groups[-1]) == brevo_request.MAX_COPIES:
                groups.append([])
                room = brevo_request.MAX_PARAMS_OF_CALL
            groups[-1].append(recipient)
            room -= size
        return [tuple(group) for group in groups]

    # Sending

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        content = brevo_request.content_of(letter, recipients, stamp)
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {
            **self._login(),
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        url = f"{self.endpoint}/v3/smtp/email"
        return requests.Request("POST", url, headers=headers, data=data)

    def _login(self) -> dict[str, str]:
        return {"api-key": self._key}

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """As every provider's; a code that may mean a repeated key does so only after a doubt."""
        body = answer.json()
        code = self.code_of(answer, body)
        overridden = look_up(self._overrides, code=code, status=answer.status)
        if call.in_doubt and code == REPEATED and overridden is None and not answer.ok:
            detail = clean(self.words_of(answer, body), 300)
            return to_outcome(DUPLICATE, call, detail, server=replace(server, reply=detail))
        return super().read(call, answer, server)

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """A 201 (202: to be sent later), with one id, or with one for each version in their order.

        Without ids that can be told apart everybody was taken all the same.
        """
        if not answer.ok or not isinstance(body, dict) or "code" in body:
            return None
        ids = _ids(body)
        if answer.status not in (201, 202) and not ids:
            return None
        mails = headings(call.letter, call.recipients)
        paired = ids if len(ids) == len(mails) else [None] * len(mails)
        return [
            result
            for mail, number in zip(mails, paired, strict=True)
            for recipient in mail.recipients
            for result in per_item.accepted(recipient, number).results
        ]

    def code_of(self, answer: Answer, body: Any) -> str | None:  # noqa: ARG002
        code = body.get("code") if isinstance(body, dict) else None
        return code[:100] if isinstance(code, str) and code else None

    def words_of(self, answer: Answer, body: Any) -> str:
        message = body.get("message") if isinstance(body, dict) else None
        code, text = self.code_of(answer, body), message if isinstance(message, str) else ""
        return f"Brevo {code or ''}: {text}" if code or text else ""

    def verdict(self, answer: Answer, body: Any) -> Verdict:
        """A refusal over what all copies share is not tried again in halves."""
        found = super().verdict(answer, body)
        words = _ADDRESS.sub("", self.words_of(answer, body)) if found.divisible else ""
        if _COMMON.search(words):
            return replace(found, divisible=False)
        return found

    def pause_of(self, answer: Answer) -> float | None:
        """``Retry-After``; else, of a 429, when the present window of calls ends."""
        if answer.retry_after is not None or answer.status != 429:
            return answer.retry_after
        return seconds_until(answer.headers.get("x-sib-ratelimit-reset"), time.time())

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._key,)

    def probe_request(self) -> requests.Request:
        """The account's own data; nothing is mailed."""
        return requests.Request("GET", f"{self.endpoint}/v3/account", headers=self._login())

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        if answer.ok and isinstance(body, dict) and self.code_of(answer, body) is None:
            return ProbeStep("key", True, "Brevo knows this key")
        words = clean(self.words_of(answer, body), 300)
        return ProbeStep("key", False, words or answer.words())


def _ids(body: Mapping[str, Any]) -> list[str]:
    """Brevo's ids, with their angle brackets, in the order of the mails."""
    listed = body.get("messageIds")
    found = listed if isinstance(listed, list) and listed else [body.get("messageId")]
    return [one for one in found if isinstance(one, str) and one]


def _fitting(metadata: Mapping[str, str]) -> dict[str, str]:
    return {n: value for n, value in metadata.items() if brevo_request.is_metadata(n, value)}


def from_plan(plan: Plan) -> BrevoTransport:
    """``brevo://KEY@default``."""
    return BrevoTransport(plan)
