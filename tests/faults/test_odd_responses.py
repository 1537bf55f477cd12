"""Requests that do not end as requests should (fault table, A18 to A20).

Whatever becomes of the response, a mail that was recorded is sent, once: by the hook, or by the
sweep where nobody rang.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.fault_site import FACTORY, SHORT_LEASE, FaultSite, ask
from tests.support.raw_http import RawClient
from tests.support.waiting import wait_until
from tests.support.web_server import SERVERS

MakeSite = Callable[..., FaultSite]
NAME = "the-mail"


def assert_sent_once_by_the_hook(site: FaultSite, job_id: int = 1) -> None:
    """It goes out by itself, and nobody finds anything left to do."""
    site.smtp.wait_for(1)
    wait_until(lambda: site.row(job_id)["status"] == "sent")
    site.rows.end_leases()
    assert site.rows.sweep().claimed == 0
    assert site.copies(NAME) == 1
    assert site.rows.outcomes(job_id) == ["sent"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/send", "HEAD", 200),
        ("/quiet", "GET", 204),
        ("/stream", "GET", 200),
        ("/stream", "HEAD", 200),
        ("/fails", "GET", 500),
        ("/breaks", "GET", None),
    ],
)
@pytest.mark.parametrize("kind", ["gunicorn-sync", "waitress"])
def test_any_kind_of_response_rings(
    site: FaultSite, kind: str, path: str, method: str, status: int | None
) -> None:
    """A18, A19: HEAD, 204, streams, a view or a stream that raises: recorded on its own is sent."""
    server = site.serve(kind=kind)
    answer = ask(server, f"{path}?id={NAME}", method)
    assert (answer and answer.status) == status
    assert_sent_once_by_the_hook(site)


def leave_at_once(site: FaultSite, kind: str, path: str) -> None:
    """A client resets its connection before it could read the response."""
    server = site.serve(kind=kind)
    client = RawClient(server.port)
    client.send(f"{path}?id={NAME}")
    wait_until(site.count_rows)
    client.reset()


@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "werkzeug"])
@pytest.mark.parametrize("path", ["/send", "/stream"])
def test_a_client_that_leaves_at_once_does_not_take_the_mail_along(
    site: FaultSite, kind: str, path: str
) -> None:
    """A19: gone before or during the response: servers close it all the same."""
    leave_at_once(site, kind, path)
    assert_sent_once_by_the_hook(site)


@pytest.mark.parametrize("path", ["/send", "/stream"])
def test_a_client_that_leaves_the_development_server(make_site: MakeSite, path: str) -> None:
    """A19: that server may meet the reset before it calls `close()`: sent by hook or by sweep."""
    site = make_site(DEFERRED_MAIL_LEASE=SHORT_LEASE)
    leave_at_once(site, "werkzeug", path)
    wait_until(lambda: site.row(1)["status"] in ("pending", "sent"))
    site.rows.sweep()
    wait_until(lambda: site.row(1)["status"] == "sent")
    assert site.copies(NAME) == 1
    assert site.rows.outcomes(1) == ["sent"]


def test_a_response_that_nobody_closes_is_left_to_the_sweep(make_site: MakeSite) -> None:
    """A19: a middleware swallows `close()`: the row is given back after half a lease, unspent."""
    site = make_site(DEFERRED_MAIL_LEASE=SHORT_LEASE)
    server = site.serve(factory=f"{FACTORY}_in_bad_company")
    answer = ask(server, f"/send?id={NAME}")
    assert answer is not None
    assert answer.status == 200
    wait_until(lambda: site.row(1)["status"] == "pending")
    assert (site.row(1)["attempts"], site.row(1)["deaths"]) == (0, 0)
    assert not site.smtp.messages
    assert site.rows.sweep().sent == 1
    assert site.copies(NAME) == 1
    assert site.rows.outcomes(1) == ["sent"]


def test_a_thread_without_a_request_only_records(site: FaultSite) -> None:
    """A20: in a thread of the application's own there is no response to wait for."""
    server = site.serve()
    assert ask(server, f"/thread?id={NAME}") is not None
    assert site.row(1)["status"] == "pending"
    assert site.sweep().counts()["sent"] == 1
    assert site.copies(NAME) == 1


def test_a_script_without_a_request_only_records(site: FaultSite) -> None:
    """A20: in a shell or a script the row stays for the sweep, and nothing complains."""
    script = (
        "from tests.support.fault_app import create_app, mail, fields_of\n"
        "with create_app().app_context():\n"
        f"    print(mail.send_after_response(**fields_of({NAME!r})).status)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=site.environment({}),
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("pending\n", "")
    assert site.row(1)["lease_token"] is None
    assert site.sweep().counts()["sent"] == 1
    assert site.copies(NAME) == 1


def test_two_hooks_around_one_application_ring_once(site: FaultSite) -> None:
    """A19: the framework-free hook around an app that has it already changes nothing."""
    server = site.serve(factory=f"{FACTORY}_wrapped_twice")
    answer = ask(server, f"/send?id={NAME}")
    assert answer is not None
    assert json.loads(answer.body) == {"id": 1}
    assert_sent_once_by_the_hook(site)
