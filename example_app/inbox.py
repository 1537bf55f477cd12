"""The page /inbox: what the local mail server of the demo took. Never part of a real site.

A mail is a stranger's text. Whatever of it stands in our pages is escaped by the templates; its
HTML is shown in a frame that may run, load and ask for nothing.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from pathlib import Path

from flask import Blueprint, abort, current_app, render_template, send_file
from werkzeug.wrappers import Response

from .maildrop import Delivery, content, deliveries, delivery_named, parsed

inbox = Blueprint("inbox", __name__, url_prefix="/inbox")

#: The frame's own policy: it holds even when the address is opened without the frame. Styles that
#: stand in the mail itself are let through, since nothing can be loaded by them.
FRAME_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"

#: More than this is not listed on the page.
SHOWN = 200


@dataclass(frozen=True)
class Opened:
    """One mail, taken apart far enough to be shown."""

    delivery: Delivery
    taken_at: datetime
    headers: list[tuple[str, str]]
    subject: str
    text: str
    html: str
    attachments: list[tuple[str, int]]

    @property
    def own_links(self) -> list[str]:
        """Links in the text that lead to this very site: the only ones made to be clicked."""
        site = re.escape(current_app.config["EXAMPLE_PUBLIC_URL"])
        return re.findall(rf"{site}/[\w./~-]*", self.text)


@inbox.get("/")
def listing() -> str:
    """All mails, newest first."""
    taken = deliveries(folder())[::-1]
    ids = [delivery.message_id for delivery in taken]
    return render_template(
        "inbox.html",
        mails=[opened(delivery) for delivery in taken[:SHOWN]],
        total=len(taken),
        distinct=len(set(ids)),
    )


@inbox.get("/<name>")
def one(name: str) -> str:
    """One mail."""
    return render_template("inbox_mail.html", mail=opened(delivery_or_404(name)))


@inbox.get("/<name>/html")
def html_part(name: str) -> Response:
    """The HTML of one mail, for the frame."""
    response = current_app.make_response(opened(delivery_or_404(name)).html)
    response.headers["Content-Security-Policy"] = FRAME_POLICY
    return response


@inbox.get("/<name>/attachments/<int:number>")
def attachment(name: str, number: int) -> Response:
    """One attachment: always as a download, never as something that the browser opens."""
    parts = attached(parsed(content(folder(), delivery_or_404(name))))
    if number >= len(parts):
        abort(404)
    return send_file(
        io.BytesIO(bytes_of(parts[number])),
        mimetype="application/octet-stream",
        as_attachment=True,
        download_name=file_name(parts[number]),
    )


def folder() -> Path:
    """Where the mail server keeps its mails."""
    return Path(current_app.config["EXAMPLE_INBOX"])


def delivery_or_404(name: str) -> Delivery:
    """The mail of that name."""
    return delivery_named(folder(), name) or abort(404, "There is no such mail.")


def opened(delivery: Delivery) -> Opened:
    """Take a mail apart. A broken one is shown as far as it can be read."""
    message = parsed(content(folder(), delivery))
    return Opened(
        delivery=delivery,
        taken_at=datetime.fromtimestamp(delivery.taken_at, UTC),
        headers=[(name, header(message, name)) for name in ("From", "To", "Date", "Message-ID")],
        subject=header(message, "Subject") or "(no subject)",
        text=body(message, "plain"),
        html=body(message, "html"),
        attachments=[(file_name(part), len(bytes_of(part))) for part in attached(message)],
    )


def header(message: EmailMessage, name: str) -> str:
    """One header as text; nothing if it is missing or broken."""
    try:
        return str(message[name] or "")
    except (MessageError, ValueError, LookupError):
        return ""


def body(message: EmailMessage, subtype: str) -> str:
    """The body of one kind; nothing if there is none or it cannot be read."""
    part = message.get_body((subtype,))
    try:
        return part.get_content() if part is not None else ""
    except (MessageError, ValueError, LookupError):
        return ""


def attached(message: EmailMessage) -> list[EmailMessage]:
    """The parts that were attached to it."""
    return list(message.iter_attachments()) if message.is_multipart() else []


def bytes_of(part: EmailMessage) -> bytes:
    """What an attachment holds."""
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def file_name(part: EmailMessage) -> str:
    """The name an attachment claims to have."""
    return part.get_filename() or "attachment"
