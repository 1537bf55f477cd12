"""`flask mail ...` as cron, a monitor and a person at a terminal run it: as a process."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

APP = """
import os

from flask import Flask

from flask_deferred_mail import DeferredMail

print("the application talks while it is imported")


def create_app():
    app = Flask(__name__, instance_path=os.environ["INSTANCE"])
    app.config.from_prefixed_env()
    app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
    mail = DeferredMail(app)

    @app.cli.command("record")
    def record():
        with app.app_context():
            mail.send_many(
                {"subject": "Hi", "recipients": ["ann@example.com"], "body": "x"}
                for _ in range(int(os.environ.get("COUNT", "1")))
            )

    return app
"""


class Shell:
    """A folder with an application, in which commands are run."""

    def __init__(self, folder, **environ):
        self.folder = folder
        (folder / "shop.py").write_text(APP)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
        self.environ = {**inherited, "INSTANCE": str(folder / "instance"), **environ}

    def start(self, *arguments, **how):
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "shop", *arguments],
            cwd=self.folder,
            env={**self.environ, **how.pop("environ", {})},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how,
        )

    def __call__(self, *arguments, code=0, **how):
        """Run a command to its end and check its exit code; returns stdout and stderr."""
        with self.start(*arguments, **how) as process:
            out, error = process.communicate(timeout=60)
        assert process.returncode == code, (out, error)
        return out, error

    def record(self, number=1):
        """Record so many mails."""
        self("record", environ={"COUNT": str(number)})


@pytest.fixture
def server():
    """A mail server."""
    with SmtpServer() as running:
        yield running


@pytest.fixture
def shell(tmp_path, server):
    """A folder with an application that sends to ``server``."""
    return Shell(tmp_path, FLASK_DEFERRED_MAIL_TRANSPORT=server.url())


@contextmanager
def terminal():
    """A terminal: what a person would sit at (for the process), and its other end."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def shown_on(ours, process):
    """All that the terminal shows until the process ends."""
    shown, end = b"", time.monotonic() + 60
    while process.poll() is None or select.select([ours], [], [], 0.1)[0]:
        assert time.monotonic() < end, shown
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
    return shown.decode()


def test_both_names_find_the_commands_and_json_is_all_there_is(shell, server):
    """`flask mail` and `flask deferred-mail`; what an application prints goes to stderr."""
    shell.record(2)
    out, error = shell("mail", "sweep", "--json")
    assert json.loads(out)["sent"] == 2
    assert "talks while it is imported" in error
    out, _ = shell("deferred-mail", "status", "--json")
    assert json.loads(out)["counts"]["sent"] == 2
    assert len(server.messages) == 2


def test_an_application_that_cannot_be_made_is_a_fault_without_a_traceback(shell):
    """init_app lists every fault; the command shows that and exits with 3."""
    broken = {"FLASK_DEFERRED_MAIL_LAESE": "5", "FLASK_DEFERRED_MAIL_DISPATCH": "pigeon"}
    for command in (["sweep"], ["status", "--json"], ["doctor"]):
        out, error = shell("mail", *command, code=3, environ=broken)
        assert "did you mean DEFERRED_MAIL_LEASE?" in error
        assert "DEFERRED_MAIL_DISPATCH" in error
        assert "Traceback" not in out + error


def test_a_mistyped_application_is_wrong_usage(tmp_path, shell):
    """Flask's own text and its exit code, 2."""
    (tmp_path / "shop.py").write_text("nothing = 1\n")
    _, error = shell("mail", "status", code=2)
    assert "Failed to find Flask application" in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_finishes_the_mail_in_hand_and_returns_the_rest(shell, server, number):
    """0; what was being sent is sent, what was claimed is due again with its attempt."""
    shell.record(6)
    server.hold("dot")
    with shell.start("mail", "sweep", "--json", "--concurrency", "2") as sweep:
        server.wait_held("dot", 2, timeout=30)
        sweep.send_signal(number)
        assert "stopping" in read_until(sweep.stderr, "stopping")
        server.release("dot")
        out, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == 0
    counts = json.loads(out)
    assert counts["sent"] == 2
    assert counts["claimed"] == counts["sent"] + counts["returned"]
    rows = json.loads(shell("mail", "list", "--json")[0])
    assert sorted(row["status"] for row in rows) == ["pending"] * 4 + ["sent"] * 2
    assert {row["attempts"] for row in rows if row["status"] == "pending"} == {0}
    assert len(server.messages) == 2


