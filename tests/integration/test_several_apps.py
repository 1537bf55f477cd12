"""Several apps in one process, app factories, and processes that fork."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_deferred_mail import DeferredMail, send_after_response
from tests.support.mail_app import MailApp
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}


def make_site(mail: DeferredMail, folder: Path, url: str, **config: Any) -> Flask:
    """What an application's factory does."""
    app = Flask("site", instance_path=str(folder))
    app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", DEFERRED_MAIL_TRANSPORT=url, **config)
    mail.init_app(app)
    return app


def test_one_object_serves_all_apps_of_a_factory(tmp_path: Path, smtp: SmtpServer) -> None:
    """Each with its own table, settings and sender threads; the current app is the one meant."""
    mail = DeferredMail()
    apps = [
        make_site(mail, tmp_path / name, smtp.url(), DEFERRED_MAIL_MESSAGE_ID_DOMAIN=f"{name}.test")
        for name in ("one", "two")
    ]
    states = [mail.for_app(app) for app in apps]
    with closing(states[0].runtime), closing(states[1].runtime):
        jobs = [Visits(app)(lambda: mail.send_after_response(**HELLO)) for app in apps]
        received = {m.parsed["Message-ID"] for m in smtp.wait_for(2)}
        assert received == {job.message_id for job in jobs}
        assert [job.id for job in jobs] == [1, 1]
        assert [job.message_id.rpartition("@")[2] for job in jobs] == ["one.test>", "two.test>"]
        assert states[0].runtime.dispatcher is not states[1].runtime.dispatcher
        assert states[0].runtime.database is not states[1].runtime.database
        with apps[0].app_context():
            assert len(mail.for_app().runtime.reports.listing()) == 1


def test_several_objects_in_one_process_do_not_meet(tmp_path: Path) -> None:
    """The module's function takes the current app's."""
    mails = [DeferredMail(), DeferredMail()]
    apps = [
        make_site(mail, tmp_path / name, "null:", TESTING=True)
        for mail, name in zip(mails, ("one", "two"), strict=True)
    ]
    with apps[1].app_context():
        send_after_response(**HELLO)
        assert len(mails[1].outbox) == 1
        with pytest.raises(RuntimeError, match="has not seen the app 'site'"):
            _ = mails[0].outbox
    assert mails[0].for_app(apps[0]).outbox == []


def test_outside_a_context_one_of_several_apps_must_be_named(tmp_path: Path) -> None:
    """Nobody guesses: the error says what to do."""
    mail = DeferredMail()
    with pytest.raises(RuntimeError, match="call init_app"):
        mail.get(1)
    kept = [make_site(mail, tmp_path / name, "null:") for name in ("one", "two")]
    with pytest.raises(RuntimeError, match=r"has served 2: use `with app.app_context\(\):`"):
        mail.send_message(**HELLO)
    assert mail.for_app(kept[0]) is not mail.for_app(kept[1])


def test_two_apps_may_share_a_table(make_app: Make, smtp: SmtpServer, tmp_path: Path) -> None:
    """A web app and an admin app on one file: each mail is sent once, by whoever sweeps."""
    one, two = make_app(smtp.url(), tmp_path), make_app(smtp.url(), tmp_path)
    jobs = [one.send(), two.send()]
    assert [job.id for job in jobs] == [1, 2]
    assert one.sweep().sent == 2
    assert two.sweep().claimed == 0


def test_an_app_that_is_dropped_takes_its_mail_along(tmp_path: Path) -> None:
    """A test suite that makes a thousand apps with one module-level object keeps none of them."""
    mail = DeferredMail()

    def use_once() -> weakref.ref[Flask]:
        app = make_site(mail, tmp_path, "null:", TESTING=True)
        Visits(app)(lambda: mail.send_after_response(**HELLO))
        with app.app_context():
            assert len(mail.outbox) == 1
        mail.for_app(app).runtime.close()
        return weakref.ref(app)

    gone = use_once()
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="no application is active"):
        mail.get(1)


@pytest.mark.parametrize("mode", ["before", "preload"])
def test_processes_that_fork_share_nothing(tmp_path: Path, smtp: SmtpServer, mode: str) -> None:
    """Used before the fork or only loaded: parent and children send, each with its own parts."""
    command = [sys.executable, "-m", "tests.support.forking"]
    done = subprocess.run(
        [*command, f"{smtp.host}:{smtp.port}", str(tmp_path), mode],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    names = {"parent", "child 0", "child 1"} | ({"before the fork"} if mode == "before" else set())
    assert set(facts) == names
    for fact in facts.values():
        assert fact["status"] == "sent"
        assert fact["runtime_pid"] == fact["pid"]
        assert fact["owner"].endswith(f":{fact['pid']}")
    processes = {name: fact["pid"] for name, fact in facts.items() if name != "before the fork"}
    assert len(set(processes.values())) == 3
    # One mail each, and no connection that two processes wrote into.
    assert sorted(m.parsed["Subject"] for m in smtp.messages) == sorted(names)
    assert {m.parsed["Message-ID"] for m in smtp.messages} == {
        fact["message_id"] for fact in facts.values()
    }
    by_connection = {name: m.connection for m in smtp.messages if (name := m.parsed["Subject"])}
    children = [by_connection[f"child {number}"] for number in range(2)]
    assert len({*children, by_connection["parent"]}) == 3
    assert "Traceback" not in done.stderr
