"""A transport that another package brings, found by its entry point as an installed one is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ADAPTER = """
from flask_deferred_mail.outcome import Fate, Outcome
from flask_deferred_mail.transports.base import Transport
from flask_deferred_mail.transports.schemes import Scheme, one_of


class PigeonTransport(Transport):
    label = "Pigeon"

    def __init__(self, plan):
        super().__init__(plan.name)
        self.loft, self.speed = plan.url.host, plan.option("speed")

    def send(self, call):
        call.hand_over()
        return Outcome.for_all(call.recipients, Fate.ACCEPTED, f"{self.loft} {self.speed}")


PIGEON = Scheme(PigeonTransport, "host", login=("ring",), options={"speed": one_of("slow", "fast")})
"""
SITE = """
from flask import Flask
from flask_deferred_mail import DeferredMail

app = Flask("site", instance_path=r"{folder}")
app.config["DEFERRED_MAIL_TRANSPORT"] = "pigeon://RING@loft.example?speed=fast"
mail = DeferredMail(app)
with app.app_context():
    job = mail.send_now(
        subject="Coo", recipients=["ann@example.net"], body="Coo", sender="shop@example.com"
    )
    print(job.status, job.transport)
"""


def an_installed_package(folder: Path, target: str = "pigeon_mail:PIGEON") -> None:
    """A folder as it looks to Python when the package is installed there."""
    (folder / "pigeon_mail.py").write_text(ADAPTER)
    info = folder / "pigeon_mail-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon-mail\nVersion: 1.0\n")
    group = "flask_deferred_mail.transports"
    (info / "entry_points.txt").write_text(f"[{group}]\npigeon = {target}\n")


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where that package is installed."""
    path = str(Path(__file__).parents[2])
    prelude = f"import sys; sys.path[:0] = [{str(folder)!r}, {path!r}]\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=60
    )


def test_its_scheme_sends_mail(tmp_path):
    """Recorded, sent and told of like any other; nothing of ours names it."""
    an_installed_package(tmp_path)
    done = run(tmp_path, SITE.format(folder=tmp_path))
    assert done.stdout.split() == ["sent", "default"], done.stderr


def test_its_url_is_checked_against_its_scheme(tmp_path):
    """Login and options are those that the package named; an unknown scheme lists it."""
    an_installed_package(tmp_path)
    code = (
        "from flask_deferred_mail.transports.registry import faults\n"
        "print(faults('pigeon://loft.example?speed=late'))\n"
        "print(faults('dove://x'))\n"
    )
    done = run(tmp_path, code)
    first, second = done.stdout.splitlines()
    assert "'speed' should be slow or fast" in first
    assert "pigeon" in second


def test_an_entry_point_that_is_no_scheme_is_named(tmp_path):
    """Whoever wrote it must learn what is expected there."""
    an_installed_package(tmp_path, "pigeon_mail:PigeonTransport")
    code = (
        "from flask_deferred_mail.transports.registry import faults\n"
        "faults('pigeon://RING@loft.example')\n"
    )
    done = run(tmp_path, code)
    assert done.returncode != 0
    assert "'pigeon' of flask_deferred_mail.transports is not a Scheme" in done.stderr
