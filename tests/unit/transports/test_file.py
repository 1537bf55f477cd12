"""``file:`` writes one .eml a mail."""

from __future__ import annotations

import email
import email.policy
import re
from concurrent.futures import ThreadPoolExecutor

from flask_deferred_mail.errors import HandoverRefused
from flask_deferred_mail.mime import render
from flask_deferred_mail.outcome import FaultKind
from flask_deferred_mail.transports.file import FileTransport
from tests.support.transport_calls import a_letter, fates, send


def test_the_file_holds_the_bytes_of_the_wire(tmp_path):
    """Name of the file as the server's name for the mail; folder made; nothing else in it."""
    folder = tmp_path / "deep" / "mail"
    outcome = send(FileTransport("default", folder))
    [file] = folder.iterdir()
    assert file.read_bytes() == render(a_letter())
    assert outcome.server.queue_id == file.name
    assert fates(outcome) == {"ann@example.net": "accepted"}
    assert file.stat().st_mode & 0o077 == 0


def test_private_copies_are_files_of_their_own(tmp_path):
    """Each shows its recipient only."""
    letter = a_letter("ann@example.net", "bob@example.net", private_copies=True)
    send(FileTransport("default", tmp_path), letter)
    messages = [
        email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        for file in sorted(tmp_path.iterdir())
    ]
    assert [str(message["To"]) for message in messages] == ["ann@example.net", "bob@example.net"]


def test_names_sort_by_time_are_unique_and_hold_nothing_foreign(tmp_path):
    """Many at once, with hostile text in every field."""
    transport = FileTransport("default", tmp_path)
    letter = a_letter(subject="../../etc/passwd", message_id="</tmp/x@example.com>")
    names = [send(transport, letter).server.queue_id for _ in range(3)]
    assert names == sorted(names)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: send(transport, letter), range(50)))
    files = [file.name for file in tmp_path.iterdir()]
    assert len(files) == 53
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-\d{6,}-[0-9a-f]{8}\.eml", name) for name in files)


def test_a_folder_that_cannot_be_written_is_the_transports_fault(tmp_path):
    """The mail is kept and pays nothing."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    transport = FileTransport("default", blocked / "mail")
    outcome = send(transport)
    assert fates(outcome) == {"ann@example.net": "deferred"}
    assert outcome.fault.kind is FaultKind.UNREACHABLE
    assert not outcome.costs_attempt
    [step] = transport.probe()
    assert not step.ok


def test_an_unfinished_file_is_not_left_behind(tmp_path, monkeypatch):
    """Disk full in the middle: nothing with the name of a mail, and no rest."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = send(FileTransport("default", tmp_path))
    assert "No space left" in outcome.detail
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_leave(tmp_path):
    """A hand-over that is refused leaves no file."""

    def refuse() -> None:
        raise HandoverRefused("the lease is about to end")

    try:
        send(FileTransport("default", tmp_path), hand_over=refuse)
    except HandoverRefused:
        pass
    else:
        raise AssertionError("the refusal did not pass")
    assert list(tmp_path.iterdir()) == []


def test_the_probe_names_the_folder(tmp_path):
    """What ``doctor`` shows."""
    [step] = FileTransport("default", tmp_path).probe()
    assert step.ok
    assert str(tmp_path) in step.detail
