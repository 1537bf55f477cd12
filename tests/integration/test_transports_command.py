"""``flask mail transports``: what is shown of each, and what a pause does in all processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from flask_deferred_mail.cli import mail_group
from flask_deferred_mail.job import JobStatus
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import wait_until

Make = Callable[..., MailApp]


def run(app: MailApp, *words: object, code: int = 0) -> Result:
    """A command's result, which must end with this exit code."""
    result = app.app.test_cli_runner().invoke(mail_group, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def shown(app: MailApp) -> dict[str, dict[str, Any]]:
    """Name -> what ``transports --json`` says of it."""
    listed = json.loads(run(app, "transports", "--json").stdout)
    return {entry["name"]: entry for entry in listed}


def test_every_transport_and_member_is_listed_without_secrets(make_app: Make) -> None:
    """With what is left of each limit, and how many mails wait."""
    app = make_app(
        "failover(smtp://u:hunter2@a.example?rate=14/s,100/d sendcloud://u:hunter2@default)",
        DEFERRED_MAIL_TRANSPORTS={"bulk": "null:?rate=600/m&connections=3"},
    )
    app.send()
    found = shown(app)
    assert list(found) == ["bulk", "default", "default/a.example", "default/sendcloud"]
    assert found["default/a.example"]["limits"] == {"14/s": 2, "100/d": 100}
    assert found["default/a.example"]["member_of"] == "default"
    assert (found["default"]["kind"], found["default"]["waiting"]) == ("failover", 1)
    assert (found["bulk"]["limits"], found["bulk"]["connections"]) == ({"600/m": 61}, 3)
    assert {entry["state"] for entry in found.values()} == {"well"}
    plain = run(app, "transports").stdout
    assert "  default/a.example (SMTP): well, 2 left of 14/s, 100 left of 100/d" in plain
    assert "hunter2" not in plain + json.dumps(found)


def test_a_paused_transport_sends_nothing_until_it_is_resumed(
    make_app: Make, smtp: SmtpServer
) -> None:
    """No attempt is spent; list, explain, doctor and sweep say who paused it."""
    app = make_app(smtp.url())
    job = app.send()
    assert "paused" in run(app, "transports", "pause", "default").stdout
    assert "nothing to do" in run(app, "transports", "pause", "default").stdout
    app.runtime.pacing.forget()
    assert app.sweep().claimed == 0
    assert (app.job(job).status, app.job(job).attempts) == (JobStatus.PENDING, 0)
    entry = shown(app)["default"]
    assert entry["state"] == "paused"
    assert "@" in entry["paused_by"]
    assert entry["paused_at"] is not None
    assert "paused by" in run(app, "explain", job.id).stdout
    assert "transports resume default" in run(app, "doctor").stdout
    assert "is paused by" in run(app, "sweep").stderr
    assert smtp.messages == []

    assert json.loads(run(app, "transports", "resume", "default", "--json").stdout)["changed"]
    app.runtime.pacing.forget()
    assert app.sweep().sent == 1


def test_senders_leave_a_paused_transport_within_a_second(make_app: Make, smtp: SmtpServer) -> None:
    """Another process pauses it in the middle of a sweep: what is in hand is given back."""
    app, other = make_app(smtp.url()), make_app(smtp.url())
    jobs = [app.send() for _ in range(8)]
    smtp.hold("dot")
    sweep = app.runtime.sweep(concurrency=1)
    thread = threading.Thread(target=sweep.run)
    thread.start()
    smtp.wait_held("dot", 1)
    other.runtime.states.pause("default", "ann@desk")
    # What a process has read is believed for a second.
    believed = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > believed, 5)
    smtp.release("dot")
    thread.join(30)
    assert not thread.is_alive()
    assert len(smtp.messages) == 1
    assert sweep.counts.sent == 1
    assert sum(app.job(job).attempts for job in jobs) == 1


def test_a_pause_is_kept_between_two_calls_of_one_mail(make_app: Make, smtp: SmtpServer) -> None:
    """The copies that are not out yet wait; those that are, are noted."""
    app = make_app(smtp.url())

    def pause(*_: object) -> None:
        app.runtime.states.pause("default", "ann@desk")
        app.runtime.pacing.forget()

    send = app.runtime.transport("default").send
    calls = []

    def send_and_pause(call: Any) -> Any:
        calls.append(call)
        outcome = send(call)
        pause()
        return outcome

    app.runtime.transport("default").send = send_and_pause  # type: ignore[method-assign]
    job = app.send("ann@example.com", "bob@example.com", private_copies=True)
    app.sweep()
    assert len(calls) == 1
    assert app.statuses(job) == {"ann@example.com": "sent", "bob@example.com": "pending"}


def test_a_paused_member_is_left_out(make_app: Make, smtp: SmtpServer) -> None:
    """Mail goes by the other member."""
    app = make_app(f"failover({smtp.url()} memory:)")
    name = f"default/127.0.0.1:{smtp.port}"
    run(app, "transports", "pause", name)
    job = app.send()
    assert app.sweep().sent == 1
    assert app.log(job)[0].transport == "default/memory"
    assert smtp.connections == 0
    later = app.send(delay=60)
    assert name in run(app, "explain", later.id).stdout


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_name_that_is_none_is_refused(make_app: Make, command: str) -> None:
    """2, and the names that there are."""
    app = make_app("null:")
    result = run(app, "transports", command, "defualt", code=2)
    assert "there is default" in result.stderr


def test_mail_of_the_web_process_waits_while_its_transport_is_paused(
    make_app: Make, smtp: SmtpServer
) -> None:
    """It is not taken in hand at all."""
    app = make_app(smtp.url())
    app.runtime.states.pause("default", "ann@desk")
    app.runtime.pacing.forget()
    app.runtime.pacing.known()
    assert app.runtime.dispatcher.room_for("default") is None


def test_a_test_mail_leaves_by_a_paused_transport(make_app: Make, smtp: SmtpServer) -> None:
    """A person who asks for it wants to know whether it works again."""
    app = make_app(smtp.url())
    run(app, "transports", "pause", "default")
    run(app, "test", "ann@example.com")
    assert len(smtp.messages) == 1
    assert shown(app)["default"]["state"] == "paused"
