"""The task that everybody writes for a queue: build the message, connect, send, quit."""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

#: Fields of a mail that the queues carry, and the sender.
SENDER = "shop@example.com"


def redis_url() -> str:
    """Where the benchmark's own Redis is."""
    return f"redis://127.0.0.1:{os.environ['BENCH_REDIS']}/0"


def deliver(mail: dict[str, Any]) -> None:
    """One mail, by the standard library."""
    message = EmailMessage(policy=SMTP)
    message["From"] = SENDER
    message["To"] = ", ".join(mail["recipients"])
    message["Subject"] = mail["subject"]
    message.set_content(mail["body"])
    message.add_alternative(mail["html"], subtype="html")
    with smtplib.SMTP("127.0.0.1", int(os.environ["BENCH_SINK"])) as connection:
        connection.send_message(message)