def test_the_second_signal_leaves_at_once(shell, server):
    """The mail in hand is left to its lease; the exit code names the signal."""
    shell.record()
    server.hold("dot")
    with shell.start("mail", "sweep") as sweep:
        server.wait_held("dot", 1, timeout=30)
        sweep.terminate()
        read_until(sweep.stderr, "stopping")
        sweep.terminate()
        assert sweep.wait(timeout=30) == 128 + signal.SIGTERM
    (row,) = json.loads(shell("mail", "list", "--json")[0])
    assert row["status"] == "sending"
    server.release("dot")


def read_until(stream, word):
    """Lines of a process's output up to the one that holds ``word``."""
    lines = []
    while not lines or word not in lines[-1]:
        lines.append(stream.readline())
        assert lines[-1], f"{word!r} never came: {lines}"
    return "".join(lines)


def test_a_terminal_shows_a_bar_and_stdout_the_summary(shell, server):
    """The bar goes to stderr, and only if that is a terminal."""
    shell.record(3)
    with terminal() as (ours, theirs), shell.start("mail", "sweep", stderr=theirs) as sweep:
        os.close(theirs)
        shown = shown_on(ours, sweep)
        out = sweep.stdout.read()
    assert "] 3/3  3 sent" in shown
    assert out.endswith("3 mails: 3 sent\n")
    shell.record()
    _, error = shell("mail", "sweep")
    assert "1/1" not in error


@pytest.mark.parametrize(("answer", "status"), [("y", "held"), ("n", "pending")])
def test_a_person_is_asked_before_several_mails_are_changed(shell, answer, status):
    """Only at a terminal, and on stderr: stdout stays JSON."""
    shell.record(2)
    with (
        terminal() as (ours, theirs),
        shell.start("mail", "hold", "1", "2", "--json", stdin=theirs, stderr=theirs) as hold,
    ):
        os.close(theirs)
        asked = b""

        def question():
            nonlocal asked
            if select.select([ours], [], [], 0)[0]:
                asked += os.read(ours, 65_536)
            return b"hold 2 mails?" in asked

        wait_until(question, 30)
        os.write(ours, answer.encode() + b"\n")
        shown_on(ours, hold)
        assert hold.wait(30) == 0
        out = hold.stdout.read()
    assert len(json.loads(out)) == (2 if status == "held" else 0)
    rows = json.loads(shell("mail", "list", "--json")[0])
    assert {row["status"] for row in rows} == {status}


def test_nobody_is_asked_with_yes_without_a_terminal_or_for_one_mail(shell):
    """A script never hangs on a question."""
    shell.record(3)
    shell("mail", "hold", "1", "2", stdin=subprocess.DEVNULL)
    with terminal() as (ours, theirs):
        for command in (["release", "1", "2", "--yes"], ["hold", "3"]):
            with shell.start("mail", *command, stdin=theirs, stderr=theirs) as change:
                assert change.wait(30) == 0
        os.close(theirs)
        assert ours > 0
    rows = json.loads(shell("mail", "list", "--json")[0])
    assert [row["status"] for row in rows] == ["held", "pending", "pending"]


def test_a_narrow_locale_breaks_no_command(shell):
    """Cron may run with any locale: text is escaped instead of failing."""
    shell.record()
    narrow = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code = "UPDATE deferred_mail_job SET subject = 'Größe'"
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); "
            "c.commit()",
            str(shell.folder / "instance" / "deferred_mail.sqlite3"),
            code,
        ],
        check=True,
    )
    out, _ = shell("mail", "list", environ=narrow)
    assert "Gr\\xf6\\xdfe" in out
    out, _ = shell("mail", "show", "1", "--json", environ=narrow)
    assert json.loads(out)["subject"] == "Größe"
