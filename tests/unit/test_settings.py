"""settings.py: configuration is read once, and every fault is reported together."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import flask
import pytest

from flask_deferred_mail.errors import ConfigurationError
from flask_deferred_mail.letter import Address
from flask_deferred_mail.settings import (
    KEYS,
    SERVER_KEYS,
    Settings,
    suppresses,
)
from flask_deferred_mail.transport_spec import TransportSpec

REFERENCE = Path(__file__).parents[2] / "docs/reference/configuration.md"
SECRET = "s3cr3t-Pa55"
KEY = bytes(range(200, 232))
KEY_TEXT = base64.urlsafe_b64encode(KEY).decode()
STANDARD_BASE64 = str.maketrans("-_", "+/")


def read(config=None, *, instance_path="/srv/app/instance", debug=False, testing=False, **keys):
    """Settings from these keys."""
    return Settings.from_mapping(
        {**(config or {}), **keys}, instance_path=instance_path, debug=debug, testing=testing
    )


def faults(config=None, **keys):
    """The faults of these keys; fails if there are none."""
    with pytest.raises(ConfigurationError) as caught:
        read(config, **keys)
    return caught.value.faults


def fault(config=None, **keys):
    """The one fault of these keys."""
    (only,) = faults(config, **keys)
    return only


# -- defaults, and the key's name for each -----------------------------------------------------


def test_an_empty_configuration_gives_the_documented_defaults():
    """Nothing has to be set, and each default is that of the contract."""
    settings = read()
    assert settings.database_uri == "sqlite:////srv/app/instance/deferred_mail.sqlite3"
    assert settings.database_uri_given is False
    assert dict(settings.transports) == {}
    assert settings.dispatch == "thread"
    assert settings.sender_threads == 2
    assert settings.lease == 60
    assert settings.attempt_deadline(0) == 60
    assert settings.final_reply_deadline == 300
    assert settings.backoff == (60, 300, 900, 1800, 3600, 7200, 14400)
    assert settings.max_attempts == 20
    assert settings.give_up_after == 5 * 86400
    assert settings.max_sender_deaths == 5
    assert settings.on_unknown == "retry"
    assert settings.envelope_sender is None
    assert dict(settings.default_headers) == {}
    assert settings.message_id_domain is None
    assert settings.on_unsupported == "raise"
    assert settings.default_sender is None
    assert settings.ascii_attachments is False


def test_settings_are_frozen():
    """What was read once cannot be changed behind anybody's back."""
    settings = read(DEFERRED_MAIL_DEFAULT_HEADERS={"X-A": "1"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lease = 1.0
    with pytest.raises(TypeError):
        settings.default_headers["X-A"] = "2"
    with pytest.raises(TypeError):
        settings.transports["default"] = TransportSpec("null:")


A, B = Address("a@x.com"), Address("b@x.com", "QA")
GIVEN = [
    ("OVERRIDE_RECIPIENTS", "a@x.com, QA <b@X.com>", "override_recipients", (A, B)),
    ("OVERRIDE_RECIPIENTS", ["a@x.com", "b@x.com"][:1], "override_recipients", (A,)),
    ("OVERRIDE_RECIPIENTS", [], "override_recipients", ()),
    (
        "ALLOWED_RECIPIENTS",
        "Example.com,*.b.com",
        "allowed_recipients",
        ("*@example.com", "*@*.b.com"),
    ),
    (
        "ALLOWED_RECIPIENTS",
        ["qa-*@x.com", "@c.com"],
        "allowed_recipients",
        ("qa-*@x.com", "*@c.com"),
    ),
    ("DISPATCH", "inline", "dispatch", "inline"),
    ("DISPATCH", "NONE", "dispatch", "none"),
    ("SENDER_THREADS", 4, "sender_threads", 4),
    ("SENDER_THREADS", "4", "sender_threads", 4),
    ("SENDER_THREADS", 4.0, "sender_threads", 4),
    ("LEASE", 0.5, "lease", 0.5),
    ("LEASE", " 2.5 ", "lease", 2.5),
    ("LEASE", timedelta(minutes=2), "lease", 120),
    ("FINAL_REPLY_DEADLINE", "30", "final_reply_deadline", 30),
    ("BACKOFF", [1, 2], "backoff", (1, 2)),
    ("BACKOFF", (1.5, timedelta(minutes=1)), "backoff", (1.5, 60)),
    ("BACKOFF", "60,300, 900", "backoff", (60, 300, 900)),
    ("BACKOFF", "[60, 300]", "backoff", (60, 300)),
    ("BACKOFF", 60, "backoff", (60,)),
    ("BACKOFF", "60", "backoff", (60,)),
    ("MAX_ATTEMPTS", "3", "max_attempts", 3),
    ("GIVE_UP_AFTER", timedelta(days=1), "give_up_after", 86400),
    ("GIVE_UP_AFTER", "3600", "give_up_after", 3600),
    ("MAX_SENDER_DEATHS", 1, "max_sender_deaths", 1),
    ("ON_UNKNOWN", "hold", "on_unknown", "hold"),
    ("ENVELOPE_SENDER", "bounces@example.com", "envelope_sender", "bounces@example.com"),
    ("DEFAULT_HEADERS", {"X-App": "shop"}, "default_headers", {"X-App": "shop"}),
    ("DEFAULT_HEADERS", '{"X-App": "shop"}', "default_headers", {"X-App": "shop"}),
    ("MESSAGE_ID_DOMAIN", "mail.example.com", "message_id_domain", "mail.example.com"),
    ("MESSAGE_ID_DOMAIN", "bücher.example", "message_id_domain", "xn--bcher-kva.example"),
    ("ON_UNSUPPORTED", "drop", "on_unsupported", "drop"),
    ("ENCRYPTION_KEYS", [KEY_TEXT], "encryption_keys", (KEY,)),
    ("ENCRYPTION_KEYS", KEY_TEXT, "encryption_keys", (KEY,)),
    ("ENCRYPTION_KEYS", f'["{KEY_TEXT}"]', "encryption_keys", (KEY,)),
    ("ENCRYPTION_KEYS", KEY_TEXT.translate(STANDARD_BASE64), "encryption_keys", (KEY,)),
    ("ENCRYPTION_KEYS", [], "encryption_keys", ()),
]


@pytest.mark.parametrize(("key", "value", "field", "expected"), GIVEN)
def test_a_key_is_converted(key, value, field, expected):
    """Each key is taken as a Python value and as text."""
    assert getattr(read({f"DEFERRED_MAIL_{key}": value}), field) == expected


@pytest.mark.parametrize("blank", [None, "", "  "])
@pytest.mark.parametrize("name", [k.name for k in KEYS if not k.refuses_none])
def test_none_and_blank_text_mean_not_set(name, blank):
    """``KEY=`` in an environment file, and None in a config class, give the default."""
    assert read({name: blank}) == read()


WRONG = [
    ("DISPATCH", "threads", "'thread' or 'inline' or 'none'"),
    ("DISPATCH", None, "'none'"),
    ("DISPATCH", "celeri", "'celery' or 'rq' or 'package.module:function'"),
    ("DISPATCH", "site.tasks:", "'package.module:function'"),
    ("RQ", "localhost:6379", "redis://host:6379"),
    ("RQ", "http://user:hunter2@localhost", "redis://host:6379"),
    ("SENDER_THREADS", 0, "whole number from 1"),
    ("SENDER_THREADS", 1.5, "whole number"),
    ("SENDER_THREADS", True, "whole number"),
    ("SENDER_THREADS", "two", "whole number"),
    ("LEASE", 0.1, "seconds from 0.5"),
    ("LEASE", "nan", "seconds"),
    ("LEASE", float("inf"), "seconds"),
    ("LEASE", 10**400, "seconds"),
    ("LEASE", timedelta(0), "seconds"),
    ("LEASE", False, "seconds"),
    ("BACKOFF", [], "at least one"),
    ("BACKOFF", ",", "at least one"),
    ("BACKOFF", [60, "x"], "list of seconds"),
    ("BACKOFF", [60, -1], "list of seconds"),
    ("BACKOFF", "60;300", "list of seconds"),
    ("BACKOFF", {"a": 1}, "list of seconds"),
    ("GIVE_UP_AFTER", 0, "seconds"),
    ("MAX_ATTEMPTS", -1, "whole number"),
    ("ON_UNKNOWN", "ignore", "'retry' or 'hold'"),
    ("ON_UNSUPPORTED", 1, "'raise' or 'drop'"),
    ("DEFAULT_HEADERS", ["X-A"], "dict"),
    ("DEFAULT_HEADERS", "X-A: b", "dict"),
    ("DEFAULT_HEADERS", {"X A": "b"}, "header name"),
    ("DEFAULT_HEADERS", {"X-A\n": "b"}, "line feed"),
    ("DEFAULT_HEADERS", {"X-A:": "b"}, "header name"),
    ("DEFAULT_HEADERS", {"Bcc": "v@example.com"}, "Bcc is written for you"),
    ("DEFAULT_HEADERS", {"content-type": "text/plain"}, "content-type is written for you"),
    ("DEFAULT_HEADERS", {"X-A": "b\r\nBcc: v@example.com"}, "carriage return"),
    ("DEFAULT_HEADERS", {"X-A": "b\n"}, "line feed"),
    ("DEFAULT_HEADERS", {"X-A": "b\u2028"}, "line separator"),
    ("DEFAULT_HEADERS", {"X-A": "b\0"}, "NUL"),
    ("DEFAULT_HEADERS", {"X-A": "\ud800"}, "UTF-8"),
    ("DEFAULT_HEADERS", {"X-A": None}, "text"),
    ("DEFAULT_HEADERS", {"X-A": ""}, "no value"),
    ("DEFAULT_HEADERS", {"message-id": "<1@example.com>"}, "no Message-ID"),
    ("MESSAGE_ID_DOMAIN", "a@example.com", "domain"),
    ("MESSAGE_ID_DOMAIN", "example.com\n<x>", "domain"),
    ("ENVELOPE_SENDER", "nobody", ""),
    ("ENVELOPE_SENDER", "a@example.com\r\nRCPT TO:<b@example.com>", ""),
    ("DATABASE_URI", "oracle://u:p@db/app", "database URL"),
    ("DATABASE_URI", "sqlite+aiosqlite:///mail.db", "database URL"),
    ("DATABASE_URI", "sqlite://mail.db", "database URL"),
    ("DATABASE_URI", "/var/lib/mail.db", "database URL"),
    ("TRANSPORT", "mail.example.com", "transport URL"),
    ("TRANSPORT", "smtp://u:p#x@mail.example.com", "percent-encoded"),
    ("TRANSPORT", "smtp://u:p x@mail.example.com", "percent-encoded"),
    ("TRANSPORT", 25, "transport URL"),
    ("TRANSPORT", {"token": None}, "transport URL"),
    ("TRANSPORT", {"url": "null:", "token": "t"}, "callable"),
    ("TRANSPORT", {"url": "null:", "dkim": "s"}, "'dkim' is a dict"),
    ("TRANSPORT", {"url": "null:", "classify": ["s"]}, "'classify' is a dict"),
    ("TRANSPORT", {"url": "null:", "tokn": 1}, "tokn"),
    ("TRANSPORTS", ["smtp://a"], "dict"),
    ("OVERRIDE_RECIPIENTS", ["dev"], "it has no @"),
    ("ALLOWED_RECIPIENTS", ["example.com", "*"], "none of which fits everybody"),
    ("ALLOWED_RECIPIENTS", {"example.com": 1}, "a list of addresses"),
    ("ENCRYPTION_KEYS", ["k"], "32 bytes in base64"),
    ("ENCRYPTION_KEYS", [KEY_TEXT, KEY_TEXT], "each key once"),
    ("ENCRYPTION_KEYS", 5, "32 bytes in base64"),
    ("WEBHOOKS", {"bulk": 5}, "for 'bulk' a dict"),
    ("WEBHOOKS", {"bulk": {"kee": "k"}}, "not kee"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_a_wrong_value_is_a_fault_that_names_the_key_and_what_was_expected(key, value, words):
    """The fault begins with the key and says what would have been right."""
    text = fault({f"DEFERRED_MAIL_{key}": value})
    assert text.startswith(f"DEFERRED_MAIL_{key}: ")
    assert words in text


# -- how faults are told -----------------------------------------------------------------------


def test_all_faults_come_in_one_error():
    """Whoever reads it can mend everything in one go."""
    found = faults(
        DEFERRED_MAIL_LEASE="soon",
        DEFERRED_MAIL_MAX_ATTEMPTS=0,
        DEFERRED_MAIL_NOPE=1,
        DEFERRED_MAIL_TRANSPORTS={"Bulk": "smtp://a", "other": "b"},
        MAIL_SERVER="mail.example.com",
        MAIL_PORT="many",
        MAIL_USE_TLS=True,
        MAIL_USE_SSL=True,
        MAIL_DEFAULT_SENDER="nobody",
        MAIL_SUPPRESS_SEND="perhaps",
    )
    keys = sorted(text.partition(":")[0] for text in found)
    assert keys == [
        "DEFERRED_MAIL_LEASE",
        "DEFERRED_MAIL_MAX_ATTEMPTS",
        "DEFERRED_MAIL_NOPE",
        "DEFERRED_MAIL_TRANSPORTS['Bulk']",
        "DEFERRED_MAIL_TRANSPORTS['other']",
        "MAIL_DEFAULT_SENDER",
        "MAIL_PORT",
        "MAIL_SUPPRESS_SEND",
        "MAIL_USE_TLS, MAIL_USE_SSL",
    ]


def test_a_fault_shows_what_was_given():
    """For keys that hold no secret, the value helps to find the line."""
    assert "got 'soon'" in fault(DEFERRED_MAIL_LEASE="soon")


def test_what_was_given_is_cleaned_and_capped():
    """A long or odd value does not flood or steer the terminal."""
    text = fault(DEFERRED_MAIL_LEASE="\x1b[31m" + "x" * 5000)
    assert "\x1b" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DEFERRED_MAIL_TRANSPORT", f"user:{SECRET} @mail.example.com"),
        ("DEFERRED_MAIL_TRANSPORT", {"url": f"smtp://u:{SECRET} x@mail.example.com"}),
        ("DEFERRED_MAIL_TRANSPORT", {"url": "null:", "token": SECRET}),
        ("DEFERRED_MAIL_TRANSPORT", {"url": "null:", "dkim": SECRET}),
        ("DEFERRED_MAIL_TRANSPORT", [SECRET]),
        ("DEFERRED_MAIL_TRANSPORTS", SECRET),
        ("DEFERRED_MAIL_TRANSPORTS", {"bulk": SECRET}),
        ("DEFERRED_MAIL_DATABASE_URI", f"oracle://u:{SECRET}@db/app"),
        ("DEFERRED_MAIL_DATABASE_URI", f"nonsense-{SECRET}"),
        ("DEFERRED_MAIL_DEFAULT_HEADERS", {"X-Key": SECRET + "\n"}),
        ("DEFERRED_MAIL_ENCRYPTION_KEYS", [SECRET]),
        ("DEFERRED_MAIL_WEBHOOKS", {"bulk": SECRET}),
        ("DEFERRED_MAIL_PASSWORD", SECRET),
    ],
)
def test_no_error_shows_the_value_of_a_key_that_can_hold_a_secret(key, value):
    """Only its type is told, even when the value is nonsense."""
    with pytest.raises(ConfigurationError) as caught:
        read({key: value})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("value", [1.5, True, ["x"]])
@pytest.mark.parametrize("key", ["MAIL_USERNAME", "MAIL_PASSWORD"])
def test_a_login_that_the_environment_turned_into_something_else_is_a_fault(key, value):
    """``MAIL_PASSWORD=1e5`` would arrive as 100000.0: guessing the text back would be wrong."""
    text = fault({key: value}, MAIL_SERVER="mail.example.com")
    assert text.startswith(f"{key}: expected text")
    assert str(value) not in text


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("DEFERRED_MAIL_TRANSPROT", "DEFERRED_MAIL_TRANSPORT"),
        ("DEFERRED_MAIL_MAX_ATTEMPT", "DEFERRED_MAIL_MAX_ATTEMPTS"),
        ("DEFERRED_MAIL_DATABASE_URL", "DEFERRED_MAIL_DATABASE_URI"),
    ],
)
def test_an_unknown_key_is_a_fault_with_the_likeliest_one(wrong, right):
    """A mistyped key is not quietly ignored."""
    assert fault({wrong: None}).endswith(f"did you mean {right}?")


