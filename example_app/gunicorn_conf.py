"""How the demo runs gunicorn, and how it learns which processes are the workers.

Gunicorn tells its own hooks which worker it started and which one is gone, so nobody has to search
the machine's list of processes for something that looks like one.
"""

import os
from pathlib import Path
from typing import Any

worker_class = "sync"
timeout = 30
graceful_timeout = 5
loglevel = "warning"
# It would lie in the home folder, where two demos at once would fight for it.
control_socket_disable = True

_workers = Path(os.environ["EXAMPLE_WORKERS_FOLDER"])


def post_worker_init(worker: Any) -> None:
    """A worker is ready for requests."""
    (_workers / str(worker.pid)).touch()


def child_exit(_server: Any, worker: Any) -> None:
    """A worker is gone, whatever ended it."""
    (_workers / str(worker.pid)).unlink(missing_ok=True)
