"""An application with Flask-Migrate, in whose database our tables are: owned by us, or by it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import DATABASES, fresh_database

APPLICATION = """
import os

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from flask_deferred_mail import DeferredMail
from flask_deferred_mail.migrations import include_name

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["URL"]
if not os.environ.get("OWNER"):
    app.config["DEFERRED_MAIL_DATABASE_URI"] = os.environ["URL"]
app.config["DEFERRED_MAIL_TRANSPORT"] = "null:"
app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
db = SQLAlchemy(app)
mail = DeferredMail(app, db=db) if os.environ.get("OWNER") else DeferredMail(app)
configured = {"include_name": include_name} if os.environ.get("HELPER") else {}
Migrate(app, db, **configured)


class Customer(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    email = db.Column(db.String(254), nullable=False)


if os.environ.get("MORE"):
    Customer.name = db.Column(db.String(100))
"""


class Site:
    """The application's folder and its command line."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        (folder / "site_app.py").write_text(APPLICATION)

    def flask(self, *arguments: str, **environment: str) -> str:
        """Run ``flask ...``; what it printed, to both channels."""
        root = Path(__file__).resolve().parents[2]
        ran = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "site_app", *arguments],
            cwd=self.folder,
            env={"URL": self.url, "PYTHONPATH": str(root), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    def migrate(self, **environment: str) -> str:
        """``flask db migrate``: what it proposes, as the revision that it wrote."""
        before = set(self._revisions())
        self.flask("db", "migrate", **environment)
        return "".join(path.read_text() for path in set(self._revisions()) - before)

    def _revisions(self) -> list[Path]:
        return list((self.folder / "migrations" / "versions").glob("*.py"))


@pytest.fixture(params=DATABASES)
def bare_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An application whose database is empty."""
    with fresh_database(request.param, tmp_path) as url:
        site = Site(tmp_path, url)
        site.flask("db", "init")
        yield site


@pytest.fixture
def site(bare_site: Site) -> Site:
    """An application whose own tables are made and migrated; ours are there with a mail in them."""
    bare_site.flask("db", "migrate", HELPER="1")
    bare_site.flask("db", "upgrade", HELPER="1")
    bare_site.flask("mail", "init-db")
    bare_site.flask("mail", "test", "ann@example.com")
    return bare_site


def test_with_the_helper_our_tables_are_left_alone(site: Site) -> None:
    """Nothing is proposed when nothing has changed; a change of the application's own is."""
    assert site.migrate(HELPER="1") == ""
    proposed = site.migrate(HELPER="1", MORE="1")
    assert "add_column(sa.Column('name'" in proposed
    assert "deferred_mail" not in proposed
    site.flask("db", "upgrade", HELPER="1", MORE="1")
    assert "nothing to do" in site.flask("mail", "upgrade-db")
    assert '"sent": 1' in site.flask("mail", "status", "--json")


def test_without_it_they_would_be_dropped(site: Site) -> None:
    """Why the helper is there."""
    proposed = site.migrate()
    assert "op.drop_table('deferred_mail_job')" in proposed
    assert "op.drop_table('deferred_mail_alembic_version')" in proposed


def test_with_db_the_application_owns_them(bare_site: Site) -> None:
    """Its first revision makes them, they serve, and the next has nothing to say of them."""
    proposed = bare_site.migrate(OWNER="1")
    assert "op.create_table('deferred_mail_job'" in proposed
    assert "alembic_version" not in proposed
    bare_site.flask("db", "upgrade", OWNER="1")
    for command in ("init-db", "upgrade-db"):
        assert "belong to the application" in bare_site.flask("mail", command, OWNER="1")
    bare_site.flask("mail", "test", "ann@example.com", OWNER="1")
    assert '"sent": 1' in bare_site.flask("mail", "status", "--json", OWNER="1")
    assert bare_site.migrate(OWNER="1") == ""
