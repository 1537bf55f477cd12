"""Send one large mail in a process of its own, and print how much memory that took.

    python -m tests.support.large_mail FOLDER TRANSPORT_URL MEGABYTES record|sweep

Prints the growth of the largest resident size, in bytes, from before the step to its end.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from flask_deferred_mail import Attachment
from tests.support.mail_app import MailApp


def largest() -> int:
    """The largest resident size so far, in bytes."""
    figure = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return figure if sys.platform == "darwin" else figure * 1024


def main(folder: str, url: str, megabytes: str, step: str) -> None:
    # Nothing here is about time: a strict server looks at each line before it answers the dot.
    patient = {"DEFERRED_MAIL_ATTEMPT_DEADLINE": 600, "DEFERRED_MAIL_FINAL_REPLY_DEADLINE": 600}
    app = MailApp(Path(folder), url, **patient)
    # A small mail first, so that code and tables are there before the measurement.
    app.send(priority="now")
    assert app.sweep(limit=1).sent == 1
    if step == "record":
        content = os.urandom(int(megabytes) * 1_000_000)
        before = largest()
        app.send(attachments=[Attachment("large.bin", "application/octet-stream", content)])
    else:
        before = largest()
        counts = app.sweep(concurrency=1)
        assert counts.sent == counts.claimed >= 1, (counts, app.log(2))
    print(largest() - before)
    app.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
