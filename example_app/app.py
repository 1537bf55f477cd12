"""The application factory: settings, mail, pages, errors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from flask import Flask, Response, current_app, render_template
from werkzeug.exceptions import HTTPException

from flask_deferred_mail import DeferredMail
from flask_deferred_mail.errors import StoreError

from . import database, forms, inbox, views

#: Its tables are in our own database: a mail can be part of the transaction that it is about.
mail = DeferredMail(db=database.db)

#: Pages load nothing but our own style sheet and stand in nobody's frame.
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; frame-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def create_app(
    config: Mapping[str, Any] | None = None, *, instance_path: str | None = None
) -> Flask:
    """The example site.

    ``config`` overrides single settings. ``instance_path`` is the folder that holds the secret
    key and, on SQLite, the database; else ``EXAMPLE_INSTANCE_PATH`` of the environment, else
    Flask's own choice.
    """
    folder = instance_path or os.environ.get("EXAMPLE_INSTANCE_PATH")
    app = Flask("example_app", instance_path=folder)
    app.config.from_object("example_app.config")
    app.config.from_prefixed_env()
    app.config.update(config or {})
    Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    if not app.config["SECRET_KEY"]:
        app.config["SECRET_KEY"] = kept_secret_key(Path(app.instance_path))
    mail.init_app(app)
    database.init_app(app)
    forms.init_app(app)
    app.register_blueprint(views.pages)
    if app.config["EXAMPLE_INBOX"]:
        app.register_blueprint(inbox.inbox)
    app.register_error_handler(HTTPException, show_http_error)
    app.register_error_handler(StoreError, show_store_error)
    app.after_request(add_security_headers)
    return app


def kept_secret_key(folder: Path) -> str:
    """The key that signs sessions and reset links: made once, kept in a file only we can read.

    Several worker processes may start at the same moment. Each writes its own draft, and the link
    lets exactly one of them take the name, with its content complete.
    """
    kept, draft = folder / "secret_key", folder / f"secret_key.{os.getpid()}"
    if not kept.exists():
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, kept)
        draft.unlink()
    return kept.read_text()


def show_http_error(error: HTTPException) -> tuple[str, int]:
    """What went wrong, as a page in the site's own dress."""
    return render_template("problem.html", title=error.name, text=error.description), (
        error.code or 500
    )


def show_store_error(error: StoreError) -> tuple[str, int]:
    """The mail could not be recorded: say so at once, rather than promise a mail that never comes.

    It comes from views that record a mail before they commit, so nothing of theirs stays.
    """
    current_app.logger.error("a mail could not be recorded: %s", error)
    return render_template(
        "problem.html",
        title="Please try again in a moment",
        text="We could not save that just now. Nothing was changed and no mail will come.",
    ), 503


def add_security_headers(response: Response) -> Response:
    """Headers for every page; a view that needs other ones has set them already."""
    response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    # A reset link is a key: it must not travel on to the next site in a Referer header.
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    return response