def test_keys_of_others_are_none_of_our_business():
    """Other extensions' keys, and keys that are not text, pass."""
    assert read({"SECRET_KEY": 1, "MAIL_BACKEND": "x", "DEFERRED": 1, 7: 8}) == read()


def test_flask_mail_keys_without_a_meaning_here_are_tolerated():
    """An application that moves over from Flask-Mail need not tidy up first."""
    assert read(MAIL_MAX_EMAILS=5, MAIL_DEBUG=1, MAIL_ASCII_ATTACHMENTS=False) == read()


# -- the database ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:////data/mail.db", "sqlite:////data/mail.db"),
        ("sqlite:///mail.db", "sqlite:////srv/app/instance/mail.db"),
        ("sqlite+pysqlite:///a/m.db?timeout=3", "sqlite+pysqlite:////srv/app/instance/a/m.db?timeout=3"),
        ("sqlite:///file:/data/m.db?uri=true", "sqlite:///file:/data/m.db?uri=true"),
    ],
)  # fmt: skip
def test_a_relative_sqlite_path_starts_at_the_instance_path(given, expected):
    """A web server and a cron job in other folders meet in the same file."""
    settings = read(DEFERRED_MAIL_DATABASE_URI=given)
    assert settings.database_uri == expected
    assert settings.database_uri_given is True


