"""Aliyun DirectMail over HTTP: ``aliyun://ACCESS_KEY_ID:ACCESS_KEY_SECRET@REGION``.

One call, ``SingleSendMail``: no Cc, no files, no idempotency key. For these there is Aliyun's SMTP
(``aliyun+smtp:``). What is certain of all this is in ``docs/transports/aliyun.md``.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Part, Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from . import aliyun_request
from .aliyun_signing import signature
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
    UNKNOWN,
    Rule,
)
from .code_families import Families, refused_whole
from .http_api import Answer
from .provider import ProviderTransport, Stamp
from .schemes import Plan

#: The region whose host has no region in its name.
HOME = "cn-hangzhou"

#: What the ``Code`` of an answer means. First match wins; without one the HTTP status decides.
RULES: tuple[Rule, ...] = (
    Rule(RATE_LIMITED, codes=Families({"Throttling*"})),
    # Also said when the account's frequency or quota is passed (documented).
    Rule(QUOTA, codes=Families({"InvalidSendMail.Spam"})),
    Rule(SUPPRESSED, codes=Families({"InvalidToAddress.Spam"})),
    # Our nonces are new each time: something between has sent the request twice.
    Rule(UNKNOWN, codes=Families({"SignatureNonceUsed"})),
    # The sender's address or the template of this mail.
    Rule(MESSAGE_CONFIG, codes=Families({"InvalidMailAddress*", "InvalidTemplate*"})),
    Rule(
        ACCOUNT_CONFIG,
        codes=Families(
            {
                *("InvalidAccessKeyId*", "Forbidden*", "SignatureDoesNotMatch*"),
                *("InvalidTimeStamp*", "IncompleteSignature*", "InvalidVersion*", "InvalidAction*"),
            }
        ),
    ),
    Rule(
        PERMANENT,
        codes=Families(
            {
                *("InvalidToAddress*", "InvalidBody*", "InvalidSubject*"),
                *("InvalidFromA*", "InvalidReceiver*"),
            }
        ),
    ),
    Rule(UNAVAILABLE, codes=Families({"ServiceUnavailable*"})),
    Rule(TRANSIENT, codes=Families({"InternalError*"})),
)


class AliyunTransport(ProviderTransport):
    """Hands mails to ``SingleSendMail``."""

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
        }
    )
    max_recipients: ClassVar[int | None] = aliyun_request.MAX_RECIPIENTS
    max_size: ClassVar[int | None] = aliyun_request.MAX_BODIES
    max_tags: ClassVar[int | None] = 1
    label: ClassVar[str] = "Aliyun DirectMail"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __init__(self, plan: Plan) -> None:
        self._region = plan.url.host
        place = "" if self._region == HOME else f".{self._region}"
        super().__init__(plan, f"https://dm{place}.aliyuncs.com")
        self._key, self._secret = plan.url.user or "", plan.url.password or ""

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what Aliyun would refuse, or would silently leave out.

        :raises UnsupportedFeature: Cc, files, a second tag or reply-to address, a sender's name
            over 15 characters; header fields that have no ``X-`` before their name, or are more
            than eight together with the metadata; a template beside a body; no subject or body;
            tracking without a tag; ``esp_extra`` for fields that we set.
        :raises MessageTooLarge: over 100 recipients who see each other, or 8 MB of text.
        """
        super().check(letter)
        aliyun_request.check(letter)

    def fit(self, letter: Letter) -> Letter:
        """Without what Aliyun cannot carry.

        The first good tag stays, eight header fields and metadata, the first reply-to address.
        Whoever is in Cc gets the mail as a blind copy: nobody is left out of a mail for that.
        """
        fitting = _tracked(_headed(super().fit(letter)))
        long_name = len(letter.sender.name) > aliyun_request.MAX_ALIAS
        others = [r for r in letter.recipients if r.kind != "cc"]
        blind = [Recipient(r.address, "bcc") for r in letter.recipients if r.kind == "cc"]
        return replace(
            fitting,
            sender=replace(letter.sender, name="") if long_name else letter.sender,
            recipients=(*others, *blind),
            reply_to=letter.reply_to[:1],
            html=_without_images(letter.html, letter.inline_parts),
            parts=(),
        )

    def calls(self, letter: Letter, recipients: Sequence[Recipient]) -> list[tuple[Recipient, ...]]:
        """Two blind copies may go along with those in To; every other is a call of its own."""
        to = [recipient for recipient in recipients if recipient.kind != "bcc"]
        if letter.private_copies or not to:
            return [(recipient,) for recipient in recipients]
        blind = [recipient for recipient in recipients if recipient.kind == "bcc"]
        along, alone = blind[: aliyun_request.MAX_BCC], blind[aliyun_request.MAX_BCC :]
        return [(*to, *along), *((recipient,) for recipient in alone)]

    # Sending

    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        return self._signed(aliyun_request.fields_of(letter, recipients, stamp))

    def _signed(self, fields: Sequence[tuple[str, str]]) -> requests.Request:
        fields = [
            ("AccessKeyId", self._key),
            ("Format", "JSON"),
            ("Version", "2015-11-23"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureNonce", _nonce()),
            ("Timestamp", _moment()),
            ("RegionId", self._region),
            *fields,
        ]
        data = [*fields, ("Signature", signature(fields, self._secret))]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return requests.Request("POST", f"{self.endpoint}/", headers=headers, data=data)

    # The answer

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """As every provider's; one suppressed address does not make all of a list suppressed."""
        return refused_whole(super().read(call, answer, server))

    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """A 200 with an ``EnvId``: the mail's id, for all recipients of the call."""
        if not answer.ok or not isinstance(body, dict) or "Code" in body:
            return None
        number = body.get("EnvId")
        if isinstance(number, bool) or not isinstance(number, (str, int)) or not number:
            return None
        shown = clean(str(number), 200)
        return [RecipientResult(r.email, Fate.ACCEPTED, "", shown) for r in call.recipients]

    def code_of(self, answer: Answer, body: Any) -> str | None:  # noqa: ARG002
        code = body.get("Code") if isinstance(body, dict) else None
        return code[:100] if isinstance(code, str) and code else None

    def words_of(self, answer: Answer, body: Any) -> str:
        code, text = self.code_of(answer, body), _text(body, "Message")
        # Behind these words Aliyun repeats the whole request, the mail's text in it.
        text = re.split(r"server string to sign", text, flags=re.IGNORECASE)[0]
        return f"Aliyun {code or ''}: {text}" if code or text else ""

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._secret,)

    def probe_request(self) -> requests.Request:
        """The account's own numbers; nothing is mailed."""
        return self._signed([("Action", "DescAccountSummary")])

    def read_probe(self, answer: Answer) -> ProbeStep:
        body = answer.json()
        if answer.ok and isinstance(body, dict) and self.code_of(answer, body) is None:
            return ProbeStep("key", True, "Aliyun knows this key")
        words = clean(self.words_of(answer, body), 300)
        return ProbeStep("key", False, words or answer.words())


