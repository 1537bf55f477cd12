"""Celery with Redis, as its first steps tell; nobody asks for results."""

from __future__ import annotations

from celery import Celery

from tests.benchmarks.task import deliver, redis_url

app = Celery("bench", broker=redis_url())
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
send = app.task(name="deliver", ignore_result=True)(deliver)
