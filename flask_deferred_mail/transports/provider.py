"""What the adapters of mail providers share beyond HTTP: a table of codes, and how it is asked.

An adapter says how a letter becomes a request, which answers accept it, and where in an answer the
provider's code and words stand. What a code means is data (:mod:`.classification`): first what the
deployment overrides, then the adapter's own table, then the HTTP status.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import requests

from ..cleaning import clean
from ..letter import Letter, Recipient
from ..outcome import Fate, Outcome, RecipientResult, ServerNote
from .base import Call, ProbeStep
from .classification import UNKNOWN, Rule, Verdict, by_status, look_up, to_outcome
from .clear_text import warned
from .http_api import Answer, HttpApiTransport
from .schemes import Plan


@dataclass(frozen=True, slots=True)
class Stamp:
    """What we put on a mail besides the letter. Every part may be absent."""

    #: With angle brackets; empty: the provider makes one.
    message_id: str = ""
    #: Our own name for the mail, which the provider gives back in its reports.
    reference: str = ""
    #: See :attr:`.base.Call.idempotency_key`.
    idempotency_key: str = ""
    #: When the provider is to deliver it, in seconds since the epoch.
    send_at: float | None = None

    @classmethod
    def of(cls, call: Call) -> Stamp:
        """What this call puts on it. A Message-ID of the application's own stays as it is."""
        named = any(name.lower() == "message-id" for name, _ in call.letter.headers)
        message_id = "" if named else call.letter.message_id
        return cls(message_id, call.reference, call.idempotency_key, call.send_at)


class ProviderTransport(HttpApiTransport):
    """Base of the transports to mail providers."""

    #: What the provider's codes mean. First match wins; a code goes before a status.
    rules: ClassVar[tuple[Rule, ...]] = ()
    #: Seconds ahead that the provider keeps a mail by itself, where it can.
    horizon: ClassVar[float | None] = None

    def __init__(self, plan: Plan, endpoint: str) -> None:
        super().__init__(
            plan.name,
            plan.option("endpoint") or endpoint,
            cafile=plan.option("cafile"),
            timeout=plan.timeout,
        )
        self._overrides = plan.overrides
        if plan.option("schedule") == "native":
            self.schedules_ahead = self.horizon

    def probe(self) -> Iterator[ProbeStep]:
        """As the base has it, with a word about a link without TLS."""
        return warned(super().probe(), self.endpoint)

    @abstractmethod
    def build_request(
        self, letter: Letter, recipients: Sequence[Recipient], stamp: Stamp
    ) -> requests.Request:
        """The request that mails this letter to these of its recipients."""

    @abstractmethod
    def accepted(self, call: Call, answer: Answer, body: Any) -> Sequence[RecipientResult] | None:
        """One result for each recipient if the answer takes any of them; else ``None``.

        ``body`` is the answer's JSON, ``None`` if it is none.
        """

    def code_of(self, answer: Answer, body: Any) -> int | str | None:  # noqa: ARG002
        """The provider's own code of a refusal, if the answer has one."""
        return None

    def words_of(self, answer: Answer, body: Any) -> str:  # noqa: ARG002
        """The provider's own words about a refusal; empty if there are none. Need no cleaning."""
        return ""

    def request_for(self, call: Call) -> requests.Request:
        """The request for this call, with our Message-ID, reference and key in it."""
        return self.build_request(call.letter, call.recipients, Stamp.of(call))

    def read(self, call: Call, answer: Answer, server: ServerNote) -> Outcome:
        """Who was taken; else what the code, or the status, means."""
        body = answer.json()
        words = clean(self.words_of(answer, body), 300)
        results = self.accepted(call, answer, body)
        if results is not None:
            # One id for everybody is the call's own, which people look for in the attempt log.
            ids = {result.provider_message_id for result in results}
            queue_id = server.queue_id or (ids.pop() if len(ids) == 1 else None)
            server = replace(server, queue_id=queue_id, reply=words or server.reply)
            return Outcome(tuple(results), server=server)
        verdict = self.verdict(answer, body)
        detail = words or answer.words()
        server = replace(server, reply=detail)
        if verdict.divisible and not verdict.ambiguous:
            blamed = _blamed(call, detail)
            if blamed is not None:
                return Outcome(blamed, server=server)
        return to_outcome(verdict, call, detail, retry_after=self.pause_of(answer), server=server)

    def verdict(self, answer: Answer, body: Any) -> Verdict:
        """What an answer that takes nobody means."""
        code = self.code_of(answer, body)
        text = None if code is None else str(code)
        found = look_up(self._overrides, code=text, status=answer.status) or look_up(
            self.rules, code=code, status=answer.status
        )
        if found is not None:
            return found
        # A 2xx that nobody can read: the mail may be there.
        return UNKNOWN if answer.ok else by_status(answer.status, retry_after=answer.retry_after)

    def pause_of(self, answer: Answer) -> float | None:
        """Seconds that the provider asks us to stay away, if it does."""
        return answer.retry_after


def _blamed(call: Call, words: str) -> tuple[RecipientResult, ...] | None:
    """Private copies that were refused over recipients whom the words name: only those are refused.

    ``None`` if they name nobody, or everybody.
    """
    if not call.letter.private_copies or len(call.recipients) < 2:
        return None
    named = [r for r in call.recipients if names_address(words, r.email)]
    if not named or len(named) == len(call.recipients):
        return None
    return tuple(
        RecipientResult(r.email, Fate.REFUSED, words)
        if r in named
        else RecipientResult(r.email, Fate.UNTRIED)
        for r in call.recipients
    )


def names_address(words: str, address: str) -> bool:
    """Whether the address stands in the words as a whole, not as the end of a longer one."""
    edge = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]"
    pattern = rf"(?<!{edge}){re.escape(address)}(?![A-Za-z0-9-])(?!\.[A-Za-z0-9])"
    return re.search(pattern, words, re.IGNORECASE) is not None
