"""What ``celery --app tests.support.engine_worker worker`` imports."""

from __future__ import annotations

from .engine_app import create_app

flask_app = create_app()
app = flask_app.extensions["celery"]
