"""Celery and RQ as engines, with real brokers and workers; and brokers that are down or silent."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from rq import Queue

from flask_deferred_mail import Job, tasks
from flask_deferred_mail.delivery import handover
from flask_deferred_mail.engines.celery import TASK
from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.finding import Level
from tests.support import brokers
from tests.support.brokers import BROKERS, CutWire, Workers, require_broker
from tests.support.engine_app import BROKER, FOLDER, QUEUE, celery_for
from tests.support.mail_app import MailApp
from tests.support.raw_http import RawClient
from tests.support.smtp_server import SmtpServer
from tests.support.visits import Visits
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer

Make = Callable[..., MailApp]

HELLO: dict[str, Any] = {"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi\n"}

both_brokers = pytest.mark.parametrize("broker", BROKERS)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Starts workers of the application in this test's folder."""
    with ExitStack() as stack:
        yield Workers(tmp_path, stack)


def send(app: MailApp, **fields: Any) -> Callable[[], Job]:
    """What a view does."""
    return lambda: app.mail.send_after_response(**HELLO, **fields)


def with_celery(make_app: Make, transport: str, broker: str, queue: str, **config: Any) -> MailApp:
    """An app whose Celery has that broker, as Flask's own page about Celery shows."""
    app = make_app(transport, DEFERRED_MAIL_DISPATCH="celery", **config)
    app.app.extensions["celery"] = celery_for("web", broker, queue)
    return app


def publish(app: MailApp, *messages: tuple[Any, ...]) -> None:
    """Messages to the task, as anybody could write them."""
    celery = app.app.extensions["celery"]
    with celery.connection_for_write() as connection:
        for arguments in messages:
            celery.send_task(TASK, args=arguments, connection=connection)


def handed_over(app: MailApp) -> None:
    """Wait until nothing is to be handed over."""
    assert app.runtime.handover is not None
    wait_until(lambda: app.runtime.handover.pending == 0)


def assert_diagnosis(app: MailApp, level: Level, words: str) -> None:
    """What ``doctor`` says about the engine."""
    engine = app.mail.for_app(app.app).engine
    assert engine is not None
    with app.app.app_context():
        [finding] = engine.examine()
    assert finding.level is level, finding
    assert words in finding.text
    assert "hunter2" not in finding.text


def is_sent(app: MailApp, *jobs: Job) -> bool:
    return all(app.job(job).status == "sent" for job in jobs)


# --- Celery ----------------------------------------------------------------------------------


@both_brokers
def test_a_celery_worker_sends_each_mail_once(
    make_app: Make, smtp: SmtpServer, workers: Workers, broker: str
) -> None:
    """Doubled, strange and early messages change nothing; what is due is sent by the worker."""
    url = require_broker(broker)
    worker = workers.celery(url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url())
    app = with_celery(make_app, smtp.url(), url, workers.queue)
    visit = Visits(app.app)
    later = visit(send(app, delay=3600))
    publish(app, ("x",), ([None, -1, 2**70, True],), (99_999,), (), ({"a": 1}, 2), (later.id,))
    first = visit(send(app))
    many = visit(lambda: app.mail.send_many([HELLO] * 45))
    wait_until(lambda: is_sent(app, first, *many), timeout=30)
    publish(app, *[([first.id, first.id],)] * 3)
    last = visit(send(app))
    wait_until(lambda: is_sent(app, last), timeout=30)
    assert_diagnosis(app, Level.OK, "answers, and 1 worker knows the task")
    worker.stop()
    assert len(smtp.messages) == 47
    assert app.outcomes(first) == ["sent"]
    assert app.job(later).attempts == 0
    said = worker.log.read_text()
    assert "Traceback" not in said
    assert "a message held 4 things that are no mail" in said
    # One message of its own for each of the single mails, three for the 45.
    received = said.count(f"Task {TASK}[") - said.count(" succeeded in")
    assert received == 6 + 1 + 3 + 3 + 1


