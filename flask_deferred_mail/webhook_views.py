"""The blueprint that takes in what providers report: ``POST <prefix>/<name of the transport>``.

It asks nobody for a session: what comes in proves itself. Applications with CSRF protection exempt
it (``docs/guides/webhooks.md``).
"""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from .app_mail import AppMail
from .request_batch import apart
from .webhooks.receiver import LARGEST, WebhookRequest

BLUEPRINT = Blueprint("deferred_mail_webhooks", __name__)

_CHUNK = 65_536


@BLUEPRINT.route("/<name>", methods=["GET", "POST"])
def take(name: str) -> Response:
    """One report, or a provider's probe."""
    state: AppMail = current_app.extensions["deferred_mail"].for_app()
    if name not in state.webhooks:
        return _answer(404, "no webhook is configured under this name")
    body = _body()
    if body is None:
        return _answer(413, "a report has a megabyte at most")
    headers = {header.lower(): value for header, value in request.headers.items()}
    # Away from the request: receivers of signals must not see one by chance.
    reply = apart(state.webhooks.take, name, WebhookRequest(request.method, headers, body))
    return _answer(reply.status, reply.text)


def _body() -> bytes | None:
    """The raw body; ``None``: it is too large. No more than is allowed is ever read."""
    length = request.content_length
    if length is not None and length > LARGEST:
        return None
    body = bytearray()
    while len(body) <= LARGEST and (chunk := request.stream.read(_CHUNK)):
        body += chunk
    if length and not body:
        # Somebody before us has read it, and kept it if we are lucky.
        return request.get_data()
    return bytes(body) if len(body) <= LARGEST else None


def _answer(status: int, text: str) -> Response:
    response = Response(f"{text}\n", status, mimetype="text/plain")
    response.headers["Cache-Control"] = "no-store"
    if status == 503:
        response.headers["Retry-After"] = "60"
    return response