MEMORY = ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]


@pytest.mark.parametrize("uri", MEMORY)
def test_a_database_in_memory_is_refused_where_it_would_lose_mail(uri):
    """Outside of tests and debug mode, the row is the promise: it must outlive the process."""
    assert "in-memory" in fault(DEFERRED_MAIL_DATABASE_URI=uri)


@pytest.mark.parametrize("uri", MEMORY)
@pytest.mark.parametrize("mode", ["debug", "testing"])
def test_a_database_in_memory_serves_tests(uri, mode):
    """An application's own tests may keep everything in memory."""
    assert read(DEFERRED_MAIL_DATABASE_URI=uri, **{mode: True}).database_uri == uri


def test_an_instance_path_that_no_url_can_hold_is_a_fault():
    """A question mark would cut the path short and put the file elsewhere."""
    assert "question mark" in fault(instance_path="/srv/what?/instance")
    assert read(
        instance_path="/srv/what?", DEFERRED_MAIL_DATABASE_URI="sqlite:////data/m.db"
    ).database_uri_given


# -- transports --------------------------------------------------------------------------------


def default_url(**keys):
    return read(**keys).transports["default"].url


def test_a_transport_is_a_url():
    """The plain case."""
    spec = read(DEFERRED_MAIL_TRANSPORT=" smtp://u:p@mail.example.com ").transports["default"]
    assert spec == TransportSpec("smtp://u:p@mail.example.com")


