"""Postmark: ``postmark://TOKEN@default``, or with ``?stream=`` for another message stream.

Private copies go up to 500 at a time, each with an outcome of its own; with ``?batch=`` different
mails do too. Codes are in the body and
look like HTTP statuses, which they are not. What this provider cannot carry is in
``docs/transports/postmark.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from . import per_item, postmark_request
from .base import Call, Feature, ProbeStep
from .batching import BatchingTransport
from .classification import (
    ACCOUNT_CONFIG,
    MESSAGE_CONFIG,
    PERMANENT,
    QUOTA,
    RATE_LIMITED,
    SUPPRESSED,
    TRANSIENT,
    UNAVAILABLE,
    UNKNOWN,
    Rule,
    Verdict,
)
from .http_api import Answer
from .provider import Stamp, names_address
from .schemes import Plan

ENDPOINT = "https://api.postmarkapp.com"
#: The stream for mail that answers somebody's doing.
DEFAULT_STREAM = "outbound"

#: What ``ErrorCode`` means. First match wins.
RULES: tuple[Rule, ...] = (
    # No or a wrong token; an account that may not send.
    Rule(ACCOUNT_CONFIG, codes=frozenset({10, 413})),
    # The sender's signature is unknown or unconfirmed.
    Rule(MESSAGE_CONFIG, codes=frozenset({400, 401})),
    # Nobody could read the request; so it is about this mail, until five in a row say otherwise.
    Rule(MESSAGE_CONFIG, codes=frozenset({402, 403, 409})),
    # An account that waits for approval may mail its own domain: it is about these recipients.
    Rule(MESSAGE_CONFIG, codes=frozenset({412})),
    # The template, its values, or the message stream.
    Rule(MESSAGE_CONFIG, codes=range(1100, 1300)),
    Rule(QUOTA, codes=frozenset({405})),
    Rule(SUPPRESSED, codes=frozenset({406})),
    Rule(PERMANENT, codes=frozenset({300, 410, 411})),
    # Maintenance, of all of Postmark.
    Rule(UNAVAILABLE, codes=frozenset({100})),
    Rule(RATE_LIMITED, codes=frozenset({429})),
)

_INACTIVE = re.compile(r"inactive addresses:(.*?)(?:\.\s*Inactive recipients|\Z)", re.I | re.S)


class PostmarkTransport(BatchingTransport):
    """Hands mails to Postmark's ``/email``, ``/email/batch`` and their siblings for templates."""

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
            Feature.INLINE,
        }
    )
    max_recipients: ClassVar[int | None] = 50
    private_copies_in_one_call: ClassVar[bool] = True
    max_copies: ClassVar[int | None] = postmark_request.MAX_BATCH
    max_size: ClassVar[int | None] = postmark_request.MAX_MESSAGE
    max_batch_size: ClassVar[int] = postmark_request.MAX_BATCH_SIZE
    max_tags: ClassVar[int | None] = 1
    label: ClassVar[str] = "Postmark"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, ENDPOINT)
        self._token = plan.url.user or ""
        self._stream = plan.option("stream") or DEFAULT_STREAM

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what Postmark would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: a second tag; values to fill in without a template; a template
            beside a body or a subject; values for each recipient without private copies; over 9
            entries of metadata, or long ones; a file without a name; no body; a local part beyond
            ASCII; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 50 recipients who see each other, 10 MB after base64, or a
            body of 5 MB.
        """
        super().check(letter)
        postmark_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what Postmark cannot carry: but the first tag, long metadata, and a subject
        that the template would replace.
        """
        merged = {email: _fitting(own) for email, own in letter.merge_metadata.items()}
        return replace(
            super().fit(letter),
            tags=letter.tags[:1],
            metadata=_fitting(letter.metadata),
            merge_metadata=merged,
            subject=letter.subject if letter.template_id is None else "",
        )

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """Copies as many at a time as the batch and its bytes allow."""
        if not letter.private_copies:
            return [tuple(recipients)]
        size = postmark_request.copies_in_one_call(letter)
        return [tuple(recipients[i : i + size]) for i in range(0, len(recipients), size)]

    # Sending

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        path, content = postmark_request.request_of(letter, recipients, stamp, self._stream)
        return self._post(path, content)

    def _post(self, path: str, content: Any) -> requests.Request:
        headers = {**self._login(), "Content-Type": "application/json"}
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        return requests.Request("POST", self.endpoint + path, headers=headers, data=data)

    def _login(self) -> dict[str, str]:
        return {"X-Postmark-Server-Token": self._token, "Accept": "application/json"}

    # Different mails in one request

    def lane_of(self, call: Call) -> Hashable | None:
        """Those with and those without a template have different paths."""
        return None if _is_batch(call) else ("template" if call.letter.template_id else "plain")

    def weight_of(self, call: Call) -> int:
        return postmark_request.weight_of(call.letter)

    def build_batch(self, calls: Sequence[Call], stamps: Sequence[Stamp]) -> requests.Request:
        pairs = zip(calls, stamps, strict=True)
        mails = [(call.letter, call.recipients, stamp) for call, stamp in pairs]
        return self._post(*postmark_request.batch_of(mails, self._stream))

    def parts_of(self, answer: Answer, count: int) -> list[Answer] | None:
        """Its items, in the order of the mails. Of another number nobody knows whose is which."""
        items = answer.json()
        if not answer.ok or not isinstance(items, list):
            return None
        if len(items) != count:
            return [Answer(200, {}, f"{len(items)} answers to {count} mails".encode())] * count
        return [Answer(200, answer.headers, json.dumps(item).encode()) for item in items]

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """A batch is read mail by mail; and a mail that was refused over some of its recipients can
        be tried again at once without them.
        """
        body = answer.json()
        if answer.ok and _is_batch(call) and isinstance(body, list):
            return per_item.joined(self._items(call, body), server)
        if self.code_of(answer, body) == 406 and self.verdict(answer, body) is SUPPRESSED:
            words = clean(self.words_of(answer, body), 300)
            results = tuple(_without_inactive(call, body, words))
            return Outcome(results, server=replace(server, reply=words))
        return super().read(call, answer, server)

    def _items(self, call: Call, items: list[Any]) -> list[Outcome]:
        if len(items) != len(call.recipients):
            # About other mails than these; which of them is whose, nobody knows.
            words = f"Postmark answered {len(items)} of {len(call.recipients)} mails"
            return [per_item.refused(call, r, UNKNOWN, words) for r in call.recipients]
        pairs = zip(call.recipients, items, strict=True)
        return [self._item(call, recipient, item) for recipient, item in pairs]

    def _item(self, call: Call, recipient: Recipient, item: Any) -> Outcome:
        if _is_taken(item):
            return Outcome((_result(recipient, item),))
        alone = Answer(200, {}, b"")
        words = self.words_of(alone, item) or "Postmark did not say what became of it"
        return per_item.refused(call, recipient, self.verdict(alone, item), words)

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """All but those whom the words call inactive."""
        if not answer.ok or _is_batch(call) or not _is_taken(body):
            return None
        return [_result(recipient, body) for recipient in call.recipients]

    def code_of(self, answer: Answer, body: Any) -> int | str | None:  # noqa: ARG002
        code = body.get("ErrorCode") if isinstance(body, dict) else None
        if isinstance(code, str) and re.fullmatch(r"[0-9]{1,6}", code):
            code = int(code)
        return code if isinstance(code, int) and not isinstance(code, bool) and code else None

    def words_of(self, answer: Answer, body: Any) -> str:
        code, text = self.code_of(answer, body), _message(body)
        return f"Postmark {code or ''}: {text}" if code or text else ""

    def verdict(self, answer: Answer, body: Any) -> Verdict:
        """A code that nobody has heard of, in a 200: not sent, and later rather than never."""
        found = super().verdict(answer, body)
        return TRANSIENT if found is UNKNOWN and answer.ok and self.code_of(answer, body) else found

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._token,)

    def probe_request(self) -> requests.Request:
        """The server that the token is of; nothing is mailed."""
        return requests.Request("GET", f"{self.endpoint}/server", headers=self._login())

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        name = body.get("Name") if isinstance(body, dict) else None
        if answer.ok and isinstance(name, str):
            return ProbeStep("key", True, f"Postmark knows this token, of the server {clean(name)}")
        return ProbeStep("key", False, clean(self.words_of(answer, body), 300) or answer.words())


