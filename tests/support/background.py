"""A sweep that runs in this process while the test looks on."""

from __future__ import annotations

import threading
from typing import Any

from flask_deferred_mail.delivery.sweep import Counts
from tests.support.mail_app import MailApp


class Background:
    """A sweep of this process that a test goes on beside."""

    def __init__(self, app: MailApp, **how: Any) -> None:
        self.counts = Counts()
        self.error: BaseException | None = None
        self._app, self._how = app, how
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.counts = self._app.sweep(**self._how)
        except BaseException as error:
            self.error = error

    def end(self, timeout: float = 60.0) -> Counts:
        """Wait for its end."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the sweep goes on and on"
        if self.error is not None:
            raise self.error
        return self.counts