def test_a_transport_may_be_a_dict():
    """With room for what a URL cannot hold; empty entries ask for nothing."""
    given = {"url": "smtp://u:p@mail.example.com", "token": None, "dkim": {}}
    spec = read(DEFERRED_MAIL_TRANSPORT=given).transports["default"]
    assert spec == TransportSpec("smtp://u:p@mail.example.com")


def test_a_transport_may_be_a_dict_as_json_text():
    """So that a dict works from the environment whoever reads it."""
    spec = read(DEFERRED_MAIL_TRANSPORT='{"url": "null:"}').transports["default"]
    assert spec == TransportSpec("null:")


def test_named_transports_stand_beside_the_default_one():
    """Both keys together give all names."""
    settings = read(
        DEFERRED_MAIL_TRANSPORT="smtp://a.example",
        DEFERRED_MAIL_TRANSPORTS={"bulk": "sendcloud://U:K@default", "off": None},
    )
    assert sorted(settings.transports) == ["bulk", "default"]


def test_a_transport_named_default_is_the_default_one():
    """It goes before Flask-Mail's keys."""
    keys = {"DEFERRED_MAIL_TRANSPORTS": {"default": "null:"}, "MAIL_SERVER": "mail.example.com"}
    assert default_url(**keys) == "null:"


