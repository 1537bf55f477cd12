"""Resend (resend.com): ``resend://KEY@default``.

Private copies without files go a hundred at a time, each with an outcome of its own; with
``?batch=`` different mails do too. The ``Idempotency-Key`` is remembered for a day. What this
provider cannot carry is in ``docs/transports/resend.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from . import per_item, resend_request
from .base import Call, Feature, ProbeStep
from .batching import BatchingTransport
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
from .http_api import MAX_RETRY_AFTER, Answer
from .provider import Stamp
from .schemes import Plan
from .tag_characters import with_fitting_tags

ENDPOINT = "https://api.resend.com"
#: Days that Resend keeps a mail until its time.
_DAYS_AHEAD = 30

_MISMATCH = frozenset({"invalid_idempotent_request", "invalid_idempotency_key"})
_IN_FLIGHT = frozenset({"concurrent_idempotent_requests", "resource_locked"})

#: What the ``name`` of an error means. First match wins.
RULES: tuple[Rule, ...] = (
    Rule(RATE_LIMITED, codes=frozenset({"rate_limit_exceeded"})),
    Rule(QUOTA, codes=frozenset({"daily_quota_exceeded", "monthly_quota_exceeded"})),
    Rule(TRANSIENT, codes=_IN_FLIGHT),
    Rule(PERMANENT, codes=_MISMATCH),
    Rule(
        ACCOUNT_CONFIG,
        codes=frozenset(
            (
                *("missing_api_key", "invalid_api_key", "restricted_api_key"),
                *("suspended_api_key", "invalid_permission", "invalid_access"),
                "method_not_allowed",
            )
        ),
    ),
    # The address of the API, or this mail's template or topic: nobody says which.
    Rule(MESSAGE_CONFIG, codes=frozenset({"not_found"})),
    Rule(
        PERMANENT_FOR_SOMEBODY,
        codes=frozenset(
            (
                *("validation_error", "missing_required_field", "invalid_from_address"),
                *("invalid_attachment", "invalid_parameter", "missing_required_parameter"),
            )
        ),
    ),
    Rule(TRANSIENT, codes=frozenset({"application_error", "internal_server_error"})),
    Rule(UNAVAILABLE, codes=frozenset({"service_unavailable"})),
)


class ResendTransport(BatchingTransport):
    """Hands mails to Resend's ``/emails`` and ``/emails/batch``."""

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
            Feature.INLINE,
        }
    )
    max_recipients: ClassVar[int | None] = 50
    private_copies_in_one_call: ClassVar[bool] = True
    max_copies: ClassVar[int | None] = resend_request.MAX_BATCH
    max_size: ClassVar[int | None] = resend_request.MAX_MESSAGE
    max_batch_size: ClassVar[int] = resend_request.MAX_BATCH_SIZE
    keeps_message_id: ClassVar[bool] = False
    idempotency_window: ClassVar[float | None] = 86400.0
    horizon: ClassVar[float | None] = _DAYS_AHEAD * 86400.0
    label: ClassVar[str] = "Resend"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, ENDPOINT)
        self._key = plan.url.user or ""

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what Resend would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: tags or metadata beyond ASCII letters, digits, ``_`` and
            ``-``; a file without a name, or one whose extension and type disagree; values to fill
            in without a template; a template beside a body; a header field that stands twice; no
            subject or no body; a local part beyond ASCII; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 50 recipients who see each other, or 40 MB after base64.
        """
        super().check(letter)
        resend_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what Resend cannot carry; of tags and metadata those with odd characters."""
        return with_fitting_tags(super().fit(letter))

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """Copies as many at a time as a batch takes; Bcc recipients one by one if nobody else is
        left, because Resend demands a ``to`` and would show them to each other there.
        """
        if letter.private_copies:
            size = resend_request.copies_in_one_call(letter)
        elif all(recipient.kind == "bcc" for recipient in recipients):
            size = 1
        else:
            return [tuple(recipients)]
        return [tuple(recipients[i : i + size]) for i in range(0, len(recipients), size)]

    def keeps_for(self, letter: Letter) -> float | None:
        """Neither a mail with files nor one of a batch can be left to Resend until its time."""
        several = letter.private_copies and len(letter.recipients) > 1
        return None if letter.parts or several else self.schedules_ahead

    # Sending

    def request_for(self, call: Call) -> requests.Request:
        """The request for this call; without a time if Resend would refuse it for that."""
        stamp = Stamp.of(call)
        if self.keeps_for(call.letter) is None:
            stamp = replace(stamp, send_at=None)
        return self.build_request(call.letter, call.recipients, stamp)

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        content = resend_request.content_of(letter, recipients, stamp)
        return self._post(content, stamp.idempotency_key)

    def _post(self, content: dict[str, Any] | list[dict[str, Any]], key: str) -> requests.Request:
        headers = {**self._login(), "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        path = "/emails"
        if isinstance(content, list):
            path = "/emails/batch"
            # One bad address then fails its own mail, not all of them.
            headers["x-batch-validation"] = "permissive"
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        return requests.Request("POST", self.endpoint + path, headers=headers, data=data)

    def _login(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    # Different mails in one request

    def lane_of(self, call: Call) -> Hashable | None:
        """Neither files nor mails for later may be in a batch."""
        several = resend_request.is_batch(call.letter, call.recipients)
        return None if several or call.letter.parts or call.send_at is not None else "plain"

    def weight_of(self, call: Call) -> int:
        return call.letter.size

    def build_batch(self, calls: Sequence[Call], stamps: Sequence[Stamp]) -> requests.Request:
        pairs = zip(calls, stamps, strict=True)
        mails = ((call.letter, call.recipients, stamp) for call, stamp in pairs)
        # A key would be of no use: no later request has the same mails.
        return self._post(resend_request.batch_of(mails), "")

    def parts_of(self, answer: Answer, count: int) -> list[Answer] | None:
        """An id for each mail that was taken, and an error for each of the others."""
        body = answer.json()
        data = body.get("data") if answer.ok and isinstance(body, dict) else None
        if not isinstance(data, list):
            return None
        refused = _refused(body.get("errors"), count)
        words = f"Resend took {len(data)} mails and refused {len(refused)} of {count}"
        # If the numbers do not add up, nobody knows whose id is whose.
        taken = iter(data) if len(data) == count - len(refused) else repeat(words)
        return [
            _refusal(refused[i])
            if i in refused
            else Answer(200, {}, json.dumps(next(taken)).encode())
            for i in range(count)
        ]

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """One id for a mail; of a batch each mail is read for itself."""
        body = answer.json()
        if answer.ok and resend_request.is_batch(call.letter, call.recipients):
            items = _items(call, body)
            if items is not None:
                return per_item.joined(items, server)
        if call.in_doubt and self.code_of(answer, body) in _MISMATCH | _IN_FLIGHT:
            # Resend has seen this key, with the try that stayed without an answer. It does not
            # say what came of that one, so neither "refused" nor "not sent" would be true.
            detail = clean(self.words_of(answer, body), 300)
            return Outcome.for_all(call.recipients, Fate.UNKNOWN, detail, server=server)
        return super().read(call, answer, server)

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        number = body.get("id") if answer.ok and isinstance(body, dict) else None
        if not isinstance(number, str) or not number:
            return None
        if resend_request.is_batch(call.letter, call.recipients):
            return None
        return [r for each in call.recipients for r in per_item.accepted(each, number).results]

    def code_of(self, answer: Answer, body: Any) -> str | None:  # noqa: ARG002
        name = body.get("name") if isinstance(body, dict) else None
        return name[:100] if isinstance(name, str) and name else None

    def words_of(self, answer: Answer, body: Any) -> str:
        code, text = self.code_of(answer, body), _message(body)
        return f"Resend {code or ''}: {text}" if code or text else ""

    def verdict(self, answer: Answer, body: Any) -> Verdict:
        """A ``validation_error`` is the mail's own fault, but in a 403 its sender's domain, or
        the recipient of an account that may only test.
        """
        code = self.code_of(answer, body)
        overridden = look_up(self._overrides, code=code, status=answer.status)
        if overridden is None and code == "validation_error" and answer.status == 403:
            return MESSAGE_CONFIG
        return super().verdict(answer, body)

    def pause_of(self, answer: Answer) -> float | None:
        """``Retry-After``; else, of a 429, the time when the present window of calls ends."""
        if answer.retry_after is not None or answer.status != 429:
            return answer.retry_after
        reset = answer.headers.get("ratelimit-reset", "").strip()
        if not re.fullmatch(r"[0-9]{1,9}", reset) or not int(reset):
            return None
        return min(float(reset), MAX_RETRY_AFTER)

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._key,)

    def probe_request(self) -> requests.Request:
        """The account's domains; nothing is mailed."""
        return requests.Request("GET", f"{self.endpoint}/domains", headers=self._login())

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        if answer.ok:
            return ProbeStep("key", True, "Resend knows this key")
        if self.code_of(answer, body) == "restricted_api_key":
            return ProbeStep("key", True, "Resend knows this key, which may send and nothing else")
        return ProbeStep("key", False, self.words_of(answer, body) or answer.words())


def _items(call: Call, body: Any) -> list[Outcome] | None:
    """One outcome for each mail of a batch; ``None`` if the answer is not one to a batch.

    ``data`` holds only the mails that were taken, in order; ``errors`` tells by its index which
    ones were not. If the numbers do not add up, nobody knows whose id is whose.
    """
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list):
        return None
    refused = _refused(body.get("errors"), len(call.recipients))
    taken = [r for i, r in enumerate(call.recipients) if i not in refused]
    if len(data) != len(taken):
        text = f"Resend took {len(data)} mails and refused {len(refused)} of {len(call.recipients)}"
        taken_items = [per_item.refused(call, r, UNKNOWN, text) for r in taken]
    else:
        pairs = zip(taken, data, strict=True)
        taken_items = [
            per_item.accepted(r, item.get("id") if isinstance(item, dict) else None)
            for r, item in pairs
        ]
    named = [(call.recipients[i], words) for i, words in refused.items()]
    return taken_items + [
        per_item.refused(call, r, PERMANENT, f"Resend: {words}") for r, words in named
    ]


def _refused(errors: object, count: int) -> dict[int, str]:
    """Position -> words, of the mails that were refused."""
    found: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else ():
        index = error.get("index") if isinstance(error, dict) else None
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < count:
            found[index] = _message(error) or "refused without a reason"
    return found


def _refusal(words: str) -> Answer:
    """What a mail of a batch would have been answered in a request of its own."""
    return Answer(422, {}, json.dumps({"name": "validation_error", "message": words}).encode())


def _message(body: Any) -> str:
    text = body.get("message") if isinstance(body, dict) else None
    return text if isinstance(text, str) else ""


def from_plan(plan: Plan) -> ResendTransport:
    """``resend://KEY@default``."""
    return ResendTransport(plan)
