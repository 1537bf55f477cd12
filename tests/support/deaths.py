"""A sender that is killed, in this process: nothing that it would do at its end is done."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from flask_deferred_mail import Job
from flask_deferred_mail.delivery.leases import LeaseKeeper
from tests.support.mail_app import MailApp


def attempt_and_die(app: MailApp, job: Job) -> None:
    """Attempt a mail whose transport raises ``SystemExit``; nothing is given back, and the lease
    is over afterwards."""
    claim = app.runtime.claims.take_one(job.id)
    assert claim is not None
    holding = app.runtime.leases.hold(claim)
    with patch.object(LeaseKeeper, "give_back", return_value=0), pytest.raises(SystemExit):
        app.runtime.deliverer.deliver(holding, contain=False)
    app.end_leases()