def test_two_default_transports_are_a_fault():
    """Which of the two was meant, nobody can know."""
    assert "'default'" in fault(
        DEFERRED_MAIL_TRANSPORT="null:", DEFERRED_MAIL_TRANSPORTS={"default": "console:"}
    )


@pytest.mark.parametrize("name", ["Bulk", "", "a b", "a" * 65, "a\n", "ä", "a/b"])
def test_transport_names_are_plain(name):
    """They become part of paths, rows and command lines."""
    assert "a name has" in fault(DEFERRED_MAIL_TRANSPORTS={name: "null:"})


def test_without_any_transport_debug_prints_and_production_has_none():
    """Not an error at init_app: the first send and doctor say so."""
    assert default_url(debug=True) == "console:"
    assert "default" not in read().transports


def test_a_wrong_default_transport_does_not_drag_in_flask_mails_keys():
    """One mistake, one fault: keys that would not have been used are not examined."""
    keys = {"MAIL_SERVER": "mail.example.com", "MAIL_PORT": "many"}
    assert fault(DEFERRED_MAIL_TRANSPORT="nonsense", **keys).startswith("DEFERRED_MAIL_TRANSPORT:")
    assert default_url(DEFERRED_MAIL_TRANSPORT="null:", **keys) == "null:"


def test_requiring_a_transport_that_is_missing_says_what_to_set():
    """The text names the keys."""
    with pytest.raises(ConfigurationError, match=r"DEFERRED_MAIL_TRANSPORT.*MAIL_SERVER"):
        read().require_transport("default")