def _nonce() -> str:
    """New for each request, a repeated one too."""
    return str(uuid.uuid4())


def _moment() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _text(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else ""


def _headed(letter: Letter) -> Letter:
    """With header fields and metadata that Aliyun carries, as many as it takes."""
    room = aliyun_request.MAX_HEADERS - aliyun_request.OUR_HEADERS
    own = max((len(own) for own in letter.merge_headers.values()), default=0)
    own += max((len(own) for own in letter.merge_metadata.values()), default=0)
    room = max(room - own, 0)
    by_name = {
        aliyun_request.header_name(name).lower(): (name, value)
        for name, value in letter.headers
        if aliyun_request.is_header(name, value)
    }
    metadata = _carried(letter.metadata)
    headers = tuple(by_name.values())[:room]
    return replace(
        letter,
        headers=headers,
        metadata=dict(list(metadata.items())[: room - len(headers)]),
        merge_metadata={who: _carried(own) for who, own in letter.merge_metadata.items()},
        merge_headers={
            who: {n: value for n, value in own.items() if aliyun_request.is_header(n, value)}
            for who, own in letter.merge_headers.items()
        },
    )


def _carried(metadata: Mapping[str, str]) -> dict[str, str]:
    return {n: value for n, value in metadata.items() if aliyun_request.is_metadata(n, value)}


def _tracked(letter: Letter) -> Letter:
    """With one tag that may exist; tracking only if that is left, and if both switches agree."""
    tags = tuple(tag for tag in letter.tags if aliyun_request.is_tag(tag))[:1]
    asked = {letter.track_opens, letter.track_clicks} - {None}
    if len(asked) > 1 or (True in asked and not tags):
        return replace(letter, tags=tags, track_opens=None, track_clicks=None)
    return replace(letter, tags=tags)


def _without_images(html: str | None, parts: Sequence[Part]) -> str | None:
    """The HTML without the ``img`` elements that show these files, which do not go along."""
    for part in parts:
        if html and part.content_id:
            source = rf"""src\s*=\s*["']?cid:{re.escape(part.content_id)}["'\s/>]"""
            html = re.sub(rf"\s*<img\b[^<>]*?{source}[^<>]*>?", "", html, flags=re.IGNORECASE)
    return html


def from_plan(plan: Plan) -> AliyunTransport:
    """``aliyun://ACCESS_KEY_ID:ACCESS_KEY_SECRET@REGION``."""
    return AliyunTransport(plan)