def test_a_celery_worker_that_is_killed_leaves_its_mail_to_the_sweep(
    make_app: Make, smtp: SmtpServer, workers: Workers
) -> None:
    """The lease ends by itself; the message that Redis gives to nobody any more is not needed."""
    url = require_broker("redis")
    smtp.hold("rcpt")
    worker = workers.celery(
        url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url(), FLASK_DEFERRED_MAIL_LEASE="1"
    )
    app = with_celery(make_app, smtp.url(), url, workers.queue, DEFERRED_MAIL_LEASE=1)
    job = Visits(app.app)(send(app))
    smtp.wait_held("rcpt", timeout=30)
    assert app.sweep().claimed == 0
    worker.kill()
    smtp.release("rcpt")
    wait_until(lambda: app.sweep().sent == 1)
    assert [len(smtp.messages), app.job(job).status] == [1, "sent"]


def test_a_celery_worker_that_is_asked_to_end_finishes_its_mail(
    make_app: Make, smtp: SmtpServer, workers: Workers
) -> None:
    """TERM in the middle of one: sent once, by the worker."""
    url = require_broker("redis")
    smtp.hold("rcpt")
    worker = workers.celery(url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url())
    app = with_celery(make_app, smtp.url(), url, workers.queue)
    job = Visits(app.app)(send(app))
    smtp.wait_held("rcpt", timeout=30)
    worker.process.terminate()
    worker.wait_for("Warm shutdown")
    smtp.release("rcpt")
    assert worker.process.wait(30) == 0
    assert app.outcomes(job) == ["sent"]
    assert len(smtp.messages) == 1


@both_brokers
def test_no_connection_to_the_broker_crosses_a_fork(
    make_app: Make,
    smtp: SmtpServer,
    workers: Workers,
    start_server: Callable[..., WebServer],
    broker: str,
) -> None:
    """gunicorn's ``--preload`` after a mail was handed over: each process connects anew."""
    url = require_broker(broker)
    environ = {
        FOLDER: str(workers.folder),
        BROKER: url,
        QUEUE: workers.queue,
        "FLASK_DEFERRED_MAIL_DISPATCH": "celery",
        "FLASK_DEFERRED_MAIL_TRANSPORT": smtp.url(),
    }
    workers.celery(url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url())
    server = start_server(
        "gunicorn-sync",
        "tests.support.engine_app:create_site",
        env=environ,
        options=["--preload"],
        workers=2,
    )
    for _ in range(10):
        with RawClient(server.port) as client:
            assert client.request("/send").status == 200
    app = make_app(smtp.url())
    number = "SELECT count(*) FROM deferred_mail_job WHERE status = 'sent'"
    wait_until(lambda: app.sql(number) == [(11,)], timeout=30)
    assert len(smtp.messages) == 11
    assert "left to `flask mail sweep`" not in server.log_file.read_text()


@both_brokers
def test_a_message_that_comes_after_the_sweep_sends_nothing(
    make_app: Make, smtp: SmtpServer, workers: Workers, broker: str
) -> None:
    """It waited in the broker while there was no worker."""
    url = require_broker(broker)
    app = with_celery(make_app, smtp.url(), url, workers.queue)
    visit = Visits(app.app)
    early = visit(send(app))
    handed_over(app)
    assert_diagnosis(app, Level.WARN, "answers, and no worker does")
    assert app.sweep().sent == 1
    worker = workers.celery(url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url())
    late = visit(send(app))
    wait_until(lambda: is_sent(app, late), timeout=30)
    worker.stop()
    assert app.outcomes(early) == ["sent"]
    assert len(smtp.messages) == 2


def test_an_eager_celery_sends_after_the_response(make_app: Make, smtp: SmtpServer) -> None:
    """``task_always_eager`` runs the task in our thread, not inside ``close()``."""
    smtp.hold("dot")
    app = with_celery(make_app, smtp.url(), "redis://127.0.0.1:9/0", "nobody")
    app.app.extensions["celery"].conf.task_always_eager = True
    job = Visits(app.app)(send(app))
    smtp.wait_held("dot")
    assert app.job(job).status == "sending"
    smtp.release("dot")
    wait_until(lambda: is_sent(app, job))