def test_requiring_an_unknown_name_lists_those_that_exist():
    """Whoever mistyped it sees the right one."""
    settings = read(DEFERRED_MAIL_TRANSPORTS={"bulk": "null:"})
    assert settings.require_transport("bulk").url == "null:"
    with pytest.raises(ConfigurationError, match=r"'blk'.*bulk"):
        settings.require_transport("blk")


def test_the_settings_repr_shows_no_secret():
    """Somebody will log it."""
    settings = read(
        DEFERRED_MAIL_TRANSPORT=f"smtp://user:{SECRET}@mail.example.com",
        DEFERRED_MAIL_TRANSPORTS={"bulk": f"sendcloud://user:{SECRET}@default"},
        DEFERRED_MAIL_DEFAULT_HEADERS={"X-Key": SECRET},
    )
    assert SECRET not in repr(settings)
    assert "smtp://mail.example.com" in repr(settings)


# -- Flask-Mail's keys -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ({}, "smtp://mail.example.com:25?tls=optional"),
        ({"MAIL_PORT": "587", "MAIL_USE_TLS": "true"}, "smtp://mail.example.com:587?tls=required"),
        ({"MAIL_USE_SSL": 1}, "smtps://mail.example.com:465"),
        ({"MAIL_USE_SSL": True, "MAIL_PORT": 4650}, "smtps://mail.example.com:4650"),
        ({"MAIL_USE_TLS": "no", "MAIL_USE_SSL": "off"}, "smtp://mail.example.com:25?tls=optional"),
        ({"MAIL_USERNAME": "u", "MAIL_PASSWORD": 12345}, "smtp://u:12345@mail.example.com:25?tls=optional"),
        ({"MAIL_USERNAME": "u"}, "smtp://mail.example.com:25?tls=optional"),
        ({"MAIL_PASSWORD": "p"}, "smtp://mail.example.com:25?tls=optional"),
        ({"MAIL_SERVER": "::1"}, "smtp://[::1]:25?tls=optional"),
        ({"MAIL_SERVER": "[2001:db8::1]"}, "smtp://[2001:db8::1]:25?tls=optional"),
        ({"MAIL_SERVER": "127.0.0.1"}, "smtp://127.0.0.1:25?tls=optional"),
        ({"MAIL_SERVER": "localhost", "debug": True}, "smtp://localhost:25?tls=optional"),
    ],
)  # fmt: skip
def test_flask_mails_keys_become_a_transport_url(keys, url):
    """They mean what they mean to Flask-Mail, with TLS as the contract says."""
    assert default_url(**{"MAIL_SERVER": "mail.example.com", **keys}) == url


