"""Mailgun: ``mailgun://KEY@DOMAIN``, in Europe ``mailgun://KEY@DOMAIN?region=eu``.

A thousand private copies go in one call, which Mailgun takes or refuses as a whole; their ids and
outcomes come by webhook only. Mailgun has no error codes, so what its words mean is part of the
table. What this provider cannot carry is in ``docs/transports/mailgun.md``.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar
from urllib.parse import quote

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Fate, RecipientResult
from . import mailgun_request
from .base import Call, Feature, ProbeStep
from .classification import (
    ACCOUNT_CONFIG,
    MESSAGE_CONFIG,
    PERMANENT_FOR_SOMEBODY,
    RATE_LIMITED,
    Rule,
)
from .http_api import MAX_RETRY_AFTER, Answer
from .provider import ProviderTransport, Stamp
from .schemes import Plan

ENDPOINT = "https://api.mailgun.net"
EU_ENDPOINT = "https://api.eu.mailgun.net"

#: Names of ours for what Mailgun says in words. First match wins.
PHRASES: tuple[tuple[str, re.Pattern[str]], ...] = (
    # The greeting of the API's root: a 200 to an address that is none.
    ("wrong_url", re.compile(r"Mailgun Magnificent API")),
    ("recipient_limit", re.compile(r"recipient limit exceeded", re.IGNORECASE)),
    ("sandbox_recipient", re.compile(r"authorized recipients", re.IGNORECASE)),
    ("too_many_recipients", re.compile(r"recipients per request|too many recipients", re.I)),
    ("bad_recipient", re.compile(r"'?\b(to|cc|bcc)'? parameter is not a valid address", re.I)),
)

RULES: tuple[Rule, ...] = (
    Rule(ACCOUNT_CONFIG, codes=frozenset({"wrong_url"})),
    Rule(RATE_LIMITED, codes=frozenset({"recipient_limit"}), statuses=frozenset({420})),
    # An account that may only test, and this is not one of those whom it may mail.
    Rule(MESSAGE_CONFIG, codes=frozenset({"sandbox_recipient"})),
    Rule(PERMANENT_FOR_SOMEBODY, codes=frozenset({"bad_recipient", "too_many_recipients"})),
)

_DAYS_AHEAD = 3
_AGAIN = re.compile(r"try again after (\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d) (?:UTC|GMT)")


class MailgunTransport(ProviderTransport):
    """Hands mails to Mailgun's ``/v3/DOMAIN/messages``."""

    features: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.TAGS,
            Feature.METADATA,
            Feature.TEMPLATE_ID,
            Feature.MERGE_DATA,
            Feature.MERGE_GLOBAL_DATA,
            Feature.MERGE_METADATA,
            Feature.MERGE_HEADERS,
            Feature.TRACK_OPENS,
            Feature.TRACK_CLICKS,
            Feature.ESP_EXTRA,
            Feature.ALTERNATIVES,
            Feature.INLINE,
        }
    )
    max_recipients: ClassVar[int | None] = 1000
    private_copies_in_one_call: ClassVar[bool] = True
    max_size: ClassVar[int | None] = mailgun_request.MAX_MESSAGE
    max_tags: ClassVar[int | None] = mailgun_request.MAX_TAGS
    horizon: ClassVar[float | None] = _DAYS_AHEAD * 86400.0
    label: ClassVar[str] = "Mailgun"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, EU_ENDPOINT if plan.option("region") == "eu" else ENDPOINT)
        self._key = plan.url.user or ""
        self._domain = quote(plan.url.host, safe="")

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what Mailgun would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: over 10 tags, or one beyond ASCII or 128 characters; values
            for each recipient without private copies, or lists and mappings among them; a name
            that is in metadata and in a template's values; an attachment without a name; a
            template beside a body; an alternative other than AMP; a header field that stands
            twice; a sender beyond ASCII; no body; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 1000 recipients who see each other, 25 MB after base64, or
            16 kB of header fields, tags, metadata and values of a template.
        """
        super().check(letter)
        mailgun_request.check(letter)
        for recipients in self.calls(letter, letter.recipients):
            mailgun_request.check_call(letter, recipients)

    def fit(self, letter: Letter) -> Letter:
        """Without what Mailgun cannot carry; of tags the first ten that it can, of alternatives
        AMP.
        """
        amp = [pair for pair in letter.alternatives if pair[0].lower() == mailgun_request.AMP]
        return replace(
            super().fit(letter),
            tags=tuple(filter(mailgun_request.is_tag, letter.tags))[: mailgun_request.MAX_TAGS],
            alternatives=tuple(amp[:1]),
        )

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """A thousand private copies at a time, but only such as have the same header fields."""
        if not letter.private_copies:
            return super().calls(letter, recipients)
        groups = mailgun_request.together(letter, recipients)
        return [
            call for group in groups for call in super(MailgunTransport, self).calls(letter, group)
        ]

    # Sending

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        return requests.Request(
            "POST",
            f"{self.endpoint}/v3/{self._domain}/messages",
            auth=("api", self._key),
            data=mailgun_request.fields_of(letter, recipients, stamp),
            files=mailgun_request.files_of(letter),
        )

    # The answer

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """One id for the whole call. Whether each was taken comes by webhook."""
        if not answer.ok or not isinstance(body, dict):
            return None
        number, words = body.get("id"), body.get("message")
        if not isinstance(words, str) or not words.startswith("Queued"):
            return None
        provider_id = clean(number, 200) if isinstance(number, str) else None
        return [
            RecipientResult(r.email, Fate.ACCEPTED, "", provider_id or None)
            for r in call.recipients
        ]

    def code_of(self, answer: Answer, body: Any) -> str | None:
        """A name of ours: Mailgun has words only, and not always in JSON."""
        text = _message(body) or answer.body[:1000].decode(errors="replace")
        return next((code for code, pattern in PHRASES if pattern.search(text)), None)

    def words_of(self, answer: Answer, body: Any) -> str:
        text = _message(body)
        return f"Mailgun {answer.status}: {text}" if text else ""

    def pause_of(self, answer: Answer) -> float | None:
        """``Retry-After``; else the time that stands in the words about a recipient limit."""
        if answer.retry_after is not None:
            return answer.retry_after
        return _pause_in(_message(answer.json()), time.time())

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        login = f"api:{self._key}".encode()
        return self._key, base64.b64encode(login).decode()

    def probe_request(self) -> requests.Request:
        """What Mailgun knows of the domain; nothing is mailed."""
        url = f"{self.endpoint}/v3/domains/{self._domain}"
        return requests.Request("GET", url, auth=("api", self._key))

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        domain = body.get("domain") if isinstance(body, dict) else None
        if answer.ok and isinstance(domain, dict):
            state = clean(str(domain.get("state", "unknown")), 40)
            return ProbeStep("key", state == "active", f"Mailgun knows the domain, as {state}")
        words = self.words_of(answer, body) or answer.words()
        if answer.status in (401, 403):
            words += " (a sending key of one domain may mail, but not look at the domain)"
        return ProbeStep("key", False, clean(words, 400))


def _message(body: Any) -> str:
    text = body.get("message") if isinstance(body, dict) else None
    return text if isinstance(text, str) else ""


def _pause_in(words: str, now: float) -> float | None:
    """Seconds until the time that the words name; ``None`` if they name none that is to come."""
    match = _AGAIN.search(words)
    try:
        seconds = parsedate_to_datetime(f"{match[1]} GMT").timestamp() - now if match else 0.0
    except (ValueError, OverflowError):
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def from_plan(plan: Plan) -> MailgunTransport:
    """``mailgun://KEY@DOMAIN``."""
    return MailgunTransport(plan)
