"""Leave it running: ``python -m example_app.serve`` (or ``make serve``), Ctrl-C ends it all.

The site of the demo, its slow mail server with the page /inbox, and a sweep every 15 seconds in
place of the line in a crontab.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from .local_site import LocalSite, SiteFailed
from .slow_smtp import SlowSmtpServer

#: Seconds from the end of one sweep to the next.
SWEEP_EVERY = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="deferred-mail-")
            folder = options.folder or Path(stack.enter_context(temporary))
            serve(stack, folder.resolve(), options)
    except SiteFailed as error:
        print(f"Could not go on: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Could not start on port {options.port}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nEnded.")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m example_app.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="of the site on 127.0.0.1 (8000)")
    parser.add_argument("--delay", type=float, default=0.5, help="seconds before each reply (0.5)")
    parser.add_argument("--folder", type=Path, help="keep accounts and mails here (else nowhere)")
    parser.add_argument(
        "--database", metavar="URL", help="postgresql+psycopg://... (a SQLite file in the folder)"
    )
    return parser.parse_args(arguments)


def serve(stack: ExitStack, folder: Path, options: argparse.Namespace) -> None:
    """Start everything, then sweep now and then for as long as the site runs."""
    inbox = folder / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    server = stack.enter_context(SlowSmtpServer(inbox, options.delay))
    settings = {
        "DEFERRED_MAIL_TRANSPORT": f"smtp://127.0.0.1:{server.port}?tls=none",
        "EXAMPLE_INBOX": inbox,
    }
    site = stack.enter_context(
        LocalSite(folder, settings, port=options.port, database=options.database)
    )
    print(f"The site             {site.url}")
    print(f"What it mailed       {site.url}/inbox/")
    print(f"The mail server waits {server.delay:g} s before each reply. Ctrl-C ends everything.")
    sys.stdout.flush()
    while site.is_running():
        time.sleep(SWEEP_EVERY)
        done = site.sweep()
        if done["claimed"]:
            print(
                "mail sweep:", ", ".join(f"{word} {n}" for word, n in done.items() if n), flush=True
            )
    raise SiteFailed(f"gunicorn ended; its last words are in {site.log}")


if __name__ == "__main__":
    sys.exit(main())
