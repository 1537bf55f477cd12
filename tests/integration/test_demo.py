"""The demo, run as a visitor runs it; and that its count can say no."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from example_app import maildrop
from example_app.demo import Findings, count
from example_app.slow_smtp import Cut, Phase, SlowSmtpServer
from example_app.visitor import SignUp
from tests.support.databases import fresh_database

ROOT = Path(__file__).resolve().parents[2]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "-m", "example_app.demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_demo_shows_what_it_promises():
    """It kills a worker, sweeps, finds every mail, ends all processes and exits with 0."""
    done = run_demo("--people", "8", "--workers", "2", "--delay", "0.15", "--limit", "90")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL" in done.stdout
    assert "mail conversations cut off" in done.stdout
    assert "NOT SO" not in done.stdout
    assert "All of it was so" in done.stdout
    assert done.stderr == ""


def test_the_demo_does_the_same_on_postgresql_and_counts_from_nothing(tmp_path):
    """A database of one's own choice; one with mail in it is refused, as the count would be off."""
    with fresh_database("postgresql", tmp_path) as url:
        first = run_demo(
            *("--people", "8", "--workers", "2", "--delay", "0.15", "--limit", "90"),
            *("--database", url),
        )
        again = run_demo("--database", url)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "postgresql" in first.stdout
    assert "All of it was so" in first.stdout
    assert again.returncode == 1
    assert "NOT SO: there is mail in that database already" in again.stdout


def test_the_demo_says_so_when_it_does_not_come_to_its_end():
    """Out of time, it exits with 1 and a sentence, and no traceback."""
    done = run_demo("--limit", "1")
    assert done.returncode == 1
    assert "NOT SO: the time limit was reached" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_port_that_is_taken_is_said_in_one_line():
    """``make serve`` on a port in use exits with 1 and names the port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "example_app.serve", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


# -- the count ---------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> SlowSmtpServer:
    """A mail server that nobody talks to: its folder is filled by hand."""
    server = SlowSmtpServer(tmp_path)
    server.server_close()
    return server


def asked(*emails: str) -> list[SignUp]:
    """Sign-ups that were all answered."""
    return [SignUp(email, 303, 0.0, 0.1) for email in emails]


def mailed(server: SlowSmtpServer, email: str, message_id: str) -> None:
    """One mail that arrived."""
    maildrop.keep(server.folder, "", [email], f"Message-ID: {message_id}\r\n\r\n".encode())


def test_the_count_is_content_when_every_mail_is_there_once(server):
    """Two answered sign-ups, two mails."""
    mailed(server, "a@b.example", "<1>")
    mailed(server, "b@b.example", "<2>")
    assert count(server, Findings(asked("a@b.example", "b@b.example"), outbox={"sent": 2}))


def test_the_count_finds_a_lost_mail(server, capsys):
    """An answered sign-up whose mail never came is said, and counts as a failure."""
    mailed(server, "a@b.example", "<1>")
    assert not count(server, Findings(asked("a@b.example", "b@b.example"), outbox={"sent": 1}))
    assert "NOT SO" in capsys.readouterr().out


def test_the_count_finds_two_mails_for_one_person(server):
    """A second Message-ID for the same sign-up is no extra copy but a second mail."""
    mailed(server, "a@b.example", "<1>")
    mailed(server, "a@b.example", "<2>")
    assert not count(server, Findings(asked("a@b.example"), outbox={"sent": 2}))


def test_the_count_allows_as_many_copies_as_connections_were_cut(server):
    """One cut connection excuses one extra copy, and not two."""
    found = Findings(asked("a@b.example"), [Cut(1, Phase.TAKEN)], outbox={"sent": 1})
    mailed(server, "a@b.example", "<1>")
    mailed(server, "a@b.example", "<1>")
    assert count(server, found)
    mailed(server, "a@b.example", "<1>")
    assert not count(server, found)


def test_the_count_finds_rows_that_are_not_sent(server):
    """Mails arrived, but the outbox shows one of them as held."""
    mailed(server, "a@b.example", "<1>")
    assert not count(server, Findings(asked("a@b.example"), outbox={"sent": 0, "held": 1}))
