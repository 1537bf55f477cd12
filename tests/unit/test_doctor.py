"""doctor.py: what can be judged without a server. The rest is in integration/test_cli.py."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from flask_deferred_mail import doctor, doctor_database
from flask_deferred_mail.doctor_database import examine_database
from flask_deferred_mail.file_systems import Mount
from flask_deferred_mail.finding import Level
from flask_deferred_mail.store.database import Database
from flask_deferred_mail.wsgi import AfterResponse


def page(environ, start_response):
    """An application."""
    return []


class Kept:
    """A middleware under a name of its own choice."""

    def __init__(self, inner):
        self.some_name = inner

    def __call__(self, environ, start_response):
        return self.some_name(environ, start_response)

    def method(self, environ, start_response):
        """The same as a bound method."""
        return self(environ, start_response)


def closed_over(inner):
    """A middleware as a function."""

    @functools.wraps(inner)
    def call(environ, start_response):
        return inner(environ, start_response)

    return call


@pytest.mark.parametrize(
    "wrap", [lambda app: app, Kept, closed_over, lambda app: Kept(closed_over(Kept(app)))]
)
def test_the_hook_is_found_under_middlewares(wrap):
    """However they keep what they wrap; and not where it is not."""
    assert doctor.is_hooked(wrap(AfterResponse(page)))
    assert not doctor.is_hooked(wrap(page))


def test_a_middleware_that_leads_back_to_itself_ends_the_search():
    """Circles are walked once."""
    circle = Kept(None)
    circle.some_name = Kept(circle)
    assert not doctor.is_hooked(circle)
    assert not doctor.is_hooked(None)


@pytest.fixture
def database(tmp_path):
    """A database in a folder of its own."""
    made = Database(f"sqlite:///{tmp_path}/mail.sqlite3")
    yield made
    made.close()


def warnings(database):
    """What is not ok about a database."""
    return [f.text for f in examine_database(database) if f.level is not Level.OK]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nfs4", "network file system"),
        ("tmpfs", "a restart of the machine loses it"),
        ("overlay", "the container's own layer"),
    ],
)
def test_a_bad_place_for_the_file_is_told(database, monkeypatch, kind, words):
    """The kind of disk decides whether recorded mail is safe."""
    monkeypatch.setattr(doctor_database, "mount_of", lambda folder: Mount("/", kind))
    (warning,) = warnings(database)
    assert words in warning


def test_little_space_is_told(database, monkeypatch):
    """Before recording fails in the view."""
    monkeypatch.setattr(doctor_database, "mount_of", lambda folder: Mount("/", "ext4"))
    monkeypatch.setattr(doctor_database, "LITTLE_SPACE", 2**62)
    (warning,) = warnings(database)
    assert "MB are free" in warning


def test_a_file_of_another_user_is_told(database, monkeypatch):
    """Web server and cron have to be the same user."""
    monkeypatch.setattr(doctor_database, "mount_of", lambda folder: None)
    assert warnings(database) == []
    monkeypatch.setattr("os.geteuid", lambda: 12_345)
    (warning,) = warnings(database)
    assert "runs as user 12345" in warning


def test_a_file_among_the_packages_is_told(tmp_path, monkeypatch):
    """An upgrade would remove it."""
    monkeypatch.setattr(doctor_database, "mount_of", lambda folder: None)
    folder = tmp_path / "site-packages" / "app"
    database = Database(f"sqlite:///{folder}/mail.sqlite3")
    (warning,) = warnings(database)
    assert "among the installed packages" in warning
    database.close()


def test_a_database_in_memory_is_told():
    """It ends with the process."""
    database = Database("sqlite://")
    (warning,) = warnings(database)
    assert "mail ends with the process" in warning
    database.close()


def test_writing_leaves_no_trace(database):
    """The row that shows that the disk takes one is gone again."""

    def names() -> list[str]:
        query = "SELECT name FROM deferred_mail_meta"
        return database.read(lambda c: list(c.exec_driver_sql(query).scalars()))

    before = names()
    list(examine_database(database))
    assert names() == before


def test_a_folder_that_cannot_be_made_is_a_failure():
    """And nothing further is asked of the database."""
    (finding,) = examine_database(Database("sqlite:////proc/no-such-place/mail.sqlite3"))
    assert finding.level is Level.FAIL
    assert not Path("/proc/no-such-place").exists()
