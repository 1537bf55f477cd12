"""Deferred mail for Flask: record it in a table, answer the request, then send it."""

from .attachment import Attachment
from .errors import DeferredMailError
from .extension import DeferredMail, Mail, send_after_response
from .job import Job
from .message import Message

__all__ = [
    "Attachment",
    "DeferredMail",
    "DeferredMailError",
    "Job",
    "Mail",
    "Message",
    "send_after_response",
]