def test_mail_timeout_travels_with_the_transport():
    """Flask-Mailman's key is for that server alone."""
    settings = read(
        MAIL_SERVER="h.example", MAIL_TIMEOUT="7.5", DEFERRED_MAIL_TRANSPORTS={"bulk": "null:"}
    )
    assert settings.transports["default"].timeout == 7.5
    assert settings.transports["bulk"].timeout is None


def test_what_the_transports_say_of_their_urls_comes_in_the_same_error():
    """The schemes and options are theirs to know; the reader still mends all in one go."""

    def transport_faults(spec):
        return ["is odd", "is late"] if spec.url == "odd:" else []

    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(
            {
                "DEFERRED_MAIL_LEASE": "soon",
                "DEFERRED_MAIL_TRANSPORT": "null:",
                "DEFERRED_MAIL_TRANSPORTS": {"bulk": "odd:"},
            },
            instance_path="/srv",
            debug=False,
            testing=False,
            transport_faults=transport_faults,
        )
    assert caught.value.faults[1:] == ("transport 'bulk': is odd", "transport 'bulk': is late")
    assert caught.value.faults[0].startswith("DEFERRED_MAIL_LEASE")


def test_user_and_password_are_percent_encoded():
    """Any password survives the way into the URL and out of it."""
    user, password = "ann@example.com", " p@:/?#[]%&+ü "
    url = default_url(MAIL_SERVER="h.example", MAIL_USERNAME=user, MAIL_PASSWORD=password)
    parts = urlsplit(url)
    assert (unquote(parts.username), unquote(parts.password)) == (user, password)
    assert parts.hostname == "h.example"


@pytest.mark.parametrize("server", ["mail.example.com:587", "smtp://h", "a b", "h/x", "u@h"])
def test_mail_server_is_a_bare_host(server):
    """A port or a URL there is a common slip."""
    assert fault(MAIL_SERVER=server).startswith("MAIL_SERVER: expected the name or IP address")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("shop@example.com", Address("shop@example.com")),
        ("Shop <shop@example.com>", Address("shop@example.com", "Shop")),
        (("Shop", "shop@example.com"), Address("shop@example.com", "Shop")),
        (["Shop", "shop@example.com"], Address("shop@example.com", "Shop")),
    ],
)
def test_the_default_sender_is_an_address_or_a_pair(given, expected):
    """As in Flask-Mail; out of JSON, the pair comes as a list."""
    assert read(MAIL_DEFAULT_SENDER=given).default_sender == expected


