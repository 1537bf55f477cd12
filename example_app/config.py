"""The example's settings: each may be overridden from the environment as ``FLASK_<KEY>``.

Where mail goes is not set here. In debug it is printed to the console; anywhere else name a server
with ``FLASK_MAIL_SERVER`` (and ``FLASK_MAIL_USERNAME`` ...) or ``FLASK_DEFERRED_MAIL_TRANSPORT``.
"""

#: Accounts and mail are kept here: a file in the instance folder. On several hosts, a server:
#: ``postgresql+psycopg://user:password@host/tally``.
SQLALCHEMY_DATABASE_URI = "sqlite:///tally.sqlite3"

#: A connection that the database server has ended meanwhile is replaced before it is used.
SQLALCHEMY_ENGINE_OPTIONS = {"pool_pre_ping": True}

#: Who the mails are from. A real site names an address of a domain that it may send for.
MAIL_DEFAULT_SENDER = ("Tally", "hello@tally.example")

#: Where people reach the site. Links in mails begin with this and never with the ``Host`` header:
#: whoever asks for a reset link chooses that header, and so could choose where the link leads.
EXAMPLE_PUBLIC_URL = "http://127.0.0.1:5000"

#: Seconds for which a reset link works.
EXAMPLE_RESET_SECONDS = 3600

#: A folder that a local mail server fills. Set only by the demo: it switches the page /inbox on.
EXAMPLE_INBOX = None

#: Longest request that is read, in bytes. An upload is one table, not an archive.
MAX_CONTENT_LENGTH = 1_000_000

#: A cookie that other sites' forms do not bring along, and scripts cannot read.
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
