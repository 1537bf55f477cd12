"""Dramatiq with Redis."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.benchmarks.task import deliver, redis_url

dramatiq.set_broker(RedisBroker(url=redis_url()))
send = dramatiq.actor(deliver, actor_name="deliver")