@pytest.mark.parametrize(
    ("value", "testing", "expected"),
    [
        (None, False, False),
        (None, True, True),
        ("", True, True),
        (True, False, True),
        (False, True, False),
        ("false", True, False),
        ("0", True, False),
        ("1", False, True),
        (1, False, True),
        ("on", False, True),
    ],
)
def test_sending_is_suppressed_by_the_key_or_else_in_tests(value, testing, expected):
    """MAIL_SUPPRESS_SEND goes before TESTING, also as text."""
    assert suppresses({"MAIL_SUPPRESS_SEND": value}, testing) is expected
    if value is None:
        assert suppresses({}, testing) is expected


def test_a_suppress_key_that_is_neither_is_an_error_at_the_mail_too():
    """Set after init_app, it is not guessed at: guessing wrong would send or lose mail."""
    with pytest.raises(ConfigurationError, match="MAIL_SUPPRESS_SEND"):
        suppresses({"MAIL_SUPPRESS_SEND": "perhaps"}, False)


# -- the environment, and the documentation ----------------------------------------------------


def test_every_kind_of_key_works_from_the_environment(monkeypatch, tmp_path):
    """``app.config.from_prefixed_env()`` hands over numbers, lists, dicts, and text."""
    environment = {
        "DEFERRED_MAIL_LEASE": "30",
        "DEFERRED_MAIL_BACKOFF": "1,2,3",
        "DEFERRED_MAIL_DISPATCH": "none",
        "DEFERRED_MAIL_TRANSPORTS__bulk": "sendcloud://U:K@default",
        "DEFERRED_MAIL_TRANSPORTS__plain": '{"url": "null:"}',
        "DEFERRED_MAIL_DEFAULT_HEADERS__X-App": "7",
        "DEFERRED_MAIL_WEBHOOKS": "",
        "MAIL_SERVER": "mail.example.com",
        "MAIL_USERNAME": "12345",
        "MAIL_PASSWORD": '"1e5"',
        "MAIL_USE_TLS": "true",
        "MAIL_DEFAULT_SENDER": '["Shop", "shop@example.com"]',
        "MAIL_SUPPRESS_SEND": "yes",
    }
    for key, value in environment.items():
        monkeypatch.setenv(f"FLASK_{key}", value)
    app = flask.Flask("app", instance_path=str(tmp_path))
    app.config.from_prefixed_env()
    settings = read(app.config)
    assert settings.lease == 30
    assert settings.backoff == (1, 2, 3)
    assert settings.dispatch == "none"
    assert dict(settings.default_headers) == {"X-App": "7"}
    assert {name: spec.url for name, spec in settings.transports.items()} == {
        "bulk": "sendcloud://U:K@default",
        "plain": "null:",
        "default": "smtp://12345:1e5@mail.example.com:25?tls=required",
    }
    assert settings.default_sender == Address("shop@example.com", "Shop")
    assert suppresses(app.config, False) is True


def test_an_attempt_gets_a_second_more_for_every_50_kb():
    """A large mail over a slow line is not cut off by the clock of a small one."""
    settings = read(DEFERRED_MAIL_ATTEMPT_DEADLINE=10)
    assert settings.attempt_deadline(0) == 10
    assert settings.attempt_deadline(500_000) == 20


def test_every_key_is_in_the_reference_with_its_default():
    """The page and the table cannot drift apart."""
    page = REFERENCE.read_text()
    for key in (*KEYS, *SERVER_KEYS):
        rows = [row for row in page.splitlines() if row.startswith(f"| `{key.name}` |")]
        assert len(rows) == 1, f"{key.name} has {len(rows)} rows in {REFERENCE.name}"
        if key in KEYS and key.default:
            default = key.default
            shown = default if isinstance(default, str) else json.dumps(default).strip("[]")
            assert shown.replace(".0", "") in rows[0], f"default of {key.name}"
