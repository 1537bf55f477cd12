"""Forms that only this site's own pages can send: a token in the session and in the form."""

from __future__ import annotations

import hmac
import secrets

from flask import Flask, abort, request, session
from markupsafe import Markup


def init_app(app: Flask) -> None:
    """Check every POST, and give templates ``csrf_field()``."""
    app.before_request(check_csrf_token)
    app.jinja_env.globals["csrf_field"] = csrf_field


def csrf_field() -> Markup:
    """A hidden field with this visitor's token, which is made at first use."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(16)
    return Markup('<input type="hidden" name="csrf" value="{}">').format(session["csrf"])


def check_csrf_token() -> None:
    """Refuse a POST whose form does not bring the visitor's token.

    An app that takes JSON as well would rather use Flask-WTF; these forms need no more than this.
    """
    if request.method != "POST":
        return
    expected, given = session.get("csrf", ""), request.form.get("csrf", "")
    if not expected or not hmac.compare_digest(expected.encode(), given.encode()):
        abort(400, "This form is out of date. Go back, load the page again and send it once more.")
