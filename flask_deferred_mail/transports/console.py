"""Shows mails instead of sending them: ``console:``. For development; the default in debug.

What is shown is meant for a person: headers decoded, the text as it will be read, attachments by
name and size. Nothing that came with the mail can drive the terminal.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import ClassVar, TextIO

from ..cleaning import clean
from ..letter import Address, Letter, Recipient
from ..outcome import Fate, Outcome
from .base import Call, Feature, Transport
from .copies import copies
from .schemes import Plan
from .signing import Signer, signer_of

_RULE = "-" * 72
# Long enough for any header that a person wants to read.
_HEADER = 2000
_LINE = 4000
# Sender threads of one process share the terminal, also if they belong to several apps.
_terminal = threading.Lock()


class ConsoleTransport(Transport):
    """Writes each mail to ``stream``; by default to standard output as it is at that moment."""

    features: ClassVar[frozenset[Feature]] = frozenset(Feature)
    label: ClassVar[str] = "console"
    runs_foreign_code = False

    def __init__(
        self,
        name: str = "default",
        *,
        stream: TextIO | None = None,
        signer: Signer | None = None,
    ) -> None:
        super().__init__(name)
        self.signer = signer
        self._stream = stream

    def send(self, call: Call) -> Outcome:
        """Show the mail: in private copies, one for each recipient."""
        call.hand_over()
        text = "".join(_shown(call.letter, envelope, self.signer) for _, envelope in copies(call))
        stream = self._stream or sys.stdout
        # A terminal that speaks only ASCII must not make a mail fail.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        with _terminal:
            stream.write(text)
            stream.flush()
        return Outcome.for_all(call.recipients, Fate.ACCEPTED, "")


def _shown(letter: Letter, envelope: tuple[Recipient, ...], signer: Signer | None) -> str:
    lines = [_RULE]
    lines += [f"{name}: {clean(value, _HEADER)}" for name, value in _headers(letter, envelope)]
    if signer is not None:
        lines.append(f"(DKIM): {signer.domain}, selector {signer.selector}")
    lines += ["", *_body(letter)]
    for part in letter.parts:
        name = clean(part.filename or part.content_id or "without a name", 200)
        kind = clean(part.content_type, 100)
        lines.append(f"[{part.disposition}: {name}, {kind}, {len(part.data)} bytes]")
    return "\n".join([*lines, _RULE, ""])


def _headers(letter: Letter, envelope: tuple[Recipient, ...]) -> Iterator[tuple[str, str]]:
    seen = envelope if letter.private_copies else letter.recipients
    yield "From", _person(letter.sender)
    for title, kind in (("To", "to"), ("Cc", "cc")):
        if people := [r.address for r in seen if r.kind == kind]:
            yield title, ", ".join(map(_person, people))
    if letter.reply_to:
        yield "Reply-To", ", ".join(map(_person, letter.reply_to))
    yield "Subject", letter.subject
    yield "Date", letter.date
    yield "Message-ID", letter.message_id
    headers = letter.headers_of(envelope[0] if letter.private_copies else None)
    yield from ((clean(name, 100), value) for name, value in headers)
    hidden = [r.email for r in envelope if r.kind == "bcc"]
    if hidden:
        yield "(Bcc)", ", ".join(hidden)
    if letter.template_id:
        yield "(template)", letter.template_id


def _person(address: Address) -> str:
    return f"{address.name} <{address.email}>" if address.name else address.email


def _body(letter: Letter) -> list[str]:
    """The text part, else the HTML, line by line."""
    body = letter.text if letter.text else (letter.html or "")
    lines = [_clean_line(line) for line in body.splitlines()]
    if letter.text and letter.html:
        lines.append(f"[HTML: {len(letter.html)} characters]")
    return lines


def _clean_line(line: str) -> str:
    """One line of a body without control characters; blanks stay where they are."""
    body = line.expandtabs(4)
    indent = len(body) - len(body.lstrip(" "))
    return " " * min(indent, 72) + clean(body, _LINE)


def from_plan(plan: Plan) -> ConsoleTransport:
    """``console:``."""
    return ConsoleTransport(plan.name, signer=signer_of(plan.dkim))
