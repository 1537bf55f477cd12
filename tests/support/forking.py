"""A process that uses its app, forks, and uses it again in parent and children.

Run as ``python -m tests.support.forking HOST:PORT FOLDER before|preload``: ``before`` sends a mail
before it forks, so that engine, threads and connections exist; ``preload`` only imports the app, as
a server does that loads it once for all workers. Prints one JSON line per process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from flask import Flask

from flask_deferred_mail import DeferredMail
from tests.support.visits import Visits
from tests.support.waiting import wait_until

CHILDREN = 2


def main(server: str, folder: str, mode: str) -> None:
    app = Flask("forking", instance_path=folder)
    app.config.update(
        MAIL_DEFAULT_SENDER="shop@example.com",
        DEFERRED_MAIL_TRANSPORT=f"smtp://{server}?tls=none",
    )
    mail = DeferredMail(app)
    visit = Visits(app)
    if mode == "before":
        use(mail, app, visit, "before the fork")
    children = [fork(mail, app, visit, f"child {number}") for number in range(CHILDREN)]
    use(mail, app, visit, "parent")
    for child in children:
        os.waitpid(child, 0)


def fork(mail: DeferredMail, app: Flask, visit: Visits, name: str) -> int:
    """Start a child that sends a mail of its own; gives its process id."""
    child = os.fork()
    if child:
        return child
    try:
        use(mail, app, visit, name)
    finally:
        os._exit(0)


def use(mail: DeferredMail, app: Flask, visit: Visits, name: str) -> None:
    """Send a mail from a view, wait until it is out, and tell with what."""
    job = visit(lambda: mail.send_message(name, ["ann@example.com"], "Hi"))
    runtime = mail.for_app(app).runtime
    wait_until(lambda: runtime.jobs.get(job.id).status == "sent", 20)
    facts: dict[str, Any] = {
        "name": name,
        "pid": os.getpid(),
        "runtime_pid": runtime.pid,
        "owner": runtime.lease.owner,
        "status": runtime.jobs.get(job.id).status,
        "message_id": job.message_id,
    }
    os.write(1, (json.dumps(facts) + "\n").encode())  # one write: lines of processes stay whole


if __name__ == "__main__":
    main(*sys.argv[1:])
