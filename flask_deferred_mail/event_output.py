"""How ``show`` prints what providers reported. Values in, text out, fit for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cleaning import clean
from .cli_output import iso, table, when
from .job import moment
from .store.events import KeptEvent


def event_objects(kept: Sequence[KeptEvent]) -> list[dict[str, Any]]:
    """The reports of a mail as ``show --json`` has them."""
    return [
        {
            "kind": one.event.kind.value,
            "bounce_type": one.event.bounce_type,
            "recipient": one.event.recipient,
            "occurred_at": iso(moment(one.event.occurred_at)),
            "received_at": iso(moment(one.received_at)),
            "transport": one.event.transport,
            "provider_message_id": one.event.message_id,
            "detail": one.event.detail,
            "data": dict(one.event.data),
        }
        for one in kept
    ]


def event_lines(kept: Sequence[KeptEvent]) -> list[str]:
    """The reports of a mail, for people."""
    if not kept:
        return []
    rows = [
        (
            when(moment(one.event.occurred_at or one.received_at)),
            " ".join(filter(None, (one.event.kind.value, one.event.bounce_type))),
            clean(one.event.recipient or "-", 254),
            clean(one.event.detail),
        )
        for one in kept
    ]
    lines = table(("time", "event", "recipient", "detail"), rows)
    return ["", "events", *(f"  {line}" for line in lines)]
