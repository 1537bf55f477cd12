"""SendCloud (sendcloud.net, api v2): ``sendcloud://API_USER:API_KEY@default``.

Every answer to a well-formed request is an HTTP 200; whether the mail was taken stands in
``result``. With ``xsmtpapi`` each recipient gets a mail of its own; with ``to``, ``cc`` and
``bcc`` they see each other as usual. What this provider cannot carry is in
``docs/transports/sendcloud.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from ..reference import NAME
from . import sendcloud_request
from .base import Call, Feature, ProbeStep
from .classification import (
    ACCOUNT_CONFIG,
    DUPLICATE,
    MESSAGE_CONFIG,
    PERMANENT,
    PERMANENT_FOR_SOMEBODY,
    QUOTA,
    TRANSIENT,
    UNKNOWN,
    Rule,
    Verdict,
    by_status,
    look_up,
    to_outcome,
)
from .clear_text import warned
from .http_api import Answer, HttpApiTransport
from .schemes import Plan

ENDPOINT = "https://api.sendcloud.net/apiv2"

#: ``statusCode`` of an answer whose ``result`` is false. First match wins.
RULES: tuple[Rule, ...] = (
    Rule(DUPLICATE, codes=frozenset({40000})),
    # Wrong key, no permission, no such user: nothing of this account will pass.
    Rule(ACCOUNT_CONFIG, codes=frozenset({40005, 6001, 40301})),
    # This mail asks for address lists, which the account may not use.
    Rule(MESSAGE_CONFIG, codes=frozenset({40820})),
    # Template: unknown, not approved, of the other API_USER's type, badly named.
    Rule(MESSAGE_CONFIG, codes=frozenset({40823, 40824, 40825, 40202, 40216})),
    # The content is not that of an approved template.
    Rule(MESSAGE_CONFIG, codes=frozenset({40908, 40911})),
    Rule(QUOTA, codes=frozenset({40904})),
    Rule(TRANSIENT, codes=frozenset({40901, 40902, 40867, 501})),
    Rule(TRANSIENT, codes=range(49901, 49907)),
    # One bad address, or one too many, fails the call for everybody in it.
    Rule(PERMANENT_FOR_SOMEBODY, codes=frozenset({40806, 40880, 40807, 40827, 40854, 40857})),
    Rule(PERMANENT, codes=range(40801, 40881)),
    Rule(PERMANENT, codes=frozenset({400})),
)


class SendCloudTransport(HttpApiTransport):
    """Hands mails to SendCloud's ``mail/send`` and ``mail/sendtemplate``.

    ``endpoint`` replaces ``https://api.sendcloud.net``; with a path of its own it replaces
    ``/apiv2`` too (``https://api2.sendcloud.net/api`` for accounts outside mainland China).
    """

    features: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.TAGS,
            Feature.METADATA,
            Feature.TEMPLATE_ID,
            Feature.MERGE_DATA,
            Feature.MERGE_GLOBAL_DATA,
            Feature.ESP_EXTRA,
            Feature.INLINE,
        }
    )
    max_recipients: ClassVar[int | None] = 100
    private_copies_in_one_call: ClassVar[bool] = True
    idempotency_window: ClassVar[float | None] = 3600.0
    label: ClassVar[str] = "SendCloud"

    def __init__(
        self,
        name: str,
        api_user: str,
        api_key: str,
        *,
        endpoint: str | None = None,
        cafile: str | None = None,
        timeout: float | None = None,
        overrides: Sequence[Rule] = (),
    ) -> None:
        super().__init__(name, _base(endpoint or ENDPOINT), cafile=cafile, timeout=timeout)
        self._overrides = tuple(overrides)
        self._api_user = api_user
        self._api_key = api_key

    # Before recording

    def check(self, letter: Letter) -> None:
        """Refuse what SendCloud would refuse, or what it would silently leave out.

        :raises UnsupportedFeature: a second tag, ``merge_data`` or a template without private
            copies, a fourth reply-to address, ``esp_extra`` for fields that we set, no body.
        :raises MessageTooLarge: over 100 recipients who see each other, 10 MiB of attachments,
            or 1 MiB of substitutions for one call.
        """
        super().check(letter)
        sendcloud_request.check(letter)
        for recipients in self.calls(letter, letter.recipients):
            sendcloud_request.check_call(letter, recipients)

    def fit(self, letter: Letter) -> Letter:
        """Without what SendCloud cannot carry; of several tags the first stays, as the label,
        and of metadata what can be a header field.
        """
        names = sendcloud_request.is_metadata
        metadata = {name: value for name, value in letter.metadata.items() if names(name)}
        return replace(super().fit(letter), tags=letter.tags[:1], metadata=metadata)

    # Sending

    def request_for(self, call: Call) -> requests.Request:
        """The request for this call, with our Message-ID, reference and idempotency key in it."""
        letter, key = call.letter, call.idempotency_key
        named = any(name.lower() == "message-id" for name, _ in letter.headers)
        extra = [] if named else [("Message-ID", letter.message_id)]
        if call.reference:
            # Comes back in webhooks. Recipients can see it; it tells them nothing.
            extra.append((f"SC-Custom-{NAME}", call.reference))
        return self.build_request(letter, call.recipients, extra_headers=extra, request_id=key)

    def build_request(
        self,
        letter: Letter,
        recipients: Sequence[Recipient],
        *,
        extra_headers: Sequence[tuple[str, str]] = (),
        request_id: str | None = None,
    ) -> requests.Request:
        """The request that mails this letter to these of its recipients."""
        path = "mail/send" if letter.template_id is None else "mail/sendtemplate"
        fields = sendcloud_request.fields_of(
            letter, recipients, extra_headers=extra_headers, request_id=request_id
        )
        files = sendcloud_request.files_of(letter)
        return requests.Request(
            "POST", f"{self.endpoint}/{path}", data=self._login() + fields, files=files
        )

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """``result`` decides; then the code in the body; then the HTTP status."""
        content = answer.json()
        body = content if isinstance(content, dict) else {}
        if body.get("result") is True and not 300 <= answer.status < 400:
            return _accepted(call, body, server)
        verdict = _verdict(answer, body, self._overrides)
        detail = _words(body) or answer.words()
        server = replace(server, reply=detail)
        return to_outcome(verdict, call, detail, retry_after=answer.retry_after, server=server)

    # Looking after it

    def secrets(self) -> tuple[str, ...]:
        return (self._api_key,)

    def probe(self) -> Iterator[ProbeStep]:
        """As the base has it, with a word about a link without TLS."""
        return warned(super().probe(), self.endpoint)

    def probe_request(self) -> requests.Request:
        """SendCloud shows an account's data to whoever has its key; nothing is mailed."""
        return requests.Request("POST", f"{self.endpoint}/userinfo/get", data=self._login())

    def _login(self) -> list[tuple[str, str]]:
        return [("apiUser", self._api_user), ("apiKey", self._api_key)]

    def read_probe(self, answer: Answer) -> ProbeStep:
        content = answer.json()
        body = content if isinstance(content, dict) else {}
        if body.get("result") is True:
            return ProbeStep("key", True, "SendCloud knows this API_USER and API_KEY")
        return ProbeStep("key", False, _words(body) or answer.words())


def _base(endpoint: str) -> str:
    """The base URL of the calls; an endpoint without a path keeps ``/apiv2``."""
    bare = endpoint.rstrip("/")
    return bare if "/" in bare.partition("://")[2] else f"{bare}/apiv2"


# The answer


def _verdict(answer: Answer, body: Mapping[str, Any], overrides: Sequence[Rule]) -> Verdict:
    code = str(body.get("statusCode", ""))
    overridden = look_up(overrides, code=code or None, status=answer.status)
    if overridden is not None:
        return overridden
    known = look_up(RULES, code=int(code)) if code.isdecimal() and len(code) < 9 else None
    if known is not None and body.get("result") is False:
        return known
    if not answer.ok:
        return by_status(answer.status, retry_after=answer.retry_after)
    # "Not sent", for a reason that we have never heard of: later, rather than never. Anything
    # else in a 200 is no answer at all.
    return TRANSIENT if body.get("result") is False else UNKNOWN


def _words(body: Mapping[str, Any]) -> str:
    """SendCloud's code and message, if the body has them."""
    if "statusCode" not in body and "message" not in body:
        return ""
    return clean(f"SendCloud {body.get('statusCode', '')}: {body.get('message', '')}", 300)


def _accepted(call: Call, body: Mapping[str, Any], server: ServerNote) -> Outcome:
    info = body.get("info")
    info = info if isinstance(info, dict) else {}
    ids = _ids(info.get("emailIdList"))
    results = tuple(
        RecipientResult(r.email, Fate.ACCEPTED, "", ids.get(r.email.lower()))
        for r in call.recipients
    )
    queue_id = _queue_id(info)
    return Outcome(results, server=replace(server, queue_id=queue_id, reply=_words(body)))


def _ids(listed: object) -> dict[str, str]:
    """Address -> id. An id ends with ``$`` and the address that it is for."""
    texts = [item for item in listed if isinstance(item, str)] if isinstance(listed, list) else []
    return {
        text.rpartition("$")[2].strip().lower(): clean(text)
        for text in texts
        if "$" in text and len(text) <= 500
    }


def _queue_id(info: Mapping[str, Any]) -> str | None:
    """The id of the whole call: an e-mail id without its position and address."""
    listed = info.get("emailIdList")
    if isinstance(listed, list) and listed and isinstance(listed[0], str):
        return clean(listed[0].rpartition("$")[0].removesuffix("0"), 200) or None
    tasks = info.get("maillistTaskId")
    if isinstance(tasks, list) and tasks:
        return clean(str(tasks[0]), 200)
    return None


def from_plan(plan: Plan) -> SendCloudTransport:
    """``sendcloud://API_USER:API_KEY@default``."""
    return SendCloudTransport(
        plan.name,
        plan.url.user or "",
        plan.url.password or "",
        endpoint=plan.option("endpoint"),
        cafile=plan.option("cafile"),
        timeout=plan.timeout,
        overrides=plan.overrides,
    )
