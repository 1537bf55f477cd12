"""Mails that a local mail server took, kept as files: the server writes them, /inbox reads them.

One mail is two files of the same name: ``.eml`` as it came over the wire, and ``.json`` with what
only the server knows. The second one is written last, and makes the mail exist.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from itertools import count
from pathlib import Path

_numbers = count(1)
_lock = threading.Lock()


@dataclass(frozen=True)
class Delivery:
    """What the server noted about one mail."""

    name: str
    #: Unix time at which the last byte was in, before the server answered.
    taken_at: float
    envelope_sender: str
    recipients: list[str]
    message_id: str


def keep(folder: Path, envelope_sender: str, recipients: list[str], data: bytes) -> Delivery:
    """Write one mail into the folder."""
    with _lock:
        name = f"{time.time_ns()}-{next(_numbers):06}"
    delivery = Delivery(name, time.time(), envelope_sender, recipients, message_id_of(data))
    (folder / f"{name}.eml").write_bytes(data)
    draft = folder / f"{name}.draft"
    draft.write_text(json.dumps(asdict(delivery)))
    os.replace(draft, folder / f"{name}.json")
    return delivery


def deliveries(folder: Path) -> list[Delivery]:
    """All mails, in the order in which they came."""
    return [read_note(path) for path in sorted(folder.glob("*.json"))]


def delivery_named(folder: Path, name: str) -> Delivery | None:
    """One mail; ``None`` if the folder has none of that name (which may come from a URL)."""
    path = folder / f"{name}.json"
    if not name.replace("-", "").isdecimal() or not path.exists():
        return None
    return read_note(path)


def content(folder: Path, delivery: Delivery) -> bytes:
    """The mail as it came over the wire."""
    return (folder / f"{delivery.name}.eml").read_bytes()


def parsed(data: bytes) -> EmailMessage:
    """The mail as Python reads it."""
    return email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)


def read_note(path: Path) -> Delivery:
    """What the server noted, read back."""
    return Delivery(**json.loads(path.read_text()))


def message_id_of(data: bytes) -> str:
    """The Message-ID header, read without interpreting the rest of the mail."""
    headers = email.message_from_bytes(data.partition(b"\r\n\r\n")[0], policy=email.policy.compat32)
    return str(headers["Message-ID"] or "").strip()