def _is_batch(call: Call) -> bool:
    return postmark_request.is_batch(call.letter, call.recipients)


def _is_taken(item: Any) -> bool:
    """Whether Postmark took a mail. It leaves the code out when it is busy."""
    if not isinstance(item, dict) or not isinstance(item.get("MessageID"), str):
        return False
    code = item.get("ErrorCode")
    return bool(item["MessageID"]) and (code is None or (type(code) is int and code == 0))


def _result(recipient: Recipient, item: Mapping[str, Any]) -> RecipientResult:
    """What a mail that was taken means for one of its recipients."""
    words = _message(item)
    if _is_inactive(words, recipient):
        return RecipientResult(recipient.email, Fate.SUPPRESSED, clean(f"Postmark: {words}", 300))
    number = clean(item["MessageID"], 200)
    return RecipientResult(recipient.email, Fate.ACCEPTED, "", number or None)


def _without_inactive(call: Call, body: Any, words: str) -> Iterable[RecipientResult]:
    """Those whom a refusal names are on Postmark's list; if it names nobody, all of them are."""
    named = [r for r in call.recipients if _is_inactive(_message(body), r)] or call.recipients
    for recipient in call.recipients:
        if recipient in named:
            yield RecipientResult(recipient.email, Fate.SUPPRESSED, words)
        else:
            yield RecipientResult(recipient.email, Fate.UNTRIED)


def _is_inactive(words: str, recipient: Recipient) -> bool:
    listed = _INACTIVE.search(words)
    return listed is not None and names_address(listed[1], recipient.email)


def _message(body: Any) -> str:
    text = body.get("Message") if isinstance(body, dict) else None
    return text if isinstance(text, str) else ""


def _fitting(metadata: Mapping[str, str]) -> dict[str, str]:
    found = {n: value for n, value in metadata.items() if postmark_request.is_entry(n, value)}
    return dict(list(found.items())[: postmark_request.MAX_METADATA - 1])


def from_plan(plan: Plan) -> PostmarkTransport:
    """``postmark://TOKEN@default``."""
    return PostmarkTransport(plan)
