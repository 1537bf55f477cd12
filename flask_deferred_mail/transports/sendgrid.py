"""SendGrid, API v3: ``sendgrid://KEY@default``.

A 202 without a body takes a mail for all its recipients; there is no idempotency key. Private
copies travel together, each in a personalization of its own. What this provider cannot carry is in
``docs/transports/sendgrid.md``.
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
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from . import per_item, sendgrid_request
from .base import Call, Feature, ProbeStep
from .classification import MESSAGE_CONFIG, PERMANENT_FOR_SOMEBODY, QUOTA, Rule
from .http_api import Answer
from .provider import ProviderTransport, Stamp
from .resets import seconds_until
from .schemes import Plan

ENDPOINT = "https://api.sendgrid.com"
ENDPOINT_EU = "https://api.eu.sendgrid.com"

#: SendGrid has no codes. In place of one stand these words, if its message has them; else the
#: first part of the ``field`` that it names.
PHRASES = ("maximum credits exceeded", "verified sender identity")

#: What those mean. First match wins; without one the HTTP status decides.
RULES: tuple[Rule, ...] = (
    # It comes with a 401, which would be the key's.
    Rule(QUOTA, codes=frozenset({"maximum credits exceeded"})),
    # This mail's sender or template; others may pass.
    Rule(MESSAGE_CONFIG, codes=frozenset({"verified sender identity", "from", "template_id"})),
    Rule(PERMANENT_FOR_SOMEBODY, codes=frozenset({"personalizations"})),
)

# Statuses of refusals in whose body the fields are named.
_REFUSALS = frozenset({400, 401, 403, 422})
_PLACE = re.compile(r"personalizations[.\[]([0-9]{1,4})\b")


class SendGridTransport(ProviderTransport):
    """Hands mails to ``POST /v3/mail/send``."""

    features: ClassVar[frozenset[Feature]] = frozenset(Feature) - {Feature.PART_HEADERS}
    max_recipients: ClassVar[int | None] = sendgrid_request.MAX_RECIPIENTS
    private_copies_in_one_call: ClassVar[bool] = True
    max_size: ClassVar[int | None] = sendgrid_request.MAX_MESSAGE
    max_tags: ClassVar[int | None] = sendgrid_request.MAX_TAGS
    #: SendGrid takes 72 hours by its own clock, which is not ours.
    horizon: ClassVar[float | None] = 72 * 3600.0 - 900.0
    label: ClassVar[str] = "SendGrid"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, ENDPOINT_EU if plan.option("region") == "eu" else ENDPOINT)
        self._key = plan.url.user or ""

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what SendGrid would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: an address that stands twice; over ten tags; header fields or
            metadata with names that SendGrid uses itself; a dynamic template beside a subject or
            a body; no subject or no body; names of ``merge_data`` that are plain words; odd
            characters in a file's name or type; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 1000 recipients who see each other, 30 MB after base64, or
            10000 bytes of metadata or substitutions.
        """
        super().check(letter)
        sendgrid_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what SendGrid cannot carry: of tags the first ten stay, of header fields and
        metadata those with names that it does not use itself.
        """
        names = sendgrid_request.RESERVED_HEADERS
        return replace(
            super().fit(letter),
            subject="" if sendgrid_request.is_dynamic(letter) else letter.subject,
            tags=letter.tags[: sendgrid_request.MAX_TAGS],
            headers=tuple(pair for pair in letter.headers if pair[0].lower() not in names),
            metadata=_fitting(letter.metadata),
            merge_metadata={who: _fitting(own) for who, own in letter.merge_metadata.items()},
        )

    # Sending

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        content = sendgrid_request.content_of(letter, recipients, stamp)
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {**self._login(), "Content-Type": "application/json"}
        url = f"{self.endpoint}/v3/mail/send"
        return requests.Request("POST", url, headers=headers, data=data)

    def _login(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """Taken as a whole, or refused as a whole, perhaps over copies that the answer counts."""
        body = answer.json()
        if answer.status in _REFUSALS and self.verdict(answer, body) == PERMANENT_FOR_SOMEBODY:
            blamed = _blamed(call, body)
            if blamed is not None:
                return Outcome(blamed, server=replace(server, reply=self._detail(answer, body)))
        return super().read(call, answer, server)

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """A 202 is all that SendGrid says. A 200 is the sandbox's, which has no words either."""
        if answer.status != 202 and not (answer.status == 200 and _is_silent(answer, body)):
            return None
        number = _number(answer)
        return [r for each in call.recipients for r in per_item.accepted(each, number).results]

    def code_of(self, answer: Answer, body: Any) -> str | None:
        if answer.status not in _REFUSALS:
            return None
        for error in _errors(body):
            message = _text(error, "message").lower()
            phrase = next((words for words in PHRASES if words in message), None)
            field = re.split(r"[.\[]", _text(error, "field"))[0]
            if phrase or field:
                return phrase or field[:100]
        return None

    def words_of(self, answer: Answer, body: Any) -> str:  # noqa: ARG002
        found = [_words(error) for error in _errors(body)]
        return f"SendGrid: {'; '.join(found)}" if any(found) else ""

    def _detail(self, answer: Answer, body: Any) -> str:
        return clean(self.words_of(answer, body), 300)

    def pause_of(self, answer: Answer) -> float | None:
        """``Retry-After``; else, of a 429, when the present window of calls ends."""
        if answer.retry_after is not None or answer.status != 429:
            return answer.retry_after
        return seconds_until(answer.headers.get("X-RateLimit-Reset"), time.time())

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._key,)

    def probe_request(self) -> requests.Request:
        """What the key may do; every key may ask that, and nothing is mailed."""
        return requests.Request("GET", f"{self.endpoint}/v3/scopes", headers=self._login())

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        scopes = body.get("scopes") if isinstance(body, dict) else None
        if not answer.ok or not isinstance(scopes, list):
            return ProbeStep("key", False, self._detail(answer, body) or answer.words())
        if "mail.send" not in scopes:
            return ProbeStep("key", False, "SendGrid knows this key, but it lacks mail.send")
        return ProbeStep("key", True, "SendGrid knows this key, which may send")


