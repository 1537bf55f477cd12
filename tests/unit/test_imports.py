"""What nobody has asked for is not imported: memory and start-up of every process."""

from __future__ import annotations

import subprocess
import sys

#: Libraries that only some applications, transports or databases need.
LATER = (
    "sqlalchemy.orm",
    "requests",
    "alembic",
    "cryptography",
    "psycopg",
    "pymysql",
    "markdownify",
)
LATER += tuple(f"sqlalchemy.dialects.{name}" for name in ("sqlite", "postgresql", "mysql"))
LATER += ("celery", "rq", "dkim", "dns", "botocore", "email_validator")


def test_a_process_that_only_imports_us_has_none_of_them() -> None:
    """In a fresh interpreter, with the extension and the commands."""
    code = (
        "import sys, flask, sqlalchemy\n"
        "before = set(sys.modules)\n"
        "import flask_deferred_mail, flask_deferred_mail.cli\n"
        f"late = [name for name in {LATER!r} if name in sys.modules and name not in before]\n"
        "sys.exit(', '.join(late) or None)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_worker_has_none_of_the_other_commands() -> None:
    """They are imported when they are asked for."""
    code = (
        "import sys\n"
        "from flask_deferred_mail.cli import mail_group\n"
        "assert mail_group.commands['worker'].name == 'worker'\n"
        "others = ('cli_looking', 'cli_changing', 'cli_suppress', 'doctor', 'explanation')\n"
        "late = [name for name in others if f'flask_deferred_mail.{name}' in sys.modules]\n"
        "sys.exit(', '.join(late) or None)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
