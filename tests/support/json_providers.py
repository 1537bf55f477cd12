"""Adapters of providers that speak JSON: made from a URL, their requests and outcomes read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import requests
from hypothesis import strategies as st

from flask_deferred_mail.outcome import Fate, FaultKind, Outcome, ServerNote
from flask_deferred_mail.transports.http_api import Answer
from flask_deferred_mail.transports.provider import ProviderTransport
from flask_deferred_mail.transports.registry import build

FIXTURES = Path(__file__).parents[1] / "fixtures"

#: Whatever a server could put into an answer, the odd included.
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=12,
)


@dataclass(frozen=True)
class _Spec:
    url: str
    classify: Mapping[str, str] | None
    token: Callable[[], str] | None = None
    dkim: Mapping[str, Any] | None = None


def built(url: str, classify: Mapping[str, str] | None = None) -> ProviderTransport:
    """The transport that a configuration means."""
    return cast(ProviderTransport, build("default", _Spec(url, classify)))


def fixture(provider: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FIXTURES / provider / f"{name}.json").read_text())
    return content


def fixtures(provider: str, kind: str) -> list[str]:
    """The names of the fixtures of one kind: ``request`` or ``response``."""
    return sorted(path.stem for path in (FIXTURES / provider).glob(f"{kind}_*.json"))


def json_of(request: requests.Request) -> Any:
    """The body as it would be sent, read again."""
    body = request.prepare().body
    assert isinstance(body, bytes)
    return json.loads(body)


def an_answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """``content`` as JSON; bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status, requests.structures.CaseInsensitiveDict(headers or {}), body)


def read(transport: ProviderTransport, call: Any, answer: Answer) -> Outcome:
    """What the transport makes of an answer, or of one that it cannot read."""
    return transport._read(call, answer, ServerNote())


_FAULTS = {
    FaultKind.ACCOUNT: "config",
    FaultKind.QUOTA: "quota",
    FaultKind.RATE_LIMITED: "rate_limited",
    FaultKind.UNREACHABLE: "transient",
}
_FATES = {
    Fate.ACCEPTED: "accepted",
    Fate.REFUSED: "permanent",
    Fate.SUPPRESSED: "suppressed",
    Fate.FAILED: "config",
    Fate.DEFERRED: "transient",
    Fate.UNKNOWN: "transient",
}


def class_of(outcome: Outcome) -> tuple[str, bool]:
    """An outcome in the fixtures' words: the class, and whether it is ambiguous."""
    [fate] = {result.fate for result in outcome.results}
    if outcome.fault:
        assert fate is Fate.DEFERRED
        return _FAULTS[outcome.fault.kind], False
    assert outcome.message_config == (fate is Fate.FAILED)
    return _FATES[fate], fate is Fate.UNKNOWN
