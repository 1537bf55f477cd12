"""For an application whose own Alembic shares a database with our tables.

Only for a database that is named by ``DEFERRED_MAIL_DATABASE_URI``: there our own revisions own
the tables. With ``DeferredMail(db=db)`` the application's do, and need to see them.
"""

from __future__ import annotations

from collections.abc import Mapping

from .store.schema import PREFIX


def include_name(
    name: str | None,
    type_: str,
    parent_names: Mapping[str, str | None],  # noqa: ARG001 - Alembic gives it
) -> bool:
    """Whether Alembic's autogenerate may look at this: at everything but our tables.

    For ``context.configure(include_name=...)`` in an application's ``env.py``, or, with
    Flask-Migrate, ``Migrate(app, db, include_name=include_name)``. Without it, autogenerate finds
    tables in the database that no model has, and proposes to drop them, with the mail in them.
    """
    return not (type_ == "table" and name is not None and name.startswith(PREFIX))
