"""What a test needs from the machine, by name: skipped at home, a failure in CI."""

from __future__ import annotations

import os

import pytest

#: Set by ``.ci/run``: there, a service that is missing must not drop out unseen.
REQUIRE = "DEFERRED_MAIL_REQUIRE_SERVICES"


def require_service(name: str, available: bool, reason: str = "") -> None:
    """Go on only if ``name`` is here: else skip the test, or fail it where services are required.

    :param name: as in "postgresql", "redis", "strace"; it stands in the skip's reason.
    :param reason: what was looked for and where, for whoever wants to add it.
    """
    if available:
        return
    text = f"{name} is not available" + (f": {reason}" if reason else "")
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{text} (and {REQUIRE} is set)", pytrace=False)
    pytest.skip(text)