def test_mail_in_a_session_is_handed_over_when_it_is_committed(
    make_app: Make, smtp: SmtpServer
) -> None:
    """And not at all when the transaction is rolled back."""
    from flask_sqlalchemy import SQLAlchemy

    from flask_deferred_mail import DeferredMail

    app = make_app("null:").app
    site, db = type(app)("joined", instance_path=app.instance_path), SQLAlchemy()
    site.config.update(
        SQLALCHEMY_DATABASE_URI="sqlite:///site.sqlite3",
        MAIL_DEFAULT_SENDER="shop@example.com",
        DEFERRED_MAIL_TRANSPORT=smtp.url(),
        DEFERRED_MAIL_DISPATCH="celery",
    )
    celery = site.extensions["celery"] = Celery("joined", set_as_current=False)
    celery.conf.task_always_eager = True
    db.init_app(site)
    mail = DeferredMail(site, db=db, join_session=True)
    with site.app_context():
        db.create_all()
    visit = Visits(site)

    def view(end: str) -> Callable[[], int]:
        def work() -> int:
            job = mail.send_after_response(**HELLO)
            getattr(db.session, end)()
            return job.id

        return work

    visit(view("rollback"))
    visit(view("commit"))
    smtp.wait_for(1)
    runtime = mail.for_app(site).runtime
    wait_until(lambda: runtime.handover.pending == 0)
    assert len(smtp.messages) == 1
    runtime.close()
    with site.app_context():
        db.engine.dispose()


# --- RQ --------------------------------------------------------------------------------------


def test_an_rq_worker_sends_each_mail_once(
    make_app: Make, smtp: SmtpServer, workers: Workers
) -> None:
    """It finds the application by FLASK_APP, and doubled or strange jobs change nothing."""
    url = require_broker("redis")
    worker = workers.rq(url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url())
    app = make_app(
        smtp.url(),
        DEFERRED_MAIL_DISPATCH="rq",
        DEFERRED_MAIL_RQ=f"{url}?queue={workers.queue}",
    )
    visit = Visits(app.app)
    first = visit(send(app))
    wait_until(lambda: is_sent(app, first), timeout=30)
    queue = app.mail.for_app(app.app).engine._queue()  # type: ignore[union-attr]
    for strange in ([first.id], ["x"], [2**70], first.id):
        queue.enqueue(tasks.deliver, strange)
    many = visit(lambda: app.mail.send_many([HELLO] * 22))
    wait_until(lambda: is_sent(app, *many), timeout=30)
    assert_diagnosis(app, Level.OK, "has 1 worker")
    worker.stop()
    assert len(smtp.messages) == 23
    assert app.outcomes(first) == ["sent"]
    assert queue.failed_job_registry.get_job_count() == 0
    queue.connection.close()


def test_an_rq_worker_that_is_killed_leaves_its_mail_to_the_sweep(
    make_app: Make, smtp: SmtpServer, workers: Workers
) -> None:
    """In the middle of a mail: the lease ends, and the sweep sends it."""
    url = require_broker("redis")
    smtp.hold("rcpt")
    worker = workers.rq(
        url, FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url(), FLASK_DEFERRED_MAIL_LEASE="1"
    )
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="rq", DEFERRED_MAIL_LEASE=1)
    with Queue(workers.queue, connection=_redis(url)).connection as connection:
        app.app.extensions["rq"] = Queue(workers.queue, connection=connection)
        Visits(app.app)(send(app))
        smtp.wait_held("rcpt", timeout=30)
        worker.kill()
    smtp.release("rcpt")
    wait_until(lambda: app.sweep().sent == 1)
    assert len(smtp.messages) == 1


def _redis(url: str) -> Any:
    import redis

    return redis.Redis.from_url(url)


