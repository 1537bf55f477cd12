"""Puts each mail into a folder as one ``.eml`` file: ``file:///folder``.

A file appears under its name when it is complete and on disk, never before. Names sort by time
and hold nothing that came with the mail.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from ..cleaning import clean
from ..letter import Recipient
from ..mime import render
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote, TransportFault
from .base import Call, Feature, ProbeStep, Transport
from .copies import copies
from .schemes import Plan
from .signing import Signer, signer_of


class FileTransport(Transport):
    """Writes mails into ``folder``, byte for byte as they would go over the wire.

    Only the owner of the process may read the files: mails hold password links and the like.
    """

    features: ClassVar[frozenset[Feature]] = frozenset(Feature)
    label: ClassVar[str] = "file"
    runs_foreign_code = False

    def __init__(
        self, name: str, folder: str | os.PathLike[str], *, signer: Signer | None = None
    ) -> None:
        super().__init__(name)
        self.signer = signer
        self.folder = Path(folder)
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<FileTransport {self.name!r} into {str(self.folder)!r}>"

    def send(self, call: Call) -> Outcome:
        """Write the mail; of a letter with private copies, one file for each recipient."""
        sign = self.signer.signed if self.signer else bytes
        contents = [(sign(render(call.letter, only)), who) for only, who in copies(call)]
        call.hand_over()
        results: list[RecipientResult] = []
        fault = None
        for content, envelope in contents:
            try:
                name = self._write(content)
            except OSError as error:
                # A full disk is not the mail's fault.
                detail = clean(f"cannot write into {self.folder}: {error.strerror or error}")
                fault = TransportFault(FaultKind.UNREACHABLE, detail)
                results += _all(envelope, Fate.DEFERRED, detail)
            else:
                results += _all(envelope, Fate.ACCEPTED, "", name)
        note = ServerNote(queue_id=results[-1].provider_message_id)
        return Outcome(tuple(results), fault=fault, server=note)

    def probe(self) -> Iterator[ProbeStep]:
        """Whether the folder is there and takes files."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            ok, detail = os.access(self.folder, os.W_OK | os.X_OK), f"{self.folder}"
        except OSError as error:
            ok, detail = False, f"{self.folder}: {error.strerror or error}"
        yield ProbeStep("folder", ok, clean(detail))

    def _write(self, content: bytes) -> str:
        """Write one file and return its name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = f"{stamp}-{next(self._numbers):06d}-{secrets.token_hex(4)}.eml"
        unfinished = self.folder / f".{name}.unfinished"
        try:
            with open(
                os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            unfinished.rename(self.folder / name)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _keep_name(self.folder)
        return name


def _keep_name(folder: Path) -> None:
    """Let the file's name survive a power cut as well as its content does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _all(
    envelope: tuple[Recipient, ...], fate: Fate, detail: str, name: str | None = None
) -> list[RecipientResult]:
    return [RecipientResult(recipient.email, fate, detail, name) for recipient in envelope]


def from_plan(plan: Plan) -> FileTransport:
    """``file:``."""
    return FileTransport(plan.name, plan.url.path, signer=signer_of(plan.dkim))
