"""Huey with Redis."""

from __future__ import annotations

from huey import RedisHuey

from tests.benchmarks.task import deliver, redis_url

huey = RedisHuey("bench", url=redis_url(), results=False)
send = huey.task()(deliver)