def test_the_queue_of_an_extension_is_found(make_app: Make) -> None:
    """Flask-RQ keeps an object with ``get_queue`` under "rq", Flask-RQ2 under "rq2"."""
    app = make_app("null:", DEFERRED_MAIL_DISPATCH="rq")
    queue = Queue("mail", connection=_redis("redis://127.0.0.1:9/0"))

    class Extension:
        def get_queue(self) -> Queue:
            return queue

    engine = app.mail.for_app(app.app).engine
    assert engine is not None
    for name in ("rq", "rq2"):
        app.app.extensions[name] = Extension()
        engine.ready()
        assert engine._queue() is queue  # type: ignore[attr-defined]
        del app.app.extensions[name]
    with pytest.raises(ConfigurationError, match="set DEFERRED_MAIL_RQ"):
        engine.ready()
    assert_diagnosis(app, Level.FAIL, "there is no queue")


# --- what the pages say ----------------------------------------------------------------------


def copied(page: str, heading: str, *changes: tuple[str, str]) -> str:
    """The first block of Python below a heading, with what a reader would change."""
    text = (brokers.ROOT / "docs" / "guides" / page).read_text()
    code = text.split(f"{heading}\n", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    return code


def test_huey_sends_as_the_page_says(
    make_app: Make,
    smtp: SmtpServer,
    workers: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any other queue: a function that takes numbers, and a task that calls ``deliver``."""
    require_broker("redis")
    module = f"queue_{workers.queue[-12:]}"
    code = copied("engines.md", "### Huey", ('"shop"', f'"{workers.queue}"'))
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    worker = workers.of_page(
        ["-m", "huey.bin.huey_consumer", f"{module}.huey", "--workers", "2"],
        "Huey consumer started",
        FLASK_APP="tests.support.engine_app:create_app",
        FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url(),
    )
    app = make_app(smtp.url(), DEFERRED_MAIL_DISPATCH=f"{module}:dispatch")
    many = Visits(app.app)(lambda: app.mail.send_many([HELLO] * 25))
    wait_until(lambda: is_sent(app, *many), timeout=30)
    assert_diagnosis(app, Level.OK, "can be called")
    worker.stop()
    assert len(smtp.messages) == 25
    assert "Traceback" not in worker.log.read_text()
    sys.modules[module].huey.storage.conn.close()  # type: ignore[attr-defined]


def test_an_rq_worker_of_ones_own_makes_the_application_once(
    make_app: Make, smtp: SmtpServer, workers: Workers, tmp_path: Path
) -> None:
    """Its children inherit it, and deliver with connections of their own."""
    url = require_broker("redis")
    (tmp_path / "mail_worker.py").write_text(
        copied(
            "rq.md",
            "once; its children inherit it, and open connections of their own:",
            ("from shop import", "from tests.support.engine_app import"),
            ('"mail"', f'"{workers.queue}"'),
        )
    )
    worker = workers.of_page(["-m", "mail_worker"], "", FLASK_DEFERRED_MAIL_TRANSPORT=smtp.url())
    app = make_app(
        smtp.url(), DEFERRED_MAIL_DISPATCH="rq", DEFERRED_MAIL_RQ=f"{url}?queue={workers.queue}"
    )
    visit = Visits(app.app)
    jobs = [visit(send(app)) for _ in range(3)]
    wait_until(lambda: is_sent(app, *jobs), timeout=30)
    worker.stop()
    assert len(smtp.messages) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:dispatch", "No module named"),
        ("tests.support.brokers:no_such_name", "no attribute"),
        ("tests.support.brokers:ROOT", "neither a function nor an object"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(make_app: Make, name: str, words: str) -> None:
    """At the first mail, since the module may import the application."""
    app = make_app("null:", DEFERRED_MAIL_DISPATCH=name)
    with pytest.raises(ConfigurationError, match=words):
        Visits(app.app)(send(app))
    assert_diagnosis(app, Level.FAIL, words)


# --- trouble ---------------------------------------------------------------------------------


def broken(
    make_app: Make, smtp: SmtpServer, engine: str, url: str, queue: str = "nobody"
) -> MailApp:
    """An app whose engine has a broker at this URL."""
    if engine == "celery":
        return with_celery(make_app, smtp.url(), url, queue)
    rq = f"{url}?queue={queue}"
    return make_app(smtp.url(), DEFERRED_MAIL_DISPATCH="rq", DEFERRED_MAIL_RQ=rq)


DOWN = [("celery", "redis"), ("celery", "amqp"), ("rq", "redis")]


@pytest.mark.parametrize(("engine", "scheme"), DOWN)
def test_a_broker_that_is_down_is_told_once_and_the_sweep_sends(
    make_app: Make,
    smtp: SmtpServer,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    scheme: str,
) -> None:
    """The row stays due; the log says so without the broker's password."""
    url = f"{scheme}://user:hunter2@127.0.0.1:{brokers.closed_port()}/0"
    app = broken(make_app, smtp, engine, url)
    visit = Visits(app.app)
    for _ in range(3):
        visit(send(app))
        handed_over(app)
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "left to `flask mail sweep`" in record.getMessage()
    assert "hunter2" not in caplog.text
    assert_diagnosis(app, Level.FAIL, "does not answer")
    assert app.sweep().sent == 3


@pytest.mark.parametrize(("engine", "scheme"), DOWN)
def test_a_broker_that_keeps_silent_does_not_hold_up_the_response(
    make_app: Make,
    smtp: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    scheme: str,
) -> None:
    """``close()`` is over while the broker has not answered; later mail is left to the sweep."""
    with brokers.silent_broker() as port:
        app = broken(make_app, smtp, engine, f"{scheme}://127.0.0.1:{port}/0")
        visit = Visits(app.app)
        visit(send(app))
        assert app.runtime.handover is not None
        assert app.runtime.handover.pending == 1
        monkeypatch.setattr(handover, "PATIENCE", 0.0)
        wait_until(lambda: app.runtime.handover._begun is not None)
        visit(send(app))
        assert "no answer within" in caplog.text
        assert app.sweep().sent == 2


@pytest.mark.parametrize(("engine", "broker"), [("celery", b) for b in BROKERS] + [("rq", "redis")])
def test_a_connection_that_was_cut_is_made_anew(
    make_app: Make,
    smtp: SmtpServer,
    workers: Workers,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    broker: str,
) -> None:
    """A broker that restarted while nothing was to be said: the next message is not lost."""
    url, port = require_broker(broker), BROKERS[broker][0]
    with CutWire(port) as wire:
        url = url.replace(f":{port}", f":{wire.port}")
        app = broken(make_app, smtp, engine, url, workers.queue)
        visit = Visits(app.app)
        visit(send(app))
        handed_over(app)
        wire.cut()
        visit(send(app))
        handed_over(app)
        assert wire.connections >= 2
        app.runtime.close()
    assert workers.take_away(engine, BROKERS[broker][1]) == 2
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_what_is_missing_is_told_before_anything_is_recorded(make_app: Make) -> None:
    """The first mail in a request names what is to be set; outside one it is only recorded."""
    app = make_app("null:", DEFERRED_MAIL_DISPATCH="celery")
    with pytest.raises(ConfigurationError, match=r"app.extensions\['celery'\]"):
        Visits(app.app)(send(app))
    assert app.send().id == 1
    said = app.app.test_cli_runner().invoke(args=["mail", "doctor"])
    assert said.exit_code == 3
    assert "engine" in said.output


def test_rows_for_an_engine_are_not_leased(make_app: Make) -> None:
    """Whoever gets the message claims the mail like any other; a retry is a row, too."""
    app = make_app("null:", DEFERRED_MAIL_DISPATCH="tests.support.engine_app:nothing")
    app.app.config["TESTING"] = False
    import tests.support.engine_app as site

    heard: list[list[int]] = []
    site.nothing = heard.append  # type: ignore[attr-defined]
    try:
        job = Visits(app.app)(send(app))
        handed_over(app)
    finally:
        del site.nothing  # type: ignore[attr-defined]
    assert heard == [[job.id]]
    assert app.sql("SELECT status, lease_token FROM deferred_mail_job") == [("pending", None)]