def _blamed(call: Call, body: Any) -> tuple[RecipientResult, ...] | None:
    """Private copies that were refused over some that the answer counts: only those are refused.

    ``None`` if it counts none of them, or all.
    """
    if not call.letter.private_copies:
        return None
    words: dict[int, str] = {}
    for error in _errors(body):
        place = _PLACE.match(_text(error, "field"))
        if place and int(place[1]) < len(call.recipients):
            words.setdefault(int(place[1]), clean(f"SendGrid: {_words(error)}", 300))
    if not words or len(words) == len(call.recipients):
        return None
    return tuple(
        RecipientResult(recipient.email, Fate.REFUSED, words[i])
        if i in words
        else RecipientResult(recipient.email, Fate.UNTRIED)
        for i, recipient in enumerate(call.recipients)
    )


def _errors(body: Any) -> list[Mapping[str, Any]]:
    listed = body.get("errors") if isinstance(body, dict) else None
    return [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []


def _words(error: Mapping[str, Any]) -> str:
    field, message = _text(error, "field"), _text(error, "message")
    return f"{message} ({field})" if field and message else message or field


def _text(error: Mapping[str, Any], name: str) -> str:
    value = error.get(name)
    return value if isinstance(value, str) else ""


def _number(answer: Answer) -> str | None:
    """SendGrid's id of the whole call; the ids in its reports begin with it."""
    return clean(answer.headers.get("X-Message-Id", ""), 200) or None


def _is_silent(answer: Answer, body: Any) -> bool:
    return not answer.cut and (not answer.body.strip() or body == {})


def _fitting(metadata: Mapping[str, str]) -> dict[str, str]:
    names = sendgrid_request.RESERVED_ARGUMENTS
    return {name: value for name, value in metadata.items() if name not in names}


def from_plan(plan: Plan) -> SendGridTransport:
    """``sendgrid://KEY@default``."""
    return SendGridTransport(plan)
