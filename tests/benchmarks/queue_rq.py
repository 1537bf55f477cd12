"""RQ."""

from __future__ import annotations

from redis import Redis
from rq import Queue

from tests.benchmarks.task import deliver, redis_url

queue = Queue(connection=Redis.from_url(redis_url()))


def send(mail: dict[str, object]) -> None:
    """Put a mail into the queue."""
    queue.enqueue(deliver, mail, result_ttl=0)
