"""tests/support/certificates.py: what servers and clients of a test run have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.web_server import ROOT

#: Sixteen threads ask first; then a child ends, as a worker would, while the parent goes on.
_SCRIPT = """
import os, sys, threading
from tests.support.certificates import certificates

together, found = threading.Barrier(16), []

def ask():
    together.wait(60)
    found.append(certificates())

threads = [threading.Thread(target=ask) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
print(len(set(map(id, found))), os.path.exists(found[0].cafile), found[0].cafile)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")
def test_a_process_has_one_set_of_certificates() -> None:
    """Whoever asks at the same time, and as long as the process lives that made it."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sets, is_there, cafile = done.stdout.split()
    assert (sets, is_there) == ("1", "True")
    assert not Path(cafile).exists()
